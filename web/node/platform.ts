// Node as a platform: worker threads and the file system.

import { readdir, realpath, stat } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker, type MessagePort } from 'node:worker_threads'
import { MergeError } from '../lib/error.js'
import { namesFile, withoutEnding } from '../lib/file-names.js'
import type { PathFiles, Platform, WorkerHandle } from '../lib/platform.js'
import type { Reply } from '../lib/protocol.js'
import type { FileReference } from '../lib/source.js'

/** Less than the machine's where a container says so. */
function constrainedMemory(): number {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem()
}

export const node: Platform = {
  cores: availableParallelism(),
  memory: constrainedMemory(),
  canShareMemory: true,
  readsIntoMemory: true,
  startWorker(settings): WorkerHandle {
    const script = settings.variant === 'threads' ? './worker-threads.js' : './worker-single.js'
    // Of the flags that Node was started with, some are refused by workers (`--input-type`); none is needed.
    const worker = new Worker(new URL(script, import.meta.url), { workerData: settings, execArgv: [] })
    return {
      // Ports are those of the browser's types; at run time there is one kind.
      post: (request, lines = []) => worker.postMessage(request, lines as unknown as MessagePort[]),
      listen: (receive, failed) => {
        worker.on('message', (reply: Reply) => receive(reply))
        worker.on('messageerror', error => failed(`a message of the worker could not be read: ${error.message}`))
        worker.on('error', (error: Error) => failed(`the worker failed: ${error.message}`))
        worker.on('exit', code => failed(`the worker ended with code ${code}`))
      },
      terminate: () => void worker.terminate(),
      hold: busy => (busy ? worker.ref() : worker.unref()),
    }
  },
  resolvePath,
  async checkOutput(output, inputs) {
    if (output.kind !== 'path') return
    const target = await stat(output.path).catch(() => undefined)
    const isFile = namesFile(output.path)
    if (target && target.isDirectory() === isFile) {
      throw new MergeError({ code: 'write_failed', message: `'${output.path}' is a ${isFile ? 'folder' : 'file'}; ${isFile ? 'a name in .safetensors, .gguf or .onnx_adapter is that of a file' : 'give the name of a folder, or of a file in .safetensors, .gguf or .onnx_adapter'}`, file: output.path })
    }
    const place = await realpath(output.path).catch(() => resolve(output.path))
    for (const input of inputs) {
      if (!('path' in input)) continue
      const file = await realpath(input.path)
      if ((isFile ? file : dirname(file)) !== place) continue
      throw new MergeError({ code: 'output_is_input', message: isFile ? `'${output.path}' is an input` : `'${output.path}' holds the input '${input.name}', which the result would replace`, file: output.path })
    }
  },
}

/** A folder's files, or a tensor file together with the config beside it. */
async function resolvePath(given: string | URL): Promise<PathFiles> {
  const path = given instanceof URL ? pathOf(given) : given
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new MergeError({ code: error.code === 'ENOENT' ? 'not_found' : 'read_failed', message: `'${path}': ${error.code === 'ENOENT' ? 'there is no such file or folder' : error.message}`, file: path }, { cause: error })
  })
  const reference = (file: string): FileReference => ({ name: file, path: file })
  if (info.isDirectory()) {
    const names = (await readdir(path, { withFileTypes: true })).filter(entry => !entry.isDirectory()).map(entry => entry.name)
    return { label: basename(resolve(path)), isFolder: true, files: names.sort().map(name => reference(join(path, name))) }
  }
  const config = join(dirname(path), 'adapter_config.json')
  const hasConfig = basename(path) !== 'adapter_config.json' && (await stat(config).catch(() => undefined))?.isFile()
  return { label: labelOf(path), isFolder: false, files: hasConfig ? [reference(path), reference(config)] : [reference(path)] }
}

/** A tensor file with a name that all have is called after its folder; any other, after itself. */
function labelOf(path: string): string {
  const name = basename(path)
  return /^(adapter_model|adapters|pytorch_lora_weights)\./.test(name) ? basename(dirname(resolve(path))) : withoutEnding(name)
}

function pathOf(url: URL): string {
  if (url.protocol === 'file:') return fileURLToPath(url)
  throw new MergeError({ code: 'bad_input', message: `'${url.href}': only file: addresses can be opened; nothing is fetched from a network`, file: url.href })
}

// The library's suite in a browser, on a page with shared memory or without it.

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createMerger, type MergeError, type Merger, type Recipe } from 'lora-lego'
import { parse, safetensors } from './fixtures.js'
import { flatName, kohyaTensors, pairsOf } from './formats.js'
import { defineSuite } from './suite.js'

async function loadExample(name: string): Promise<[Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]> {
  const load = async (file: string): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await (await fetch(`/examples/${name}/${file}`)).arrayBuffer())
  return [await load('adapter_model.safetensors'), await load('adapter_config.json')]
}

defineSuite({
  threads: found => (crossOriginIsolated ? found > 1 : found === 1),
  example: loadExample,
})

describe('output that appears as it is made', () => {
  let folder: FileSystemDirectoryHandle
  let merger: Merger
  let inputs: [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>][]
  /** The same adapters as kohya's files, which say what they hash to. */
  let kohya: File[]
  beforeAll(async () => {
    const root = await navigator.storage.getDirectory()
    folder = await root.getDirectoryHandle(`test-${crypto.randomUUID()}`, { create: true })
    merger = createMerger()
    inputs = await Promise.all(['add3', 'rotl2'].map(loadExample))
    kohya = inputs.map(([tensors]) => new File([safetensors(kohyaTensors(pairsOf(parse(tensors.buffer)), 2, flatName))], 'lora.safetensors'))
  })
  afterAll(() => merger.close())

  const namesIn = async (handle: FileSystemDirectoryHandle): Promise<string[]> => {
    const names = []
    for await (const name of handle.keys()) names.push(name)
    return names.sort()
  }
  const bytesOf = async (blob: Blob | undefined): Promise<Uint8Array> => new Uint8Array(await (blob as Blob).arrayBuffer())

  it('is written into a folder', async () => {
    const { files } = await merger.merge(inputs, { method: 'lego' })
    const { files: none, report } = await merger.merge(inputs, { method: 'lego' }, { output: folder })
    expect(none).toEqual([])
    expect(report.outputs.map(({ name }) => name)).toEqual(['adapter_model.safetensors', 'adapter_config.json'])
    expect(await namesIn(folder)).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
    for (const file of files) expect(await bytesOf(await (await folder.getFileHandle(file.name)).getFile())).toEqual(await bytesOf(file))
  })

  it('is written into a file, hashes and all', async () => {
    const handle = await folder.getFileHandle('own.safetensors', { create: true })
    const recipe: Recipe = { method: 'lego' }
    const { files, report } = await merger.merge(kohya, recipe, { hashes: true })
    const written = await merger.merge(kohya, recipe, { hashes: true, output: handle })
    expect(await bytesOf(await handle.getFile())).toEqual(await bytesOf(files[0]))
    expect(written.report.outputs[0]?.sha256).toBe(report.outputs[0]?.sha256)
  })

  it('goes into a stream', async () => {
    const recipe: Recipe = { method: 'lego', format: 'onnx' }
    const chunks: Uint8Array[] = []
    const output = new WritableStream<Uint8Array>({ write: async chunk => void chunks.push(chunk) })
    const { files } = await merger.merge(inputs, recipe)
    await merger.merge(inputs, recipe, { output })
    expect(await bytesOf(new Blob(chunks as BlobPart[]))).toEqual(await bytesOf(files[0]))
  })

  it('is refused where it cannot work, and a stream that fails is write_failed', async () => {
    const code = (work: Promise<unknown>): Promise<unknown> => work.then(() => 'done', (error: MergeError) => error.code)
    expect(await code(merger.merge(inputs, { method: 'lego' }, { output: new WritableStream() }))).toBe('write_failed')
    expect(await code(merger.merge(kohya, { method: 'lego' }, { output: new WritableStream() }))).toBe('not_supported')
    let aborted = false
    const full = new WritableStream<Uint8Array>({
      write: () => Promise.reject(new Error('full')),
      abort: () => void (aborted = true),
    })
    expect(await code(merger.merge(inputs, { method: 'lego', format: 'onnx' }, { output: full }))).toBe('write_failed')
    expect(aborted).toBe(false)
    expect(await code(merger.merge(inputs, { method: 'lego' }, { output: 'a path' }))).toBe('not_supported')
  })

  it('leaves nothing behind when the merge fails or is stopped', async () => {
    const empty = await folder.getDirectoryHandle('empty', { create: true })
    const controller = new AbortController()
    const stopping = merger.merge(inputs, { method: 'dense_ties' }, { output: empty, signal: controller.signal, onProgress: () => controller.abort() })
    await expect(stopping).rejects.toMatchObject({ name: 'AbortError' })
    expect(await namesIn(empty)).toEqual([])
  })
})

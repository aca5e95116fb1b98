// What callers may give as an adapter, and how its files are told apart.

import { MergeError } from './error.js'
import { namesFile, withoutEnding } from './file-names.js'
import { formatFiles } from './generated/registry.js'
import { namesPart, partName } from './shard.js'
import type { Platform } from './platform.js'
import type { AdapterReference } from './protocol.js'
import type { FileReference } from './source.js'

/** Bytes or a file. In Node a string or URL is a path: of an adapter's folder, or of its tensor file. */
export type Source = Blob | ArrayBuffer | ArrayBufferView | string | URL

/** One adapter: a file, or the files of its folder (those that do not belong to it are passed over). */
export type AdapterSource = Source | readonly Source[]

/** One adapter with its weight. */
export interface WeightedInput {
  readonly source: AdapterSource
  /** Default 1. Negative weights subtract; 0 leaves the adapter out. */
  readonly weight?: number
  /** Weights of modules whose path a glob matches (`*` and `?`), in place of `weight`; later entries override earlier ones. */
  readonly moduleWeights?: Readonly<Record<string, number>>
  /** What messages and reports call it. Default: its folder's or file's name. */
  readonly name?: string
}

export type MergeInput = AdapterSource | WeightedInput

const configFileName = 'adapter_config.json'
/** What the folders of formats call their tensor file. Training folders hold further ones, such as an optimizer's. */
const properNames = [...new Set(formatFiles.map(({ tensorFile }) => tensorFile))]

function isWeighted(input: MergeInput): input is WeightedInput {
  return typeof input === 'object' && input !== null && 'source' in input
}

function bad(message: string, file?: string): MergeError {
  return new MergeError({ code: 'bad_input', message, ...(file !== undefined && { file }) })
}

interface ResolvedInput {
  readonly adapter: AdapterReference
  readonly weight: number
  readonly moduleWeights: Readonly<Record<string, number>>
}

/** An adapter's files, found in whatever the caller gave. */
export async function resolveInput(platform: Platform, input: MergeInput, index: number): Promise<ResolvedInput> {
  const { source, weight = 1, moduleWeights = {}, name } = isWeighted(input) ? input : { source: input }
  if (![weight, ...Object.values(moduleWeights)].every(value => typeof value === 'number')) throw bad(`a weight of input ${index + 1} is no number`)
  const parts = Array.isArray(source) ? (source as readonly Source[]) : [source as Source]
  if (parts.length === 0) throw bad(`input ${index + 1} is an empty list of files`)
  const files: FileReference[] = []
  let label = name
  for (const part of parts) {
    if (typeof part === 'string' || part instanceof URL) {
      if (!platform.resolvePath) throw bad(`input ${index + 1} is a path or an address; in a browser, give File or Blob objects`)
      const found = await platform.resolvePath(part)
      label ??= found.label
      files.push(...found.files)
    } else {
      files.push(fileFrom(part, index))
    }
  }
  return { adapter: await adapterFrom(files, label, index), weight, moduleWeights }
}

/** The base model's files. */
export async function resolveBase(platform: Platform, base: Source | readonly Source[]): Promise<FileReference[]> {
  const parts = Array.isArray(base) ? (base as readonly Source[]) : [base as Source]
  return (await Promise.all(parts.map(part => baseFiles(platform, part)))).flat()
}

/** Files of parts; of a folder, those that are called as parts are. */
export async function resolveParts(platform: Platform, parts: Source | readonly Source[]): Promise<FileReference[]> {
  const given = Array.isArray(parts) ? (parts as readonly Source[]) : [parts as Source]
  const found = await Promise.all(
    given.map(async (part, index) => {
      if (typeof part !== 'string' && !(part instanceof URL)) {
        const file = fileFrom(part, index)
        return [{ ...file, name: file.name || `part file ${index + 1}` }]
      }
      if (!platform.resolvePath) throw bad(`part file ${index + 1} is a path or an address; in a browser, give File or Blob objects`)
      const { files, isFolder } = await platform.resolvePath(part)
      if (!isFolder) return files.slice(0, 1)
      const those = files.filter(({ name }) => namesPart(baseName(name)))
      if (those.length === 0) throw bad(`'${String(part)}' holds no parts of a merge (${partName({ index: 1, of: 2 })} and others)`, String(part))
      return those
    }),
  )
  if (found.length === 0) throw bad('no part files were given')
  return found.flat()
}

/** A file, or what a folder holds of a base model: its config.json, or else GGUF files, and its weights. */
async function baseFiles(platform: Platform, part: Source): Promise<readonly FileReference[]> {
  if (typeof part !== 'string' && !(part instanceof URL)) {
    const file = fileFrom(part, 0)
    return [{ ...file, name: file.name || 'base model' }]
  }
  if (!platform.resolvePath) throw bad('the base model is a path or an address; in a browser, give a File or Blob')
  const { files } = await platform.resolvePath(part)
  if (files.length === 1) return files
  const those = (matches: (name: string) => boolean): FileReference[] => files.filter(({ name }) => matches(baseName(name)))
  const config = those(name => name === 'config.json')
  const found = [...(config.length > 0 ? config : those(name => name.endsWith('.gguf'))), ...those(name => name.endsWith('.safetensors') && !properNames.includes(name))]
  if (found.length === 0) throw bad(`'${String(part)}' holds nothing of a base model; give its config.json, GGUF file or safetensors files`, String(part))
  return found
}

function fileFrom(part: Blob | ArrayBuffer | ArrayBufferView, index: number): FileReference {
  if (part instanceof Blob) {
    const path = 'webkitRelativePath' in part ? String(part.webkitRelativePath) : ''
    return { name: path || ('name' in part ? String(part.name) : ''), blob: part }
  }
  // A Blob copies the bytes, so the caller's buffer stays usable and may change.
  if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) return { name: '', blob: new Blob([part as ArrayBuffer]) }
  throw bad(`input ${index + 1} is neither a File, a Blob, an ArrayBuffer, a typed array nor a list of them`)
}

const baseName = (path: string): string => path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1)
const folderName = (path: string): string => baseName(path.slice(0, Math.max(0, path.length - baseName(path).length - 1)))

async function adapterFrom(files: readonly FileReference[], label: string | undefined, index: number): Promise<AdapterReference> {
  const kinds = await Promise.all(files.map(kindOf))
  const configs = files.filter((_, i) => kinds[i] === 'config')
  let tensors = files.filter((_, i) => kinds[i] === 'tensors')
  const proper = tensors.filter(file => properNames.includes(baseName(file.name)))
  if (tensors.length > 1 && proper.length > 0) tensors = proper
  const where = label ?? (files[0]?.name || `input ${index + 1}`)
  if (tensors.length === 0) throw bad(`'${where}' holds no tensor file (adapter_model.safetensors, or another .safetensors)`, where)
  if (tensors.length > 1 || configs.length > 1) throw bad(`'${where}' holds files of more than one adapter; give each adapter on its own`, where)
  const [file] = tensors as [FileReference]
  const plain = withoutEnding(baseName(file.name))
  const isProper = properNames.includes(baseName(file.name))
  const name = label ?? ((configs[0] || isProper ? folderName(file.name) : plain) || (isProper ? '' : plain) || `adapter ${index + 1}`)
  const named = (reference: FileReference, fallback: string): FileReference => ({ ...reference, name: reference.name || `${name}/${fallback}` })
  return { label: name, tensors: named(file, 'tensors.safetensors'), ...(configs[0] && { config: named(configs[0], configFileName) }) }
}

/** What a file is, by its name, or, where it has none, by its first bytes. */
async function kindOf(file: FileReference): Promise<'tensors' | 'config' | 'other'> {
  const name = baseName(file.name)
  if (name === configFileName) return 'config'
  // What cannot be read, the core has the clear words for.
  if (namesFile(name)) return 'tensors'
  // Pickles are no tensor files here, but the core has the clear words for them.
  if (/^adapter_model\.(bin|pt|ckpt)$/.test(name) || /^[^/]*\.(bin|pt|pth|ckpt)$/.test(file.name)) return 'tensors'
  if (name !== '' || !('blob' in file)) return 'other'
  // A safetensors file's byte 7 is the top of a 64-bit length: never text.
  const start = new Uint8Array(await file.blob.slice(0, 8).arrayBuffer())
  return start.length === 8 && start[7] === 0 ? 'tensors' : start[0] === 0x7b || start[0] === 0x20 || start[0] === 0x0a ? 'config' : 'tensors'
}

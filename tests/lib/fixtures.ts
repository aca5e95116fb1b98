// Adapters made in memory, good and bad; the same in Node and in browsers.

export interface TensorSpec {
  readonly name: string
  readonly dtype?: string
  readonly shape: readonly number[]
  /** Values of an F32 tensor; zeros without. */
  readonly values?: readonly number[]
}

const sizes: Record<string, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, I32: 4, U8: 1 }
const bytesOf = ({ dtype = 'F32', shape }: TensorSpec): number => shape.reduce((product, side) => product * side, sizes[dtype] as number)

/** A safetensors file with the given header, however wrong, and `dataBytes` of data. */
export function rawFile(header: string | Uint8Array, dataBytes: number, claimed?: number): Uint8Array<ArrayBuffer> {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const file = new Uint8Array(8 + text.length + dataBytes)
  new DataView(file.buffer).setBigUint64(0, BigInt(claimed ?? text.length), true)
  file.set(text, 8)
  return file
}

export function safetensors(tensors: readonly TensorSpec[], metadata?: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  let position = 0
  const entries = tensors.map(tensor => {
    const begin = position
    position += bytesOf(tensor)
    return [tensor.name, { dtype: tensor.dtype ?? 'F32', shape: tensor.shape, data_offsets: [begin, position] }] as const
  })
  const file = rawFile(JSON.stringify({ ...(metadata && { __metadata__: metadata }), ...Object.fromEntries(entries) }), position)
  const dataBegin = file.length - position
  const view = new DataView(file.buffer)
  for (const [i, tensor] of tensors.entries()) {
    const begin = dataBegin + (entries[i]?.[1].data_offsets[0] as number)
    tensor.values?.forEach((value, j) => view.setFloat32(begin + 4 * j, value, true))
  }
  return file
}

export interface PairSpec {
  readonly module?: string
  readonly rank?: number
  readonly in?: number
  readonly out?: number
  readonly dtype?: string
  /** Replaces one value of A. */
  readonly bad?: number
}

export const keyA = (module: string): string => `base_model.model.${module}.lora_A.weight`
export const keyB = (module: string): string => `base_model.model.${module}.lora_B.weight`

/** Both factors of one module, filled with values that differ from unit to unit. */
export function pair({ module = 'layer', rank = 2, in: columns = 6, out = 5, dtype = 'F32', bad }: PairSpec = {}): TensorSpec[] {
  const a = Array.from({ length: rank * columns }, (_, i) => Math.sin(1 + i * 1.7))
  const b = Array.from({ length: out * rank }, (_, i) => Math.cos(2 + i * 2.3))
  if (bad !== undefined) a[3] = bad
  return [
    { name: keyA(module), dtype, shape: [rank, columns], values: a },
    { name: keyB(module), dtype, shape: [out, rank], values: b },
  ]
}

export const config = (fields: Record<string, unknown> = {}): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(JSON.stringify({ peft_type: 'LORA', r: 2, lora_alpha: 2, target_modules: ['layer'], ...fields }))

/** A file as a browser gives it from a folder that was chosen. */
export const fileIn = (folder: string, name: string, bytes: BlobPart): File => Object.defineProperty(new File([bytes], name), 'webkitRelativePath', { value: `${folder}/${name}` })

/** The files of an adapter's folder. */
export const adapterFiles = (tensors: Uint8Array<ArrayBuffer>, settings: Uint8Array<ArrayBuffer> | undefined, name: string): File[] => [
  fileIn(name, 'adapter_model.safetensors', tensors),
  ...(settings ? [fileIn(name, 'adapter_config.json', settings)] : []),
]

/** The files of a good adapter. */
export const adapter = (specs: readonly PairSpec[] = [{}], fields: Record<string, unknown> = {}, name = 'good'): File[] => adapterFiles(safetensors(specs.flatMap(pair)), config(fields), name)

const tensor = (name: string, begin: number, end: number): string => `"${name}":{"dtype":"F32","shape":[${(end - begin) / 4}],"data_offsets":[${begin},${end}]}`

export interface BadInput {
  readonly title: string
  readonly code: string
  readonly inputs: readonly (readonly File[])[]
  readonly rank?: number
  /** What the message must name. */
  readonly names: readonly string[]
}

/** Every kind of bad input with the code that it must get. */
export function badInputs(): BadInput[] {
  const good = adapter()
  const whole = safetensors(pair())
  const bad = (tensors: Uint8Array<ArrayBuffer>, settings: Uint8Array<ArrayBuffer> | undefined = config()): File[][] => [good, adapterFiles(tensors, settings, 'bad')]
  const file = 'bad/adapter_model.safetensors'
  return [
    { title: 'truncated file', code: 'file_truncated', inputs: bad(whole.slice(0, -3)), names: [file] },
    { title: 'file cut in its header', code: 'file_truncated', inputs: bad(whole.slice(0, 40)), names: [file] },
    { title: 'empty file', code: 'file_truncated', inputs: bad(new Uint8Array()), names: [file] },
    { title: 'header too large', code: 'header_too_large', inputs: bad(rawFile('{}', 0, 100_000_001)), names: [file] },
    { title: 'header that is no JSON', code: 'bad_header', inputs: bad(rawFile('{"a":', 0)), names: [file] },
    { title: 'overlapping tensors', code: 'tensor_overlap', inputs: bad(rawFile(`{${tensor('x', 0, 8)},${tensor('y', 4, 12)}}`, 12)), names: [file, 'y'] },
    { title: 'hole between tensors', code: 'tensor_hole', inputs: bad(rawFile(`{${tensor('x', 0, 8)},${tensor('y', 12, 16)}}`, 16)), names: [file, 'y'] },
    { title: 'duplicate tensors', code: 'duplicate_tensor', inputs: bad(rawFile(`{${tensor('x', 0, 8)},${tensor('x', 8, 12)}}`, 12)), names: [file, 'x'] },
    { title: 'unknown dtype', code: 'unknown_dtype', inputs: bad(rawFile('{"x":{"dtype":"F17","shape":[1],"data_offsets":[0,4]}}', 4)), names: [file, 'x', 'F17'] },
    { title: 'wrong dtype of a factor', code: 'unsupported_dtype', inputs: bad(safetensors(pair({ dtype: 'I32' }))), names: [file, keyA('layer'), 'I32'] },
    { title: 'NaN in a factor', code: 'not_finite', inputs: bad(safetensors(pair({ bad: NaN }))), names: [file, keyA('layer')] },
    { title: 'Inf in a factor', code: 'not_finite', inputs: bad(safetensors(pair({ bad: -Infinity }))), names: [file, keyA('layer')] },
    { title: 'A without B', code: 'unpaired_factor', inputs: bad(safetensors(pair().slice(0, 1))), names: [file, keyA('layer')] },
    { title: 'shapes that differ between adapters', code: 'shape_mismatch', inputs: bad(safetensors(pair({ in: 7 }))), names: [file, 'good/adapter_model.safetensors', keyA('layer'), '[2, 7]', '[2, 6]'] },
    { title: 'no module in common', code: 'no_common_module', inputs: bad(safetensors(pair({ module: 'other' }))), names: ['good/adapter_model.safetensors', keyA('layer')] },
    { title: 'no factors at all', code: 'no_factors', inputs: bad(safetensors([{ name: 'weight', shape: [2] }])), names: [file, 'weight'] },
    { title: 'tensors that would be lost', code: 'unsupported_tensors', inputs: bad(safetensors([...pair(), { name: 'base_model.model.layer.lora_magnitude_vector', shape: [5] }])), names: [file, 'lora_magnitude_vector'] },
    { title: 'DoRA config', code: 'unsupported_adapter', inputs: bad(whole, config({ use_dora: true })), names: [file, 'DoRA'] },
    { title: 'pickle', code: 'pickle_file', inputs: [good, [fileIn('bad', 'adapter_model.bin', new Uint8Array([0x50, 0x4b, 3, 4, 0, 0, 8, 8]))]], names: ['bad/adapter_model.bin'] },
    { title: 'missing config', code: 'config_missing', inputs: [good, adapterFiles(whole, undefined, 'bad')], names: [file, 'adapter_config.json'] },
    { title: 'config that is no JSON', code: 'bad_config', inputs: bad(whole, new TextEncoder().encode('{')), names: ['bad/adapter_config.json'] },
    { title: 'rank 0 in a factor', code: 'rank_zero', inputs: bad(safetensors([{ name: keyA('layer'), shape: [0, 6] }, { name: keyB('layer'), shape: [5, 0] }])), names: [file, keyA('layer')] },
    { title: 'rank 0 in the config', code: 'rank_zero', inputs: bad(whole, config({ r: 0 })), names: ['bad/adapter_config.json'] },
    { title: 'config and factor of different ranks', code: 'rank_mismatch', inputs: bad(whole, config({ r: 3 })), names: [file, keyA('layer')] },
    { title: 'rank above the number of units', code: 'rank_above_units', inputs: [good, good], rank: 5, names: ['5', '4'] },
    { title: 'empty input list', code: 'no_inputs', inputs: [], names: ['no adapters'] },
    { title: 'folder without an adapter', code: 'bad_input', inputs: [good, [new File(['x'], 'README.md')]], names: ['README.md'] },
    { title: 'two adapters as one', code: 'bad_input', inputs: [[...good, ...adapter()]], names: ['good'] },
  ]
}

export interface Values {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

const headerOf = (file: ArrayBuffer): unknown => JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, Number(new DataView(file).getBigUint64(0, true)))))

/** What a safetensors file says of itself. */
export const metadataOf = (file: ArrayBuffer): Record<string, string> => (headerOf(file) as { __metadata__?: Record<string, string> }).__metadata__ ?? {}

/** The tensors of a safetensors file by name, with their values as F32; fails if the file is not whole. */
export function parse(file: ArrayBuffer): Map<string, Values> {
  const size = Number(new DataView(file).getBigUint64(0, true))
  const header = headerOf(file) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>
  delete header.__metadata__
  const tensors = new Map<string, Values>()
  let end = 0
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (dtype !== 'F32' || data_offsets[0] !== end) throw new Error(`${name} is not where it should be`)
    end = data_offsets[1]
    tensors.set(name, { shape, values: new Float32Array(file.slice(8 + size + data_offsets[0], 8 + size + end)) })
  }
  if (8 + size + end !== file.byteLength) throw new Error('the file does not end with its last tensor')
  return tensors
}

/** SHA-256 of everything behind the header, which holds the version. */
export async function dataHash(file: ArrayBuffer): Promise<string> {
  const size = Number(new DataView(file).getBigUint64(0, true))
  return hexDigest(file.slice(8 + size))
}

export async function hexDigest(bytes: BufferSource): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', bytes)
  return Array.from(new Uint8Array(digest), byte => byte.toString(16).padStart(2, '0')).join('')
}

// Writes small GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), right and wrong: every number
// in the header can be another than it should be.

/** A key with its type's number and its bytes. */
export interface KeyValue {
  readonly key: string
  readonly type: number
  readonly value: Uint8Array
}

export interface GgufTensor {
  readonly name: string
  /** Fastest first: a matrix of [rows, columns] is [columns, rows] here. */
  readonly sides: readonly (number | bigint)[]
  /** Of ggml; 0 is F32. */
  readonly type?: number
  /** From the start of the data; default: where it belongs. */
  readonly offset?: bigint
  /** F32; default: none, for headers that lie. */
  readonly values?: readonly number[]
}

export interface GgufSpec {
  readonly magic?: string
  readonly version?: number
  readonly tensorCount?: bigint
  readonly keyCount?: bigint
  readonly keys: readonly KeyValue[]
  readonly tensors: readonly GgufTensor[]
  readonly alignment?: number
}

/** One number of the format. */
export function number(type: 'u32' | 'u64' | 'f32', value: number | bigint): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(type === 'u64' ? 8 : 4))
  if (type === 'u64') view.setBigUint64(0, BigInt(value), true)
  else if (type === 'u32') view.setUint32(0, Number(value), true)
  else view.setFloat32(0, Number(value), true)
  return new Uint8Array(view.buffer)
}

export const join = (...parts: readonly ArrayLike<number>[]): Uint8Array<ArrayBuffer> => {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** Length and bytes; `claimed` in place of the length. */
export const string = (text: string, claimed?: bigint): Uint8Array<ArrayBuffer> => {
  const bytes = new TextEncoder().encode(text)
  return join(number('u64', claimed ?? bytes.length), bytes)
}

const kinds = { u32: 4, f32: 6, string: 8, array: 9 }
export const text = (key: string, value: string): KeyValue => ({ key, type: kinds.string, value: string(value) })
export const float = (key: string, value: number): KeyValue => ({ key, type: kinds.f32, value: number('f32', value) })
export const whole = (key: string, value: number): KeyValue => ({ key, type: kinds.u32, value: number('u32', value) })
export const array = (key: string, type: number, count: bigint, bytes: ArrayLike<number> = []): KeyValue => ({ key, type: kinds.array, value: join(number('u32', type), number('u64', count), bytes) })

/** What a file of llama.cpp's converter says of itself. */
export const adapterKeys: readonly KeyValue[] = [text('general.architecture', 'llama'), text('general.type', 'adapter'), text('adapter.type', 'lora'), float('adapter.lora.alpha', 4)]

/** Both factors of a module, filled with values that differ from unit to unit. */
export function ggufPair(module: string, { rank = 2, in: columns = 6, out = 5 } = {}): GgufTensor[] {
  return [
    { name: `${module}.weight.lora_a`, sides: [columns, rank], values: Array.from({ length: rank * columns }, (_, i) => Math.sin(1 + i * 1.7)) },
    { name: `${module}.weight.lora_b`, sides: [rank, out], values: Array.from({ length: out * rank }, (_, i) => Math.cos(2 + i * 2.3)) },
  ]
}

const padded = (bytes: Uint8Array, alignment: number): Uint8Array<ArrayBuffer> => join(bytes, new Uint8Array((alignment - (bytes.length % alignment)) % alignment))

export function gguf({ magic = 'GGUF', version = 3, tensorCount, keyCount, keys, tensors, alignment = 32 }: GgufSpec): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [new TextEncoder().encode(magic), number('u32', version), number('u64', tensorCount ?? tensors.length), number('u64', keyCount ?? keys.length)]
  for (const { key, type, value } of keys) parts.push(string(key), number('u32', type), value)
  const data: Uint8Array[] = []
  let next = 0n
  for (const { name, sides, type = 0, offset, values = [] } of tensors) {
    parts.push(string(name), number('u32', sides.length), ...sides.map(side => number('u64', side)), number('u32', type), number('u64', offset ?? next))
    const bytes = padded(new Uint8Array(Float32Array.from(values).buffer), alignment)
    data.push(bytes)
    next += BigInt(bytes.length)
  }
  return join(padded(join(...parts), alignment), ...data)
}

/** Bytes up to the data. */
export const ggufHeaderBytes = (spec: GgufSpec): number => gguf({ ...spec, tensors: spec.tensors.map(tensor => ({ ...tensor, values: [] })) }).length

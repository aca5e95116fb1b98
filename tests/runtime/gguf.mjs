// Writes GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 3, in memory. Only what the
// tests need, and a separate implementation of what the library writes.

/** Value types of metadata, by the names that `kv` takes. */
const types = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 }
const alignment = 32

const text = new TextEncoder()

function bytesOf(size, write) {
  const bytes = new Uint8Array(size)
  write(new DataView(bytes.buffer))
  return bytes
}
const u32 = value => bytesOf(4, view => view.setUint32(0, value, true))
const u64 = value => bytesOf(8, view => view.setBigUint64(0, BigInt(value), true))
const string = value => {
  const bytes = text.encode(value)
  return concat([u64(bytes.length), bytes])
}
const scalars = {
  u32,
  u64,
  string,
  i32: value => bytesOf(4, view => view.setInt32(0, value, true)),
  f32: value => bytesOf(4, view => view.setFloat32(0, value, true)),
  bool: value => Uint8Array.of(value ? 1 : 0),
}

export function concat(parts) {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let position = 0
  for (const part of parts) {
    whole.set(part, position)
    position += part.length
  }
  return whole
}

const padding = size => new Uint8Array((alignment - (size % alignment)) % alignment)

function metadataEntry({ key, type, value }) {
  if (!Array.isArray(value)) return [string(key), u32(types[type]), scalars[type](value)]
  return [string(key), u32(types.array), u32(types[type]), u64(value.length), ...value.map(scalars[type])]
}

/** One entry of the metadata: `type` is u32, i32, f32, bool, string or u64; an array of them where `value` is one. */
export const kv = (key, type, value) => ({ key, type, value })

/**
 * A GGUF file of F32 tensors. `metadata`: entries made by `kv`. `tensors`: name -> shape and values, the shape as
 * matrices are written down ([rows, columns]); GGUF counts dimensions the other way round.
 */
export function writeGguf(metadata, tensors) {
  const header = [text.encode('GGUF'), u32(3), u64(tensors.size), u64(metadata.length), ...metadata.flatMap(metadataEntry)]
  const data = []
  let offset = 0
  for (const [name, { shape, values }] of tensors) {
    if (values.length !== shape.reduce((product, side) => product * side, 1)) throw new Error(`${name} has ${values.length} values, its shape is [${shape}]`)
    header.push(string(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(0), u64(offset))
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    const pad = padding(bytes.length)
    data.push(bytes, pad)
    offset += bytes.length + pad.length
  }
  const head = concat(header)
  return concat([head, padding(head.length), ...data])
}

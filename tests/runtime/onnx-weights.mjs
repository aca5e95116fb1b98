// The constants of an ONNX model, by a walk through its protobuf (field numbers from onnx/onnx.proto): tests/minibench
// has its base in that form only.

/** Field numbers of ModelProto, GraphProto, NodeProto and TensorProto. */
const model = { graph: 7 }
const graph = { node: 1, initializer: 5 }
const node = { input: 1, operation: 4 }
const tensor = { dims: 1, type: 2, name: 8, raw: 9 }
const float = 1n

/** Fields of one message: numbers as bigint, everything with a length as bytes. */
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let position = 0
  const varint = () => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = view.getUint8(position++)
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return value
    }
  }
  while (position < bytes.length) {
    const key = Number(varint())
    const wire = key & 7
    if (wire === 0) yield { field: key >> 3, value: varint() }
    else if (wire === 1 || wire === 5) position += wire === 1 ? 8 : 4
    else if (wire === 2) {
      const length = Number(varint())
      yield { field: key >> 3, value: bytes.subarray(position, (position += length)) }
    } else throw new Error(`no ONNX model: wire type ${wire}`)
  }
}

const text = new TextDecoder()
const all = (bytes, wanted) => [...fields(bytes)].filter(({ field }) => field === wanted).map(({ value }) => value)

function readTensor(bytes) {
  const shape = []
  for (const dims of all(bytes, tensor.dims)) {
    if (typeof dims !== 'bigint') throw new Error('packed dimensions are not read')
    shape.push(Number(dims))
  }
  const [raw] = all(bytes, tensor.raw)
  if (all(bytes, tensor.type)[0] !== float || !raw) return undefined
  return { shape, values: new Float32Array(new Uint8Array(raw).buffer) }
}

/**
 * The F32 constants of an ONNX model by name, and its nodes in their order: what each computes, from what.
 * @param {Uint8Array} bytes
 */
export function readOnnx(bytes) {
  const [main] = all(bytes, model.graph)
  const weights = new Map()
  for (const constant of all(main, graph.initializer)) {
    const read = readTensor(constant)
    if (read) weights.set(text.decode(all(constant, tensor.name)[0]), read)
  }
  const nodes = all(main, graph.node).map(bytes => ({
    operation: text.decode(all(bytes, node.operation)[0]),
    inputs: all(bytes, node.input).map(name => text.decode(name)),
  }))
  return { weights, nodes }
}

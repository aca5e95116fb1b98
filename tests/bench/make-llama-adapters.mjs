// Writes PEFT adapters of the shapes of a real model, filled with random values: material for benchmarks.
// Usage: node tests/bench/make-llama-adapters.mjs FOLDER [--adapters 7] [--rank 16] [--layers 32]
// Seven adapters of rank 16 for the shapes of Llama-2-7B in bfloat16 are 560 MB.

import { mkdir, open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const hidden = 4096
const intermediate = 11008
/** Module paths of one Llama-2-7B layer with [out, in]. */
const modules = {
  'mlp.down_proj': [hidden, intermediate],
  'mlp.gate_proj': [intermediate, hidden],
  'mlp.up_proj': [intermediate, hidden],
  'self_attn.k_proj': [hidden, hidden],
  'self_attn.o_proj': [hidden, hidden],
  'self_attn.q_proj': [hidden, hidden],
  'self_attn.v_proj': [hidden, hidden],
}

/** xorshift32, mapped to bfloat16 patterns of values in about (-scale, scale). */
function fill(values, scale, state) {
  const float = new Float32Array(1)
  const bits = new Uint32Array(float.buffer)
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    float[0] = (scale * state) / 2 ** 31
    values[i] = bits[0] >>> 16
  }
  return state
}

/** Writes one adapter folder; returns the bytes of its tensor file. */
export async function makeAdapter(folder, { rank, layers, seed }) {
  await mkdir(folder, { recursive: true })
  const tensors = []
  for (let layer = 0; layer < layers; layer++) {
    for (const [name, [out, inputs]] of Object.entries(modules)) {
      const key = `base_model.model.model.layers.${layer}.${name}`
      tensors.push({ name: `${key}.lora_A.weight`, shape: [rank, inputs], scale: 1 / Math.sqrt(inputs) })
      tensors.push({ name: `${key}.lora_B.weight`, shape: [out, rank], scale: 0.01 })
    }
  }
  tensors.sort((x, y) => (x.name < y.name ? -1 : 1))
  const header = {}
  let position = 0
  for (const { name, shape } of tensors) {
    const bytes = 2 * shape[0] * shape[1]
    header[name] = { dtype: 'BF16', shape, data_offsets: [position, position + bytes] }
    position += bytes
  }
  let json = JSON.stringify(header)
  json += ' '.repeat(-json.length & 7)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const file = await open(join(folder, 'adapter_model.safetensors'), 'w')
  try {
    await file.write(Buffer.concat([prefix, Buffer.from(json)]))
    let state = (seed + 1) * 0x9e3779b1 | 1
    for (const { shape, scale } of tensors) {
      const values = new Uint16Array(shape[0] * shape[1])
      state = fill(values, scale, state)
      await file.write(new Uint8Array(values.buffer))
    }
  } finally {
    await file.close()
  }
  const names = [...new Set(Object.keys(modules).map(name => name.split('.')[1]))]
  const config = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: rank, lora_alpha: rank, target_modules: names, base_model_name_or_path: 'llama-2-7b-shapes' }
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config, null, 2))
  return position + prefix.length + json.length
}

/** Writes `adapters` folders below `folder`; returns their paths and the bytes of all. */
export async function makeAdapters(folder, { adapters = 7, rank = 16, layers = 32 } = {}) {
  const paths = []
  let bytes = 0
  for (let seed = 0; seed < adapters; seed++) {
    paths.push(join(folder, `adapter-${seed}`))
    bytes += await makeAdapter(paths[seed], { rank, layers, seed })
  }
  return { paths, bytes }
}

if (process.argv[1] === import.meta.filename) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { adapters: { type: 'string', default: '7' }, rank: { type: 'string', default: '16' }, layers: { type: 'string', default: '32' } },
  })
  if (positionals.length !== 1) throw new Error('usage: make-llama-adapters.mjs FOLDER [--adapters 7] [--rank 16] [--layers 32]')
  const { paths, bytes } = await makeAdapters(positionals[0], { adapters: Number(values.adapters), rank: Number(values.rank), layers: Number(values.layers) })
  console.log(`${paths.length} adapters, ${(bytes / 1e6).toFixed(0)} MB in all`)
}

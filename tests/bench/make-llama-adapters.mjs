// Writes adapters of the shapes of real models, filled with random values: material for benchmarks.
// Usage: node tests/bench/make-llama-adapters.mjs FOLDER [--model llama-2-7b] [--adapters 7] [--rank 16] [--layers N]
// Seven adapters of rank 16 for the shapes of Llama-2-7B in bfloat16 are 560 MB.

import { mkdir, open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { models } from './shapes.mjs'

// Values drawn for each adapter; its tensors are parts of them, which begin elsewhere for each. Drawing all would take
// longer than merging.
const drawn = 1 << 21

/** xorshift32, mapped to bfloat16 patterns of values in about (-0.02, 0.02). */
function draw(seed) {
  const values = new Uint16Array(drawn)
  const float = new Float32Array(1)
  const bits = new Uint32Array(float.buffer)
  let state = ((seed + 1) * 0x9e3779b1) | 1
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    float[0] = (0.02 * state) / 2 ** 31
    values[i] = bits[0] >>> 16
  }
  return values
}

/** How a dialect calls a module's factors; sd-scripts also stores alpha as a tensor. */
function tensorsOf(path, [out, inputs], rank) {
  const kohya = path.startsWith('lora_')
  const [a, b] = kohya ? ['lora_down', 'lora_up'] : ['lora_A', 'lora_B']
  return [
    { name: `${path}.${a}.weight`, shape: [rank, inputs] },
    { name: `${path}.${b}.weight`, shape: [out, rank] },
    ...(kohya ? [{ name: `${path}.alpha`, shape: [] }] : []),
  ]
}

/** Writes one adapter's folder; returns the bytes of its tensor file. */
export async function makeAdapter(folder, { modules, rank, seed, base }) {
  await mkdir(folder, { recursive: true })
  const tensors = modules.flatMap(([path, shape]) => tensorsOf(path, shape, rank))
  tensors.sort((x, y) => (x.name < y.name ? -1 : 1))
  const header = {}
  let position = 0
  for (const { name, shape } of tensors) {
    const bytes = 2 * shape.reduce((x, y) => x * y, 1)
    header[name] = { dtype: 'BF16', shape, data_offsets: [position, position + bytes] }
    position += bytes
  }
  let json = JSON.stringify(header)
  json += ' '.repeat(-json.length & 7)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const isPeft = tensors[0].name.startsWith('base_model.')
  const file = await open(join(folder, isPeft ? 'adapter_model.safetensors' : 'pytorch_lora_weights.safetensors'), 'w')
  try {
    await file.write(Buffer.concat([prefix, Buffer.from(json)]))
    const values = draw(seed)
    const alpha = new Uint16Array(new Float32Array([rank]).buffer, 2, 1)
    let start = 0
    for (const { shape } of tensors) {
      if (shape.length === 0) {
        await file.write(new Uint8Array(alpha.buffer, 2, 2))
        continue
      }
      for (let left = shape[0] * shape[1]; left > 0; ) {
        const count = Math.min(left, drawn - start)
        await file.write(new Uint8Array(values.buffer, 2 * start, 2 * count))
        left -= count
        start = (start + count) % drawn
      }
      start = (start + 7919) % drawn
    }
  } finally {
    await file.close()
  }
  if (isPeft) {
    const names = [...new Set(modules.map(([path]) => path.split('.').at(-1)))]
    const config = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: rank, lora_alpha: rank, target_modules: names, base_model_name_or_path: `${base}-shapes` }
    await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config, null, 2))
  }
  return position + prefix.length + json.length
}

/** Writes `adapters` folders below `folder`; returns their paths and the bytes of all. `layers`: only the first ones. */
export async function makeAdapters(folder, { model = 'llama-2-7b', modules = models[model].modules, adapters = 7, rank = 16, layers = Infinity } = {}) {
  const wanted = modules.filter(([path]) => !(Number(/\.layers\.(\d+)\./.exec(path)?.[1]) >= layers))
  const paths = []
  let bytes = 0
  for (let seed = 0; seed < adapters; seed++) {
    paths.push(join(folder, `adapter-${seed}`))
    bytes += await makeAdapter(paths[seed], { modules: wanted, rank, seed, base: model })
  }
  return { paths, bytes }
}

if (process.argv[1] === import.meta.filename) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { model: { type: 'string', default: 'llama-2-7b' }, adapters: { type: 'string', default: '7' }, rank: { type: 'string', default: '16' }, layers: { type: 'string' } },
  })
  if (positionals.length !== 1 || !(values.model in models)) throw new Error(`usage: make-llama-adapters.mjs FOLDER [--model ${Object.keys(models).join('|')}] [--adapters 7] [--rank 16] [--layers N]`)
  const { paths, bytes } = await makeAdapters(positionals[0], { model: values.model, adapters: Number(values.adapters), rank: Number(values.rank), layers: Number(values.layers ?? Infinity) })
  console.log(`${paths.length} adapters, ${(bytes / 1e6).toFixed(0)} MB in all`)
}

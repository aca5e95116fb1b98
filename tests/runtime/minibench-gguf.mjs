// The small trained model of tests/minibench and adapters for it as llama.cpp reads them: GGUF, F32.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { kv, writeGguf } from './gguf.mjs'
import { readOnnx } from './onnx-weights.mjs'

/** The model's shape; a wrong one here would show in tests/e2e/runtime.test.ts. */
const layers = 4
const heads = 4
const headSize = 32
const hidden = heads * headSize
const feedForward = 352
const context = 64

/** llama.cpp's names of a layer's projections, in the order in which the model computes them. */
const projections = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

/** What an adapter can change: [path in Hugging Face's model and in the ONNX graph, GGUF tensor]. */
export const modules = Array.from({ length: layers }, (_, layer) => layer).flatMap(layer =>
  Object.entries(projections).map(([path, name]) => [`model.layers.${layer}.${path}`, `blk.${layer}.${name}.weight`]),
)

/**
 * One character for every token, so that a text has exactly the tokens that are wanted: no two of them make up another
 * token. The beginning and the end have names as in other vocabularies; token 0 is padding and never used.
 */
const named = { 0: '<unk>', 1: '<s>', 3: '</s>' }
const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
const vocabulary = Array.from({ length: 64 }, (_, token) => named[token] ?? letters[Math.max(token - 3, 0)])
/** Token types of llama.cpp: normal, unknown, control. */
const typeOf = token => (token === 0 ? 2 : token in named ? 3 : 1)

/** A text that llama.cpp turns into these tokens; it sets the first, BOS, itself. */
export function textOf(ids) {
  if (ids[0] !== 1 || ids.slice(1).some(id => id in named)) throw new Error('a prompt starts with BOS, and has no other named token')
  return ids.slice(1).map(id => vocabulary[id]).join('')
}

/** [rows, columns] -> [columns, rows] */
function transposed({ shape: [rows, columns], values }) {
  const result = new Float32Array(values.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = values[i * columns + j]
  return { shape: [columns, rows], values: result }
}

/**
 * The rows of a q or k projection (or of its B) as llama.cpp has them: it rotates neighbouring rows of a head, Hugging
 * Face row i with row i + 16 of 32 (`permute` in llama.cpp's convert_hf_to_gguf.py).
 */
function withRotaryRows(name, { shape, values }) {
  if (!/attn_[qk]\./.test(name)) return { shape, values }
  const columns = shape[1]
  const result = new Float32Array(values.length)
  for (let row = 0; row < shape[0]; row++) {
    const inHead = row % headSize
    const half = headSize / 2
    const to = row - inHead + (inHead % half) * 2 + Math.floor(inHead / half)
    result.set(values.subarray(row * columns, (row + 1) * columns), to * columns)
  }
  return { shape, values: result }
}

/** The weights of the base by llama.cpp's names, rows in Hugging Face's order. */
async function readBase() {
  const { weights, nodes } = readOnnx(await readFile(join(import.meta.dirname, '../minibench/base-lora-inputs.onnx')))
  /** Constants of one rank that an operation takes, in the graph's order. */
  const used = (operation, rank) =>
    nodes
      .filter(node => node.operation === operation)
      .flatMap(({ inputs }) => inputs.map(name => weights.get(name)))
      .filter(weight => weight?.shape.length === rank)
  // The graph computes one module after the other, so the order tells which is which. Vectors that something is
  // multiplied by are norms; matrices are there transposed.
  const norms = used('Mul', 1)
  const matrices = used('MatMul', 2).map(transposed)
  const embedding = used('Gather', 2).filter(({ shape }) => shape[1] === hidden)
  const normNames = Array.from({ length: layers }, (_, layer) => [`blk.${layer}.attn_norm.weight`, `blk.${layer}.ffn_norm.weight`])
  const named = [
    [['token_embd.weight'], embedding],
    [[...normNames.flat(), 'output_norm.weight'], norms],
    [[...modules.map(([, name]) => name), 'output.weight'], matrices],
  ]
  if (named.some(([names, found]) => names.length !== found.length)) throw new Error('tests/minibench/base-lora-inputs.onnx is another graph than expected')
  return new Map(named.flatMap(([names, found]) => names.map((name, i) => [name, found[i]])))
}

/** The base as a GGUF file. */
export async function baseGguf() {
  const tensors = new Map([...(await readBase())].map(([name, tensor]) => [name, withRotaryRows(name, tensor)]))
  return writeGguf(
    [
      kv('general.architecture', 'string', 'llama'),
      kv('general.type', 'string', 'model'),
      kv('general.name', 'string', 'minibench'),
      kv('general.file_type', 'u32', 0),
      kv('llama.vocab_size', 'u32', vocabulary.length),
      kv('llama.context_length', 'u32', context),
      kv('llama.embedding_length', 'u32', hidden),
      kv('llama.block_count', 'u32', layers),
      kv('llama.feed_forward_length', 'u32', feedForward),
      kv('llama.attention.head_count', 'u32', heads),
      kv('llama.attention.head_count_kv', 'u32', heads),
      kv('llama.attention.layer_norm_rms_epsilon', 'f32', 1e-5),
      kv('llama.rope.dimension_count', 'u32', headSize),
      kv('llama.rope.freq_base', 'f32', 10000),
      kv('tokenizer.ggml.model', 'string', 'llama'),
      kv('tokenizer.ggml.tokens', 'string', vocabulary),
      kv('tokenizer.ggml.scores', 'f32', vocabulary.map(() => 0)),
      kv('tokenizer.ggml.token_type', 'i32', vocabulary.map((_, token) => typeOf(token))),
      kv('tokenizer.ggml.unknown_token_id', 'u32', 0),
      kv('tokenizer.ggml.bos_token_id', 'u32', 1),
      kv('tokenizer.ggml.eos_token_id', 'u32', 3),
      kv('tokenizer.ggml.add_bos_token', 'bool', true),
      kv('tokenizer.ggml.add_eos_token', 'bool', false),
      kv('tokenizer.ggml.add_space_prefix', 'bool', false),
    ],
    tensors,
  )
}

/** The tensors of a safetensors file in F32. */
function readSafetensors(file) {
  const size = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + size)))
  delete header.__metadata__
  return new Map(
    Object.entries(header).map(([name, { dtype, shape, data_offsets: [begin, end] }]) => {
      if (dtype !== 'F32') throw new Error(`${name} is ${dtype}, not F32`)
      return [name, { shape, values: new Float32Array(new Uint8Array(file.subarray(8 + size + begin, 8 + size + end)).buffer) }]
    }),
  )
}

/**
 * The factors of a PEFT adapter in F32 with one rank and alpha for all modules, by the names of the ONNX graph's inputs,
 * B multiplied by alpha / r: delta = lora_B lora_A.
 */
export function readPeft(safetensors, { r, lora_alpha: alpha, rank_pattern: ranks = {}, alpha_pattern: alphas = {}, use_rslora: rslora = false }) {
  if (Object.keys({ ...ranks, ...alphas }).length > 0 || rslora) throw new Error('patterns and rsLoRA are not read')
  const tensors = readSafetensors(safetensors)
  const factors = new Map()
  for (const [path] of modules) {
    for (const side of ['lora_A', 'lora_B']) {
      const tensor = tensors.get(`base_model.model.${path}.${side}.weight`)
      if (!tensor) throw new Error(`the adapter has no ${path}.${side}`)
      factors.set(`${path}.${side}`, side === 'lora_A' ? tensor : { ...tensor, values: tensor.values.map(value => (value * alpha) / r) })
    }
  }
  return factors
}

/** Reads an adapter's folder. */
export async function readPeftFolder(folder) {
  return readPeft(await readFile(join(folder, 'adapter_model.safetensors')), JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8')))
}

/** Factors whose delta is the weighted sum of deltas: A's below each other, weighted B's side by side. */
export function stacked(adapters, weights) {
  const result = new Map()
  for (const [path] of modules) {
    const as = adapters.map(factors => factors.get(`${path}.lora_A`))
    const bs = adapters.map(factors => factors.get(`${path}.lora_B`))
    const rank = as.reduce((sum, { shape }) => sum + shape[0], 0)
    const rows = bs[0].shape[0]
    const a = { shape: [rank, as[0].shape[1]], values: new Float32Array(rank * as[0].shape[1]) }
    const b = { shape: [rows, rank], values: new Float32Array(rows * rank) }
    let unit = 0
    for (const [i, { shape: [own, columns], values }] of as.entries()) {
      a.values.set(values, unit * columns)
      for (let row = 0; row < rows; row++) for (let j = 0; j < own; j++) b.values[row * rank + unit + j] = weights[i] * bs[i].values[row * own + j]
      unit += own
    }
    result.set(`${path}.lora_A`, a).set(`${path}.lora_B`, b)
  }
  return result
}

/** A GGUF adapter; alpha 0 tells llama.cpp to take the factors as they are (`get_scale` in llama-adapter.h). */
export function adapterGguf(factors) {
  const tensors = new Map()
  for (const [path, name] of modules) {
    tensors.set(`${name}.lora_a`, factors.get(`${path}.lora_A`))
    tensors.set(`${name}.lora_b`, withRotaryRows(name, factors.get(`${path}.lora_B`)))
  }
  return writeGguf([kv('general.architecture', 'string', 'llama'), kv('general.type', 'string', 'adapter'), kv('adapter.type', 'string', 'lora'), kv('adapter.lora.alpha', 'f32', 0)], tensors)
}

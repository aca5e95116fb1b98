// What scripts/split.mjs watches a core do: merges of adapters as most people have them. All functions that these call are in
// the part of the core that `methodsOfParts` says, or in one before it.

import { pathToFileURL } from 'node:url'
import { SetupError } from './say.mjs'

/**
 * Modules of an adapter, how wide and high each is, and its rank. Small ones are square, so that one can feed another, and
 * have remains beside each kernel's blocks.
 */
const small = { modules: 8, width: 203, height: 203, rank: 12 }
const medium = { modules: 8, width: 1100, height: 1030, rank: 24 }
/** More bytes than 32 bits can count. Only planned. */
const large = { modules: 300, width: 16384, height: 16384, rank: 256 }
const text = new TextEncoder()

/** Methods by the part of the core that has what they need, besides the parts before it. */
export const methodsOfParts = { first: ['lego', 'cat'], decompose: ['least_interference', 'svd'] }

/** Adapters as people have them, by format: names of one layer's modules, of a module's two factors, and of its alpha. */
const formats = {
  peft: {
    modules: layer => ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'].map(name => `base_model.model.model.layers.${layer}.${name}`),
    factors: ['.lora_A.weight', '.lora_B.weight'],
  },
  kohya: {
    modules: block => ['attn1_to_q', 'attn1_to_k', 'attn1_to_v', 'attn1_to_out_0', 'ff_net_2'].map(name => `lora_unet_down_blocks_${block}_attentions_0_transformer_blocks_0_${name}`),
    factors: ['.lora_down.weight', '.lora_up.weight'],
    alpha: '.alpha',
  },
  diffusers: {
    modules: block => ['attn1.to_q', 'attn1.to_k', 'attn1.to_v', 'attn1.to_out.0', 'ff.net.2'].map(name => `unet.down_blocks.${block}.attentions.0.transformer_blocks.0.${name}`),
    factors: ['.lora_A.weight', '.lora_B.weight'],
  },
}
const configOf = rank => text.encode(JSON.stringify({
  peft_type: 'LORA', task_type: 'CAUSAL_LM', base_model_name_or_path: 'base', r: rank, lora_alpha: 16, lora_dropout: 0.05, bias: 'none',
  fan_in_fan_out: false, inference_mode: true, init_lora_weights: true, target_modules: ['q_proj', 'v_proj'], use_rslora: false, use_dora: false,
  modules_to_save: null, layers_to_transform: null, layers_pattern: null, rank_pattern: {}, alpha_pattern: {}, revision: null,
}))

/** By dtype: the bytes of a value, and those of values between -0.5 and 0.5. */
const dtypes = {
  F32: { size: 4, pack: values => values },
  BF16: { size: 2, pack: values => new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1) },
  // Sign and exponent go over to half precision, the mantissa is left out.
  F16: { size: 2, pack: values => Uint16Array.from(new Uint32Array(values.buffer), bits => ((bits >>> 16) & 0x8000) | (Math.max(0, ((bits >>> 23) & 0xff) - 112) << 10)) },
}

function randomValues(count, seed) {
  let state = seed
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32 - 0.5
  })
}

/** A safetensors file: its size, its first bytes, and its values, unless there are too many. `seed`: other weights. */
function adapterOf(format, dtype, { modules, width, height, rank }, seed) {
  const { modules: modulesOf, factors, alpha } = formats[format]
  const { size, pack } = dtypes[dtype]
  const header = { __metadata__: { format: 'pt' } }
  let end = 0
  const add = (name, shape) => {
    const begin = end
    end += size * shape.reduce((product, length) => product * length, 1)
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const names = Array.from({ length: modules }, (_, layer) => modulesOf(layer)).flat().slice(0, modules)
  for (const name of names) {
    add(name + factors[0], [rank, width])
    add(name + factors[1], [height, rank])
    if (alpha) add(name + alpha, [])
  }
  const json = text.encode(JSON.stringify(header))
  const start = new Uint8Array(8 + json.length)
  new DataView(start.buffer).setBigUint64(0, BigInt(json.length), true)
  start.set(json, 8)
  const values = end > 2 ** 30 ? undefined : new Uint8Array(pack(randomValues(end / size, seed)).buffer)
  return { start, values, size: start.length + end, config: format === 'peft' ? configOf(rank) : undefined }
}

function check({ code, message }) {
  if (code !== '') throw new SetupError(`an ordinary merge failed: ${code}: ${message}`)
}

function open(core, { start, values, size, config }, number) {
  let header = start.subarray(0, 8)
  for (;;) {
    const { error, bytes } = core.headerNeeds('file', header, size)
    check(error)
    if (bytes === header.length) break
    header = start.subarray(0, bytes)
  }
  const { error, alphas } = core.addAdapter({ label: `adapter ${number}`, file: 'file', configFile: 'config', fileSize: size, hasConfig: config !== undefined }, header, config ?? new Uint8Array())
  check(error)
  const read = ({ offset, length }) => [...values.subarray(offset - start.length, offset - start.length + length)]
  if (alphas.length > 0) check(core.setAlphas(Uint8Array.from(alphas.flatMap(read))))
  core.adapter()
}

/** `recipe`: fields that differ from what is used where nobody says. */
function planOf(core, adapters, recipe) {
  core.openSession({ threads: 1, readSlots: 0, readBuffers: 2, lanes: 1, shards: 1, memoryBytes: 0 }, false)
  adapters.forEach((adapter, number) => open(core, adapter, number))
  const plan = core.makePlan({
    weights: adapters.map(() => 1), moduleWeights: [], rank: 0, rankRule: 'fixed', rankValue: 0, moduleRanks: [], seed: 0, scale: 1, dtype: 'same', format: 'same',
    onnxNameA: '', onnxNameB: '', onnxMatMul: false, metadata: true, inputHashes: [], keepScales: false, policies: [], options: [], ...recipe,
  })
  check(plan.error)
  core.outputHeader()
  return plan
}

/** As the library does (web/lib/run.ts), with files in memory. */
function merge(core, adapters, recipe) {
  const plan = planOf(core, adapters, recipe)
  core.threads()
  core.cancelAddress()
  plan.batches.forEach((batch, number) => {
    const { error, bytes } = core.input(number)
    check(error)
    for (const { adapter, offset, length, at } of batch.reads) {
      const { start, values } = adapters[adapter]
      bytes.set(values.subarray(offset - start.length, offset - start.length + length), at)
    }
    check(core.start(number, false))
    check(core.finish(number).error)
    core.reports(number)
  })
  core.outputHashes()
  core.closeSession()
}

/** Merges by `recipes`, which say what is usually left out, in the core of `glue`, a path. Returns its exports. */
export async function runOrdinaryMerges(glue, recipes) {
  // The glue keeps them to itself.
  const { instantiate } = WebAssembly
  let exported
  WebAssembly.instantiate = async (...given) => {
    const result = await instantiate(...given)
    exported = result.instance.exports
    return result
  }
  try {
    const { default: createCore } = await import(pathToFileURL(glue).href)
    const core = await createCore()
    const adaptersOf = (format, dtype, size) => [1, 2, 3].map(seed => adapterOf(format, dtype, size, seed))
    for (const recipe of recipes) {
      for (const format of Object.keys(formats)) {
        for (const dtype of Object.keys(dtypes)) merge(core, adaptersOf(format, dtype, small), { method: recipe.method })
      }
      const full = { ...recipe, weights: [1, 0.5, 0.7] }
      merge(core, adaptersOf('peft', 'BF16', medium), full)
      planOf(core, adaptersOf('peft', 'BF16', large), full)
      core.closeSession()
    }
  } finally {
    WebAssembly.instantiate = instantiate
  }
  return exported
}

// Modules of real models: the names their adapters give them, with [out, in]. What trainers adapt by default or can:
// all linear layers of a language model's blocks; of a diffusion model's transformers, and of SDXL's text encoders.

/** A language model's blocks in transformers' names. */
function llama(layers, { hidden, intermediate, keys }) {
  const block = {
    'mlp.down_proj': [hidden, intermediate],
    'mlp.gate_proj': [intermediate, hidden],
    'mlp.up_proj': [intermediate, hidden],
    'self_attn.k_proj': [keys, hidden],
    'self_attn.o_proj': [hidden, hidden],
    'self_attn.q_proj': [hidden, hidden],
    'self_attn.v_proj': [keys, hidden],
  }
  return Array.from({ length: layers }, (_, layer) => Object.entries(block).map(([name, shape]) => [`base_model.model.model.layers.${layer}.${name}`, shape])).flat()
}

/** SDXL's UNet and both text encoders in the names of sd-scripts: 722 + 72 + 192 modules. */
function sdxl() {
  const modules = []
  const transformers = [
    ...[4, 5].map(i => [`input_blocks_${i}_1`, 640, 2]),
    ...[7, 8].map(i => [`input_blocks_${i}_1`, 1280, 10]),
    ['middle_block_1', 1280, 10],
    ...[0, 1, 2].map(i => [`output_blocks_${i}_1`, 1280, 10]),
    ...[3, 4, 5].map(i => [`output_blocks_${i}_1`, 640, 2]),
  ]
  for (const [name, width, depth] of transformers) {
    const add = (module, out, inputs) => modules.push([`lora_unet_${name}_${module}`, [out, inputs]])
    add('proj_in', width, width)
    add('proj_out', width, width)
    for (let block = 0; block < depth; block++) {
      for (const attention of ['attn1', 'attn2']) {
        const context = attention === 'attn2' ? 2048 : width
        for (const [part, inputs] of [['to_q', width], ['to_k', context], ['to_v', context], ['to_out_0', width]]) add(`transformer_blocks_${block}_${attention}_${part}`, width, inputs)
      }
      add(`transformer_blocks_${block}_ff_net_0_proj`, 8 * width, width)
      add(`transformer_blocks_${block}_ff_net_2`, width, 4 * width)
    }
  }
  for (const [prefix, layers, width] of [['lora_te1', 12, 768], ['lora_te2', 32, 1280]]) {
    for (let layer = 0; layer < layers; layer++) {
      const add = (module, out, inputs) => modules.push([`${prefix}_text_model_encoder_layers_${layer}_${module}`, [out, inputs]])
      for (const part of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) add(`self_attn_${part}`, width, width)
      add('mlp_fc1', 4 * width, width)
      add('mlp_fc2', width, 4 * width)
    }
  }
  return modules
}

/** Flux.1's transformer in diffusers' names, modulations included: 19 x 14 + 38 x 6 modules. */
function flux() {
  const width = 3072
  const modules = []
  for (let block = 0; block < 19; block++) {
    const add = (module, out, inputs) => modules.push([`transformer.transformer_blocks.${block}.${module}`, [out, inputs]])
    for (const part of ['to_q', 'to_k', 'to_v', 'to_out.0', 'add_q_proj', 'add_k_proj', 'add_v_proj', 'to_add_out']) add(`attn.${part}`, width, width)
    for (const ff of ['ff', 'ff_context']) {
      add(`${ff}.net.0.proj`, 4 * width, width)
      add(`${ff}.net.2`, width, 4 * width)
    }
    for (const norm of ['norm1', 'norm1_context']) add(`${norm}.linear`, 6 * width, width)
  }
  for (let block = 0; block < 38; block++) {
    const add = (module, out, inputs) => modules.push([`transformer.single_transformer_blocks.${block}.${module}`, [out, inputs]])
    for (const part of ['to_q', 'to_k', 'to_v']) add(`attn.${part}`, width, width)
    add('norm.linear', 3 * width, width)
    add('proj_mlp', 4 * width, width)
    add('proj_out', width, 5 * width)
  }
  return modules
}

/** Square modules, as many as one asks for: material for one quantity at a time. */
export function square(count, width) {
  return Array.from({ length: count }, (_, i) => [`base_model.model.model.layers.${i}.self_attn.q_proj`, [width, width]])
}

export const models = {
  'llama-2-7b': { title: 'Llama-2-7B', modules: llama(32, { hidden: 4096, intermediate: 11008, keys: 4096 }) },
  'llama-3-8b': { title: 'Llama-3-8B', modules: llama(32, { hidden: 4096, intermediate: 14336, keys: 1024 }) },
  'llama-3-70b': { title: 'Llama-3-70B', modules: llama(80, { hidden: 8192, intermediate: 28672, keys: 1024 }) },
  sdxl: { title: 'SDXL, UNet and text encoders', modules: sdxl() },
  flux: { title: 'Flux.1', modules: flux() },
}

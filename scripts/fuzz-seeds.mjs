// Writes tests/fuzz/seeds/: small good inputs for the fuzz targets, from examples/ and tests/golden/.
// Run it again where a target reads its input in another way, or there are new methods.

import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { main } from './say.mjs'
import { project } from './toolchain.mjs'

const seeds = join(project, 'tests/fuzz/seeds')
/** Between the parts of an input: no UTF-8 text has this byte. */
const divider = Buffer.from([0xff])
const bytes = (...values) => Buffer.from(values)

/** @param {Record<string, Buffer>} inputs by name */
async function write(target, inputs) {
  const folder = join(seeds, target)
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  for (const [name, input] of Object.entries(inputs)) await writeFile(join(folder, name), input)
}

function withPrefix(json) {
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(Buffer.byteLength(json)))
  return Buffer.concat([prefix, Buffer.from(json)])
}

/** A file's header as text, and its data. */
async function readTensors(path) {
  const file = await readFile(join(project, path))
  const end = 8 + Number(file.readBigUInt64LE(0))
  return { json: file.subarray(8, end).toString().trimEnd(), data: file.subarray(end) }
}

/** Header of tensors that lie one after the other; `bits` of one element. */
function header(tensors, metadata) {
  let position = 0
  const entries = tensors.map(([name, dtype, bits, shape]) => {
    const begin = position
    position += shape.reduce((product, side) => product * side, bits) / 8
    return [name, { dtype, shape, data_offsets: [begin, position] }]
  })
  return JSON.stringify({ ...(metadata && { __metadata__: metadata }), ...Object.fromEntries(entries) })
}

/** The first modules of a real adapter's header, with the rank and dtype given. */
function firstModules(json, count, rank, [dtype, bits]) {
  const names = Object.keys(JSON.parse(json)).filter(name => name !== '__metadata__')
  const tensors = names.slice(0, 2 * count).map(name => [name, dtype, bits, name.includes('lora_A') ? [rank, 128] : [128, rank]])
  return header(tensors, { format: 'pt' })
}

/** A header whose file ends at 2^64 - 1; written again with padding, it would end beyond. */
function endless() {
  const most = 2n ** 64n - 1n
  const largest = 2n ** 61n - 1n
  for (let dataBegin = 9n; ; dataBegin++) {
    const entries = [...'abcdefgh'].map((name, i) => {
      const begin = BigInt(i) * largest
      const end = i < 7 ? begin + largest : most - dataBegin
      return `"${name}":{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`
    })
    const json = `{${entries.join(',')}}`
    if (BigInt(8 + json.length) === dataBegin && json.length % 8 !== 0) return json
  }
}

const key = (path, ending) => `base_model.model.${path}.${ending}`
const kinds = header([
  [key('conv', 'lora_A.weight'), 'BF16', 16, [2, 3, 3, 3]],
  [key('conv', 'lora_B.weight'), 'BF16', 16, [5, 2, 1, 1]],
  [key('embed', 'lora_embedding_A'), 'BF16', 16, [2, 100]],
  [key('embed', 'lora_embedding_B'), 'BF16', 16, [8, 2]],
  [key('fc', 'lora_A.default.weight'), 'F8_E4M3', 8, [2, 8]],
  [key('fc', 'lora_B.default.weight'), 'F8_E4M3', 8, [8, 2]],
])

const config = settings => JSON.stringify({ peft_type: 'LORA', ...settings })
const patterns = config({
  r: 2, lora_alpha: 4.5, use_rslora: true, target_modules: ['q_proj', 'v_proj'], task_type: 'CAUSAL_LM',
  rank_pattern: { '.*\\.layers\\.[0-3]\\.self_attn\\.(q|k)_proj': 3, '^v_proj$': 1, 'a{1,3}?b+[^c-e]\\d': 2 },
  alpha_pattern: { q_proj: 8, 'mlp.down_proj': 1e-3 },
})
const refused = config({
  use_dora: true, lora_bias: true, modules_to_save: ['lm_head'], init_lora_weights: 'pissa', fan_in_fan_out: true,
  layers_to_transform: [1], corda_config: { a: { b: [{ c: null }] } },
})

const mlxConfig = JSON.stringify({ fine_tune_type: 'lora', model: 'base', num_layers: -1, lora_parameters: { rank: 2, scale: 10, dropout: 0, keys: ['self_attn.q_proj'] } })
/** A dialect's two factors of a module, rank x 8 and 8 x rank, and its alpha. */
const pairOf = ([a, b], path, rank = 2, turned = false) => [
  [path + a, 'F16', 16, turned ? [8, rank] : [rank, 8]],
  [path + b, 'F16', 16, turned ? [rank, 8] : [8, rank]],
]
const alphaOf = path => [`${path}.alpha`, 'F32', 32, []]
const kohya = ['.lora_down.weight', '.lora_up.weight']
const sd1 = ['to_q', 'to_v'].map(name => `down_blocks.0.attentions.0.transformer_blocks.0.attn1.${name}`)
const sd1Kohya = sd1.map(path => `lora_unet_${path.replaceAll('.', '_')}`)
const llama = ['self_attn.q_proj', 'self_attn.k_proj', 'mlp.down_proj'].map(name => `model.layers.0.${name}`)
const flux = 'diffusion_model.double_blocks.0.img_attn.qkv'
/** What each dialect's catalogue can be seen from: header and config. "GGUF": the metadata of a GGUF file. */
const dialects = {
  peft: [header(llama.flatMap(path => pairOf(['.lora_A.weight', '.lora_B.weight'], `base_model.model.${path}`))), config({ r: 2, lora_alpha: 16, base_model_name_or_path: 'base' })],
  kohya: [header(sd1Kohya.flatMap(path => [...pairOf(kohya, path), alphaOf(path)]), { ss_network_dim: '2', ss_tag_frequency: '{"d":{"cat":3}}', 'modelspec.trigger_phrase': 'x' }), ''],
  diffusers: [
    header(sd1.flatMap(path => pairOf(['.lora_A.weight', '.lora_B.weight'], `unet.${path}`)), { lora_adapter_metadata: '{"unet.r":2,"unet.lora_alpha":8,"unet.alpha_pattern":{"mid_block":2}}' }), '',
  ],
  old: [header(['to_q', 'to_out'].flatMap(name => pairOf(['_lora.down.weight', '_lora.up.weight'], `unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.${name}`))), ''],
  comfy: [header([[`${flux}.lora_A.weight`, 'BF16', 16, [2, 8]], [`${flux}.lora_B.weight`, 'BF16', 16, [24, 2]], alphaOf(flux)]), ''],
  xlabs: [header(['qkv_lora1', 'qkv_lora2'].flatMap(name => [[`double_blocks.0.processor.${name}.down.weight`, 'F32', 32, [2, 8]], [`double_blocks.0.processor.${name}.up.weight`, 'F32', 32, [24, 2]]])), ''],
  control: [header([...pairOf(['.down', '.up'], 'input_blocks.1.1.proj_in'), ['input_hint_block.0.weight', 'F16', 16, [8]]]), ''],
  controlPairs: [header([['input_blocks.1.0.in_layers.2.down', 'F16', 16, [2, 8, 3, 3]], ['input_blocks.1.0.in_layers.2.up', 'F16', 16, [8, 2, 1, 1]]]), ''],
  experts: [
    header(['mlp.experts', 'mlp.experts.base_layer'].flatMap(path => [[key(`model.layers.0.${path}`, 'lora_A.weight'), 'F16', 16, [6, 8]], [key(`model.layers.0.${path}`, 'lora_B.weight'), 'F16', 16, [4, 6]]])),
    config({ r: 2, lora_alpha: 4, target_modules: [], target_parameters: ['mlp.experts.gate_up_proj', 'experts.down_proj'] }),
  ],
  mlxExperts: [header(['gate_proj', 'up_proj'].map(name => `model.layers.0.mlp.switch_mlp.${name}`).flatMap(path => [[`${path}.lora_a`, 'F16', 16, [3, 2, 8]], [`${path}.lora_b`, 'F16', 16, [3, 4, 2]]])), mlxConfig],
  ggufExperts: [
    JSON.stringify({ 'blk.0.ffn_up_exps.weight.lora_a': { dtype: 'Q8_0', shape: [3, 2, 32] }, 'blk.0.ffn_up_exps.weight.lora_b': { dtype: 'F16', shape: [3, 4, 2] } }),
    'GGUF{"general.type":"adapter","adapter.type":"lora","general.architecture":"qwen3moe","adapter.lora.alpha":2.0}',
  ],
  parts: [header(['attn.to_q', 'attn.to_v', 'attn.to_out.0'].flatMap(name => pairOf(['.lora_A.weight', '.lora_B.weight'], `transformer.transformer_blocks.0.${name}`))), ''],
  mlx: [header(llama.flatMap(path => pairOf(['.lora_a', '.lora_b'], path, 2, true))), mlxConfig],
  gguf: [
    JSON.stringify(Object.fromEntries([
      ...['attn_q', 'attn_k', 'ffn_down'].flatMap(name => [[`blk.0.${name}.weight.lora_a`, { dtype: 'Q8_0', shape: [2, 32] }], [`blk.0.${name}.weight.lora_b`, { dtype: 'F16', shape: [32, 2] }]]),
      ['token_embd.weight.lora_a', { dtype: 'F32', shape: [9, 2] }], ['token_embd.weight.lora_b', { dtype: 'F32', shape: [32, 2] }],
    ])),
    'GGUF{"general.type":"adapter","adapter.type":"lora","general.architecture":"llama","adapter.lora.alpha":16.0,"general.base_model.0.name":"base"}',
  ],
}
/** Tensors of a module, 8 x 8, in F16: [ending, shape]. */
const moduleOf = (path, tensors) => tensors.map(([ending, shape]) => [path + ending, 'F16', 16, shape])
const loha = [['.hada_w1_a', [8, 2]], ['.hada_w1_b', [2, 8]], ['.hada_w2_a', [8, 2]], ['.hada_w2_b', [2, 8]]]
const tuckerLoha = [['.hada_t1', [2, 2, 3, 3]], ['.hada_w1_a', [2, 8]], ['.hada_w1_b', [2, 8]], ['.hada_t2', [2, 2, 3, 3]], ['.hada_w2_a', [2, 8]], ['.hada_w2_b', [2, 8]]]
const lokr = [['.lokr_w1', [2, 2]], ['.lokr_w2_a', [4, 2]], ['.lokr_w2_b', [2, 4]]]
const lycoris = {
  loha, 'tucker-loha': tuckerLoha, lokr,
  'lokr-full': [['.lokr_w1', [2, 2]], ['.lokr_w2', [4, 4]]],
  'lokr-pairs': [['.lokr_w1_a', [2, 1]], ['.lokr_w1_b', [1, 2]], ['.lokr_w2_a', [2, 4]], ['.lokr_w2_b', [2, 4]], ['.lokr_t2', [2, 2, 3, 3]]],
  core: [['.lora_up.weight', [8, 2, 1, 1]], ['.lora_down.weight', [2, 8, 1, 1]], ['.lora_mid.weight', [2, 2, 3, 3]]],
  difference: [['.diff', [8, 8]]],
}
/** What each dialect's files hold beside factors, with the config that goes with it. */
const extras = {
  peft: [
    header([
      ...pairOf(['.lora_A.weight', '.lora_B.weight'], `base_model.model.${llama[0]}`),
      [key('lm_head', 'weight'), 'F16', 16, [3, 2]], [key(llama[0], 'bias'), 'BF16', 16, [8]], [key('model.embed_tokens', 'modules_to_save.weight'), 'F32', 32, [4, 2]],
    ]),
    config({ r: 2, lora_alpha: 16, modules_to_save: ['lm_head'], bias: 'lora_only' }),
  ],
  kohya: [
    header([
      ...pairOf(kohya, sd1Kohya[0]), alphaOf(sd1Kohya[0]),
      ['lora_unet_norm.w_norm', 'F16', 16, [8]], ['lora_unet_norm.b_norm', 'F16', 16, [8]], ['lora_unet_norm.diff', 'F16', 16, [8]], ['lora_unet_x.diff_b', 'BF16', 16, [8]],
      ['bundle_emb.word.string_to_param.*', 'F32', 32, [2, 8]], ['lora_unet_none.diff_b', 'F16', 16, [0]], ['lora_unet_narrow.diff_b', 'F4', 4, [2]],
    ], { ss_network_dim: '2', ss_steps: '9' }),
    '',
  ],
  diffusers: [header([...pairOf(['.lora_A.weight', '.lora_B.weight'], `unet.${sd1[0]}`), ['unet.norm.diff_b', 'F16', 16, [8]]]), ''],
  endless: [header([...pairOf(kohya, sd1Kohya[0]), ['lora_unet_norm.w_norm', 'F16', 16, [2 ** 48]]]), ''],
  refused: [
    header([...pairOf(kohya, sd1Kohya[0]), [`${sd1Kohya[0]}.dora_scale`, 'F16', 16, [8, 1]], [`${sd1Kohya[1]}.oft_blocks`, 'F16', 16, [2, 4, 4]], alphaOf(sd1Kohya[1])]),
    '',
  ],
  dora: [
    header([...pairOf(['.lora_A.weight', '.lora_B.weight'], `base_model.model.${llama[0]}`), [key(llama[0], 'lora_magnitude_vector'), 'F16', 16, [8]], [key(llama[0], 'lora_B.bias'), 'F16', 16, [8]]]),
    config({ r: 2, use_dora: true, lora_bias: true }),
  ],
}
/** Formats by their number in a recipe: DialectInfo's order, 0 is "same". */
const formats = ['same', 'peft', 'kohya', 'diffusers', 'comfy', 'xlabs', 'control_lora', 'mlx', 'gguf', 'onnx']
/** What happens to all that is no factor and can be kept, by its number in a recipe. */
const policies = { drop: 4, first: 5, average: 6, sum: 7 }
/**
 * The recipe of a conversion (method 3 is cat), and a base model of type llama with two heads. Dtypes: 0 same, 5 q8_0.
 * Policy: one of policies, or 0 for none.
 */
const conversion = (format, keep = true, dtype = 0, policy = 0) => bytes(3, 0, 0, 0, 0, dtype, 0, policy, formats.indexOf(format), 0, ...(format === 'onnx' ? [1, 1, 0] : []), keep ? 3 : 0, 1, 0, 2, 2, 0)
/** Values for so many alphas, in front of a recipe: each 16. */
const alphas = count => bytes(...Array(count).fill(16))

/** A GGUF header. Values are [type, bytes]. */
function gguf(metadata, tensors, version = 3, alignment = 32) {
  const u32 = n => { const b = Buffer.alloc(4); b.writeUInt32LE(n); return b }
  const u64 = n => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b }
  const text = string => Buffer.concat([u64(Buffer.byteLength(string)), Buffer.from(string)])
  const value = v => {
    if (typeof v === 'string') return [u32(8), text(v)]
    if (typeof v === 'number') return [u32(4), u32(v)]
    if (typeof v === 'boolean') return [u32(7), bytes(v ? 1 : 0)]
    if (Buffer.isBuffer(v)) return [v]
    return [u32(9), u32(typeof v[0] === 'string' ? 8 : 4), u64(v.length), ...v.map(e => (typeof e === 'string' ? text(e) : u32(e)))]
  }
  let offset = 0
  const table = tensors.flatMap(([name, type, dimensions, size]) => {
    const entry = [text(name), u32(dimensions.length), ...dimensions.map(u64), u32(type), u64(offset)]
    offset += Math.ceil(size / alignment) * alignment
    return entry
  })
  const head = Buffer.concat([Buffer.from('GGUF'), u32(version), u64(tensors.length), u64(Object.keys(metadata).length), ...Object.entries(metadata).flatMap(([k, v]) => [text(k), ...value(v)]), ...table])
  return Buffer.concat([head, Buffer.alloc((alignment - (head.length % alignment)) % alignment)])
}
const float = value => { const b = Buffer.alloc(8); b.writeUInt32LE(6); b.writeFloatLE(value, 4); return b }

await main(async () => {
  const example = await readTensors('examples/add3/adapter_model.safetensors')
  const exampleConfig = await readFile(join(project, 'examples/add3/adapter_config.json'))
  const golden = await readTensors('tests/golden/small_equal.safetensors')
  const edge = await readTensors('tests/golden/small_edge.safetensors')

  await write('header', {
    example: withPrefix(example.json),
    golden: withPrefix(edge.json),
    endless: withPrefix(endless()),
    kinds: withPrefix(kinds),
    narrow: withPrefix(header([['a', 'F4', 4, [3, 2]], ['b', 'F6_E2M3', 6, [4]], ['none', 'F32', 32, [0, 7]], ['one', 'U8', 8, []]])),
    short: Buffer.concat([withPrefix(header([['a', 'U8', 8, [4]]], { k: 'v' })), bytes(1, 2, 3, 4)]),
    unknown: withPrefix('{"a":{"extra":{"deep":[1,{"x":null}]},"data_offsets":[0,4],"more":1.5,"shape":[],"dtype":"F32"}}  '),
  })
  const modules = Buffer.from('\x01layers.0.self_attn.q_proj\n\x02layers.1.self_attn.q_proj\n\x01a.b\n\x03axb\n\x02x.a.b\n\x01l(2)+[a]\n')
  await write('config', {
    example: Buffer.concat([exampleConfig, divider, modules]),
    patterns: Buffer.concat([Buffer.from(patterns), divider, modules]),
    refused: Buffer.concat([Buffer.from(refused), divider, modules]),
    suffixes: Buffer.concat([Buffer.from(config({ target_modules: ['fc', 'proj'] })), divider, Buffer.from('\x00a.fc\n\x01b.fc\n')]),
    alphas: Buffer.concat([exampleConfig, divider, Buffer.from('\x09a.x\n\x51a.y\n\x19b.a.x\n\x01a.z\n')]),
    mlx: Buffer.concat([Buffer.from(mlxConfig), divider, modules]),
  })

  const pair = firstModules(example.json, 2, 8, ['F32', 32])
  const other = firstModules(example.json, 3, 2, ['F16', 16])
  const two = config({ r: 2, lora_alpha: 2, target_modules: ['q_proj', 'k_proj', 'v_proj'] })
  const small = (rank, paths) => header(paths.flatMap(path => [[key(path, 'lora_A.weight'), 'F16', 16, [rank, 4]], [key(path, 'lora_B.weight'), 'F16', 16, [4, rank]]]))
  const one = config({ r: 1 })
  const adapters = (list, recipe) => Buffer.concat([...list.flatMap(([json, text]) => [Buffer.from(json), divider, Buffer.from(text), divider]), recipe])
  await write('catalogue', {
    alone: adapters([[kinds, two]], bytes(2)),
    equal: adapters([[pair, exampleConfig], [pair, exampleConfig]], bytes(2)),
    ranks: adapters([[pair, exampleConfig], [other, two]], bytes(1, 0, 0, 0, 0, 0, 0, 3, 1)),
    rule: adapters([[pair, exampleConfig], [other, two], [other, two]], bytes(0, 0, 0, 0, 0, 0, 8, 7)),
    small: adapters([[small(1, ['q_proj', 'k_proj']), one], [small(1, ['q_proj']), one]], bytes(0)),
    patterned: adapters([[small(1, ['a.x', 'b.x']), one], [small(2, ['a.x', 'b.x']), config({ r: 1, rank_pattern: { 'a.x': 2, '[b-d]\\.x': 2 } })]], bytes(1)),
    whole: adapters([[example.json, exampleConfig]], bytes(0)),
    ...Object.fromEntries(Object.entries(dialects).map(([name, files]) => [`dialect-${name}`, adapters([files], Buffer.concat([alphas(files[0].split('.alpha"').length - 1), conversion('same')]))])),
    ...Object.fromEntries([
      ['kohya', 'diffusers'], ['kohya', 'comfy'], ['diffusers', 'kohya'], ['old', 'kohya'], ['comfy', 'diffusers'], ['xlabs', 'diffusers'],
      ['peft', 'mlx'], ['mlx', 'peft'], ['peft', 'gguf'], ['mlx', 'gguf'], ['peft', 'onnx'], ['gguf', 'peft'], ['gguf', 'mlx'],
      ['mlxExperts', 'gguf'], ['mlxExperts', 'peft'], ['ggufExperts', 'mlx'], ['parts', 'kohya'], ['parts', 'comfy'],
    ].flatMap(([from, to]) => [true, false].map(keep => [`${from}-${to}${keep ? '' : '-folded'}`, adapters([dialects[from]], Buffer.concat([alphas(dialects[from][0].split('.alpha"').length - 1), conversion(to, keep)]))]))),
    'peft-gguf-q8_0': adapters([dialects.peft], conversion('gguf', false, 5)),
    'gguf-gguf-q8_0': adapters([dialects.gguf], conversion('gguf', false, 5)),
    'kohya-and-diffusers': adapters([dialects.kohya, dialects.diffusers], Buffer.concat([alphas(2), conversion('same', false)])),
    'peft-and-gguf': adapters([dialects.peft, dialects.gguf], conversion('same', false)),
    ...Object.fromEntries(Object.entries(lycoris).flatMap(([name, tensors]) => {
      // Where a module is scaled by nothing, its alpha is not read.
      const count = ['lokr-full', 'difference'].includes(name) ? 0 : 1
      const file = [header([...moduleOf(sd1Kohya[0], tensors), alphaOf(sd1Kohya[0])]), '']
      return [
        [`lycoris-${name}`, adapters([file], Buffer.concat([alphas(count), conversion('same')]))],
        [`lycoris-${name}-diffusers`, adapters([file], Buffer.concat([alphas(count), conversion('diffusers', false)]))],
        [`lycoris-${name}-and-pair`, adapters([file, dialects.kohya], Buffer.concat([alphas(count + 2), conversion('same', false)]))],
      ]
    })),
    ...Object.fromEntries(Object.entries(extras).flatMap(([name, files]) => {
      const count = files[0].split('.alpha"').length - 1 - (name === 'refused' ? 1 : 0)
      return Object.entries(policies).flatMap(([policy, number]) => [
        [`extras-${name}-${policy}`, adapters([files], Buffer.concat([alphas(count), conversion('same', true, 0, number)]))],
        [`extras-${name}-twice-${policy}`, adapters([files, files], Buffer.concat([alphas(2 * count), conversion('same', false, 0, number)]))],
      ])
    })),
    'extras-kohya-diffusers': adapters([extras.kohya], Buffer.concat([alphas(1), conversion('diffusers', false, 0, policies.sum)])),
    'kohya-twice': adapters([dialects.kohya, dialects.kohya], Buffer.concat([alphas(4), conversion('same', false)])),
  })

  const adapterKeys = { 'general.architecture': 'llama', 'general.type': 'adapter', 'adapter.type': 'lora', 'adapter.lora.alpha': float(16) }
  const q = [['blk.0.attn_q.weight.lora_a', 0, [8, 2], 64], ['blk.0.attn_q.weight.lora_b', 1, [2, 8], 32]]
  const down = [['blk.0.ffn_down.weight.lora_a', 8, [32, 2], 68], ['blk.0.ffn_down.weight.lora_b', 30, [2, 8], 32]]
  await write('gguf', {
    adapter: gguf(adapterKeys, [...q, ...down]),
    embedding: gguf(adapterKeys, [['token_embd.weight.lora_a', 0, [2, 9], 72], ['token_embd.weight.lora_b', 0, [2, 8], 64]]),
    old: gguf(adapterKeys, q, 2),
    alone: gguf(adapterKeys, down.slice(0, 1)),
    tokens: gguf({ ...adapterKeys, 'adapter.alora.invocation_tokens': [1, 2, 3] }, down),
    aligned: gguf({ 'general.alignment': 64, ...adapterKeys }, [['blk.0.ffn_up.weight.lora_a', 0, [8, 2], 64], ['blk.0.ffn_up.weight.lora_b', 0, [2, 8], 64]], 3, 64),
    base: gguf(
      { 'general.architecture': 'llama', 'llama.attention.head_count': 4, 'llama.attention.head_count_kv': 2, 'tokenizer.ggml.tokens': ['<s>', 'a', 'é'], 'tokenizer.ggml.add_bos_token': true },
      [['token_embd.weight', 12, [256, 2], 288], ['output.weight', 14, [256, 2], 420], ['blk.0.attn_norm.weight', 0, [256], 1024]],
    ),
    empty: gguf({}, []),
    made: Buffer.concat([bytes(0, 0), golden.data.subarray(0, 100)]),
    'made-adapter': bytes(0, 0, 3, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
  })
  await write('expand', Object.fromEntries([0, 1, 2].flatMap(composition => [0, 1, 2].flatMap(form => [0, 2].map(axes => [
    `${['single', 'hadamard', 'kronecker'][composition]}-${['full', 'pair', 'mid'][form]}-${axes}`,
    Buffer.concat([bytes(composition, axes, ...[2, 1].slice(0, axes), 0, 4, 0, 5, form, 0, 0, 2, 0, 0, 0, form, 0, 0, 1, 0, 0, 0), golden.data.subarray(10 * form, 10 * form + 200)]),
  ])))))

  const values = golden.data.subarray(0, 480)
  await write('kernels', {
    ...Object.fromEntries(Array.from({ length: 8 }, (_, dtype) => [`convert-${dtype}`, Buffer.concat([bytes(0, dtype, 2, 13, 9, 1, 2), values])])),
    'convert-wide': Buffer.concat([bytes(0, 1, 0, 3, 0x06, 0x05, 1, 2), values]),
    'convert-tall': Buffer.concat([bytes(0, 2, 1, 0x06, 0x05, 3, 1, 2), values]),
    ...Object.fromEntries(Array.from({ length: 4 }, (_, dtype) => [`pack-${dtype}`, Buffer.concat([bytes(1, dtype, 2, 11, 14, 3, 1, 1), values])])),
    'gram-single': Buffer.concat([bytes(2, 1, 7, 0x1f, 0x01, 3), values]),
    'gram-none': bytes(2, 0, 0, 0xfa, 0x00, 0),
    'gram-double': Buffer.concat([bytes(2, 0, 9, 0x05, 0x00, 0), values]),
    assemble: Buffer.concat([bytes(3, 4, 2, 0x25, 0x00, 2, 2, 0, 1, 3, 0), values]),
  })

  // Numbers of methods, and of some more to come. Zeros are a recipe's defaults; the values are a trained adapter's bytes.
  const merges = Array.from({ length: 40 }, (_, method) => {
    const data = golden.data.subarray(61 * method, 61 * method + 500)
    return [
      [`method-${method}`, Buffer.concat([bytes(1, method), Buffer.alloc(14), data])],
      [`method-${method}-varied`, Buffer.concat([bytes(method % 3, method), data])],
    ]
  })
  // Conversions within a naming (0 language models, 2 image models) from its first three dialects.
  const conversions = [[0, ['peft', 'mlx', 'gguf']], [2, ['diffusers', 'kohya', 'comfy']]].flatMap(([naming, names]) => names.flatMap((from, number) => [...names, ...(naming === 0 ? ['onnx'] : [])].flatMap(to => [false, true].map(keep => [
    `${from}-${to}${keep ? '-kept' : ''}`,
    Buffer.concat([bytes(0), conversion(to, keep, to === 'gguf' && !keep ? 5 : 0), bytes(naming, number, 7, 3, 1, 0, 3, 3, 0, 3, 3, 0, 0), golden.data.subarray(100 * number, 100 * number + 400)]),
  ]))))
  const mixed = [0, 2].flatMap(naming => [0, 1, 2].map(number => [
    `mixed-${naming}-${number}`,
    Buffer.concat([bytes(1, 0), Buffer.alloc(14), bytes(1, 0, 2, 2, 0, naming, number), golden.data.subarray(300, 900)]),
  ]))
  // Two adapters of one dialect with a pair, and beside it another module as LyCORIS stores it and a tensor that is no factor.
  const values32 = (count, seed) => bytes(...Array.from({ length: count }, (_, i) => [5, seed + i]).flat())
  const lycorisForms = [4, 6, 3, 2, 3, 1] // of tensors each
  const withMore = (naming, number, policy, form, extra) => {
    const hasAlphas = number > 0
    const module = lycorisForms[form] && Buffer.concat([bytes(1, 0, 1, form), values32(lycorisForms[form], form), ...(hasAlphas ? [bytes(1, 16)] : [])])
    const other = seed => Buffer.concat([bytes(0, 4, extra, 0, 1, 0, 0), values32(1, seed)])
    const file = seed => Buffer.concat([bytes(0, 1), values32(2, seed), ...(hasAlphas ? [bytes(0)] : []), bytes(0, 0, 0, module ? 2 : 1), ...(module ? [module] : []), other(seed)])
    return Buffer.concat([bytes(1), conversion('same', false, 0, policy), bytes(naming, number, 7, 3, 1, 0, 3, 3, 0, 3, 3, 0), file(1), bytes(0), file(9)])
  }
  const ways = Object.entries(policies)
  const more = [
    ...ways.flatMap(([policy, at]) => [0, 1, 2, 3, 4].map(extra => [`peft-extra-${extra}-${policy}`, withMore(0, 0, at, undefined, extra)])),
    ...ways.flatMap(([policy, at]) => [0, 1, 2, 3, 4, 5].map(extra => [`kohya-extra-${extra}-${policy}`, withMore(2, 1, at, undefined, extra)])),
    ...['diffusers', 'kohya', 'comfy'].flatMap((name, number) => lycorisForms.map((_, form) => [`${name}-lycoris-${form}`, withMore(2, number, ways[form % 4][1], form, 5)])),
  ]
  await write('merge', Object.fromEntries([...merges.flat(), ...conversions, ...mixed, ...more]))
})

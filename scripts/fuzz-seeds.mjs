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
  })

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
  await write('merge', Object.fromEntries(merges.flat()))
})

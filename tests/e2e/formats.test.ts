// One merge of the same adapters from files of every format: the same deltas, and the same right answers on the small
// trained model.

import { convert, createMerger, type MergeInput, type MergeResult, type Merger, type Recipe } from '../../dist/node/index.js'
import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse, safetensors, type Values } from '../lib/fixtures.js'
import { delta, deltasOf, diffusersTensors, distance, flatName, kohyaTensors, pairsOf } from '../lib/formats.js'
import { adapterSets, Minibench, type Score } from '../quality/minibench.mjs'
import { adapterGguf, readPeftFolder } from '../runtime/minibench-gguf.mjs'

const tasks = ['add3', 'rotl2', 'swapnb']
const weights = [1, 0.8, 0.6]
const base = new Blob([JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 })])
/** Of the examples: alpha 16 at rank 8. */
const scale = 2
/** Rounding of factors in F32, relative to the largest entry of a module's delta. */
const rounding = 1e-6

/** Methods that know a module by its weights alone. */
const recipes: Record<string, Recipe> = {
  svd: { method: 'svd', rank: 12, dtype: 'f32' },
  // Which modules read one input, it tells by their names.
  least_interference: { method: 'least_interference', rank: 12, dtype: 'f32', sharedInputs: 'off' },
}

const bytesOf = async (file: Blob | undefined): Promise<ArrayBuffer> => (file ? file.arrayBuffer() : new ArrayBuffer(0))
const original = async (task: string): Promise<ReadonlyMap<string, { a: Values; b: Values }>> => pairsOf(parse(new Uint8Array(await readFile(`${adapterSets.plain(task)}/adapter_model.safetensors`)).buffer))

/** The same adapter in each format: what gives it, and what reads a result by module path as PEFT names it. */
const copies: Record<string, { make: (task: string) => Promise<MergeInput>; read: (result: MergeResult) => Promise<Map<string, Float64Array>> }> = {
  kohya: {
    make: async task => new File([safetensors(kohyaTensors(await original(task), scale, flatName))], 'lora.safetensors'),
    async read({ files }) {
      const tensors = parse(await bytesOf(files[0]))
      const own = (path: string, part: string): Values => tensors.get(`${flatName(path)}.${part}`) as Values
      return new Map([...(await original('add3')).keys()].map(path => {
        const down = own(path, 'lora_down.weight')
        return [path, delta(down, own(path, 'lora_up.weight'), (own(path, 'alpha').values[0] as number) / (down.shape[0] as number))]
      }))
    },
  },
  diffusers: {
    make: async task => new File([safetensors(diffusersTensors(await original(task), scale, 'transformer'))], 'pytorch_lora_weights.safetensors'),
    async read({ files }) {
      const tensors = parse(await bytesOf(files[0]))
      return new Map([...(await original('add3')).keys()].map(path => [path, delta(tensors.get(`transformer.${path}.lora_A.weight`) as Values, tensors.get(`transformer.${path}.lora_B.weight`) as Values)]))
    },
  },
  mlx: { make: async task => (await convert(adapterSets.plain(task), { format: 'mlx' })).files, read: readConverted },
  gguf: { make: async task => (await convert(adapterSets.plain(task), { format: 'gguf', base })).files, read: readConverted },
  // And as the tests themselves write it.
  'gguf of another writer': { make: async task => new File([adapterGguf(await readPeftFolder(adapterSets.plain(task)))], 'adapter.gguf'), read: readConverted },
}

async function readConverted(result: MergeResult): Promise<Map<string, Float64Array>> {
  const { files } = await convert(result.files, { format: 'peft', base })
  const { r, lora_alpha: alpha } = JSON.parse(await (files[1] as File).text()) as { r: number; lora_alpha: number }
  return deltasOf(parse(await bytesOf(files[0])), alpha / r)
}

describe.each(Object.entries(recipes))('%s of the same adapters', (_, recipe) => {
  let merger: Merger
  let wanted: Map<string, Float64Array>
  beforeAll(async () => {
    merger = createMerger()
    const { files } = await merger.merge(tasks.map((task, i) => ({ source: adapterSets.plain(task), weight: weights[i] as number })), recipe)
    wanted = deltasOf(parse(await bytesOf(files[0])))
  })
  afterAll(() => merger.close())

  it.each(Object.entries(copies))('is the same from %s', async (name, { make, read }) => {
    const inputs = await Promise.all(tasks.map(async (task, i) => ({ source: (await make(task)) as File, weight: weights[i] as number, name: task })))
    const result = await merger.merge(inputs, recipe)
    // Written in the format of the inputs, whose names the test reads itself or has converted back.
    expect(result.files).toHaveLength(name === 'mlx' ? 2 : 1)
    expect(distance(await read(result), wanted)).toBeLessThan(rounding)
  })
})

// Its restarts are drawn by the name of a module, so the result has the names of PEFT here; and GGUF has the scale in the
// factors, which only a gauge that balances them does not see.
describe('lego with balanced factors', () => {
  it.each(['mlx', 'gguf', 'gguf of another writer'])('gives the same from %s, written as PEFT', async name => {
    const recipe: Recipe = { method: 'lego', rank: 12, dtype: 'f32', seed: 3, gauge: 'balanced', format: 'peft', base }
    const merger = createMerger()
    try {
      const inputs = await Promise.all(tasks.map(async (task, i) => ({ source: (await (copies[name] as (typeof copies)[string]).make(task)) as File, weight: weights[i] as number })))
      const plain = await merger.merge(tasks.map((task, i) => ({ source: adapterSets.plain(task), weight: weights[i] as number })), recipe)
      const other = await merger.merge(inputs, recipe)
      expect(distance(deltasOf(parse(await bytesOf(other.files[0]))), deltasOf(parse(await bytesOf(plain.files[0]))))).toBeLessThan(rounding)
    } finally {
      await merger.close()
    }
  })
})

describe('on the model that the adapters are for', () => {
  let bench: Minibench
  let plain: Score
  const recipe = recipes.svd as Recipe
  const score = async (result: MergeResult): Promise<Score> => bench.score(result.tensors, { of: tasks })
  const inputs = async (make: (task: string) => Promise<MergeInput>): Promise<MergeInput[]> => Promise.all(tasks.map(async (task, i) => ({ source: (await make(task)) as File, weight: weights[i] as number })))
  const merge = async (sources: readonly MergeInput[]): Promise<MergeResult> => {
    const merger = createMerger()
    try {
      return await merger.merge(sources, recipe)
    } finally {
      await merger.close()
    }
  }

  beforeAll(async () => {
    bench = await Minibench.open()
    plain = await score(await merge(await inputs(async task => adapterSets.plain(task))))
  })

  it('the merge does something', () => {
    expect(plain.add3?.token).toBeGreaterThan(50)
  })

  it.each(['mlx', 'gguf', 'gguf of another writer'])('a merge of %s files, converted back, answers as one of PEFT does', async name => {
    const merged = await merge(await inputs((copies[name] as (typeof copies)[string]).make))
    const back = await convert(merged.files, { format: 'peft', base })
    // The benchmark takes factors of scale 1, which is what a merge writes in every format.
    expect(JSON.parse(await (back.files[1] as File).text())).toMatchObject({ r: 12, lora_alpha: 12 })
    expect(await score(back)).toEqual(plain)
  })
})

// One merge shared out among several workers: the same bytes, the same errors, and nothing left hanging.

import { readFile } from 'node:fs/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { createMerger, MergeError, type Merger, type MergerOptions, type MergeResult, type Recipe } from 'lora-lego'
import { sha256 } from '../e2e/site.js'

const examples = ['add3', 'sortdesc', 'swapnb', 'rotl2', 'interleave', 'revhalf2'].map(name => `examples/${name}`)

let merger: Merger
afterEach(() => merger.close())

async function mergeWith(options: MergerOptions, recipe: Recipe): Promise<MergeResult> {
  merger = createMerger(options)
  try {
    return await merger.merge(examples, recipe)
  } finally {
    await merger.close()
  }
}
const hashOf = async ({ files }: MergeResult): Promise<string> => sha256(new Uint8Array(await (files[0] as File).arrayBuffer()))

// Enough for three cores, which start with 17 MB each, and for small batches.
const memory = 60e6

describe.each([{ method: 'lego', rank: 8 }, { method: 'svd', rank: 'auto' }, { method: 'least_interference', rank: 8 }] as const)('$method, rank $rank', recipe => {
  it('gives the same bytes and the same report in any number of lanes', async () => {
    const one = await mergeWith({ threads: 1 }, recipe)
    expect(one.report.totals.lanes).toBe(1)
    for (const lanes of [1, 2, 3]) {
      const result = await mergeWith({ lanes, memory }, recipe)
      expect(await hashOf(result)).toBe(await hashOf(one))
      const plain = ({ report }: MergeResult): unknown => report.modules.map(module => ({ ...module, seconds: 0 }))
      expect(plain(result)).toEqual(plain(one))
      expect(result.report.totals.lanes).toBe(lanes)
      expect(result.report.totals.threads).toBe(1)
    }
  })

  it('gives the same bytes in little memory', async () => {
    const one = await mergeWith({ threads: 1 }, recipe)
    for (const options of [{ threads: 4 }, { lanes: 3 }]) {
      merger = createMerger({ ...options, memory })
      const plan = await merger.plan(examples, recipe)
      expect(plan.peakBytes).toBeLessThanOrEqual(memory)
      const result = await merger.merge(examples, recipe)
      await merger.close()
      expect(await hashOf(result)).toBe(await hashOf(one))
      expect(result.report.totals.memoryBytes).toBeLessThan(1.1 * memory)
    }
  })
})

describe('lanes', () => {
  it('compare as one worker does', async () => {
    merger = createMerger({ threads: 1 })
    const one = await merger.compare(examples)
    await merger.close()
    merger = createMerger({ lanes: 3 })
    expect(await merger.compare(examples)).toEqual(one)
  })

  it('say what cannot fit, and how much it needs', async () => {
    merger = createMerger({ lanes: 2, memory: 1e6 })
    await expect(merger.merge(examples)).rejects.toMatchObject({ code: 'out_of_memory', message: expect.stringMatching(/needs \d+ MB.*the limit is 1 MB/) as string })
  })

  it('have progress that rises to 1', async () => {
    merger = createMerger({ lanes: 2 })
    const fractions: number[] = []
    await merger.merge(examples, {}, { onProgress: ({ fraction }) => fractions.push(fraction) })
    expect(fractions).toEqual([...fractions].sort((x, y) => x - y))
    expect(fractions.at(-1)).toBe(1)
  })

  it('fail with the error of the first module that is wrong, and work on', async () => {
    merger = createMerger({ lanes: 3 })
    const file = new Uint8Array(await readFile('examples/add3/adapter_model.safetensors'))
    const data = 8 + Number(new DataView(file.buffer).getBigUint64(0, true))
    // Not a number in all values behind the first tenth.
    const broken = file.slice()
    broken.fill(0xff, data + Math.floor((file.length - data) / 10))
    const config = new File([await readFile('examples/add3/adapter_config.json')], 'adapter_config.json')
    const input = [new File([broken], 'adapter_model.safetensors'), config]
    const errors = []
    for (const options of [{ threads: 1 }, { lanes: 3 }, { lanes: 3 }]) {
      const own = createMerger(options)
      errors.push(await own.merge([input, ...examples.slice(1)], { method: 'lego', rank: 8 }).catch((error: MergeError) => error.toJSON()))
      await own.close()
    }
    expect(errors[0]).toMatchObject({ code: 'not_finite' })
    expect(errors[1]).toEqual(errors[0])
    expect(errors[2]).toEqual(errors[0])
    expect((await merger.merge(examples)).files.length).toBe(2)
  })

  it('stop when they are told to', async () => {
    merger = createMerger({ lanes: 3, memory })
    for (let round = 0; round < 5; round++) {
      const controller = new AbortController()
      const reason = new Error('enough')
      const merging = merger.merge(examples, { method: 'dense_ties', rank: 8 }, { signal: controller.signal, onProgress: () => controller.abort(reason) })
      await expect(merging).rejects.toBe(reason)
    }
    expect((await merger.merge(examples)).files.length).toBe(2)
  })

  it('reject with `closed` when they are closed', async () => {
    merger = createMerger({ lanes: 3, memory })
    const merging = merger.merge(examples, { method: 'dense_ties', rank: 8 }, { onProgress: () => void merger.close() })
    await expect(merging).rejects.toMatchObject({ code: 'closed' })
  })

  it('retire when nothing is asked of them, and come back', async () => {
    merger = createMerger({ lanes: 2, idle: 50 })
    const first = await hashOf(await merger.merge(examples))
    await new Promise(resolve => setTimeout(resolve, 300))
    expect(await hashOf(await merger.merge(examples))).toBe(first)
  })
})

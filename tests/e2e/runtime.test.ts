// Adapters in runtimes that other people wrote, in Chromium, on the small trained model of tests/minibench: llama.cpp and
// onnxruntime-web. onnxruntime-web in Node, given the same model and the inputs' factors, tells that what reads and writes
// GGUF here does so rightly; the merged adapter must then do what llama.cpp itself makes of the inputs and their weights.

import { readFile } from 'node:fs/promises'
import { merge } from '../../dist/node/index.js'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapterSets, Minibench } from '../quality/minibench.mjs'
import { adapterGguf, baseGguf, readPeftFolder, stacked, textOf, type Factors } from '../runtime/minibench-gguf.mjs'
import { mergeAndRun } from '../runtime/onnx.js'
import { generate, type Step } from '../runtime/wllama.js'

const inputs = [
  { task: 'add3', weight: 0.8 },
  { task: 'rotl2', weight: 0.5 },
]
const weights = inputs.map(({ weight }) => weight)
const promptsPerTask = 3
/** As many as the tasks' answers have. */
const length = 9

/** The merged adapter under test: the inputs merged with `cat`, by the library, as a GGUF file to be used at scale 1. */
async function mergedGguf(base: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const { files } = await merge(
    inputs.map(({ task, weight }) => ({ source: adapterSets.plain(task), weight })),
    { method: 'cat', dtype: 'f32', format: 'gguf', base },
  )
  expect(files.map(file => file.name)).toEqual(['adapter.gguf'])
  return new Uint8Array((await files[0]?.arrayBuffer()) ?? new ArrayBuffer(0))
}

async function prompts(task: string): Promise<number[][]> {
  const { prompts } = JSON.parse(await readFile(`tests/minibench/eval/${task}.test.json`, 'utf8')) as { prompts: number[][] }
  return prompts.slice(0, promptsPerTask)
}

/** Largest difference between two tables of log probabilities, which must have the same shape. */
function difference(a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number {
  expect(a.map(row => row.length)).toEqual(b.map(row => row.length))
  return Math.max(...a.flatMap((row, i) => row.map((value, j) => Math.abs(value - (b[i]?.[j] ?? NaN)))))
}
const rows = (steps: readonly Step[]): (readonly number[])[] => steps.map(({ logProbabilities }) => logProbabilities)
const tokens = (steps: readonly Step[]): number[] => steps.map(({ token }) => token)

describe('llama.cpp in Chromium', () => {
  let bench: Minibench
  let asked: number[][]
  let adapters: Factors[]
  /** What it generated for each prompt with the adapters at these scales: both inputs, the merged one. */
  let base: Step[][]
  let first: Step[][]
  let weighted: Step[][]
  let merged: Step[][]

  beforeAll(async () => {
    bench = await Minibench.open()
    adapters = await Promise.all(inputs.map(({ task }) => readPeftFolder(adapterSets.plain(task))))
    asked = (await Promise.all(inputs.map(({ task }) => prompts(task)))).flat()
    const scales = [[0, 0, 0], [1, 0, 0], [...weights, 0], [0, 0, 1]]
    const requests = scales.flatMap(scales => asked.map(ids => ({ prompt: textOf(ids), length, scales })))
    const model = await baseGguf()
    const answers = await generate(model, [...adapters.map(adapterGguf), await mergedGguf(model)], requests)
    ;[base, first, weighted, merged] = scales.map((_, i) => answers.slice(i * asked.length, (i + 1) * asked.length)) as [Step[][], Step[][], Step[][], Step[][]]
  })

  /** How far its log probabilities are from those of onnxruntime-web on the tokens that it generated. */
  async function fromOnnx(answers: readonly Step[][], factors?: Factors): Promise<number> {
    const differences: number[] = []
    for (const [i, prompt] of asked.entries()) {
      const steps = answers[i] ?? []
      expect(steps.length).toBeGreaterThan(5)
      const all = await bench.logProbabilities([...prompt, ...tokens(steps)], factors)
      differences.push(difference(rows(steps), all.slice(prompt.length - 1, -1)))
    }
    return Math.max(...differences)
  }

  it('runs the base as onnxruntime-web does', async () => {
    expect(await fromOnnx(base)).toBeLessThan(1e-4)
  })

  it('adds an adapter, and weighted adapters, as onnxruntime-web does', async () => {
    expect(await fromOnnx(first, adapters[0])).toBeLessThan(1e-4)
    expect(await fromOnnx(weighted, stacked(adapters, weights))).toBeLessThan(1e-4)
    // Neither of which would show if adapters did nothing.
    expect(await fromOnnx(first)).toBeGreaterThan(1)
    expect(await fromOnnx(weighted)).toBeGreaterThan(1)
  })

  it('does with our merged adapter what it does with the inputs at their weights', () => {
    expect(merged.map(tokens)).toEqual(weighted.map(tokens))
    for (const [i, steps] of merged.entries()) expect(difference(rows(steps), rows(weighted[i] ?? []))).toBeLessThan(1e-4)
  })
})

describe('onnxruntime-web in Chromium', () => {
  it('does with factors that were merged in its page what it does in Node with the inputs at their weights', async () => {
    const adapters = await Promise.all(
      inputs.map(async ({ task, weight }) => ({
        tensors: await readFile(`${adapterSets.plain(task)}/adapter_model.safetensors`),
        config: await readFile(`${adapterSets.plain(task)}/adapter_config.json`),
        weight,
      })),
    )
    const asked = (await Promise.all(inputs.map(({ task }) => prompts(task)))).flat()
    const answers = await mergeAndRun(await readFile('tests/minibench/base-lora-inputs.onnx'), adapters, asked)
    const bench = await Minibench.open()
    const factors = stacked(await Promise.all(inputs.map(({ task }) => readPeftFolder(adapterSets.plain(task)))), weights)
    expect(answers).toHaveLength(inputs.length * promptsPerTask)
    for (const [i, rows] of answers.entries()) {
      const ids = asked[i] ?? []
      expect(difference(rows, await bench.logProbabilities(ids, factors))).toBeLessThan(1e-4)
      // The base alone says something else.
      expect(difference(rows, await bench.logProbabilities(ids))).toBeGreaterThan(1)
    }
  })
})

// A merge of real size in bounded memory: seven adapters of rank 16, the shapes of Llama-2-7B, 560 MB of bfloat16.

import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { MergePlan, MergeReport } from 'lora-lego'
import { makeAdapters } from '../bench/make-llama-adapters.mjs'

const limit = 400e6

let folder: string
let paths: string[]
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-llama-'))
  const made = await makeAdapters(join(folder, 'in'))
  paths = made.paths
  expect(made.bytes).toBeGreaterThan(559e6)
})
afterAll(() => rm(folder, { recursive: true }))

/** Runs the command line and follows its peak resident memory, which the kernel keeps. */
async function peakOf(args: string[]): Promise<{ code: number | null; peak: number; stdout: string }> {
  const child = spawn(process.execPath, ['dist/node/cli.js', ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  let stdout = ''
  let peak = 0
  child.stdout.on('data', data => (stdout += data))
  const timer = setInterval(() => {
    void readFile(`/proc/${child.pid}/status`, 'utf8').then(
      status => (peak = Math.max(peak, 1024 * Number(/VmHWM:\s*(\d+) kB/.exec(status)?.[1] ?? 0))),
      () => undefined,
    )
  }, 10)
  const code = await new Promise<number | null>(resolve => child.on('close', resolve))
  clearInterval(timer)
  return { code, peak, stdout }
}

it.each([
  { method: 'lego', threads: 1 },
  { method: 'lego', threads: 2 },
  { method: 'least_interference', threads: 2 },
])('the command line merges it by $method with $threads threads in less than 400 MB', async ({ method, threads }) => {
  const recipe = ['--method', method, '--rank', '16', '--threads', String(threads), '--json']
  const { code, peak, stdout } = await peakOf(['merge', ...paths, '-o', join(folder, `out-${method}-${threads}`), ...recipe])
  expect(code).toBe(0)
  const { modules, totals } = JSON.parse(stdout) as MergeReport
  expect(modules.length).toBe(224)
  expect(peak).toBeGreaterThan(30e6)
  expect(peak).toBeLessThan(limit)

  // The plan's promise is about memory that can be counted; what Node itself takes, V8 decides.
  const { plan } = JSON.parse((await peakOf(['plan', ...paths, '--headers-only', ...recipe])).stdout) as { plan: MergePlan }
  expect(totals.memoryBytes).toBeLessThan(1.1 * plan.peakBytes)
  expect(totals.memoryBytes).toBeGreaterThan(0.7 * plan.peakBytes)
  console.log(`${method}, ${threads} threads: peak resident memory ${(peak / 1e6).toFixed(0)} MB, counted ${(totals.memoryBytes / 1e6).toFixed(0)} MB of ${(plan.peakBytes / 1e6).toFixed(0)} MB`)
})

it.each([
  { method: 'lego', memory: 34e6 },
  { method: 'lego', memory: 22e6 },
  { method: 'least_interference', memory: 50e6 },
] as const)('$method gives the same bytes within $memory bytes of memory', async ({ method, memory }) => {
  const { createMerger } = await import('lora-lego')
  const recipe = { method, rank: 16 }
  const merger = createMerger({ threads: 2, memory })
  const free = createMerger({ threads: 2 })
  try {
    const { peakBytes } = await merger.plan(paths, recipe)
    expect(peakBytes).toBeLessThanOrEqual(memory)
    const outputs = [join(folder, 'limited'), join(folder, 'free')] as const
    const { report } = await merger.merge(paths, recipe, { output: outputs[0] })
    await free.merge(paths, recipe, { output: outputs[1] })
    expect(report.totals.memoryBytes).toBeLessThan(1.1 * peakBytes)
    const [limited, whole] = await Promise.all(outputs.map(output => readFile(join(output, 'adapter_model.safetensors'))))
    expect(limited?.equals(whole as Buffer)).toBe(true)
  } finally {
    await merger.close()
    await free.close()
  }
})

it('one merger keeps its promise merge after merge, of whatever sizes', async () => {
  const { createMerger } = await import('lora-lego')
  const { paths: large } = await makeAdapters(join(folder, 'large'), { model: 'llama-3-70b', layers: 2 })
  const merger = createMerger({ threads: 1 })
  const memoryOf = async (inputs: readonly string[]): Promise<number> => (await merger.merge(inputs, { method: 'lego' }, { output: join(folder, 'large-out') })).report.totals.memoryBytes
  try {
    const { peakBytes } = await merger.plan(large, { method: 'lego' })
    const first = await memoryOf(large)
    expect(first).toBeLessThan(1.1 * peakBytes)
    expect(await memoryOf(large)).toBe(first)
    expect(await memoryOf(large)).toBe(first)
    for (const inputs of [large.slice(0, 3), paths.slice(0, 2), large]) expect(await memoryOf(inputs)).toBeLessThan(1.1 * peakBytes)
  } finally {
    await merger.close()
  }
})

// Matrices of units by units are most of it.
describe('one module of 768 units', () => {
  let inputs: string[]
  beforeAll(async () => {
    const made = await makeAdapters(join(folder, 'pool'), { modules: [['base_model.model.model.layers.0.self_attn.q_proj', [1024, 1024]]], adapters: 48 })
    inputs = made.paths
  })

  it.each(['lego', 'svd', 'least_interference', 'ties'] as const)('keeps the promise when it is merged by %s', async method => {
    const { createMerger } = await import('lora-lego')
    const merger = createMerger({ threads: 2 })
    try {
      const { peakBytes } = await merger.plan(inputs, { method, rank: 16 })
      const { report } = await merger.merge(inputs, { method, rank: 16 })
      expect(report.totals.memoryBytes).toBeLessThan(1.1 * peakBytes)
    } finally {
      await merger.close()
    }
  })
})

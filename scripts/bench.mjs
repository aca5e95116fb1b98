// `npm run bench`: kernels and whole merges, each beside the reference kernels in the same run.
// `npm run bench -- --update` also writes the tables into README.md and docs/numerics.md.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeAdapters } from '../tests/bench/make-llama-adapters.mjs'
import { build } from './build.mjs'
import { machine, table, update } from './figures.mjs'
import { buildNative } from './native.mjs'
import { capture, main, step } from './say.mjs'
import { project } from './toolchain.mjs'

const figure = value => Number(value.toPrecision(3)).toString()

/** Rows of kernels with their references, and rows of times beside others. */
async function coreRows() {
  const parse = text => text.trim().split('\n').map(line => JSON.parse(line))
  const native = parse(await capture(join(project, 'build/native-release/tests/core_bench'), []))
  const wasm = parse(await capture('node', [join(project, 'build/wasm-single/tests/core_bench.cjs')]))
  const both = wasm.map((row, i) => ({ ...row, native: native[i] }))
  const share = value => (value < 0.5 ? `${figure(100 * value)} %` : `${figure(value)} x`)
  return {
    kernels: both
      .filter(row => row.share === undefined)
      .map(row => [row.name, row.shape, `${figure(row.fast)} ${row.unit}`, `${figure(row.reference)} ${row.unit}`, `${figure(row.ratio)} x`, `${figure(row.native.fast)} ${row.unit}`]),
    shares: both
      .filter(row => row.share !== undefined)
      .map(row => [row.name, row.shape, `${figure(row.fast)} ${row.unit}`, share(row.share), share(row.native.share)]),
  }
}

/** Best of some merges with one merger, in seconds. */
async function bestMerge(createMerger, method, options, paths, rounds) {
  const merger = createMerger(options)
  let best = Infinity
  try {
    for (let round = 0; round < rounds; round++) {
      const folder = await mkdtemp(join(tmpdir(), 'lora-lego-bench-'))
      const { report } = await merger.merge(paths, { method, rank: 16 }, { output: join(folder, 'merged') })
      best = Math.min(best, report.totals.seconds)
      await rm(folder, { recursive: true })
    }
  } finally {
    await merger.close()
  }
  return best
}

async function mergeRows() {
  const { createMerger } = await import(join(project, 'dist/node/index.js'))
  const folder = await mkdtemp(join(tmpdir(), 'lora-lego-bench-'))
  try {
    const { paths, bytes } = await makeAdapters(join(folder, 'in'))
    const settings = [
      ['lego', 'reference kernels, 1 thread', { threads: 1, kernels: 'reference' }, 1],
      ['lego', '1 thread', { threads: 1 }, 3],
      ['lego', '2 threads', { threads: 2 }, 3],
      ['svd', '2 threads', { threads: 2 }, 3],
      ['least_interference', '2 threads', { threads: 2 }, 2],
    ]
    const rows = []
    let reference
    for (const [method, name, options, rounds] of settings) {
      const seconds = await bestMerge(createMerger, method, options, paths, rounds)
      reference ??= seconds
      rows.push([method, name, `${figure(seconds)} s`, `${figure(bytes / seconds / 1e6)} MB/s`, `${figure(reference / seconds)} x`])
    }
    return rows
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Inertia that the search finds on the examples: its sum over the 28 modules, mean and spread over seeds. */
async function clusteringRows() {
  const { createMerger } = await import(join(project, 'dist/node/index.js'))
  const tasks = ['sortdesc', 'swapnb', 'rotl2', 'add3', 'interleave', 'revhalf2'].map(name => join(project, 'examples', name))
  const merger = createMerger({ threads: 1 })
  const rows = []
  try {
    for (const restarts of [1, 2, 5, 20, 100]) {
      const sums = []
      for (let seed = 0; seed < 5; seed++) {
        const { report } = await merger.merge(tasks, { method: 'lego', rank: 8, restarts, seed })
        sums.push(report.modules.reduce((sum, module) => sum + module.inertia, 0))
      }
      const mean = sums.reduce((x, y) => x + y) / sums.length
      rows.push([`${restarts}${restarts === 2 ? ' (default)' : ''}`, mean.toFixed(1), `${Math.min(...sums).toFixed(1)} to ${Math.max(...sums).toFixed(1)}`])
    }
  } finally {
    await merger.close()
  }
  return rows
}

await main(async () => {
  await build()
  await buildNative('native-release')
  const core = await step('kernels and modules', coreRows)
  const kernels = table(['what', 'shape', 'WebAssembly, 1 thread', 'its reference', 'ratio', 'native (128-bit)'], core.kernels)
  const shares = table(['time of', 'shape', 'WebAssembly, 1 thread', 'ratio', 'native (128-bit)'], core.shares)
  console.log(`${kernels}\n\n${shares}`)
  const merges = await step('whole merges: 7 adapters of rank 16, shapes of Llama-2-7B, bfloat16, 560 MB', async () =>
    table(['to rank 16, file to file', 'with', 'time', 'adapter bytes', 'against the first'], await mergeRows()),
  )
  console.log(merges)
  const clustering = await step('clustering: six example adapters, rank 8', async () =>
    table(['restarts', 'inertia, sum over 28 modules', 'over 5 seeds'], await clusteringRows()),
  )
  console.log(clustering)
  if (process.argv.includes('--update')) {
    await update('README.md', 'merges', `${merges}\n\n${machine()}`)
    await update('docs/numerics.md', 'clustering', clustering)
    await update('docs/numerics.md', 'kernels', `${kernels}\n\n${machine()}`)
    await update('docs/numerics.md', 'shares', shares)
  }
})

// `npm run bench`: kernels and whole merges, each beside the reference kernels in the same run.
// `npm run bench -- --update` also writes the tables into README.md and docs/numerics.md.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeAdapters } from '../tests/bench/make-llama-adapters.mjs'
import { build } from './build.mjs'
import { buildBench } from './native.mjs'
import { main, step } from './say.mjs'
import { coreBench, figure, machine, percent, table, update } from './tables.mjs'
import { project } from './toolchain.mjs'

/** Kernels and modules by WebAssembly and natively, limits of the machine among them; and times beside others. */
async function coreTables() {
  const native = preset => [join(project, 'build', preset, 'tests/core_bench')]
  const { wasm, sse, avx2 } = await coreBench(
    { wasm: ['node', join(project, 'build/wasm-single/tests/core_bench.cjs')], sse: native('native-bench'), avx2: native('native-avx2') },
    { rounds: 3, seconds: 0.2 },
  )
  const share = row => (row.limit ? percent(row.fast / row.limit) : '')
  const part = value => (value < 0.5 ? `${figure(100 * value)} %` : `${figure(value)} x`)
  const kernels = []
  const shares = []
  for (const [i, row] of wasm.entries()) {
    const name = [row.name, row.shape]
    if (row.unit === 'ms') shares.push([...name, `${figure(row.fast)} ${row.unit}`, part(row.share), part(sse[i].share)])
    else kernels.push([...name, `${figure(row.fast)} ${row.unit}`, share(row), `${figure(sse[i].fast)}`, share(sse[i]), figure(sse[i].fast / row.fast), figure(avx2[i].fast), row.reference ? `${figure(row.fast / row.reference)} x` : ''])
  }
  return {
    kernels: table(['what', 'shape', 'WebAssembly', 'of the limit', 'native, SSE4', 'of the limit', 'native / WebAssembly', 'native, AVX2', 'WebAssembly / its reference'], kernels),
    shares: table(['time of', 'shape', 'WebAssembly, 1 thread', 'ratio', 'native, SSE4'], shares),
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
  for (const preset of ['native-bench', 'native-avx2']) await buildBench(preset)
  const { kernels, shares } = await step('kernels and modules', coreTables)
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

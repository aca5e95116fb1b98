// `npm run performance`: how time and memory of a merge grow, and what bounds them: one table for each question.
// `npm run performance -- --update` also writes the tables into docs/performance.md; names of tables choose some.
// About twenty minutes and 5 GB of the temporary folder's disk, one set of adapters at a time.

import { mkdtemp, open, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeAdapters } from '../tests/bench/make-llama-adapters.mjs'
import { models, square } from '../tests/bench/shapes.mjs'
import { build } from './build.mjs'
import { main, step } from './say.mjs'
import { longTasksOfPage, measureInChromium } from './measure-chromium.mjs'
import { coreBench, figure, machine, percent, table, update } from './tables.mjs'
import { project } from './toolchain.mjs'

const time = seconds => `${figure(seconds)} s`
const megabytes = bytes => `${figure(bytes / 1e6)} MB`

/** Runs `work` with a temporary folder. */
async function withFolder(work) {
  const folder = await mkdtemp(join(tmpdir(), 'lora-lego-performance-'))
  try {
    return await work(folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Multiply-adds per second of one thread of WebAssembly, when nothing has to be fetched. */
async function multiplyAddRate() {
  const { wasm } = await coreBench({ wasm: ['node', join(project, 'build/wasm-single/tests/core_bench.cjs')] }, { rounds: 3, seconds: 0.1, only: ['limits'] })
  return 1e9 * wasm.find(row => row.name.includes('multiply-add')).fast
}

const chunk = 4 << 20

/** Seconds to read files as a merge does: ranges of some megabytes of each at the same time, into buffers that stay. */
async function readSeconds(paths) {
  const handles = []
  try {
    for (const path of paths) {
      const file = (await readdir(path)).find(name => name.endsWith('.safetensors'))
      handles.push(await open(join(path, file)))
    }
    const sizes = await Promise.all(handles.map(async handle => (await handle.stat()).size))
    const range = Math.max(64 << 10, Math.floor((16 << 20) / handles.length))
    const buffers = handles.map(() => new Uint8Array(range))
    const begin = performance.now()
    for (let at = 0; at < Math.max(...sizes); at += range) {
      await Promise.all(handles.map((handle, i) => handle.read(buffers[i], 0, Math.max(0, Math.min(range, sizes[i] - at)), at)))
    }
    return (performance.now() - begin) / 1000
  } finally {
    await Promise.all(handles.map(handle => handle.close()))
  }
}

/** Seconds to write as many bytes to a new file, and to the disk, as a merge does. */
async function writeSeconds(folder, bytes) {
  const file = await open(join(folder, 'written'), 'w')
  try {
    const buffer = new Uint8Array(chunk).fill(1)
    const begin = performance.now()
    for (let at = 0; at < bytes; at += chunk) await file.write(buffer, 0, Math.min(chunk, bytes - at))
    await file.sync()
    return (performance.now() - begin) / 1000
  } finally {
    await file.close()
    await rm(join(folder, 'written'))
  }
}

/** Multiply-adds of a LEGO merge: the lower triangles of two Gram matrices for each module, and one for each entry assembled. */
function multiplyAdds(modules, units) {
  return modules.reduce((sum, [, [out, inputs]]) => sum + (out + inputs) * ((units * (units + 1)) / 2 + units), 0)
}

/** Bytes that a merge needs at least, as its refusal says. */
async function leastMemory(createMerger, paths, recipe) {
  const merger = createMerger({ memory: 1 })
  try {
    await merger.plan(paths, recipe)
  } catch (error) {
    const needed = /needs (\d+) MB/.exec(error.message)
    if (needed) return Number(needed[1]) * 1e6
    throw error
  } finally {
    await merger.close()
  }
  throw new Error('one byte is enough for a merge')
}

/**
 * Best of some merges, beside what it cannot be faster than: the same bytes read, as many written, and the
 * multiply-adds at the rate of registers over all threads.
 */
async function measure({ modules, adapters = 7, rank = 16, mergedRank = 16, workers = { threads: 2 }, rounds = 3, method = 'lego', isTight = false }) {
  const { createMerger } = await import(join(project, 'dist/node/index.js'))
  return withFolder(async folder => {
    const { paths, bytes } = await makeAdapters(join(folder, 'in'), { modules, adapters, rank })
    const recipe = { method, rank: mergedRank }
    const merger = createMerger(isTight ? { ...workers, memory: await leastMemory(createMerger, paths, recipe) } : workers)
    let best, read = Infinity, write = Infinity
    try {
      const plan = await merger.plan(paths, recipe)
      for (let round = 0; round < rounds; round++) {
        read = Math.min(read, await readSeconds(paths))
        const output = join(folder, 'merged')
        const { report } = await merger.merge(paths, recipe, { output })
        if (!best || report.totals.seconds < best.totals.seconds) best = report
        const written = (await readdir(output)).find(name => name.endsWith('.safetensors'))
        write = Math.min(write, await writeSeconds(folder, (await stat(join(output, written))).size))
        await rm(output, { recursive: true })
      }
      const products = multiplyAdds(modules, adapters * rank) / (rate * merger.threads * merger.lanes)
      const seconds = best.totals.seconds
      return { seconds, bytes, read, write, products, rest: seconds - read - write - products, memory: best.totals.memoryBytes, peak: plan.peakBytes, modules: modules.length }
    } finally {
      await merger.close()
    }
  })
}

const parts = { read: 'reading', products: 'multiply-adds', write: 'writing', rest: 'the rest' }
const largest = row => Object.keys(parts).reduce((x, y) => (row[y] > row[x] ? y : x))

/** Slope of log y over log x by least squares. */
function exponent(points) {
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)])
  const mean = i => logs.reduce((sum, point) => sum + point[i], 0) / logs.length
  const [x, y] = [mean(0), mean(1)]
  return logs.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0) / logs.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}

const head = ['time', 'adapter bytes', 'reading', 'multiply-adds', 'writing', 'rest', 'memory', 'planned']
const cells = row => [time(row.seconds), `${figure(row.bytes / row.seconds / 1e6)} MB/s`, ...Object.keys(parts).map(part => percent(row[part] / row.seconds)), megabytes(row.memory), megabytes(row.peak)]

/** One quantity grows, all others stay; the exponents of time and memory in it, of all rows and of the last three. */
async function growth(name, unit, values, settings) {
  const rows = []
  for (const value of values) rows.push([value, await step(`${name}: ${value}`, () => measure(settings(value)))])
  const fit = (part, of) => exponent(of.map(([value, row]) => [value, row[part]])).toFixed(2)
  const bounds = rows.map(([value, row]) => [value, largest(row)])
  const regimes = bounds.filter(([, part], i) => i === 0 || bounds[i - 1][1] !== part).map(([value, part], i) => `${i === 0 ? 'at first' : `from ${value} on`} ${parts[part]}`)
  return [
    table([unit, ...head], rows.map(([value, row]) => [value, ...cells(row)])),
    `Time grows with exponent ${fit('seconds', rows)} (the last three rows: ${fit('seconds', rows.slice(-3))}), memory with ${fit('memory', rows)} (${fit('memory', rows.slice(-3))}). The largest part of the time: ${regimes.join(', ')}.`,
  ].join('\n\n')
}

/** The tables by name. Each is a section of its own in docs/performance.md. */
const tables = {
  /** Seven adapters of a real model's shapes. 70B has 2.9 GB of factors. */
  async models() {
    const rows = []
    for (const { title, modules } of Object.values(models)) {
      const row = await step(title, () => measure({ modules }))
      rows.push([title, row.modules, megabytes(row.bytes), ...cells(row)])
    }
    return table(['model', 'modules', 'adapters', ...head], rows)
  },

  /** How far a whole merge is from what it cannot do without. */
  async bounds() {
    const rows = []
    for (const threads of [1, 2]) {
      const row = await step(`bounds, ${threads} threads`, () => measure({ modules: models['llama-2-7b'].modules, workers: { threads }, rounds: 5 }))
      const bound = row.read + row.products + row.write
      rows.push([threads, time(row.seconds), time(row.read), time(row.products), time(row.write), time(bound), figure(row.seconds / bound)])
    }
    return table(['threads', 'time', 'reading', 'multiply-adds', 'writing', 'sum of the three', 'time / sum'], rows)
  },

  adapters: () => growth('adapters', 'adapters', [2, 4, 7, 16, 64, 200], adapters => ({ modules: square(8, 4096), adapters, rounds: adapters > 64 ? 1 : 3 })),
  rank: () => growth('rank', 'rank', [4, 8, 16, 32, 64, 128, 256], rank => ({ modules: square(8, 4096), adapters: 4, rank, mergedRank: rank, rounds: rank > 128 ? 1 : 3 })),
  width: () => growth('width', 'width', [1024, 2048, 4096, 8192, 16384], width => ({ modules: square(28, width) })),
  modules: () => growth('modules', 'modules', [28, 112, 224, 448, 900], count => ({ modules: square(count, 2048) })),

  /** The same in Chromium: files chosen in a page, the result streamed into a folder; and the tasks of our own page's main thread. */
  async browser() {
    const rows = []
    const tasks = []
    const recipe = { method: 'lego', rank: 16 }
    await withFolder(async folder => {
      const { modules } = models['llama-2-7b']
      const { paths } = await makeAdapters(join(folder, 'in'), { modules })
      for (const [title, workers] of [
        ['isolated, 1 thread', { threads: 1 }],
        ['isolated, 2 threads', { threads: 2 }],
        ['not isolated, 1 lane', { lanes: 1 }],
        ['not isolated, 2 lanes', { lanes: 2 }],
      ]) {
        const { seconds, read, write, threads, lanes, memoryBytes } = await step(`Chromium, ${title}`, () => measureInChromium({ paths, recipe, workers, rounds: 3 }))
        const products = multiplyAdds(modules, 7 * 16) / (rate * threads * lanes)
        const bound = read + products + write
        rows.push([title, time(seconds), time(read), time(products), time(write), time(bound), figure(seconds / bound), megabytes(memoryBytes)])
      }
      for (const isIsolated of [true, false]) {
        const long = await step(`main thread, ${isIsolated ? 'isolated' : 'not isolated'}`, () => longTasksOfPage({ paths, recipe, isIsolated }))
        tasks.push(`${isIsolated ? 'isolated' : 'not isolated'}: ${long.length === 0 ? 'none' : `${long.length}, the longest of ${Math.round(Math.max(...long))} ms`}`)
      }
    })
    return `${table(['page', 'time', 'reading', 'multiply-adds', 'writing', 'sum of the three', 'time / sum', 'memory'], rows)}\n\nTasks of more than 50 ms on the main thread of our own page, from the click on Merge to the shown result; ${tasks.join('; ')}.`
  },

  /** What a second core brings, as a thread and as a lane, where reading counts and where multiply-adds do. */
  async workers() {
    const rows = []
    for (const [title, settings] of [
      ['7 adapters of rank 16, Llama-2-7B', { modules: models['llama-2-7b'].modules }],
      ['64 adapters of rank 16, 24 modules of 4096 x 4096', { modules: square(24, 4096), adapters: 64 }],
      ['7 adapters of rank 64, 28 modules of 4096 x 4096, svd', { modules: square(28, 4096), rank: 64, mergedRank: 64, method: 'svd' }],
      ['200 adapters of rank 16, one module of 4096 x 4096', { modules: square(1, 4096), adapters: 200 }],
    ]) {
      const of = async workers => step(`${title}: ${JSON.stringify(workers)}`, () => measure({ ...settings, workers }))
      const [one, threads, lane, lanes] = [await of({ threads: 1 }), await of({ threads: 2 }), await of({ lanes: 1 }), await of({ lanes: 2 })]
      rows.push([title, ...[one, threads, lane, lanes].map(({ seconds }) => time(seconds)), ...[one.seconds / threads.seconds, lane.seconds / lanes.seconds, threads.seconds / lanes.seconds].map(ratio => `${figure(ratio)} x`), megabytes(threads.memory), megabytes(lanes.memory)])
    }
    return table(['merge', '1 thread', '2 threads', '1 lane', '2 lanes', 'gain by threads', 'gain by lanes', 'lanes against threads', 'memory, 2 threads', '2 lanes'], rows)
  },

  /** What a limit of memory can come down to. */
  async memory() {
    const rows = []
    for (const [title, settings] of [
      ['7 adapters of rank 16, Llama-2-7B', { modules: models['llama-2-7b'].modules }],
      ['7 adapters of rank 16, two layers of Llama-3-70B', { modules: models['llama-3-70b'].modules.slice(0, 14) }],
      ['7 adapters of rank 128, 2 modules of 28672 x 28672', { modules: square(2, 28672), rank: 128 }],
      ['64 adapters of rank 16, 8 modules of 4096 x 4096', { modules: square(8, 4096), adapters: 64 }],
    ]) {
      for (const method of ['lego', 'least_interference']) {
        const of = async isTight => step(`${title}, ${method}${isTight ? ', least memory' : ''}`, () => measure({ ...settings, method, isTight }))
        const [free, tight] = [await of(false), await of(true)]
        rows.push([title, method, ...[free, tight].flatMap(({ peak, memory, seconds }) => [megabytes(peak), megabytes(memory), time(seconds)])])
      }
    }
    return table(['merge', 'method', 'planned', 'memory', 'time', 'least planned', 'memory', 'time'], rows)
  },
}

let rate = 0

await main(async () => {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { update: { type: 'boolean', default: false } } })
  for (const name of positionals) if (!(name in tables)) throw new Error(`there is no table '${name}': ${Object.keys(tables).join(', ')}`)
  await build()
  rate = await multiplyAddRate()
  console.log(`multiply-adds, one thread: ${figure(rate / 1e9)} GMAC/s`)
  for (const [name, make] of Object.entries(tables)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue
    const text = `${await make()}\n\n${machine()}`
    console.log(text)
    if (values.update) await update('docs/performance.md', name, text)
  }
})

// A merge in Chromium of files that are chosen in a page, streamed into a folder of the page's own; beside it what it
// cannot do without: the same bytes read by the same interface, and as many written.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { chromium } from 'playwright-core'
import { preview } from 'vite'

// As vite.config.ts has them for the page.
const isolation = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin' }

/** Runs in the page. Seconds of the best of some rounds, and every task of the main thread above 50 ms. */
async function measureInPage({ ids, recipe, workers, rounds }) {
  const longTasks = []
  new PerformanceObserver(list => longTasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: 'longtask' })
  const { createMerger } = await import('/lib/index.js')
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('merged', { create: true })
  const inputs = ids.map(id => [...document.getElementById(id).files])
  // Reading and writing are timed in a worker, where a merge does them.
  const timing = new Worker(
    URL.createObjectURL(
      new Blob(
        [
          `onmessage = async ({ data: { files, bytes } }) => {
            const range = Math.floor((16 << 20) / files.length)
            let begin = performance.now()
            for (let at = 0; at < Math.max(...files.map(({ size }) => size)); at += range) await Promise.all(files.map(file => file.slice(at, at + range).arrayBuffer()))
            const read = (performance.now() - begin) / 1000
            const handle = await (await navigator.storage.getDirectory()).getFileHandle('written', { create: true })
            const chunk = new Uint8Array(4 << 20).fill(1)
            begin = performance.now()
            const writable = await handle.createWritable()
            for (let at = 0; at < bytes; at += chunk.length) await writable.write(chunk.subarray(0, Math.min(chunk.length, bytes - at)))
            await writable.close()
            postMessage({ read, write: (performance.now() - begin) / 1000 })
          }`,
        ],
        { type: 'text/javascript' },
      ),
    ),
  )
  const readAndWrite = bytes =>
    new Promise(resolve => {
      timing.onmessage = ({ data }) => resolve(data)
      timing.postMessage({ files: inputs.map(files => files.find(({ name }) => name.endsWith('.safetensors'))), bytes })
    })
  const merger = createMerger(workers)
  let best
  let [read, write] = [Infinity, Infinity]
  for (let round = 0; round < rounds; round++) {
    const { report } = await merger.merge(inputs, recipe, { output: folder })
    if (!best || report.totals.seconds < best.totals.seconds) best = report
    const alone = await readAndWrite(report.totals.outputBytes)
    read = Math.min(read, alone.read)
    write = Math.min(write, alone.write)
  }
  const { threads, lanes } = merger
  await merger.close()
  timing.terminate()
  const { seconds, memoryBytes } = best.totals
  return { seconds, memoryBytes, read, write, threads, lanes, longTasks }
}

/** `paths`: PEFT folders. `workers`: options of createMerger; lanes need no isolated page, and do not get one. */
export async function measureInChromium({ paths, recipe, workers, rounds = 3 }) {
  const server = await preview({
    configFile: false,
    root: '.',
    build: { outDir: 'dist' },
    preview: { port: 0, host: '127.0.0.1', headers: workers.lanes === undefined ? isolation : {} },
    logLevel: 'warn',
  })
  const browser = await chromium.launch({ executablePath: process.env.LORA_LEGO_CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking'] })
  try {
    const page = await browser.newPage()
    await page.goto(`${server.resolvedUrls.local[0]}app/index.html`)
    const ids = []
    for (const [i, path] of paths.entries()) {
      ids.push(`adapter-${i}`)
      await page.evaluate(id => document.body.append(Object.assign(document.createElement('input'), { id, type: 'file', multiple: true })), `adapter-${i}`)
      await page.setInputFiles(`#adapter-${i}`, (await readdir(path)).map(name => join(path, name)))
    }
    return await page.evaluate(measureInPage, { ids, recipe, workers, rounds })
  } finally {
    await browser.close()
    await server.close()
  }
}

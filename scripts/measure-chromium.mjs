// A merge in Chromium of files that are chosen in a page, streamed into a folder of the page's own; beside it what it
// cannot do without: the same bytes read by the same interface, and as many written.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { withChromium } from './chromium.mjs'
import { project } from './toolchain.mjs'

/** Runs in the page. Seconds of the best of some rounds. */
async function measureInPage({ ids, recipe, workers, rounds }) {
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
    new Promise((resolve, reject) => {
      timing.onerror = event => reject(new Error(event.message ?? 'the worker that reads and writes could not start'))
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
  return { seconds, memoryBytes, read, write, threads, lanes }
}

const built = isIsolated => ({ root: project, outDir: join(project, 'dist'), isIsolated })

/** `paths`: PEFT folders. `workers`: options of createMerger; lanes need no isolated page, and do not get one. */
export async function measureInChromium({ paths, recipe, workers, rounds = 1 }) {
  // A blank page: ours allows no workers but those of its own files.
  return withChromium(built(workers.lanes === undefined), async ({ openPage }) => {
    const page = await openPage()
    const ids = paths.map((_, i) => `adapter-${i}`)
    for (const [i, path] of paths.entries()) {
      await page.evaluate(id => document.body.append(Object.assign(document.createElement('input'), { id, type: 'file', multiple: true })), ids[i])
      await page.setInputFiles(`#${ids[i]}`, (await readdir(path)).map(name => join(path, name)))
    }
    return page.evaluate(measureInPage, { ids, recipe, workers, rounds })
  })
}

/** Milliseconds of each task above 50 ms that the main thread of our own page has from the click on Merge to the shown result. */
export async function longTasksOfPage({ paths, recipe: { method, rank }, isIsolated }) {
  return withChromium(built(isIsolated), async ({ browser, url }) => {
    const page = await browser.newPage()
    // The folder that the page asks its user for is one of its own.
    await page.addInitScript(() => Object.assign(globalThis, { showDirectoryPicker: () => navigator.storage.getDirectory() }))
    await page.goto(new URL('app/index.html', url).href)
    for (const path of paths) await page.locator('#folder-input').setInputFiles(path)
    await page.getByLabel('Method').selectOption(method)
    await page.getByLabel('Rank', { exact: true }).fill(String(rank))
    await page.locator('#merge-into:enabled').waitFor()
    await page.evaluate(() => {
      globalThis.longTasks = []
      new PerformanceObserver(list => globalThis.longTasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: 'longtask' })
    })
    await page.locator('#merge-into').click()
    await page.getByRole('link', { name: 'report.json' }).waitFor({ timeout: 120_000 })
    // What is still to be laid out.
    await page.waitForTimeout(500)
    return page.evaluate(() => globalThis.longTasks)
  })
}

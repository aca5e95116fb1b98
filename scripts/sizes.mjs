// `npm run sizes`: what a browser loads, compressed, against the budgets of .size-limit.json; and the time from import
// to the first merged module. `-- --check`: the budgets only. `-- --update` also writes the table into
// docs/performance.md.

import { execFile } from 'node:child_process'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { build } from './build.mjs'
import { withChromium } from './chromium.mjs'
import { ensurePrograms } from './debian-packages.mjs'
import { machine, table, update } from './tables.mjs'
import { main, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

/** A page that merges, as a bundler gives it. */
const site = join(project, 'build/size')
const source = join(project, 'build/size-source')
const examples = ['add3', 'rotl2']
// Starts of a process or page, of which the middle one counts.
const rounds = 7

async function bundleLibrary() {
  await rm(source, { recursive: true, force: true })
  await mkdir(source, { recursive: true })
  await writeFile(join(source, 'index.html'), '<!doctype html>\n<link rel="icon" href="data:," />\n<script type="module">import { createMerger } from "lora-lego"; globalThis.createMerger = createMerger</script>\n')
  const { build: bundle } = await import('vite')
  await bundle({
    configFile: false,
    root: source,
    base: './',
    logLevel: 'error',
    resolve: { alias: { 'lora-lego': join(project, 'dist/lib/index.js') } },
    build: { outDir: site, emptyOutDir: true },
    worker: { format: 'es' },
  })
}

/** What size-limit says of each budget: its name, size and limit in bytes, and whether it is kept. */
async function budgets() {
  const program = [join(project, 'node_modules/size-limit/bin.js'), '--json']
  // It ends with status 1 where a budget is not kept, and says which all the same.
  const { stdout } = await promisify(execFile)(process.execPath, program, { cwd: project }).catch(error => error)
  return JSON.parse(stdout)
}

// Both programs merge two small adapters, and give the milliseconds from the import to the first module.
const nodeProgram = `
const [library, threads, ...inputs] = process.argv.slice(1)
const start = performance.now()
const { createMerger } = await import(library)
const merger = createMerger({ threads: Number(threads) })
let first
await merger.merge(inputs, {}, { onProgress: ({ modulesDone }) => { if (modulesDone > 0) first ??= performance.now() - start } })
await merger.close()
console.log(first)
`
async function startInNode(threads) {
  const inputs = examples.map(name => join(project, 'examples', name))
  const library = pathToFileURL(join(project, 'dist/node/index.js')).href
  return Number(await run(process.execPath, ['--input-type=module', '-e', nodeProgram, library, String(threads), ...inputs], { cwd: project, quiet: true }))
}

/* In the page. */
async function startInPage({ script, threads, files }) {
  const inputs = files.map(pair => pair.map(([name, text]) => new File([Uint8Array.from(atob(text), byte => byte.charCodeAt(0))], name)))
  const start = performance.now()
  await import(script)
  const merger = globalThis.createMerger(threads ? { threads } : {})
  let first
  await merger.merge(inputs, {}, { onProgress: ({ modulesDone }) => { if (modulesDone > 0) first ??= performance.now() - start } })
  await merger.close()
  return first
}

async function startInChromium(isIsolated, threads) {
  return withChromium({ root: source, outDir: site, isIsolated }, async ({ browser, url, openPage }) => {
    const html = await readFile(join(site, 'index.html'), 'utf8')
    const script = new URL(/src="([^"]+)"/.exec(html)[1], url).href
    const names = ['adapter_model.safetensors', 'adapter_config.json']
    const files = await Promise.all(examples.map(example => Promise.all(names.map(async name => [name, (await readFile(join(project, 'examples', example, name))).toString('base64')]))))
    const times = []
    for (let round = 0; round < rounds; round++) {
      // A context of its own for each: nothing is cached, not even compiled code.
      const context = await browser.newContext()
      const page = await openPage(context)
      times.push(await page.evaluate(startInPage, { script, threads, files }))
      await context.close()
    }
    return { name: `Chromium ${browser.version().split('.')[0]}`, times }
  })
}

const middle = values => values.toSorted((x, y) => x - y)[values.length >> 1]

async function inNode(threads) {
  const times = []
  for (let round = 0; round < rounds; round++) times.push(await startInNode(threads))
  return times
}

async function startRows() {
  await ensurePrograms({ chromium: 'chromium' })
  const row = (where, threads, times) => [where, threads, `${Math.round(middle(times))} ms`, `${Math.round(Math.min(...times))} to ${Math.round(Math.max(...times))} ms`]
  const node = `Node ${process.versions.node.split('.')[0]}`
  const single = await startInChromium(false)
  const isolated = await startInChromium(true, 2)
  return [
    row(node, '1', await inNode(1)),
    row(node, '2', await inNode(2)),
    row(`${single.name}, page not isolated`, '1', single.times),
    row(`${isolated.name}, isolated`, '2', isolated.times),
  ]
}

await main(async () => {
  await build()
  await step('a page that merges: build/size/', bundleLibrary)
  const kB = bytes => `${(bytes / 1000).toFixed(1)} kB`
  const checked = await budgets()
  const sizes = table(['loaded', 'gzip', 'budget'], checked.map(({ name, size, sizeLimit }) => [name, kB(size), kB(sizeLimit)]))
  console.log(sizes)
  const broken = checked.filter(({ passed }) => !passed).map(({ name }) => name)
  if (broken.length > 0) throw new Error(`over budget (.size-limit.json): ${broken.join(', ')}`)
  if (process.argv.includes('--check')) return
  const starts = await step('import to the first module', async () => table(['in', 'threads', `middle of ${rounds}`, 'from - to'], await startRows()))
  console.log(starts)
  if (process.argv.includes('--update')) await update('docs/performance.md', 'sizes', `${sizes}\n\n${starts}\n\n${machine()}`)
})

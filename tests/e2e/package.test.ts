// The package as it is published: packed, installed into an empty project, imported, run, type-checked, bundled.

import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openChromium, serve, watch } from './site.js'

const run = promisify(execFile)
let folder: string
let packed: { files: { path: string }[] }

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-package-'))
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder])
  const report = JSON.parse(stdout) as { filename: string; files: { path: string }[] }[]
  packed = report[0] as (typeof report)[0]
  await writeFile(join(folder, 'package.json'), '{ "name": "empty", "private": true, "type": "module" }')
  await run('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', join(folder, report[0]?.filename ?? '')], { cwd: folder })
})
afterAll(() => rm(folder, { recursive: true }))

it('holds the library and nothing else', () => {
  const paths = packed.files.map(({ path }) => path)
  expect(paths.filter(path => !/^(dist\/(lib|node)\/|LICENSE$|README\.md$|CHANGELOG\.md$|package\.json$)/.test(path))).toEqual([])
  for (const path of ['dist/lib/index.js', 'dist/lib/index.d.ts', 'dist/lib/worker-threads.js', 'dist/lib/generated/core-single.wasm', 'dist/lib/generated/core-single.rest.wasm', 'dist/lib/generated/core-threads.mjs', 'dist/node/cli.js']) {
    expect(paths).toContain(path)
  }
})

it('can be imported, run as a command, and used with its types', async () => {
  await writeFile(join(folder, 'use.mjs'), `import { merge } from 'lora-lego'; const { files } = await merge([${JSON.stringify(resolve('examples/add3'))}]); console.log(files.length)`)
  expect((await run(process.execPath, ['use.mjs'], { cwd: folder })).stdout).toBe('2\n')
  expect((await run(join(folder, 'node_modules/.bin/lora-lego'), ['inspect', resolve('examples/add3')])).stdout).toMatch(/modules +28/)

  const source = `import { merge, MergeError, type MergeResult } from 'lora-lego'
const result: MergeResult = await merge([{ source: new Uint8Array(), weight: 1 }], { method: 'lego', gauge: 'balanced' })
const code: MergeError['code'] = 'bad_rank'
// @ts-expect-error: no such method
await merge([], { method: 'blend' })
console.log(result.files, code)
`
  await writeFile(join(folder, 'use.ts'), source)
  for (const module of [['--module', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
    await run(process.execPath, [resolve('node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2023,dom', ...module, 'use.ts'], { cwd: folder })
  }
})

it('has no any in its public types', async () => {
  const publicTypes = (await readdir(join(folder, 'node_modules/lora-lego/dist/lib'))).filter(name => name.endsWith('.d.ts'))
  for (const name of publicTypes) expect(await readFile(join(folder, 'node_modules/lora-lego/dist/lib', name), 'utf8')).not.toMatch(/\bany\b(?![^\n]*\*\/)(?=[\s;,>)\]|&])(?<!\/\/.*|\*.*)/)
})

it('is bundled by Vite with its workers and WebAssembly, and the README page runs', async () => {
  const example = /```html\n([^]*?)```/.exec(await readFile('README.md', 'utf8'))?.[1] ?? ''
  const root = join(folder, 'site')
  await mkdir(root)
  await writeFile(join(root, 'index.html'), `<!doctype html>\n<link rel="icon" href="data:," />\n${example}`)
  const { build } = await import('vite')
  await build({ configFile: false, root, logLevel: 'error', worker: { format: 'es' } })
  const assets = await readdir(join(folder, 'site/dist/assets'))
  for (const pattern of [/^core-single-.*\.wasm$/, /^core-single\.decompose.*\.wasm$/, /^core-single\.rest.*\.wasm$/, /^core-threads-.*\.wasm$/, /^core-threads\.decompose.*\.wasm$/, /^core-threads\.rest.*\.wasm$/, /^core-threads.*\.mjs$/, /^worker-single.*\.js$/, /^worker-threads.*\.js$/]) {
    expect(assets.filter(name => pattern.test(name))).toHaveLength(1)
  }

  for (const isolated of [true, false]) {
    const site = await serve({ isolated, root, outDir: 'dist' })
    const browser = await openChromium()
    try {
      const page = await browser.newPage()
      const problems = watch(page)
      await page.goto(site.url)
      for (const name of ['add3', 'rotl2']) await page.setInputFiles('#folder', resolve('examples', name))
      await page.click('#start')
      const download = page.waitForEvent('download')
      await page.click('text=Download')
      const path = await (await download).path()
      expect((await readFile(path)).length).toBeGreaterThan(300_000)
      expect(problems).toEqual([])
    } finally {
      await browser.close()
      await site.close()
    }
  }
})

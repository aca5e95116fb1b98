// The pages of tests/runtime/page: a runtime that other people wrote, driven in Chromium.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'vite'
import type { Page } from 'playwright-core'
import { openChromium, serve, watch } from '../e2e/site.js'

export interface NamedBytes {
  readonly name: string
  readonly bytes: Uint8Array
}

/** Opens a page, chooses files in its input, and answers what `work` makes of it. Throws on anything the page reports as wrong. */
export async function inPage<T>(name: string, files: readonly NamedBytes[], work: (page: Page) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'lora-lego-runtime-'))
  try {
    const root = join(import.meta.dirname, 'page')
    await build({
      configFile: false,
      root,
      base: './',
      logLevel: 'error',
      // The library as it is published.
      resolve: { alias: { 'lora-lego': fileURLToPath(new URL('../../dist/lib/index.js', import.meta.url)) } },
      worker: { format: 'es' },
      build: { outDir: folder, emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0, rollupOptions: { input: join(root, name) } },
    })
    const site = await serve({ isolated: true, root, outDir: folder })
    const browser = await openChromium()
    try {
      const page = await browser.newPage()
      const problems = watch(page)
      await page.goto(new URL(name, site.url).href)
      await page.setInputFiles('input', files.map(({ name, bytes }) => ({ name, mimeType: '', buffer: Buffer.from(bytes) })))
      const answer = await work(page)
      if (problems.length > 0) throw new Error(problems.join('\n'))
      return answer
    } finally {
      await browser.close()
      await site.close()
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

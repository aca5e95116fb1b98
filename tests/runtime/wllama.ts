// llama.cpp in a page: the package @wllama/wllama, driven as the other pages are.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'vite'
import { openChromium, serve, watch } from '../e2e/site.js'

export interface Request {
  readonly prompt: string
  /** Number of greedy tokens at most. */
  readonly length: number
  /** One for each adapter. */
  readonly scales: readonly number[]
}

export interface Step {
  /** The token that was taken. */
  readonly token: number
  /** Of every token in its place, by token id. */
  readonly logProbabilities: readonly number[]
}

declare global {
  interface Window {
    /** Of tests/runtime/page. */
    run(requests: readonly Request[]): Promise<Step[][]>
  }
}

/** What a model with these adapters loaded, all GGUF files, generates for each request. Throws on anything the page reports as wrong. */
export async function generate(model: Uint8Array, adapters: readonly Uint8Array[], requests: readonly Request[]): Promise<Step[][]> {
  const folder = await mkdtemp(join(tmpdir(), 'lora-lego-wllama-'))
  try {
    const root = join(import.meta.dirname, 'page')
    await build({ configFile: false, root, base: './', logLevel: 'error', build: { outDir: folder, emptyOutDir: true, target: 'es2022' } })
    const site = await serve({ isolated: true, root, outDir: folder })
    const browser = await openChromium()
    try {
      const page = await browser.newPage()
      const problems = watch(page)
      await page.goto(site.url)
      await page.setInputFiles('input', [model, ...adapters].map((bytes, i) => ({ name: `${i}.gguf`, mimeType: '', buffer: Buffer.from(bytes) })))
      const answers = await page.evaluate(asked => window.run(asked), requests)
      if (problems.length > 0) throw new Error(problems.join('\n'))
      return answers
    } finally {
      await browser.close()
      await site.close()
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

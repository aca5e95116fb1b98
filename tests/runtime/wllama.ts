// llama.cpp in a page: the package @wllama/wllama, driven as the other pages are.

import { inPage } from './page.js'

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
    /** Of tests/runtime/page/llama.html. */
    run(requests: readonly Request[]): Promise<Step[][]>
  }
}

/** What a model with these adapters loaded, all GGUF files, generates for each request. Throws on anything the page reports as wrong. */
export async function generate(model: Uint8Array, adapters: readonly Uint8Array[], requests: readonly Request[]): Promise<Step[][]> {
  const files = [model, ...adapters].map((bytes, i) => ({ name: `${i}.gguf`, bytes }))
  return inPage('llama.html', files, page => page.evaluate(asked => window.run(asked), requests))
}

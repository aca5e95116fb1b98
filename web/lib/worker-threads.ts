// Worker script of the build with threads: needs shared memory.

import { serveBrowser } from './browser-worker.js'
import type { CorePart } from './generated/registry.js'
import { threadSettings } from './threads.js'

// Bundlers look for each of these just as it is written here.
const script = new URL('./generated/core-threads.mjs', import.meta.url)
const wasm = new URL('./generated/core-threads.wasm', import.meta.url).href
const parts: Record<CorePart, string> = {
  decompose: new URL('./generated/core-threads.decompose.wasm', import.meta.url).href,
  rest: new URL('./generated/core-threads.rest.wasm', import.meta.url).href,
}
// Where threads read these (bindings/deferred.js.in).
const threadScript = new URL(script)
threadScript.hash = new URLSearchParams(parts).toString()

serveBrowser(async threads => {
  // By its address, as each thread loads it: as a part of this script it would be loaded twice.
  const { default: createCore } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ script.href)) as typeof import('./generated/core-threads.mjs')
  return createCore({ ...threadSettings(threads, threadScript), parts, locateFile: () => wasm })
})

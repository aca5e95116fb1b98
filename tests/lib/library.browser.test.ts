// The library's suite in a browser, on a page with shared memory or without it.

import { defineSuite } from './suite.js'

defineSuite({
  threads: found => (crossOriginIsolated ? found > 1 : found === 1),
  example: async name => {
    const load = async (file: string): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await (await fetch(`/examples/${name}/${file}`)).arrayBuffer())
    return [await load('adapter_model.safetensors'), await load('adapter_config.json')]
  },
})

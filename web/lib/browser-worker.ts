// What the two worker scripts of a browser share: their first message says how many threads to use.

import { openHandle } from './handle-sink.js'
import { loaded } from './load.js'
import { serve, type WorkerParts } from './serve.js'
import { BlobSink } from './sink.js'
import { openBlob } from './source.js'
import { MergeError } from './error.js'
import type { WorkerSettings } from './platform.js'
import type { Request } from './protocol.js'

/** The part of a dedicated worker's global scope that is used here. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<Request & { settings: WorkerSettings }>) => void) | null
  postMessage(message: unknown): void
}
const scope = globalThis as unknown as WorkerScope

export function serveBrowser(start: (threads: number) => ReturnType<WorkerParts['start']>): void {
  scope.onmessage = ({ data }) => {
    const { settings } = data
    void serve({
      settings,
      start: () => start(settings.threads),
      open: openBlob,
      readsIntoMemory: false,
      // Few merges need it.
      createHasher: async () => (await loaded(import('./browser-hash.js'))).createHasher(),
      openSink: async (output, names) => {
        if (output.kind === 'memory') return new BlobSink()
        if (output.kind !== 'path') return openHandle(output, names)
        throw new MergeError({ code: 'not_supported', message: 'an output path can only be written in Node' })
      },
      port: {
        post: reply => scope.postMessage(reply),
        listen: receive => {
          scope.onmessage = event => receive(event.data)
        },
      },
    })
  }
}

// What the two worker scripts of Node share.

import { createHash } from 'node:crypto'
import { parentPort, workerData } from 'node:worker_threads'
import type { WorkerSettings } from '../lib/platform.js'
import type { Request } from '../lib/protocol.js'
import { serve, type WorkerParts } from '../lib/serve.js'
import { openFile, openOutput } from './files.js'

export function serveNode(start: (threads: number) => ReturnType<WorkerParts['start']>): void {
  const port = parentPort
  if (!port) throw new Error('this script is the worker of lora-lego; import the package instead')
  const settings = workerData as WorkerSettings
  void serve({
    settings,
    start: () => start(settings.threads),
    open: openFile,
    readsIntoMemory: true,
    createHasher: async () => {
      const hash = createHash('sha256')
      return { update: bytes => void hash.update(bytes), digest: () => hash.digest('hex') }
    },
    openSink: openOutput,
    port: {
      post: reply => port.postMessage(reply),
      listen: receive => port.on('message', (request: Request) => receive(request)),
    },
  })
}

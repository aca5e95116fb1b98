// The browser as a platform: workers, and what this page may use.

import { MergeError } from './error.js'
import type { Platform, Variant, WorkerHandle } from './platform.js'
import type { Reply, Request } from './protocol.js'

// A function that returns i8x16.splat of its argument, the smallest module that needs SIMD.
const simdProbe = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
])

/**
 * Shared memory is usable only if it can be sent to another thread. `crossOriginIsolated` does not tell:
 * WebKitGTK sets it and has no SharedArrayBuffer; and shared WebAssembly memory can be made, but not sent,
 * on pages that are not isolated.
 */
function canShareMemory(): boolean {
  try {
    const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true })
    if (!(buffer instanceof SharedArrayBuffer)) return false
    const { port1 } = new MessageChannel()
    port1.postMessage(buffer)
    port1.close()
    return true
  } catch {
    return false
  }
}

/** The worker scripts stand here as literals, because bundlers look for exactly this. */
function newWorker(variant: Variant): Worker {
  return variant === 'threads'
    ? new Worker(new URL('./worker-threads.js', import.meta.url), { type: 'module' })
    : new Worker(new URL('./worker-single.js', import.meta.url), { type: 'module' })
}

export const browser: Platform = {
  get cores() {
    return navigator.hardwareConcurrency || 1
  },
  get memory() {
    // Rounded, and capped at 8 GB; Chromium only.
    return ((navigator as { deviceMemory?: number }).deviceMemory ?? 8) * 2 ** 30
  },
  readsIntoMemory: false,
  get canShareMemory() {
    return canShareMemory()
  },
  startWorker(settings): WorkerHandle {
    if (!WebAssembly.validate(simdProbe)) {
      throw new MergeError({ code: 'not_supported', message: 'this browser has no WebAssembly SIMD; Chrome 91, Firefox 89 and Safari 16.4 are the first that do' })
    }
    const worker = newWorker(settings.variant)
    worker.postMessage({ settings })
    return {
      post: (request: Request, lines = []) => worker.postMessage(request, [...lines]),
      listen: (receive, failed) => {
        worker.onmessage = (event: MessageEvent<Reply>) => receive(event.data)
        worker.onmessageerror = () => failed('a message of the worker could not be read')
        worker.onerror = event => {
          event.preventDefault()
          failed(event.message ? `the worker failed: ${event.message}` : 'the worker script could not be loaded')
        }
      },
      terminate: () => worker.terminate(),
    }
  },
}

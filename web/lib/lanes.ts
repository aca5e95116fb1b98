// Both ends of the line between the worker that leads a merge and one that helps it: batches go one way, their
// results the other.

import type { BatchRunner } from './batches.js'
import { OrderedBatches, type Claim, type Claims } from './claims.js'
import { MergeError, type ErrorData } from './error.js'
import type { ReportValue, SurveyValue } from './generated/core-single.mjs'

/** What comes of a batch. */
export interface BatchResult {
  /** Of a merge: bytes of the output. */
  readonly bytes: Uint8Array
  /** Of its modules; of a survey none. */
  readonly reports: readonly ReportValue[]
  /** Of its modules, if they were only looked at. */
  readonly surveys: readonly SurveyValue[]
}

type ToHelper = { readonly batch: number } | { readonly end: true }
type ToLeader =
  | { readonly wants: true }
  | { readonly batch: number; readonly result: BatchResult }
  | { readonly batch: number; readonly error: ErrorData }
  /** Its memory in bytes. */
  | { readonly ended: number }

// One batch is worked on, and one is on its way from a file: with fewer, a helper would idle; with more, it would
// still hold some when the others are done.
const batchesAhead = 2

/** Leader: lets a helper take part, one of `lanes`. Settles with the bytes of the helper's memory when it has ended. */
export function leadHelper(port: MessagePort, batches: OrderedBatches<BatchResult>, lanes: number): Promise<number> {
  return new Promise(resolve => {
    let wants = 0
    // Batches that the helper has.
    let held = 0
    // The last batches are for those that have none: ahead of another they would wait while somebody idles.
    const mustWait = (): boolean => held > 0 && batches.unclaimed > 0 && batches.unclaimed <= lanes
    let isServing = false
    const serve = async (): Promise<void> => {
      if (isServing) return
      isServing = true
      try {
        while (wants > 0) {
          const claim = mustWait() ? 'later' : batches.next()
          if (claim === 'later') {
            await batches.changed()
            continue
          }
          if (claim === undefined) port.postMessage({ end: true } satisfies ToHelper)
          else {
            port.postMessage({ batch: claim } satisfies ToHelper)
            held++
          }
          wants--
        }
      } catch {
        // The leader's own loop fails with it.
        port.postMessage({ end: true } satisfies ToHelper)
      }
      isServing = false
    }
    port.onmessage = ({ data }: MessageEvent<ToLeader>) => {
      if ('ended' in data) {
        port.close()
        return resolve(data.ended)
      }
      if ('wants' in data) {
        wants++
        return void serve()
      }
      held--
      if ('error' in data) batches.fail(data.batch, new MergeError(data.error))
      else void batches.put(data.batch, data.result)
    }
  })
}

/** Helper: what the leader has handed out. */
class LedClaims implements Claims {
  readonly #port: MessagePort
  readonly #batches: number[] = []
  #isEnded = false
  #failure: { readonly error: unknown } | undefined
  #wake: () => void = () => undefined

  constructor(port: MessagePort) {
    this.#port = port
    port.onmessage = ({ data }: MessageEvent<ToHelper>) => {
      if ('end' in data) this.#isEnded = true
      else this.#batches.push(data.batch)
      this.#wake()
    }
    for (let i = 0; i < batchesAhead; i++) this.#ask()
  }

  next(): Claim {
    const batch = this.#batches.shift()
    if (batch === undefined) return this.#isEnded ? undefined : 'later'
    this.#ask()
    return batch
  }

  async changed(): Promise<void> {
    if (this.#batches.length === 0 && !this.#isEnded && !this.#failure) await new Promise<void>(resolve => (this.#wake = resolve))
    if (this.#failure) throw this.#failure.error
  }

  abort(error: unknown): void {
    this.#failure ??= { error }
    this.#wake()
  }

  #ask(): void {
    this.#port.postMessage({ wants: true } satisfies ToLeader)
  }
}

/** Helper: works on what the leader hands out, until that ends. `onCancel` is told how the wait for more is ended. */
export async function helpLeader(port: MessagePort, runner: BatchRunner, isSurvey: boolean, checkpoint: () => Promise<void>, resultOf: (batch: number, bytes: Uint8Array) => BatchResult, memoryBytes: () => number, onCancel: (abort: (error: unknown) => void) => void): Promise<void> {
  const claims = new LedClaims(port)
  onCancel(error => claims.abort(error))
  try {
    await runner.run(isSurvey, claims, {
      checkpoint,
      deliver: async (batch, view) => {
        // The core goes on to write where this lies.
        const bytes = view.slice()
        port.postMessage({ batch, result: resultOf(batch, bytes) } satisfies ToLeader, [bytes.buffer])
      },
      fail: (batch, error) => {
        if (!(error instanceof MergeError)) throw error
        port.postMessage({ batch, error: error.toJSON() } satisfies ToLeader)
      },
    })
  } finally {
    port.postMessage({ ended: memoryBytes() } satisfies ToLeader)
    port.close()
  }
}

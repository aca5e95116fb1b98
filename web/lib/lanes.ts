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
  /** Files are open, the plan is made. */
  | { readonly ready: true }
  | { readonly batch: number; readonly result: BatchResult }
  | { readonly batch: number; readonly error: ErrorData }
  /** Its memory in bytes. */
  | { readonly ended: number }

// One batch is worked on, one is on its way from a file, and one is to be there when the leader, who works too and listens
// only between his own batches, has no time to hand out another.
const batchesHeld = 3

/**
 * Leader: lets a helper take part. Settles with the bytes of the helper's memory when it has ended. Where the
 * helper would have to wait long for an answer (`isLong`), because the leader is busy with one batch, it gets its first at once.
 */
export function leadHelper(port: MessagePort, batches: OrderedBatches<BatchResult>, isLong: boolean): Promise<number> {
  return new Promise(resolve => {
    // Batches that the helper has, and may have.
    let held = 0
    let most = isLong ? 1 : 0
    // The helper gets to another batch after those that it holds. Until then each of the others will have done as many, but
    // for the one that it has begun: if these are all that are left, one of them is done sooner there.
    const mustWait = (): boolean => batches.unclaimed > 0 && batches.unclaimed <= (batches.lanes - 1) * (held - 1)
    let isServing = false
    const serve = async (): Promise<void> => {
      if (isServing) return
      isServing = true
      try {
        while (held < most) {
          const claim = mustWait() ? 'later' : batches.next(false)
          if (claim === 'later') {
            await batches.changed()
            continue
          }
          if (claim === undefined) {
            port.postMessage({ end: true } satisfies ToHelper)
            // Nothing is handed out any more.
            return
          }
          port.postMessage({ batch: claim } satisfies ToHelper)
          held++
        }
      } catch {
        // The leader's own loop fails with it.
        port.postMessage({ end: true } satisfies ToHelper)
        return
      }
      isServing = false
    }
    port.onmessage = ({ data }: MessageEvent<ToLeader>) => {
      if ('ended' in data) {
        port.close()
        return resolve(data.ended)
      }
      if ('ready' in data) most = batchesHeld
      else {
        held--
        if ('error' in data) batches.fail(data.batch, new MergeError(data.error))
        else void batches.put(data.batch, data.result)
      }
      void serve()
    }
    void serve()
  })
}

/** Helper: what the leader has handed out. */
class LedClaims implements Claims {
  readonly #batches: number[] = []
  #isEnded = false
  #failure: { readonly error: unknown } | undefined
  #wake: () => void = () => undefined

  constructor(port: MessagePort) {
    port.onmessage = ({ data }: MessageEvent<ToHelper>) => {
      if ('end' in data) this.#isEnded = true
      else this.#batches.push(data.batch)
      this.#wake()
    }
    port.postMessage({ ready: true } satisfies ToLeader)
  }

  next(): Claim {
    return this.#batches.shift() ?? (this.#isEnded ? undefined : 'later')
  }

  async changed(): Promise<void> {
    if (this.#batches.length === 0 && !this.#isEnded && !this.#failure) await new Promise<void>(resolve => (this.#wake = resolve))
    if (this.#failure) throw this.#failure.error
  }

  abort(error: unknown): void {
    this.#failure ??= { error }
    this.#wake()
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

// One core's way through batches: read, start, finish, hand on, with reading and writing beside the work.

import type { Claims } from './claims.js'
import { checkCore } from './core-error.js'
import type { BatchValue, FootprintValue, MainModule } from './generated/core-single.mjs'
import { readFailed, type ByteSource } from './source.js'

/** The core with its session open: it has one at a time, as calls follow one another in a worker. */
export type Session = Omit<MainModule, 'openSession'>

/** How one core is used. */
export interface CoreUse {
  readonly threads: number
  /** Whether files are read straight into the core's memory, which then must be shared: other memory is lost when it grows. */
  readonly isDirect: boolean
  readonly lanes: number
  /** Bytes that the merge may take; 0: no limit. */
  readonly memory: number
  /** Runs on other machines, or at other times, with which this one shares the batches. */
  readonly shards: number
}

/** What is read directly needs a place of its own in the core. */
const readSlots = ({ isDirect }: CoreUse): number => (isDirect ? 1 : 0)

export function footprintOf(use: CoreUse): FootprintValue {
  const { threads, isDirect, lanes, memory, shards } = use
  return {
    threads,
    readSlots: readSlots(use),
    // One that is read, and one that the collector has not taken yet.
    readBuffers: isDirect ? 0 : 2,
    lanes,
    shards,
    memoryBytes: memory,
  }
}

/** What a runner is told and asked. */
export interface BatchWatch {
  /** Throws where the work is to end; asked once for each batch. */
  readonly checkpoint: () => Promise<void>
  /**
   * Takes what finished: of a merge the bytes of the output, which are only valid until the returned promise settles.
   */
  readonly deliver: (batch: number, bytes: Uint8Array) => Promise<void>
  readonly fail: (batch: number, error: unknown) => void
}

/** A batch that is being read. */
interface Reading {
  readonly batch: number
  readonly done: Promise<readonly Uint8Array[]>
}

export class BatchRunner {
  /** Bytes of the buffers outside of the core. */
  readonly bufferBytes: number
  readonly #session: Session
  readonly #sources: readonly ByteSource[]
  readonly #batches: readonly BatchValue[]
  readonly #slots: number
  /** Batches that are started at a time. */
  readonly #depth: number
  readonly #isDirect: boolean
  /** For sources that read into given memory: two that take turns. New memory for each batch would pile up until it is collected. */
  readonly #spaces: ArrayBuffer[]
  #reads = 0
  #starts = 0
  #finishes = 0
  /** By slot: the delivery of the last batch that was in it. */
  readonly #deliveries: Promise<void>[] = []
  #pending: Promise<unknown> = Promise.resolve()

  /** `slots`: batches that the core has room for. */
  constructor(session: Session, sources: readonly ByteSource[], batches: readonly BatchValue[], slots: number, use: CoreUse) {
    this.#session = session
    this.#sources = sources
    this.#batches = batches
    this.#slots = slots
    this.#depth = slots - readSlots(use)
    this.#isDirect = use.isDirect
    const largest = Math.max(0, ...batches.map(batch => batch.inputBytes))
    this.bufferBytes = footprintOf(use).readBuffers * largest
    this.#spaces = use.isDirect || !sources.some(source => source.readsIntoMemory) ? [] : [new ArrayBuffer(largest), new ArrayBuffer(largest)]
  }

  /** Runs what `claims` gives until it gives nothing any more. Rejects with what checkpoint() or claims throw. */
  async run(isSurvey: boolean, claims: Claims, { checkpoint, deliver, fail }: BatchWatch): Promise<void> {
    const working: number[] = []
    let reading: Reading | undefined
    try {
      for (;;) {
        const claim = reading ? 'later' : claims.next(working.length > 0)
        if (typeof claim === 'number') {
          reading = this.#read(claim)
          continue
        }
        if (reading && working.length < this.#depth) {
          await checkpoint()
          await this.#start(reading, isSurvey)
          working.push(reading.batch)
          reading = undefined
          continue
        }
        const batch = working.shift()
        if (batch !== undefined) this.#finish(batch, deliver, fail)
        else if (claim === undefined) break
        else await claims.changed()
      }
      await Promise.all(this.#deliveries)
    } finally {
      // The session's memory must not go while something is read into it.
      await this.#pending
    }
  }

  /** Reads a batch's ranges, all at the same time. */
  #read(batch: number): Reading {
    const { reads } = this.#batches[batch] as BatchValue
    const target = this.#isDirect ? this.#input(batch) : this.#spaces[this.#reads++ % 2]
    const done = Promise.all(
      reads.map(async ({ adapter, offset, length, at }) => {
        const source = this.#sources[adapter]
        if (!source) throw readFailed('?', `no adapter ${adapter}`)
        const space = target && (target instanceof Uint8Array ? target.subarray(at, at + length) : new Uint8Array(target, at, length))
        const bytes = await source.read(offset, length, space)
        if (this.#isDirect && space && bytes !== space) space.set(bytes)
        return bytes
      }),
    )
    // If the merge fails first, nobody waits for it: its own failure is then no news.
    this.#pending = Promise.allSettled([this.#pending, done])
    return { batch, done }
  }

  #input(batch: number): Uint8Array {
    const input = this.#session.input(batch)
    checkCore(input.error)
    return input.bytes
  }

  async #start({ batch, done }: Reading, isSurvey: boolean): Promise<void> {
    const ranges = await done
    if (!this.#isDirect) {
      const input = this.#input(batch)
      const { reads } = this.#batches[batch] as BatchValue
      for (const [r, bytes] of ranges.entries()) input.set(bytes, reads[r]?.at)
    }
    // The slot's output is written over from now on.
    await this.#deliveries[this.#starts++ % this.#slots]
    checkCore(this.#session.start(batch, isSurvey))
  }

  /** Waits for the core, and hands on what it has. */
  #finish(batch: number, deliver: BatchWatch['deliver'], fail: BatchWatch['fail']): void {
    const { error, bytes } = this.#session.finish(batch)
    const slot = this.#finishes++ % this.#slots
    try {
      checkCore(error)
    } catch (problem) {
      fail(batch, problem)
      return
    }
    // Whoever fails to deliver says so by `claims`.
    this.#deliveries[slot] = deliver(batch, bytes).catch(() => undefined)
  }
}

/** Bytes of the core's memory. */
export const heapBytes = (core: MainModule): number => (core.wasmMemory as WebAssembly.Memory).buffer.byteLength

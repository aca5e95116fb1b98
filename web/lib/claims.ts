// Which batches of a merge are done next, and by whom; and their results, put back into order.

/** What a runner of batches gets to do: a batch's number, nothing for now (see changed()), or nothing any more. */
export type Claim = number | 'later' | undefined

/** Where a runner gets its batches from. */
export interface Claims {
  /** `isAhead`: to be read while the runner works on another. */
  next(isAhead: boolean): Claim
  /** Settles when next() may say something else. Rejects when the work has failed elsewhere. */
  changed(): Promise<void>
}

/**
 * Hands out `batches` to the runners of `lanes` in their order, and passes on their results in the same order, however
 * they come. At most `window` results are on their way at a time, so that what waits for a slow batch stays bounded.
 */
export class OrderedBatches<T> implements Claims {
  readonly #batches: readonly number[]
  readonly #window: number
  readonly lanes: number
  readonly #pass: (batch: number, result: T) => Promise<void>
  /** Results that wait for those before them, and failures, by place in `batches`. */
  readonly #waiting = new Map<number, { readonly result: T } | { readonly error: unknown }>()
  #claimed = 0
  #passing = 0
  #passed = 0
  #passes: Promise<void> = Promise.resolve()
  #failure: { readonly error: unknown } | undefined
  #isEnding = false
  #wake: (() => void)[] = []

  constructor(batches: readonly number[], lanes: number, window: number, pass: (batch: number, result: T) => Promise<void>) {
    this.#batches = batches
    this.lanes = lanes
    this.#window = window
    this.#pass = pass
  }

  next(isAhead: boolean): Claim {
    this.#check()
    if (this.#isEnding || this.#claimed === this.#batches.length) return undefined
    // The last are for those that have none.
    if (isAhead && this.unclaimed < this.lanes) return 'later'
    if (this.#claimed >= this.#passed + this.#window) return 'later'
    return this.#batches[this.#claimed++]
  }

  /** How many nobody has claimed. */
  get unclaimed(): number {
    return this.#isEnding ? 0 : this.#batches.length - this.#claimed
  }

  async changed(): Promise<void> {
    this.#check()
    await new Promise<void>(resolve => this.#wake.push(resolve))
    this.#check()
  }

  /** Whether a result would be passed on at once. */
  isNext(batch: number): boolean {
    return this.#batches[this.#passing] === batch
  }

  /** Takes a result. Settles when it is no longer needed, if it is next; at once otherwise. */
  async put(batch: number, result: T): Promise<void> {
    const isNext = this.isNext(batch)
    this.#waiting.set(this.#batches.indexOf(batch), { result })
    const passes = this.#passOn()
    this.#notify()
    if (isNext) await passes
  }

  /** Takes a failure, which counts when its turn comes: the first in order is what the merge fails with. */
  fail(batch: number, error: unknown): void {
    this.#isEnding = true
    this.#waiting.set(this.#batches.indexOf(batch), { error })
    void this.#passOn()
    this.#notify()
  }

  /** Ends everything with an error, whatever its place. */
  abort(error: unknown): void {
    this.#failure ??= { error }
    this.#notify()
  }

  /** Settles when all results have been passed on. */
  async finished(): Promise<void> {
    while (this.#passed < this.#batches.length) await this.changed()
    this.#check()
  }

  #passOn(): Promise<void> {
    for (;;) {
      const next = this.#waiting.get(this.#passing)
      if (!next) return this.#passes
      this.#waiting.delete(this.#passing)
      const batch = this.#batches[this.#passing++] as number
      if ('error' in next) {
        this.#passes = this.#passes.then(() => this.abort(next.error))
        return this.#passes
      }
      this.#passes = this.#passes
        .then(() => (this.#failure ? undefined : this.#pass(batch, next.result)))
        .then(
          () => {
            this.#passed++
            this.#notify()
          },
          error => this.abort(error),
        )
    }
  }

  #check(): void {
    if (this.#failure) throw this.#failure.error
  }

  #notify(): void {
    const wake = this.#wake
    this.#wake = []
    for (const resolve of wake) resolve()
  }
}

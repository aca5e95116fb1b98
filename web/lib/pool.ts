// The workers of a merger: one that takes the calls, and in lanes others that help it. They are started when they are
// needed, and end when nothing has been asked of them for a while.

import { Lane, type CallLines, type CallOptions } from './lane.js'
import type { Platform, WorkerSettings } from './platform.js'
import type { AssistRequest, Calls, Effort } from './protocol.js'

/** Calls that helpers can take part in. */
type SharedCall = 'compare' | 'merge'

/** What a call may use of helpers. */
function helpable<C extends keyof Calls>(name: C, args: Calls[C]['in']): Effort {
  const isShared = name === 'compare' || name === 'merge'
  return isShared ? (args as Calls[SharedCall]['in']).effort : { lanes: 1, memory: 0 }
}

export class Pool {
  readonly #platform: Platform
  readonly #settings: WorkerSettings
  readonly #idle: number
  readonly #lanes: Lane[] = []
  #retirement: ReturnType<typeof setTimeout> | undefined

  /** `idle`: milliseconds after which workers without work end. */
  constructor(platform: Platform, settings: WorkerSettings, idle: number) {
    this.#platform = platform
    this.#settings = settings
    this.#idle = idle
  }

  /** Workers that run. */
  get size(): number {
    return this.#lanes.filter(lane => lane.alive).length
  }

  /** As Lane.call, with helpers for those calls that want some. */
  async call<C extends Exclude<keyof Calls, 'assist'>>(name: C, args: Calls[C]['in'], options: CallOptions & Pick<CallLines, 'lines'> = {}): Promise<Calls[C]['out']> {
    clearTimeout(this.#retirement)
    // Ends this call and its helpers together, whichever fails first.
    const end = new AbortController()
    const abort = (): void => end.abort(options.signal?.reason)
    options.signal?.addEventListener('abort', abort)
    if (options.signal?.aborted) abort()
    const helping: Promise<unknown>[] = []
    const onAssist = (request: AssistRequest, count: number): MessagePort[] =>
      Array.from({ length: count }, (_, i) => {
        const { port1, port2 } = new MessageChannel()
        const { job, effort } = args as Calls[SharedCall]['in']
        const help = this.#lane(i + 1).call('assist', { job, effort, request, port: port1 }, { signal: end.signal, lines: [port1] })
        help.catch(error => end.abort(error))
        helping.push(help)
        return port2
      })
    try {
      const leader = this.#lane(0)
      // They load the core while the leader opens files. With a limit of memory the plan may do without some.
      const { lanes, memory } = helpable(name, args)
      if (memory === 0) for (let i = 1; i < lanes; i++) this.#lane(i)
      return await leader.call(name, args, { ...options, signal: end.signal, onAssist })
    } catch (error) {
      end.abort(error)
      throw error
    } finally {
      options.signal?.removeEventListener('abort', abort)
      await Promise.allSettled(helping)
      this.#retireLater()
    }
  }

  /** Ends the workers; open calls reject with `closed`. */
  close(): void {
    clearTimeout(this.#retirement)
    for (const lane of this.#lanes) lane.close()
  }

  /** A dead worker is replaced; what it was doing is not tried again. */
  #lane(index: number): Lane {
    const lane = this.#lanes[index]
    if (lane?.alive) return lane
    return (this.#lanes[index] = new Lane(this.#platform, this.#settings))
  }

  #retireLater(): void {
    clearTimeout(this.#retirement)
    if (this.#lanes.some(lane => lane.busy)) return
    this.#retirement = setTimeout(() => {
      for (const lane of this.#lanes.splice(0)) lane.close()
    }, this.#idle)
    // Node: it is no reason to stay.
    if (typeof this.#retirement === 'object') (this.#retirement as { unref?: () => void }).unref?.()
  }
}

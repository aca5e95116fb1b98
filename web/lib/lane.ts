// One worker and the calls that are open in it. Every way out settles every call.

import { MergeError, messageOf, type ErrorData } from './error.js'
import type { Platform, WorkerHandle, WorkerSettings } from './platform.js'
import type { AssistRequest, CallName, Calls, CancelFlag, Progress, Reply } from './protocol.js'
import type { ModuleReport } from './report.js'

/** What a caller may want of a running call. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((progress: Progress) => void) | undefined
  /** Takes the modules of a report. */
  readonly onModules?: ((modules: readonly ModuleReport[]) => void) | undefined
}

/** What a call may need beside its arguments. */
export interface CallLines {
  /** Ports and streams among the arguments, which then belong to the worker. */
  readonly lines?: readonly Transferable[]
  /** Gives lines to as many helpers as the call wants. */
  readonly onAssist?: (request: AssistRequest, count: number) => readonly MessagePort[]
}

interface OpenCall {
  resolve(value: unknown): void
  reject(error: unknown): void
  onProgress: CallOptions['onProgress']
  onModules: CallOptions['onModules']
  onAssist: CallLines['onAssist']
  flag?: CancelFlag
}

// A core takes well under a second to load; on a slow phone with a cold cache, a few.
const startTimeout = 30_000
// A batch takes tens of milliseconds; where the cancel flag cannot be reached, this is how long it may take.
const cancelGrace = 1_000

export class Lane {
  readonly #worker: WorkerHandle
  readonly #open = new Map<number, OpenCall>()
  readonly #startTimer: ReturnType<typeof setTimeout>
  #nextId = 1
  #dead: MergeError | undefined

  constructor(platform: Platform, settings: WorkerSettings) {
    this.#worker = platform.startWorker(settings)
    this.#worker.listen(
      reply => this.#receive(reply),
      reason => this.#fail({ code: 'worker_failed', message: reason }),
    )
    this.#startTimer = setTimeout(() => this.#fail({ code: 'worker_failed', message: `the worker did not start within ${startTimeout / 1000} s` }), startTimeout)
  }

  /** Whether calls are open in it. */
  get busy(): boolean {
    return this.#open.size > 0
  }

  /** False once the worker has ended; calls then reject at once. */
  get alive(): boolean {
    return this.#dead === undefined
  }

  /** Ends the worker; open calls reject with `closed`. */
  close(): void {
    this.#fail({ code: 'closed', message: 'the merger was closed while it worked' })
  }

  /**
   * Sends a call. Rejects with MergeError, or, once `signal` aborts, with the signal's reason, as soon as
   * the work has really stopped.
   */
  call<C extends CallName>(call: C, args: Calls[C]['in'], options: CallOptions & CallLines = {}): Promise<Calls[C]['out']> {
    const { signal, onProgress, onModules, onAssist, lines } = options
    return new Promise((resolve, reject) => {
      if (this.#dead) return reject(this.#dead)
      if (signal?.aborted) return reject(signal.reason)
      const id = this.#nextId++
      let graceTimer: ReturnType<typeof setTimeout> | undefined
      const abort = (): void => {
        const open = this.#open.get(id)
        if (!open) return
        if (open.flag) Atomics.store(new Int32Array(open.flag.buffer, open.flag.address, 1), 0, 1)
        this.#worker.post({ cancel: id })
        graceTimer = setTimeout(() => this.#fail({ code: 'cancelled', message: 'the work was cancelled' }), cancelGrace)
      }
      const settle = (): void => {
        clearTimeout(graceTimer)
        signal?.removeEventListener('abort', abort)
        if (this.#open.size === 0) this.#worker.hold?.(false)
      }
      this.#worker.hold?.(true)
      this.#open.set(id, {
        resolve: value => {
          settle()
          resolve(value as Calls[C]['out'])
        },
        reject: error => {
          settle()
          reject(signal?.aborted ? signal.reason : error)
        },
        onProgress,
        onModules,
        onAssist,
      })
      signal?.addEventListener('abort', abort)
      try {
        this.#worker.post({ id, call, args } as Parameters<WorkerHandle['post']>[0], lines)
      } catch (error) {
        // A function among the options, say: what cannot be copied never reaches the worker.
        this.#open.delete(id)
        settle()
        reject(new MergeError({ code: 'bad_input', message: `the inputs cannot be sent to the worker: ${messageOf(error)}` }, { cause: error }))
      }
    })
  }

  #receive(reply: Reply): void {
    if ('ready' in reply) return clearTimeout(this.#startTimer)
    if ('failed' in reply) return this.#fail(reply.failed)
    const open = this.#open.get(reply.id)
    if (!open) return this.#fail({ code: 'worker_failed', message: `the worker answered call ${reply.id}, which is not open` })
    if ('progress' in reply) return open.onProgress?.(reply.progress)
    if ('modules' in reply) return open.onModules?.(reply.modules)
    if ('assist' in reply) {
      const ports = open.onAssist?.(reply.assist, reply.count) ?? []
      return this.#worker.post({ helpersOf: reply.id, ports }, ports)
    }
    if ('flag' in reply) {
      open.flag = reply.flag
      return
    }
    this.#open.delete(reply.id)
    if ('error' in reply) open.reject(new MergeError(reply.error))
    else open.resolve(reply.value)
  }

  #fail(why: ErrorData): void {
    if (this.#dead) return
    this.#dead = new MergeError(why)
    clearTimeout(this.#startTimer)
    this.#worker.terminate()
    const calls = [...this.#open.values()]
    this.#open.clear()
    for (const call of calls) call.reject(this.#dead)
  }
}

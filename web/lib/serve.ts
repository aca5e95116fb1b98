// The worker's body, the same for every build and platform: takes calls, runs them one after the other,
// and answers each of them, whatever happens.

import { cancelledError, MergeError, messageOf, type ErrorData } from './error.js'
import type { MainModule } from './generated/core-single.mjs'
import { loaded } from './load.js'
import type { MergeAnswer, MergeOutcome, Progress, Reply, Request } from './protocol.js'
import { reportOf, type ReportedJob } from './report.js'
import { assist, compare, inspect, merge, plan, type Listener, type Tools } from './run.js'

/** The worker's end of the line. */
export interface Port {
  post(reply: Reply): void
  listen(receive: (request: Request) => void): void
}

/** What a worker of one build on one platform brings. */
export interface WorkerParts extends Omit<Tools, 'core'> {
  readonly port: Port
  readonly start: () => Promise<MainModule>
}

/** From the caller: a call, with a number that its answers repeat. */
type CallRequest = Extract<Request, { id: number }>

// More often than this is more than a progress bar can show.
const progressInterval = 50

export async function serve({ port, start, ...parts }: WorkerParts): Promise<void> {
  const cancelled = new Set<number>()
  /** What waits for a cancel, and for lines to helpers, by call. */
  const cancels = new Map<number, (error: unknown) => void>()
  const helpers = new Map<number, (ports: readonly MessagePort[]) => void>()
  let core: Promise<MainModule> | undefined
  let queue = Promise.resolve()

  async function answer(request: CallRequest): Promise<void> {
    const { id } = request
    try {
      const tools: Tools = { ...parts, core: await (core as Promise<MainModule>) }
      port.post({ id, value: await dispatch(tools, request, listenerFor(id)) })
    } catch (error) {
      if (!(error instanceof MergeError)) {
        // A trap or an abort: the core's memory is in an unknown state, so this worker ends.
        port.post({ failed: failureOf(error) })
        return
      }
      port.post({ id, error: error.toJSON() })
    } finally {
      cancelled.delete(id)
      cancels.delete(id)
      helpers.delete(id)
    }
  }

  function listenerFor(id: number): Listener {
    let last = -Infinity
    return {
      cancelled: () => cancelled.has(id),
      onCancel: told => void cancels.set(id, told),
      helpers: (request, count) =>
        new Promise(resolve => {
          helpers.set(id, resolve)
          port.post({ id, assist: request, count })
        }),
      flag: flag => port.post({ id, flag }),
      modules: modules => port.post({ id, modules }),
      progress: (progress: Progress) => {
        const now = performance.now()
        if (progress.fraction < 1 && now - last < progressInterval) return
        last = now
        port.post({ id, progress })
      },
    }
  }

  port.listen(request => {
    if ('cancel' in request) {
      cancelled.add(request.cancel)
      cancels.get(request.cancel)?.(cancelledError())
      return
    }
    if ('helpersOf' in request) {
      helpers.get(request.helpersOf)?.(request.ports)
      return
    }
    queue = queue.then(() => answer(request))
  })

  try {
    core = start()
    await core
    port.post({ ready: true })
  } catch (error) {
    port.post({ failed: { code: 'asset_not_found', message: `the WebAssembly core could not be loaded: ${messageOf(error)}` } })
  }
}

async function dispatch(tools: Tools, request: CallRequest, listener: Listener): Promise<unknown> {
  switch (request.call) {
    case 'inspect':
      return inspect(tools, request.args.adapter)
    case 'plan':
      return plan(tools, request.args.job, request.args.effort, listener)
    case 'compare': {
      const { job, effort } = request.args
      const { comparisonOf } = await loaded(import('./comparison.js'))
      return comparisonOf(job.adapters.map(({ label }) => label), job.weights, await compare(tools, job, effort, listener))
    }
    case 'merge':
      return answerOf(request.args.job, await merge(tools, request.args.job, request.args.effort, request.args.output, request.args.hashes, listener))
    case 'assist':
      return assist(tools, request.args.job, request.args.effort, request.args.request, request.args.port, listener)
    case 'join': {
      const { join } = await loaded(import('./join.js'))
      const { job, ...outcome } = await join(tools, request.args.parts, request.args.output, request.args.hashes, listener)
      return answerOf(job, outcome)
    }
  }
}

function answerOf(job: ReportedJob, outcome: MergeOutcome): MergeAnswer {
  return { frame: reportOf(job, outcome), tensors: 'files' in outcome.output && !job.shard ? outcome.plan.tensors : [], output: outcome.output }
}

function failureOf(error: unknown): ErrorData {
  // As bindings/deferred.js.in marks it.
  if (error instanceof Error && 'isAsset' in error) return { code: 'asset_not_found', message: error.message }
  const memory = error instanceof RangeError || /memory|out of bounds/i.test(messageOf(error))
  return { code: memory ? 'out_of_memory' : 'worker_failed', message: `the WebAssembly core stopped: ${messageOf(error)}` }
}

// A pool whose workers misbehave: a call and its helpers end together.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Platform, WorkerHandle } from '../../dist/lib/platform.js'
import { Pool } from '../../dist/lib/pool.js'
import type { Job } from '../../dist/lib/protocol.js'
import { FakeWorker } from './fake-worker.js'

const args = { job: {} as Job, effort: { lanes: 3, memory: 0 }, output: { kind: 'memory' }, hashes: false } as const
const assist = { isSurvey: false, inputHashes: [], energies: [] }

describe('pool', () => {
  let workers: FakeWorker[]
  let pool: Pool
  beforeEach(() => {
    vi.useFakeTimers()
    workers = []
    const startWorker = (): WorkerHandle => {
      const worker = new FakeWorker()
      workers.push(worker)
      return worker
    }
    pool = new Pool({ cores: 3, memory: 2 ** 33, canShareMemory: false, readsIntoMemory: false, startWorker } satisfies Platform, { threads: 1, variant: 'single', reference: false }, 1000)
  })
  afterEach(() => {
    pool.close()
    vi.useRealTimers()
  })

  /** A merge that has asked for two helpers, which are at work. */
  function helped(signal?: AbortSignal): Promise<unknown> {
    const merging = pool.call('merge', args, signal ? { signal } : {})
    workers[0]?.reply({ id: 1, assist, count: 2 })
    expect(workers.length).toBe(3)
    expect(workers[1]?.sent[0]).toMatchObject({ id: 1, call: 'assist', args: { request: assist } })
    const answer = workers[0]?.sent.at(-1)
    expect(answer && 'helpersOf' in answer && answer.ports.length).toBe(2)
    return merging
  }
  const cancels = (worker: FakeWorker | undefined): boolean => worker?.sent.some(request => 'cancel' in request) ?? false

  it('ends a call with its helpers', async () => {
    const merging = helped()
    workers[1]?.reply({ id: 1, value: undefined })
    workers[2]?.reply({ id: 1, value: undefined })
    workers[0]?.reply({ id: 1, value: 'merged' })
    expect(await merging).toBe('merged')
    expect(cancels(workers[1])).toBe(false)
  })

  it('fails with a helper that fails, after the others have stopped', async () => {
    const merging = helped()
    merging.catch(() => undefined)
    workers[1]?.reply({ id: 1, error: { code: 'read_failed', message: 'gone' } })
    await vi.advanceTimersByTimeAsync(10)
    expect(cancels(workers[0])).toBe(true)
    expect(cancels(workers[2])).toBe(true)
    workers[0]?.reply({ id: 1, error: { code: 'cancelled', message: '' } })
    workers[2]?.reply({ id: 1, error: { code: 'cancelled', message: '' } })
    await expect(merging).rejects.toMatchObject({ code: 'read_failed' })
  })

  it('fails with a helper that dies, even if nobody answers any more', async () => {
    const merging = helped()
    const settled = expect(merging).rejects.toMatchObject({ code: 'worker_failed', message: 'crashed' })
    workers[2]?.fail('crashed')
    await vi.advanceTimersByTimeAsync(5000)
    await settled
    expect(workers.map(({ terminated }) => terminated)).toEqual([true, true, true])
  })

  it('stops the helpers of a call that fails, or dies', async () => {
    const merging = helped()
    const settled = expect(merging).rejects.toMatchObject({ code: 'worker_failed' })
    workers[0]?.fail('crashed')
    await vi.advanceTimersByTimeAsync(10)
    expect(cancels(workers[1])).toBe(true)
    await vi.advanceTimersByTimeAsync(5000)
    await settled
  })

  it("rejects with the signal's reason", async () => {
    const controller = new AbortController()
    const merging = helped(controller.signal)
    const reason = new Error('enough')
    const settled = expect(merging).rejects.toBe(reason)
    controller.abort(reason)
    for (const worker of workers) {
      expect(cancels(worker)).toBe(true)
      worker.reply({ id: 1, error: { code: 'cancelled', message: '' } })
    }
    await settled
  })

  it('retires workers without work, and starts new ones', async () => {
    const merging = helped()
    for (const worker of [...workers].reverse()) worker.reply({ id: 1, value: 'merged' })
    await merging
    await vi.advanceTimersByTimeAsync(999)
    expect(pool.size).toBe(3)
    const again = pool.call('plan', args)
    await vi.advanceTimersByTimeAsync(2000)
    expect(pool.size).toBe(3)
    workers[0]?.reply({ id: 2, value: 'plan' })
    expect(await again).toBe('plan')
    await vi.advanceTimersByTimeAsync(1001)
    expect(pool.size).toBe(0)
    expect(workers.every(({ terminated }) => terminated)).toBe(true)
    void pool.call('plan', args).catch(() => undefined)
    expect(workers.length).toBe(4)
  })
})

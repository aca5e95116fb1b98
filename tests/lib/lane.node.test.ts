// A lane with a worker that misbehaves in every way: no promise is left hanging.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Lane } from '../../dist/lib/lane.js'
import type { Platform } from '../../dist/lib/platform.js'
import type { Job } from '../../dist/lib/protocol.js'
import type { ModuleReport } from '../../dist/lib/report.js'
import { FakeWorker } from './fake-worker.js'

const job = {} as Job
const effort = { lanes: 1, memory: 0 }

describe('lane', () => {
  let worker: FakeWorker
  let lane: Lane
  beforeEach(() => {
    vi.useFakeTimers()
    worker = new FakeWorker()
    const platform: Platform = { cores: 1, memory: 2 ** 30, canShareMemory: false, readsIntoMemory: false, startWorker: () => worker }
    lane = new Lane(platform, { threads: 1, variant: 'single', reference: false })
  })
  afterEach(() => {
    vi.useRealTimers()
  })
  const dies = async (calls: Promise<unknown>[], code: string): Promise<void> => {
    for (const call of calls) await expect(call).rejects.toMatchObject({ code })
    expect(lane.alive).toBe(false)
    expect(worker.terminated).toBe(true)
    await expect(lane.call('plan', { job, effort })).rejects.toMatchObject({ code })
  }

  it('settles each call with its own answer', async () => {
    const one = lane.call('plan', { job, effort })
    const two = lane.call('plan', { job, effort })
    worker.reply({ ready: true })
    worker.reply({ id: 2, value: 'second' })
    worker.reply({ id: 1, error: { code: 'bad_rank', message: 'no' } })
    await expect(two).resolves.toBe('second')
    await expect(one).rejects.toMatchObject({ code: 'bad_rank', message: 'no' })
    expect(lane.alive).toBe(true)
  })

  it('passes the modules of a report on, in the order in which they come', async () => {
    const modules: unknown[] = []
    const call = lane.call('plan', { job, effort }, { onModules: some => modules.push(...some) })
    worker.reply({ id: 1, modules: ['a', 'b'] as unknown as ModuleReport[] })
    worker.reply({ id: 1, modules: ['c'] as unknown as ModuleReport[] })
    worker.reply({ id: 1, value: 'done' })
    await call
    expect(modules).toEqual(['a', 'b', 'c'])
  })

  it('lets the process end while no call is open', async () => {
    const one = lane.call('plan', { job, effort })
    const two = lane.call('plan', { job, effort })
    worker.reply({ id: 1, value: 'first' })
    await one
    expect(worker.held).toBe(true)
    worker.reply({ id: 2, value: 'second' })
    await two
    expect(worker.held).toBe(false)
  })

  it('rejects a call that cannot be sent and stays in use', async () => {
    worker.post = () => {
      throw new DOMException('it cannot be cloned', 'DataCloneError')
    }
    await expect(lane.call('plan', { job, effort })).rejects.toMatchObject({ code: 'bad_input' })
    expect(worker.held).toBe(false)
    expect(lane.alive).toBe(true)
  })

  it('rejects every open call when the worker crashes', async () => {
    const calls = [lane.call('plan', { job, effort }), lane.call('plan', { job, effort })]
    worker.fail('boom')
    await dies(calls, 'worker_failed')
  })

  it('rejects every open call when the core stops', async () => {
    const calls = [lane.call('plan', { job, effort })]
    worker.reply({ failed: { code: 'out_of_memory', message: 'unreachable' } })
    await dies(calls, 'out_of_memory')
  })

  it('rejects when the worker never starts', async () => {
    const calls = [lane.call('plan', { job, effort })]
    vi.advanceTimersByTime(30_001)
    await dies(calls, 'worker_failed')
  })

  it('does not take a long call for a worker that never started', async () => {
    worker.reply({ ready: true })
    const call = lane.call('plan', { job, effort })
    vi.advanceTimersByTime(3_600_000)
    worker.reply({ id: 1, value: 7 })
    await expect(call).resolves.toBe(7)
  })

  it('gives up on a worker that answers what nobody asked', async () => {
    const calls = [lane.call('plan', { job, effort })]
    worker.reply({ id: 99, value: 0 })
    await dies(calls, 'worker_failed')
  })

  it('asks for a cancel and rejects with the reason once the work has stopped', async () => {
    const controller = new AbortController()
    const call = lane.call('plan', { job, effort }, { signal: controller.signal })
    const memory = new SharedArrayBuffer(16)
    worker.reply({ id: 1, flag: { buffer: memory, address: 8 } })
    controller.abort('enough')
    expect(worker.sent.at(-1)).toEqual({ cancel: 1 })
    expect(new Int32Array(memory)[2]).toBe(1)
    let settled = false
    call.catch(() => (settled = true))
    await Promise.resolve()
    expect(settled).toBe(false)
    worker.reply({ id: 1, error: { code: 'cancelled', message: '' } })
    await expect(call).rejects.toBe('enough')
    expect(lane.alive).toBe(true)
  })

  it('ends a worker that does not stop in time', async () => {
    const controller = new AbortController()
    const call = lane.call('plan', { job, effort }, { signal: controller.signal })
    controller.abort('enough')
    vi.advanceTimersByTime(1_001)
    await expect(call).rejects.toBe('enough')
    expect(worker.terminated).toBe(true)
  })

  it('still gives a result that was finished before the cancel arrived', async () => {
    const controller = new AbortController()
    const call = lane.call('plan', { job, effort }, { signal: controller.signal })
    controller.abort('late')
    worker.reply({ id: 1, value: 'done' })
    await expect(call).resolves.toBe('done')
    vi.advanceTimersByTime(10_000)
    expect(worker.terminated).toBe(false)
  })

  it('passes progress on', () => {
    const seen: number[] = []
    void lane.call('plan', { job, effort }, { onProgress: ({ fraction }) => seen.push(fraction) })
    worker.reply({ id: 1, progress: { fraction: 0.5, modulesDone: 1, modules: 2 } })
    expect(seen).toEqual([0.5])
  })

  it('closes once', async () => {
    const calls = [lane.call('plan', { job, effort })]
    lane.close()
    lane.close()
    await dies(calls, 'closed')
  })
})

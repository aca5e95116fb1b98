// Batches that come back in any order, slowly, or not at all.

import { describe, expect, it } from 'vitest'
import { OrderedBatches } from '../../dist/lib/claims.js'
import { leadHelper, type BatchResult } from '../../dist/lib/lanes.js'

const nextTask = (): Promise<void> => new Promise(resolve => setTimeout(resolve))

function collecting(count: number, window: number): { batches: OrderedBatches<string>; passed: string[] } {
  const passed: string[] = []
  const batches = new OrderedBatches<string>([...Array(count).keys()], window, async (batch, result) => {
    await nextTask()
    passed.push(`${batch}${result}`)
  })
  return { batches, passed }
}

describe('batches in order', () => {
  it('are passed on in order, however they come', async () => {
    const { batches, passed } = collecting(4, 10)
    expect([batches.next(), batches.next(), batches.next(), batches.next(), batches.next()]).toEqual([0, 1, 2, 3, undefined])
    await batches.put(2, 'c')
    await batches.put(1, 'b')
    expect(passed).toEqual([])
    expect(batches.isNext(0)).toBe(true)
    await batches.put(0, 'a')
    void batches.put(3, 'd')
    await batches.finished()
    expect(passed).toEqual(['0a', '1b', '2c', '3d'])
  })

  it('are only so many at a time', async () => {
    const { batches, passed } = collecting(3, 2)
    expect([batches.next(), batches.next(), batches.next()]).toEqual([0, 1, 'later'])
    const changed = batches.changed()
    await batches.put(1, '')
    expect(batches.next()).toBe('later')
    await batches.put(0, '')
    await changed
    expect(passed[0]).toBe('0')
    expect(batches.next()).toBe(2)
  })

  it('fail with the first failure in order, after what comes before it', async () => {
    const { batches, passed } = collecting(4, 10)
    for (let i = 0; i < 3; i++) batches.next()
    batches.fail(2, new Error('third'))
    expect(batches.next()).toBe(undefined)
    batches.fail(1, new Error('second'))
    const finished = batches.finished()
    void batches.put(0, '')
    await expect(finished).rejects.toThrow('second')
    expect(passed).toEqual(['0'])
  })

  it('end at once where they are aborted, and when what takes them fails', async () => {
    const { batches } = collecting(2, 10)
    const finished = batches.finished()
    batches.abort(new Error('gone'))
    batches.abort(new Error('later'))
    await expect(finished).rejects.toThrow('gone')
    expect(() => batches.next()).toThrow('gone')

    const full = new OrderedBatches<string>([0, 1], 10, async () => {
      throw new Error('full')
    })
    full.next()
    await full.put(0, '')
    await expect(full.finished()).rejects.toThrow('full')
  })
})

describe('a helper', () => {
  it('gets a batch ahead of the one it has, but none of the last ones', async () => {
    const batches = new OrderedBatches<BatchResult>([0, 1, 2, 3], 10, async () => undefined)
    const { port1, port2 } = new MessageChannel()
    const got: number[] = []
    port2.onmessage = ({ data }: MessageEvent<{ batch: number }>) => void got.push(data.batch)
    const led = leadHelper(port1, batches, 2)
    const received = async (count: number): Promise<void> => {
      await expect.poll(() => got.length).toBe(count)
      // What would come too early has time to come.
      for (let i = 0; i < 5; i++) await nextTask()
      expect(got.length).toBe(count)
    }
    const finish = (batch: number): void => port2.postMessage({ batch, result: { bytes: new Uint8Array(), reports: [], surveys: [] } satisfies BatchResult })
    for (let i = 0; i < 3; i++) port2.postMessage({ wants: true })
    await received(2)
    finish(1)
    await received(2)
    finish(0)
    await received(3)
    expect(got).toEqual([0, 1, 2])
    port2.postMessage({ ended: 7 })
    await expect(led).resolves.toBe(7)
    port2.close()
  })
})

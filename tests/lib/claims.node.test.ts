// Batches that come back in any order, slowly, or not at all.

import { describe, expect, it } from 'vitest'
import { OrderedBatches } from '../../dist/lib/claims.js'
import { leadHelper, type BatchResult } from '../../dist/lib/lanes.js'

const nextTask = (): Promise<void> => new Promise(resolve => setTimeout(resolve))

function collecting(count: number, window: number): { batches: OrderedBatches<string>; passed: string[] } {
  const passed: string[] = []
  const batches = new OrderedBatches<string>([...Array(count).keys()], 1, window, async (batch, result) => {
    await nextTask()
    passed.push(`${batch}${result}`)
  })
  return { batches, passed }
}

describe('batches in order', () => {
  it('are passed on in order, however they come', async () => {
    const { batches, passed } = collecting(4, 10)
    expect([batches.next(false), batches.next(false), batches.next(false), batches.next(false), batches.next(false)]).toEqual([0, 1, 2, 3, undefined])
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
    expect([batches.next(false), batches.next(false), batches.next(false)]).toEqual([0, 1, 'later'])
    const changed = batches.changed()
    await batches.put(1, '')
    expect(batches.next(false)).toBe('later')
    await batches.put(0, '')
    await changed
    expect(passed[0]).toBe('0')
    expect(batches.next(false)).toBe(2)
  })

  it('fail with the first failure in order, after what comes before it', async () => {
    const { batches, passed } = collecting(4, 10)
    for (let i = 0; i < 3; i++) batches.next(false)
    batches.fail(2, new Error('third'))
    expect(batches.next(false)).toBe(undefined)
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
    expect(() => batches.next(false)).toThrow('gone')

    const full = new OrderedBatches<string>([0, 1], 1, 10, async () => {
      throw new Error('full')
    })
    full.next(false)
    await full.put(0, '')
    await expect(full.finished()).rejects.toThrow('full')
  })
})

describe('several runners', () => {
  it('leave the last batches to those that have none', () => {
    const batches = new OrderedBatches<string>([0, 1, 2, 3], 2, 10, async () => undefined)
    expect([batches.next(false), batches.next(true), batches.next(true), batches.next(true)]).toEqual([0, 1, 2, 'later'])
    expect(batches.next(false)).toBe(3)
  })
})

describe('a helper', () => {
  /** What a helper, one of two lanes, is told of `count` batches, and its answers. */
  function helping(count: number, isLong = false) {
    const batches = new OrderedBatches<BatchResult>([...Array(count).keys()], 2, 20, async () => undefined)
    const { port1, port2 } = new MessageChannel()
    const got: (number | 'end')[] = []
    port2.onmessage = ({ data }: MessageEvent<{ batch: number } | { end: true }>) => void got.push('end' in data ? 'end' : data.batch)
    const led = leadHelper(port1, batches, isLong)
    const received = async (...expected: (number | 'end')[]): Promise<void> => {
      await expect.poll(() => got.length).toBe(expected.length)
      // What would come too early has time to come.
      for (let i = 0; i < 5; i++) await nextTask()
      expect(got).toEqual(expected)
    }
    const finish = (batch: number): void => port2.postMessage({ batch, result: { bytes: new Uint8Array(), reports: [], surveys: [] } satisfies BatchResult })
    return { batches, led, port: port2, received, finish }
  }

  it('gets nothing before it is ready, then batches ahead of the one it has, and is told the end', async () => {
    const { batches, led, port, received, finish } = helping(9)
    await received()
    expect(batches.next(false)).toBe(0)
    port.postMessage({ ready: true })
    await received(1, 2, 3)
    finish(1)
    await received(1, 2, 3, 4)
    for (const own of [5, 6, 7, 8]) expect(batches.next(false)).toBe(own)
    finish(2)
    await received(1, 2, 3, 4, 'end')
    port.postMessage({ ended: 7 })
    await expect(led).resolves.toBe(7)
    port.close()
  })

  it('gets its first batch at once where that takes long', async () => {
    const { led, port, received } = helping(9, true)
    await received(0)
    port.postMessage({ ready: true })
    await received(0, 1, 2)
    port.postMessage({ ended: 7 })
    await expect(led).resolves.toBe(7)
    port.close()
  })

  it('gets no batch which the leader would be done with sooner', async () => {
    const { batches, led, port, received, finish } = helping(4)
    expect(batches.next(false)).toBe(0)
    port.postMessage({ ready: true })
    // The third would begin when the leader, who works on one, could have done it.
    await received(1, 2)
    finish(1)
    await received(1, 2, 3, 'end')
    port.postMessage({ ended: 7 })
    await expect(led).resolves.toBe(7)
    port.close()
  })
})

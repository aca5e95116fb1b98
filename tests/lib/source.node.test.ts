// Many short ranges of one file.

import { describe, expect, it } from 'vitest'
import { readRanges, type ByteRange, type ByteSource } from '../../dist/lib/source.js'

/** Byte i is i % 251. Counts how many reads there are, and are at a time, and their bytes. */
class CountingSource implements ByteSource {
  readonly name = 'counted'
  readonly readsIntoMemory = false
  readonly bytesPerCall = 1000
  reads = 0
  bytes = 0
  atOnce = 0
  #open = 0

  constructor(readonly size: number) {}

  async read(offset: number, length: number): Promise<Uint8Array> {
    if (offset + length > this.size) throw new Error('behind the end')
    this.reads++
    this.bytes += length
    this.atOnce = Math.max(this.atOnce, ++this.#open)
    await new Promise(resolve => setTimeout(resolve))
    this.#open--
    return Uint8Array.from({ length }, (_, i) => (offset + i) % 251)
  }

  async close(): Promise<void> {}
}

const expected = (ranges: readonly ByteRange[]): Uint8Array => Uint8Array.from(ranges.flatMap(({ offset, length }) => Array.from({ length }, (_, i) => (offset + i) % 251)))

describe('short ranges', () => {
  it('come in the order that they are asked for in, whatever theirs in the file', async () => {
    const source = new CountingSource(100_000)
    const ranges = [
      { offset: 60_000, length: 4 },
      { offset: 12, length: 2 },
      { offset: 99_998, length: 2 },
      { offset: 13, length: 8 },
      { offset: 12, length: 1 },
      { offset: 900, length: 0 },
    ]
    expect(await readRanges(source, ranges)).toEqual(expected(ranges))
  })

  it('are read together where they are near', async () => {
    const source = new CountingSource(100_000)
    // A hundred that are 500 bytes apart, but for one gap of 1001 bytes and one of 1000.
    let offset = 0
    const ranges = Array.from({ length: 100 }, (_, i) => ({ offset: (offset += i === 30 ? 1003 : i === 60 ? 1002 : 500), length: 2 }))
    expect(await readRanges(source, ranges)).toEqual(expected(ranges))
    expect(source.reads).toBe(2)
  })

  it('are a few reads of bounded length at a time', async () => {
    const source = new CountingSource(40 << 20)
    const ranges = Array.from({ length: 50_000 }, (_, i) => ({ offset: i * 800, length: 2 }))
    expect(await readRanges(source, ranges)).toEqual(expected(ranges))
    expect(source.reads).toBe(Math.ceil((50_000 * 800) / 2 ** 20))
    expect(source.atOnce).toBe(8)
    // Far apart, nothing is read along.
    const sparse = new CountingSource(40 << 20)
    await readRanges(sparse, Array.from({ length: 100 }, (_, i) => ({ offset: i * 400_000, length: 2 })))
    expect(sparse.bytes).toBe(200)
    expect(sparse.atOnce).toBe(8)
  })

  it('reject when a read does', async () => {
    await expect(readRanges(new CountingSource(10), [{ offset: 8, length: 4 }])).rejects.toThrow('behind the end')
    expect(await readRanges(new CountingSource(10), [])).toEqual(new Uint8Array())
  })
})

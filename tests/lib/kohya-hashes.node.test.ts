// A kohya file's hashes of itself, made of pieces of it.

import { createHash } from 'node:crypto'
import { expect, it } from 'vitest'
import { KohyaHashes } from '../../dist/lib/kohya-hashes.js'
import type { Sink } from '../../dist/lib/sink.js'

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const bytesOf = (length: number, seed: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 13) & 255)

it.each([
  ['the header is short', 480, 450, 1_300_000],
  ['the tensors end within what the old hash takes', 480, 450, 1_060_000],
  ['the tensors end before it', 480, 450, 900_000],
  ['the header ends within it', 1_060_100, 1_060_000, 80_000],
  ['the header ends behind it', 1_200_000, 1_190_000, 5000],
])('are those of the whole file where %s', async (_, headerBytes, legacyHeaderBytes, dataBytes) => {
  const file = bytesOf(headerBytes + dataBytes, 1)
  const legacyHeader = bytesOf(legacyHeaderBytes, 2)
  const data = file.subarray(headerBytes)
  // As sd-scripts defines them, of the file before the hashes were in its header.
  const before = Buffer.concat([legacyHeader, data])
  for (const piece of [4096, 99_991, 5_000_000]) {
    const hashes = await KohyaHashes.create({ areWritten: true, dataBegin: headerBytes, modelAt: 40, legacyAt: 200, legacyHeader }, async () => {
      const hash = createHash('sha256')
      return { update: bytes => void hash.update(bytes), digest: () => hash.digest('hex') }
    })
    for (let begin = 0; begin < file.length; begin += piece) hashes.update(file.subarray(begin, begin + piece))
    const written: [number, string][] = []
    await hashes.write({ rewrite: async (offset: number, bytes: Uint8Array) => void written.push([offset, new TextDecoder().decode(bytes)]) } as Sink)
    expect(written).toEqual([
      [40, sha256(data)],
      [200, sha256(before.subarray(0x10_0000, 0x11_0000)).slice(0, 8)],
    ])
  }
})

// What a kohya file says its own tensors hash to. Source: kohya-ss/sd-scripts, library/train_util.py,
// precalculate_safetensors_hashes.

import type { HashesValue } from './generated/core-single.mjs'
import { hashOf, type CreateHasher } from './hash.js'
import type { Sink } from './sink.js'
import type { ByteSource } from './source.js'

/** The bytes that the old hash of Stable Diffusion's user interfaces looks at. */
const legacyBegin = 0x10_0000
const legacyEnd = 0x11_0000

/** That part of the file as it would be with a shorter header, or less where it ends before. */
async function legacyPart(file: ByteSource, dataBegin: number, header: Uint8Array): Promise<Uint8Array[]> {
  const inFile = (offset: number): number => Math.min(file.size, dataBegin + Math.max(0, offset - header.length))
  const begin = inFile(legacyBegin)
  return [header.subarray(legacyBegin, legacyEnd), await file.read(begin, inFile(legacyEnd) - begin)]
}

/** Writes both hashes into the header of the sink's current file, which is complete but for them. */
export async function writeHashes({ dataBegin, modelAt, legacyAt, legacyHeader }: HashesValue, sink: Sink, createHasher: CreateHasher, checkpoint: () => Promise<void>): Promise<void> {
  const legacy = await createHasher()
  const file = await sink.written()
  for (const bytes of await legacyPart(file, dataBegin, legacyHeader)) legacy.update(bytes)
  const model = await hashOf(file, createHasher, checkpoint, dataBegin)
  const text = new TextEncoder()
  await sink.rewrite(modelAt, text.encode(model))
  await sink.rewrite(legacyAt, text.encode(legacy.digest().slice(0, 8)))
}

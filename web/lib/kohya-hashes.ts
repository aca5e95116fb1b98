// What a kohya file says its own tensors hash to. Source: kohya-ss/sd-scripts, library/train_util.py,
// precalculate_safetensors_hashes.

import type { HashesValue } from './generated/core-single.mjs'
import type { CreateHasher, Hasher } from './hash.js'
import { mustReadBack, type Sink } from './sink.js'

/** The bytes that the old hash of Stable Diffusion's user interfaces looks at. */
const legacyBegin = 0x10_0000
const legacyEnd = 0x11_0000

/** Hashes a file while it is written. */
export class KohyaHashes {
  readonly #hashes: Omit<HashesValue, 'legacyHeader'>
  readonly #model: Hasher
  readonly #legacy: Hasher
  /** Of the file: what the old hash takes of its tensors. It looks at the file as it would be with a shorter header. */
  readonly #legacyRange: readonly [number, number]
  /** Of the file, bytes so far. */
  #position = 0

  private constructor(hashes: HashesValue, model: Hasher, legacy: Hasher) {
    const { legacyHeader, ...places } = hashes
    this.#hashes = places
    this.#model = model
    this.#legacy = legacy
    legacy.update(legacyHeader.subarray(legacyBegin, legacyEnd))
    const inFile = (offset: number): number => places.dataBegin + Math.max(0, offset - legacyHeader.length)
    this.#legacyRange = [inFile(legacyBegin), inFile(legacyEnd)]
  }

  static async create(hashes: HashesValue, createHasher: CreateHasher): Promise<KohyaHashes> {
    return new KohyaHashes(hashes, await createHasher(), await createHasher())
  }

  /** Takes the next bytes of the file, which begin with its header. */
  update(bytes: Uint8Array): void {
    const within = (begin: number, end: number): Uint8Array => bytes.subarray(Math.max(0, begin - this.#position), Math.max(0, end - this.#position))
    this.#model.update(within(this.#hashes.dataBegin, Infinity))
    this.#legacy.update(within(...this.#legacyRange))
    this.#position += bytes.length
  }

  /** Writes both hashes into the header of the sink's current file, which is complete but for them. */
  async write(sink: Sink): Promise<void> {
    const text = new TextEncoder()
    await sink.rewrite(this.#hashes.modelAt, text.encode(this.#model.digest()))
    await sink.rewrite(this.#hashes.legacyAt, text.encode(this.#legacy.digest().slice(0, 8)))
  }
}

/** A file on its way into a sink. */
export interface FileWriter {
  /** Takes the next bytes, as Sink.write() does. */
  write(bytes: Uint8Array): Promise<void>
  /** Writes what is only known when all bytes are. */
  complete(): Promise<void>
}

/** Writes the sink's next file, which is to have `hashes` of itself in its header. Rejects with not_supported where the sink only goes forward. */
export async function fileWriter(sink: Sink, hashes: HashesValue | undefined, createHasher: CreateHasher): Promise<FileWriter> {
  if (!hashes) return { write: bytes => sink.write(bytes), complete: () => Promise.resolve() }
  mustReadBack(sink, "a kohya file's hashes of itself are written last, into its header")
  const made = await KohyaHashes.create(hashes, createHasher)
  return {
    write: bytes => {
      made.update(bytes)
      return sink.write(bytes)
    },
    complete: () => made.write(sink),
  }
}

// SHA-256 of files: a digest that is fed piece by piece, which the browser's own crypto does not offer.

import type { ByteSource } from './source.js'

export interface Hasher {
  update(bytes: Uint8Array): void
  /** In hexadecimal. */
  digest(): string
}
/** What it needs may have to be loaded first. */
export type CreateHasher = () => Promise<Hasher>

// Long enough to read at full speed, short enough for memory.
const pieceBytes = 4 << 20

/** Hashes whole files for a call, and counts the time that takes beside its work. */
export class FileHasher {
  /** Wall time in seconds. */
  seconds = 0
  readonly #createHasher: CreateHasher
  readonly #checkpoint: () => Promise<void>

  constructor(createHasher: CreateHasher, checkpoint: () => Promise<void>) {
    this.#createHasher = createHasher
    this.#checkpoint = checkpoint
  }

  async digest(source: ByteSource): Promise<string> {
    const begun = performance.now()
    const hasher = await this.#createHasher()
    const space = new Uint8Array(Math.min(pieceBytes, source.size))
    for (let offset = 0; offset < source.size; offset += space.length) {
      await this.#checkpoint()
      const length = Math.min(space.length, source.size - offset)
      hasher.update(await source.read(offset, length, space.subarray(0, length)))
    }
    this.seconds += (performance.now() - begun) / 1000
    return hasher.digest()
  }
}

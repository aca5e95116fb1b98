// SHA-256 of files, as they are read or written: a digest that is fed piece by piece, which the browser's own
// crypto does not offer.

import type { ByteSource } from './source.js'
import type { Sink } from './sink.js'

export interface Hasher {
  update(bytes: Uint8Array): void
  /** In hexadecimal. */
  digest(): string
}
export type CreateHasher = () => Hasher

// Long enough to read at full speed, short enough for memory.
const pieceBytes = 4 << 20

/** Digest of a whole file. `checkpoint` is called before each piece. */
export async function hashOf(source: ByteSource, createHasher: CreateHasher, checkpoint: () => Promise<void>): Promise<string> {
  const hasher = createHasher()
  const space = new Uint8Array(Math.min(pieceBytes, source.size))
  for (let offset = 0; offset < source.size; offset += space.length) {
    await checkpoint()
    const length = Math.min(space.length, source.size - offset)
    hasher.update(await source.read(offset, length, space.subarray(0, length)))
  }
  return hasher.digest()
}

/** Digests of what passes through to a sink, one for each of its files. */
export class HashingSink implements Sink {
  readonly #hashers: Hasher[] = []

  constructor(
    private readonly sink: Sink,
    private readonly createHasher: CreateHasher,
  ) {}

  get digests(): string[] {
    return this.#hashers.map(hasher => hasher.digest())
  }

  begin(...args: Parameters<Sink['begin']>): ReturnType<Sink['begin']> {
    this.#hashers.push(this.createHasher())
    return this.sink.begin(...args)
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#hashers.at(-1)?.update(bytes)
    return this.sink.write(bytes)
  }

  finish(): ReturnType<Sink['finish']> {
    return this.sink.finish()
  }

  abort(): Promise<void> {
    return this.sink.abort()
  }
}

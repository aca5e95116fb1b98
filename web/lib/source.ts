// Where bytes come from: a file that can be read by ranges, without ever being in memory as a whole.

import { MergeError, messageOf } from './error.js'

/** A file as it crosses to the worker: a handle, never its bytes. */
export type FileReference =
  | { readonly name: string; readonly blob: Blob }
  /** A path of Node's file system. */
  | { readonly name: string; readonly path: string }

/** An open file. */
export interface ByteSource {
  readonly name: string
  /** Size in bytes. */
  readonly size: number
  /** Whether read() puts bytes into the space that it is given. */
  readonly readsIntoMemory: boolean
  /** Bytes that are read in about the time that one more call of read() takes. */
  readonly bytesPerCall: number
  /**
   * The bytes [offset, offset + length), in `space`, which has that length, where readsIntoMemory says so. Rejects with read_failed; never gives fewer.
   */
  read(offset: number, length: number, space?: Uint8Array): Promise<Uint8Array>
  close(): Promise<void>
}

/** Opens a file reference; the platform decides which kinds it can. */
export type OpenSource = (reference: FileReference) => Promise<ByteSource>

/** A Blob or File, of a browser or of Node. */
export class BlobSource implements ByteSource {
  readonly name: string
  readonly readsIntoMemory = false
  // Measured in Chromium: 0.3 ms, in which it reads as much.
  readonly bytesPerCall = 256 << 10
  readonly #blob: Blob

  constructor(name: string, blob: Blob) {
    this.name = name
    this.#blob = blob
  }

  get size(): number {
    return this.#blob.size
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    let bytes: Uint8Array
    try {
      bytes = new Uint8Array(await this.#blob.slice(offset, offset + length).arrayBuffer())
    } catch (error) {
      throw readFailed(this.name, messageOf(error), error)
    }
    if (bytes.length !== length) throw readFailed(this.name, `got ${bytes.length} of ${length} bytes`)
    return bytes
  }

  async close(): Promise<void> {}
}

/** A part of a file, in bytes. */
export interface ByteRange {
  readonly offset: number
  readonly length: number
}

// Of what is read along with short ranges: no more than this is in memory at a time.
const largestRead = 1 << 20
const readsAtOnce = 8

/** The bytes of many short ranges, one range after the other. Those that lie near each other are read in one go. */
export async function readRanges(source: ByteSource, ranges: readonly ByteRange[]): Promise<Uint8Array<ArrayBuffer>> {
  const places: { readonly range: ByteRange; readonly at: number }[] = []
  let size = 0
  for (const range of ranges) {
    places.push({ range, at: size })
    size += range.length
  }
  places.sort((x, y) => x.range.offset - y.range.offset)
  const reads: { readonly begin: number; end: number; readonly places: typeof places }[] = []
  for (const place of places) {
    const begin = place.range.offset
    const end = begin + place.range.length
    const last = reads.at(-1)
    if (last && begin <= last.end + source.bytesPerCall && end <= last.begin + largestRead) {
      last.end = Math.max(last.end, end)
      last.places.push(place)
    } else {
      reads.push({ begin, end, places: [place] })
    }
  }
  const result = new Uint8Array(size)
  const open = reads.values()
  const readOn = async (): Promise<void> => {
    for (const { begin, end, places } of open) {
      const bytes = await source.read(begin, end - begin)
      for (const { range, at } of places) result.set(bytes.subarray(range.offset - begin, range.offset - begin + range.length), at)
    }
  }
  await Promise.all(Array.from({ length: readsAtOnce }, readOn))
  return result
}

export function readFailed(file: string, why: string, cause?: unknown): MergeError {
  return new MergeError({ code: 'read_failed', message: `'${file}': could not be read (${why}); was it moved or changed?`, file }, { cause })
}

/** Opens what every platform has. */
export async function openBlob(reference: FileReference): Promise<ByteSource> {
  if ('blob' in reference) return new BlobSource(reference.name, reference.blob)
  throw new MergeError({ code: 'bad_input', message: `'${reference.name}': paths can only be opened in Node`, file: reference.name })
}

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

export function readFailed(file: string, why: string, cause?: unknown): MergeError {
  return new MergeError({ code: 'read_failed', message: `'${file}': could not be read (${why}); was it moved or changed?`, file }, { cause })
}

/** Opens what every platform has. */
export async function openBlob(reference: FileReference): Promise<ByteSource> {
  if ('blob' in reference) return new BlobSource(reference.name, reference.blob)
  throw new MergeError({ code: 'bad_input', message: `'${reference.name}': paths can only be opened in Node`, file: reference.name })
}

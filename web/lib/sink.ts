// Where merged bytes go, in file order.

import { MergeError } from './error.js'
import { openBlob, type ByteSource } from './source.js'

/** Name and size in bytes of a file of the result. */
export interface OutputFile {
  readonly name: string
  readonly size: number
}

/** Takes the files of a result one after the other. */
export interface Sink {
  /** Whether written() and rewrite() work: not in a stream that only goes forward. */
  readonly readsBack: boolean
  /** Starts the next file. */
  begin(file: OutputFile): Promise<void>
  /** Appends to it. The bytes are only valid until this returns: they lie in the core's memory. */
  write(bytes: Uint8Array): Promise<void>
  /** Puts bytes in the place of others that it has since `offset`. */
  rewrite(offset: number, bytes: Uint8Array): Promise<void>
  /** What it has until now, to be read until the sink is used again; it needs no closing. */
  written(): Promise<ByteSource>
  /** Ends the last file; the result is complete. */
  finish(): Promise<SinkResult>
  /** Gives up: nothing is left behind. */
  abort(): Promise<void>
}

/** The files of a result, or the file or folder that they were written to. */
export type SinkResult = { readonly files: readonly { readonly name: string; readonly blob: Blob }[] } | { readonly path: string }

/** Where a caller wants the result: in memory; in a folder, or in a file where the result is one; in a stream. */
export type OutputReference =
  | { readonly kind: 'memory' }
  /** Node. */
  | { readonly kind: 'path'; readonly path: string }
  /** Browsers. */
  | { readonly kind: 'handle'; readonly handle: FileSystemDirectoryHandle | FileSystemFileHandle }
  | { readonly kind: 'stream'; readonly stream: WritableStream<Uint8Array> }

/** Opens an output for files of these names; the platform decides which kinds it can. */
export type OpenSink = (output: OutputReference, names: readonly string[]) => Promise<Sink>

/** Refuses a sink that only goes forward, for `why`. */
export function mustReadBack(sink: Sink, why: string): void {
  if (!sink.readsBack) throw new MergeError({ code: 'not_supported', message: `${why}, which a stream does not allow: write to a file or to memory` })
}

/** The sink, with whatever it throws turned into what `failure` makes of it. Giving up throws nothing. */
export function guarded(sink: Sink, failure: (error: unknown) => MergeError): Sink {
  const guard = async <T>(work: Promise<T>): Promise<T> =>
    work.catch((error: unknown) => {
      throw failure(error)
    })
  return {
    readsBack: sink.readsBack,
    begin: file => guard(sink.begin(file)),
    write: bytes => guard(sink.write(bytes)),
    rewrite: (offset, bytes) => guard(sink.rewrite(offset, bytes)),
    written: () => guard(sink.written()),
    finish: () => guard(sink.finish()),
    abort: () => sink.abort(),
  }
}

/** Collects files as Blobs: a browser keeps those outside of any page's or worker's heap. */
export class BlobSink implements Sink {
  readonly readsBack = true
  readonly #files: { name: string; parts: Blob[] }[] = []

  async begin(file: OutputFile): Promise<void> {
    this.#files.push({ name: file.name, parts: [] })
  }

  async write(bytes: Uint8Array): Promise<void> {
    // A view of shared memory cannot go into a Blob: slice() copies it out.
    this.#files.at(-1)?.parts.push(new Blob([bytes.slice()]))
  }

  async rewrite(offset: number, bytes: Uint8Array): Promise<void> {
    const file = this.#files.at(-1)
    if (!file) return
    const whole = new Blob(file.parts)
    file.parts = [whole.slice(0, offset), new Blob([bytes.slice()]), whole.slice(offset + bytes.length)]
  }

  async written(): Promise<ByteSource> {
    const { name = '', parts = [] } = this.#files.at(-1) ?? {}
    return openBlob({ name, blob: new Blob(parts) })
  }

  async finish(): Promise<SinkResult> {
    return { files: this.#files.map(({ name, parts }) => ({ name, blob: new Blob(parts) })) }
  }

  async abort(): Promise<void> {
    this.#files.length = 0
  }
}

// Sinks of a browser that take a result as it appears: files that the user has chosen, and streams.

import { MergeError, messageOf } from './error.js'
import { guarded, type OutputFile, type OutputReference, type Sink, type SinkResult } from './sink.js'
import { openBlob, type ByteSource } from './source.js'

/** A file of a result, and whether it was there before. */
interface HandledFile {
  readonly name: string
  readonly handle: FileSystemFileHandle
  readonly isNew: boolean
  /** Writes to a copy, which takes the file's place when it is closed. */
  writable: FileSystemWritableFileStream | undefined
}

/** Writes into a folder, or, for results of one file, into that file. */
class HandleSink implements Sink {
  readonly readsBack = true
  readonly #target: FileSystemDirectoryHandle | FileSystemFileHandle
  readonly #files: HandledFile[] = []
  #position = 0

  constructor(target: FileSystemDirectoryHandle | FileSystemFileHandle) {
    this.#target = target
  }

  async begin({ name }: OutputFile): Promise<void> {
    const file = await this.#open(name)
    this.#files.push(file)
    file.writable = await file.handle.createWritable()
    this.#position = 0
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.rewrite(this.#position, bytes)
    this.#position += bytes.length
  }

  async rewrite(position: number, bytes: Uint8Array): Promise<void> {
    const file = this.#files.at(-1)
    if (!file) return
    file.writable ??= await file.handle.createWritable({ keepExistingData: true })
    // A view of shared memory is not accepted: slice() copies it out.
    await file.writable.write({ type: 'write', position, data: bytes.slice() })
  }

  async written(): Promise<ByteSource> {
    const file = this.#files.at(-1) as HandledFile
    await this.#close(file)
    return openBlob({ name: file.name, blob: await file.handle.getFile() })
  }

  async finish(): Promise<SinkResult> {
    for (const file of this.#files) await this.#close(file)
    return { path: this.#target.name }
  }

  async abort(): Promise<void> {
    for (const { name, isNew, writable } of this.#files) {
      await writable?.abort().catch(() => undefined)
      if (isNew && this.#target.kind === 'directory') await this.#target.removeEntry(name).catch(() => undefined)
    }
  }

  async #open(name: string): Promise<HandledFile> {
    const target = this.#target
    if (target.kind === 'file') return { name: target.name, handle: target, isNew: false, writable: undefined }
    const isThere = await target.getFileHandle(name).then(
      () => true,
      () => false,
    )
    return { name, handle: await target.getFileHandle(name, { create: true }), isNew: !isThere, writable: undefined }
  }

  async #close(file: HandledFile): Promise<void> {
    await file.writable?.close()
    file.writable = undefined
  }
}

/** Writes one file to a stream, as fast as that takes it. */
class StreamSink implements Sink {
  readonly readsBack = false
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>
  #name = ''

  constructor(stream: WritableStream<Uint8Array>) {
    this.#writer = stream.getWriter()
  }

  async begin({ name }: OutputFile): Promise<void> {
    this.#name = name
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#writer.ready
    // The stream may keep what it gets; the core's memory goes on to change.
    await this.#writer.write(bytes.slice())
  }

  async rewrite(): Promise<void> {
    throw forwardOnly()
  }

  async written(): Promise<ByteSource> {
    throw forwardOnly()
  }

  async finish(): Promise<SinkResult> {
    await this.#writer.close()
    return { path: this.#name }
  }

  async abort(): Promise<void> {
    await this.#writer.abort().catch(() => undefined)
  }
}

const forwardOnly = (): MergeError => new MergeError({ code: 'not_supported', message: 'a stream cannot be read back, as hashes need it' })

/** Opens what only browsers have. Errors: write_failed where the result has more files than the output takes. */
export function openHandle(output: Extract<OutputReference, { kind: 'handle' | 'stream' }>, names: readonly string[]): Sink {
  const takesOne = output.kind === 'stream' || output.handle.kind === 'file'
  if (takesOne && names.length > 1) {
    throw new MergeError({ code: 'write_failed', message: `the result is ${names.join(' and ')}: give a folder's handle, not ${output.kind === 'stream' ? 'a stream' : "a file's"}` })
  }
  return guarded(output.kind === 'stream' ? new StreamSink(output.stream) : new HandleSink(output.handle), writeFailed)
}

function writeFailed(error: unknown): MergeError {
  if (error instanceof MergeError) return error
  return new MergeError({ code: 'write_failed', message: `the result could not be written (${messageOf(error)})` }, { cause: error })
}

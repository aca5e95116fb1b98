// What differs between a browser and Node, as seen by the caller's side of the library.

import type { FileReference } from './source.js'
import type { OutputReference } from './sink.js'
import type { Reply, Request } from './protocol.js'

/** A started worker. */
export interface WorkerHandle {
  /** `lines`: message ports and streams among what is sent, which then belong to the worker. */
  post(request: Request, lines?: readonly Transferable[]): void
  /** `failed` is called with the reason when the worker cannot load, crashes, or sends what cannot be read. */
  listen(receive: (reply: Reply) => void, failed: (reason: string) => void): void
  terminate(): void
  /** Node: whether the worker keeps the process alive. An idle one should not. */
  hold?(busy: boolean): void
}

/** The two builds of the core. */
export type Variant = 'single' | 'threads'

/** What a worker is started with. `threads` is 1 in the variant `single`. */
export interface WorkerSettings {
  readonly threads: number
  readonly variant: Variant
  /** Run on the core's readable kernels: the same bytes, about ten times slower. */
  readonly reference: boolean
}

export interface Platform {
  /** Processor cores. */
  readonly cores: number
  /** Bytes of memory of the machine, as far as is known. */
  readonly memory: number
  /** Whether shared memory can really be used by several threads. */
  readonly canShareMemory: boolean
  /** Whether files are read into memory that is given, which has to be shared: the variant `threads` is then better for one thread, too. */
  readonly readsIntoMemory: boolean
  startWorker(settings: WorkerSettings): WorkerHandle
  /** Files behind a string or URL, where the platform has a file system. */
  resolvePath?(path: string | URL): Promise<PathFiles>
  /** Checks where the result is to go before anything is read. */
  checkOutput?(output: OutputReference, inputs: readonly FileReference[]): Promise<void>
}

/** A path, resolved: the files of a folder, or one file with those beside it that belong to it. */
export interface PathFiles {
  readonly label: string
  readonly isFolder: boolean
  readonly files: readonly FileReference[]
}

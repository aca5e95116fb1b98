// The one error class of the library, and the codes that only this side of the core can give.

import { coreErrorCodes, type CoreErrorCode } from './generated/registry.js'

const libraryErrorCodes = {
  bad_input: 'An input is no adapter: not a file, or a list of files without exactly one tensor file.',
  not_found: 'A file or folder does not exist.',
  read_failed: 'A file could not be read, or changed while it was read.',
  write_failed: 'The result could not be written.',
  output_is_input: 'The output would replace one of the inputs.',
  not_supported: 'This browser or runtime lacks something that the merge needs.',
  asset_not_found: 'A file of the library itself could not be loaded.',
  worker_failed: 'The worker died before it answered.',
  bad_part: 'A part of a merge is damaged, missing, given twice or of another merge.',
  closed: 'The merger was closed.',
} as const

/** Every code that an error of this library can have. */
export type MergeErrorCode = CoreErrorCode | keyof typeof libraryErrorCodes

/** Every code with what it means, for documentation and translations. */
export const errorCodes: Readonly<Record<MergeErrorCode, string>> = { ...coreErrorCodes, ...libraryErrorCodes }

/** An error as it crosses from the worker: plain data. */
export interface ErrorData {
  readonly code: MergeErrorCode
  readonly message: string
  readonly file?: string
  readonly tensor?: string
  readonly offset?: number
}

/**
 * Why a call was refused or failed. Cancelling is not one: an aborted call rejects with its signal's reason.
 */
export class MergeError extends Error {
  override readonly name = 'MergeError'
  /** One of a fixed list; stable across versions. */
  readonly code: MergeErrorCode
  /** Name of the file that is wrong, if one is. */
  readonly file?: string
  /** Name of the tensor that is wrong, if one is. */
  readonly tensor?: string
  /** Byte offset in the file, if one is known. */
  readonly offset?: number

  constructor(data: ErrorData, options?: ErrorOptions) {
    super(data.message, options)
    this.code = data.code
    if (data.file !== undefined) this.file = data.file
    if (data.tensor !== undefined) this.tensor = data.tensor
    if (data.offset !== undefined) this.offset = data.offset
  }

  /** The error as plain data, for a message to another thread or for JSON. */
  toJSON(): ErrorData {
    return {
      code: this.code,
      message: this.message,
      ...(this.file !== undefined && { file: this.file }),
      ...(this.tensor !== undefined && { tensor: this.tensor }),
      ...(this.offset !== undefined && { offset: this.offset }),
    }
  }
}

/** The text of whatever was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}

export const cancelledError = (): MergeError => new MergeError({ code: 'cancelled', message: 'The work was cancelled.' })

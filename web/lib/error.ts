// The one error class of the library.

import type { MergeErrorCode } from './error-codes.js'

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

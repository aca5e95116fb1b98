// What the core answers in the place of exceptions.

import { MergeError } from './error.js'
import type { MergeErrorCode } from './error-codes.js'
import type { ErrorValue } from './generated/core-single.mjs'

/** Throws if the core's answer is an error. */
export function checkCore(error: ErrorValue): void {
  if (error.code === '') return
  throw new MergeError({
    code: error.code as MergeErrorCode,
    message: error.message,
    ...(error.file && { file: error.file }),
    ...(error.tensor && { tensor: error.tensor }),
    ...(error.offset >= 0 && { offset: error.offset }),
  })
}

// What can go wrong: the core's codes, and those that only this side of it can give.

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

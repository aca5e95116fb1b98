// Scripts of the library that are loaded when they are needed.

import { MergeError, messageOf } from './error.js'

/** What `script`, an import(), gives. Rejects with asset_not_found. */
export async function loaded<T>(script: Promise<T>): Promise<T> {
  return script.catch((error: unknown) => {
    throw new MergeError({ code: 'asset_not_found', message: `a script of the library could not be loaded: ${messageOf(error)}` }, { cause: error })
  })
}

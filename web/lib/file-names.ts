// What the names of tensor files end with, in any format.

import { formatFiles } from './generated/registry.js'

const endings = [...new Set(formatFiles.map(({ tensorFile }) => tensorFile.slice(tensorFile.lastIndexOf('.') + 1)))]
const ending = new RegExp(`\\.(${endings.join('|')})$`)

/** Whether a path is that of a tensor file rather than of a folder. */
export const namesFile = (path: string): boolean => ending.test(path)

/** A tensor file's name without what tells its format. */
export const withoutEnding = (name: string): string => name.replace(ending, '')

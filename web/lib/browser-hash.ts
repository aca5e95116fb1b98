// SHA-256 in browsers: @noble/hashes (MIT), which the build puts beside the library because a page without a
// bundler cannot resolve package names.

import { bytesToHex } from './generated/noble-hashes/utils.js'
import { sha256 } from './generated/noble-hashes/sha2.js'
import type { Hasher } from './hash.js'

export function createHasher(): Hasher {
  const hash = sha256.create()
  // A view of shared memory is as good as any: the bytes are consumed at once.
  return { update: bytes => void hash.update(bytes), digest: () => bytesToHex(hash.digest()) }
}

// How the build with threads is started.

const page = 65536

/** What the glue of core-threads takes. */
export interface ThreadSettings {
  readonly pthreadPoolSize: number
  readonly pthreadScript: URL
  readonly wasmMemory: WebAssembly.Memory
}

/** `script`: address of the glue itself, which each further thread loads. */
export function threadSettings(threads: number, script: URL): ThreadSettings {
  return { pthreadPoolSize: threads - 1, pthreadScript: script, wasmMemory: largestMemory() }
}

/**
 * Shared memory must say how large it may become, and phones refuse the 4 GB that a desktop grants: the
 * first size that is granted counts. The core links with 16 MB to start with.
 */
function largestMemory(): WebAssembly.Memory {
  let refusal: unknown
  for (let maximum = 65536; maximum >= 4096; maximum /= 2) {
    try {
      return new WebAssembly.Memory({ initial: (16 << 20) / page, maximum, shared: true })
    } catch (error) {
      refusal = error
    }
  }
  throw refusal
}

// What a finished merge gives: files, tensors, report.

import type { MergeAnswer, TensorValue } from './protocol.js'
import type { MergeReport, ModuleReport } from './report.js'

/** One merged tensor. Its values are read when they are asked for, so a merge costs no memory here. */
export interface MergedTensor {
  readonly dtype: 'F64' | 'F32' | 'F16' | 'BF16' | 'Q8_0'
  readonly shape: readonly number[]
  /** The values; those of F16 and BF16 as 16-bit patterns, which is how inference runtimes take them, and Q8_0 as ggml's blocks. */
  data(): Promise<Float64Array | Float32Array | Uint16Array | Uint8Array>
}

export interface MergeResult {
  /** The tensor file, and the config where the format has one; none where they were written to disk. */
  readonly files: readonly File[]
  /** The merged factors by their names; none where they were written to disk. */
  readonly tensors: ReadonlyMap<string, MergedTensor>
  readonly report: MergeReport
}

export function resultOf({ frame, tensors, output }: MergeAnswer, modules: readonly ModuleReport[]): MergeResult {
  const files = 'files' in output ? output.files.map(({ name, blob }) => new File([blob], name)) : []
  const [tensorFile] = files
  return {
    files,
    tensors: new Map(tensorFile ? tensors.map(tensor => [tensor.name, tensorOf(tensorFile, tensor)]) : []),
    report: { ...frame, modules },
  }
}

function tensorOf(file: Blob, { dtype, shape, begin, end }: TensorValue): MergedTensor {
  const types = { F64: Float64Array, F32: Float32Array, F16: Uint16Array, BF16: Uint16Array, Q8_0: Uint8Array }
  const known = dtype as keyof typeof types
  return { dtype: known, shape, data: async () => new types[known](await file.slice(begin, end).arrayBuffer()) }
}

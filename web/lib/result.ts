// What a finished merge gives: files, tensors, report.

import type { Job, MergeOutcome, PlanData, TensorValue } from './protocol.js'
import type { ReportValue } from './generated/core-single.mjs'

/** One merged tensor. Its values are read when they are asked for, so a merge costs no memory here. */
export interface MergedTensor {
  readonly dtype: 'F64' | 'F32' | 'F16' | 'BF16'
  readonly shape: readonly number[]
  /** The values; those of F16 and BF16 as 16-bit patterns, which is how inference runtimes take them. */
  data(): Promise<Float64Array | Float32Array | Uint16Array>
}

/** How one module was merged. */
export interface ModuleReport extends ReportValue {
  readonly module: string
  readonly kind: string
  readonly in: number
  readonly out: number
  /** Rank of each input in this module; 0 where it lacks the module. */
  readonly ranks: readonly number[]
  /** Sum of the inputs' ranks. */
  readonly units: number
  /** Rank of the result. */
  readonly rank: number
}

export interface MergeReport {
  /** The recipe with its defaults. */
  readonly recipe: Pick<Job, 'method' | 'rank' | 'seed' | 'scale' | 'dtype' | 'options'>
  readonly inputs: readonly { readonly name: string; readonly weight: number }[]
  readonly modules: readonly ModuleReport[]
  readonly totals: {
    /** Frobenius norm of the difference to the exact weighted sum, over its norm, all modules together. */
    readonly relativeError: number
    readonly inputBytes: number
    readonly outputBytes: number
    /** Wall time from the first byte read to the last one written. */
    readonly seconds: number
    readonly threads: number
    /**
     * The core's memory and the buffers that fed it, in bytes: what `plan().peakBytes` promised. WebAssembly
     * memory never shrinks, so in a merger that has done larger merges before it is theirs.
     */
    readonly memoryBytes: number
  }
  readonly notices: readonly string[]
}

export interface MergeResult {
  /** adapter_model.safetensors and adapter_config.json; none where they were written to a folder. */
  readonly files: readonly File[]
  /** The merged factors by their names; none where they were written to a folder. */
  readonly tensors: ReadonlyMap<string, MergedTensor>
  readonly report: MergeReport
}

export function resultOf(job: Job, outcome: MergeOutcome): MergeResult {
  const files = 'files' in outcome.output ? outcome.output.files.map(({ name, blob }) => new File([blob], name)) : []
  const [tensorFile] = files
  return {
    files,
    tensors: new Map(tensorFile ? outcome.plan.tensors.map(tensor => [tensor.name, tensorOf(tensorFile, tensor)]) : []),
    report: reportOf(job, outcome),
  }
}

function tensorOf(file: Blob, { dtype, shape, begin, end }: TensorValue): MergedTensor {
  const types = { F64: Float64Array, F32: Float32Array, F16: Uint16Array, BF16: Uint16Array }
  const known = dtype as keyof typeof types
  return { dtype: known, shape, data: async () => new types[known](await file.slice(begin, end).arrayBuffer()) }
}

function reportOf(job: Job, { plan, modules, seconds, threads, memoryBytes }: MergeOutcome): MergeReport {
  const merged = plan.modules.map((planned, i) => moduleReport(planned, modules[i] as ReportValue))
  const sumOfSquares = (values: readonly number[]): number => values.reduce((sum, value) => sum + value * value, 0)
  const target = sumOfSquares(merged.map(module => module.targetNorm))
  const error = sumOfSquares(merged.map(module => (module.targetNorm > 0 ? module.relativeError * module.targetNorm : module.norm)))
  const { method, rank, seed, scale, dtype, options } = job
  return {
    recipe: { method, rank, seed, scale, dtype, options },
    inputs: job.adapters.map(({ label }, i) => ({ name: label, weight: job.weights[i] as number })),
    modules: merged,
    totals: {
      relativeError: target > 0 ? Math.sqrt(error / target) : error > 0 ? Infinity : 0,
      inputBytes: plan.inputBytes,
      outputBytes: plan.outputBytes,
      seconds,
      threads,
      memoryBytes,
    },
    notices: plan.notices,
  }
}

function moduleReport({ path, ...planned }: PlanData['modules'][number], report: ReportValue): ModuleReport {
  return { module: path, ...planned, ...report }
}

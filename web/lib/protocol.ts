// What the page or program and its worker say to each other. One map of calls is the whole truth; requests
// and replies are derived from it.

import type { Comparison } from './comparison.js'
import type { ErrorData } from './error.js'
import type { AdapterValue, ModuleRankValue, ModuleWeightValue, OptionText, PlanValue, SurveyValue, TensorValue } from './generated/core-single.mjs'
import type { ExtraKind, Policy, MethodName, MethodOptions } from './generated/registry.js'
import type { Shard } from './shard.js'
import type { ModuleReport, ReportedJob, ReportFrame } from './report.js'
import type { FileReference } from './source.js'
import type { OutputReference, SinkResult } from './sink.js'

/** The files of one adapter. */
export interface AdapterReference {
  readonly label: string
  readonly tensors: FileReference
  readonly config?: FileReference
}

/** How a graph calls the inputs that take an .onnx_adapter's tensors, and how it wants them. */
export interface OnnxLayout {
  /** Names of A and B, `{module}` standing for a module's path. Default: `{module}.lora_A.weight` and `{module}.lora_B.weight`. */
  readonly names?: readonly [a: string, b: string]
  /** `matmul`: A (in x rank) and B (rank x out), as MatMul takes them; `peft`: (rank x in) and (out x rank). Default: matmul. */
  readonly layout?: 'matmul' | 'peft'
}

/**
 * What happens to tensors that are no LoRA factors, by their kind. `refuse`: the merge is refused; `drop`: they are left
 * out; `first`: that of the first adapter; `average`, `sum`: over the adapters that have it, by their weights; `merge`:
 * with the factors, which for DoRA takes the base model's weights. Which of them a kind allows, `extraKinds` says.
 */
export type Policies = { readonly [K in ExtraKind]?: Policy }

/** A recipe with nothing left to default, and its inputs. */
export interface Job {
  readonly adapters: readonly AdapterReference[]
  readonly weights: readonly number[]
  readonly moduleWeights: readonly Readonly<ModuleWeightValue>[]
  readonly method: MethodName
  /** 0: the default. With a rule other than fixed: the most, 0: no limit. */
  readonly rank: number
  readonly rankRule: { readonly kind: string; readonly value: number }
  readonly moduleRanks: readonly Readonly<ModuleRankValue>[]
  readonly seed: number
  readonly scale: number
  readonly dtype: string
  readonly format: string
  readonly onnx: OnnxLayout
  readonly policies: Policies
  /** What is known of the base model: its config.json or GGUF file, its safetensors files. */
  readonly base: readonly FileReference[]
  /** Whether the written file tells where it comes from. */
  readonly metadata: boolean
  /** Converting: the only adapter's scales are written as they are. */
  readonly keepScales: boolean
  readonly options: MethodOptions
  /** The options as the core takes them. */
  readonly coreOptions: readonly Readonly<OptionText>[]
  /** Only this part of the merge, written as a part file. */
  readonly shard?: Shard
}

/** What a finished merge leaves in the worker. */
export interface MergeOutcome {
  readonly plan: PlanData
  /** In the plan's order; of a shard, its own. */
  readonly modules: readonly ModuleReport[]
  /** Of a shard: the size of its file in bytes. */
  readonly part?: { readonly bytes: number }
  readonly output: SinkResult
  readonly seconds: number
  readonly threads: number
  readonly lanes: number
  readonly memoryBytes: number
  /** SHA-256, in hexadecimal, of the adapters' tensor files and of the output files, if they were asked for. */
  readonly hashes?: { readonly inputs: readonly string[]; readonly outputs: readonly string[]; readonly seconds: number }
}

/** What joining parts leaves: what their merge would have, and its job, as far as a report needs it. */
export interface JoinOutcome extends MergeOutcome {
  readonly job: ReportedJob
}

/** What a merge answers. The modules of its report have come before, batch by batch. */
export interface MergeAnswer {
  readonly frame: ReportFrame
  /** Those of the tensor file where that is at hand; of a part, which has bytes of them only, none. */
  readonly tensors: readonly TensorValue[]
  readonly output: SinkResult
}

/** What a look at the weights leaves: the plan with ranks that they suggest, and one survey for each of its modules. */
export interface ComparisonData {
  readonly plan: PlanData
  readonly surveys: readonly SurveyValue[]
}

/** The plan as the core gives it, without what only the worker needs. */
export type PlanData = Omit<PlanValue, 'error' | 'batches' | 'slots'>
export type AdapterData = AdapterValue
export type { TensorValue }

/** What a call may use. */
export interface Effort {
  /** Workers with a core of their own. */
  readonly lanes: number
  /** Bytes; 0: no limit. */
  readonly memory: number
}

/** What a helper does for a call, beside the call's own job. */
export interface AssistRequest {
  /** Whether modules are only looked at. */
  readonly isSurvey: boolean
  readonly inputHashes: readonly string[]
  /** What a survey found (SurveyValue), where the ranks come from one. */
  readonly energies: readonly (readonly number[])[]
}

export interface Calls {
  inspect: { in: { readonly adapter: AdapterReference }; out: AdapterData }
  plan: { in: { readonly job: Job; readonly effort: Effort }; out: PlanData }
  compare: { in: { readonly job: Job; readonly effort: Effort }; out: Comparison }
  merge: { in: { readonly job: Job; readonly effort: Effort; readonly output: OutputReference; readonly hashes: boolean }; out: MergeAnswer }
  /** Takes part in a call of another worker, over a line to that. */
  assist: { in: { readonly job: Job; readonly effort: Effort; readonly request: AssistRequest; readonly port: MessagePort }; out: undefined }
  join: { in: { readonly parts: readonly FileReference[]; readonly output: OutputReference; readonly hashes: boolean }; out: MergeAnswer }
}
export type CallName = keyof Calls

/** From the caller to the worker. */
export type Request = { [C in CallName]: { readonly id: number; readonly call: C; readonly args: Calls[C]['in'] } }[CallName] | { readonly cancel: number } | { readonly helpersOf: number; readonly ports: readonly MessagePort[] }

/** How far a merge has come. */
export interface Progress {
  /** 0 to 1, never falling; 1 only when the result is complete. */
  readonly fraction: number
  /** Modules merged, of `modules`. */
  readonly modulesDone: number
  readonly modules: number
}

/** Where the caller can set a running call's cancel flag itself: a word of shared memory. */
export interface CancelFlag {
  readonly buffer: SharedArrayBuffer
  readonly address: number
}

/** From the worker to the caller. */
export type Reply =
  | { readonly ready: true }
  /** The worker cannot work (any more); every open call fails with this. */
  | { readonly failed: ErrorData }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ErrorData }
  | { readonly id: number; readonly progress: Progress }
  | { readonly id: number; readonly flag: CancelFlag }
  /** Modules of the report, in their order: many at once would keep the caller's thread busy for a while. */
  | { readonly id: number; readonly modules: readonly ModuleReport[] }
  /** The call wants so many helpers. */
  | { readonly id: number; readonly assist: AssistRequest; readonly count: number }

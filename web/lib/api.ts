/// <reference lib="esnext.disposable" preserve="true" />
// The verbs: inspect, compare, plan, merge, and createMerger, which keeps what they need. The same on every platform.

import type { Comparison } from './comparison.js'
import { MergeError } from './error.js'
import { namesFile } from './file-names.js'
import { coreNames, defaultMethod, type ExtraKind, type FormatInfo, type FormatName, type MethodInfo, type MethodName, type MethodOptions } from './generated/registry.js'
import { resolveBase, resolveInput, resolveParts, type MergeInput, type Source } from './input.js'
import type { CallLines, CallOptions } from './lane.js'
import { mostShards, type Shard } from './shard.js'
import type { Platform, WorkerSettings } from './platform.js'
import { Pool } from './pool.js'
import type { AdapterData, Calls, Effort, Job, OnnxLayout, PlanData, Policies, Progress } from './protocol.js'
import type { ModuleReport } from './report.js'
import { resultOf, type MergeResult } from './result.js'
import type { OutputReference } from './sink.js'
import type { FileReference } from './source.js'

/** How adapters are to be merged. Everything has a default; options of other methods are refused. */
export interface Recipe extends MethodOptions {
  /** Default: the first of `methods`, least_interference. */
  readonly method?: MethodName
  /** Rank of the result, for methods that take one: a number, or how to find each module's. Default: the largest rank among the inputs. */
  readonly rank?: number | RankRule
  /** With a rule: the most that a module may get. Default: no limit. */
  readonly maxRank?: number
  /** Ranks, or with a rule the most, of modules whose path a glob matches (`*` and `?`); later entries override earlier ones. */
  readonly moduleRanks?: Readonly<Record<string, number>>
  /** Seed of every random choice, a whole number from 0 to 2^53 - 1. Default: 0. */
  readonly seed?: number
  /** The result is multiplied by this. Default: 1. */
  readonly scale?: number
  /** Type of the written values; `same`: that of the inputs (F16 for those of 8 bits), or F32 where they differ; `q8_0`: GGUF's blocks of 8 bits. Default: same. */
  readonly dtype?: 'same' | 'f64' | 'f32' | 'f16' | 'bf16' | 'q8_0'
  /** File format of the result; `same`: that of the inputs, or, where they are of several, `peft` or `diffusers`. Default: same. */
  readonly format?: 'same' | FormatName
  /**
   * What is known of the base model. Its config.json, or its GGUF file: GGUF adapters that are merged with others, or
   * made from others, need its architecture and its number of heads. Its safetensors files, all of them: DoRA is relative
   * to its weights, which are read module by module. In Node also a path, of a model's folder too.
   */
  readonly base?: Source | readonly Source[]
  /** What happens to tensors that are no LoRA factors, by their kind. Default: all are refused. */
  readonly policies?: Policies
  /** Format onnx: names and shapes of the graph's inputs. */
  readonly onnx?: OnnxLayout
  /**
   * Whether the file tells where it comes from: what the inputs' metadata agree about, and this recipe under
   * the key `lora_lego`. Default: true.
   */
  readonly metadata?: boolean
}

/** What looking at adapters needs of a recipe, and how its call is watched. */
export interface CompareOptions extends Pick<MergeOptions, 'signal' | 'onProgress'>, Pick<Recipe, 'base' | 'policies'> {}

/** How an adapter is to be converted. */
export interface Conversion extends Pick<Recipe, 'dtype' | 'metadata' | 'base' | 'onnx' | 'policies'> {
  readonly format: FormatName
}

/**
 * Ranks from the data, for methods whose `choosesRank` is true. The weights are then read twice.
 * - `auto`: as few ranks as keep 99 % of what all modules do together, a module counting by its norm.
 * - `energy`: as few ranks as keep this share of the squared singular values (or of what the method's own measure is).
 * - `cumulative`: as few as keep this share of the sum of singular values (sd-scripts `sv_cumulative`).
 * - `ratio`: the singular values above the largest divided by this (sd-scripts `sv_ratio`).
 * - `frobenius`: as few as keep this share of the Frobenius norm (sd-scripts `sv_fro`).
 * - `size`: a tensor file of at most this many bytes, ranks going to where they keep most, a module counting by its norm.
 */
export type RankRule = 'auto' | { readonly energy: number } | { readonly cumulative: number } | { readonly ratio: number } | { readonly frobenius: number } | { readonly size: number }

/** A path (Node), a handle of the File System API, or a stream. */
export type Output = string | FileSystemDirectoryHandle | FileSystemFileHandle | WritableStream<Uint8Array>

export interface MergeOptions {
  /** Called as the work proceeds; the last call has fraction 1. */
  readonly onProgress?: (progress: Progress) => void
  /** Stops the work; the call then rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /**
   * Where the result is written to as it appears, instead of to memory. In Node a folder, made if need be, or, for formats
   * of one file, a name that ends in .safetensors, .gguf or .onnx_adapter; it appears there only when it is complete, and
   * files of an adapter that are there already are replaced. In a browser the handle of a folder, or, for formats of one
   * file, of a file; for these also a stream, which is written no faster than it takes, and is aborted when the merge fails.
   */
  readonly output?: Output
  /**
   * Puts the SHA-256 of every input and output file into the report, and those of the inputs into the file's metadata
   * (`lora_lego`): every input is read once more. Default: false.
   */
  readonly hashes?: boolean
  /**
   * Computes only this part of the merge, as one file that join() puts together with the others: many machines can
   * share a merge. All must have the same inputs, recipe, `hashes` and version of this library. The result is that
   * file (in Node, `output` is its folder, or its name in .safetensors), without `tensors`; its report is of this part.
   */
  readonly shard?: Shard
}

export interface MergerOptions {
  /**
   * Threads to work with where shared memory can be used. Default: the number of cores, at most 8, and fewer where there
   * is less than 1 GB of memory for each.
   */
  readonly threads?: number
  /**
   * Workers with a core and memory of their own instead of threads, where modules are shared out among them: what is done
   * on pages that cannot share memory, with as many as there would be threads.
   */
  readonly lanes?: number
  /**
   * Bytes that a merge may take, all workers together. It then takes smaller pieces, and fewer of them at a time; what
   * cannot fit is refused with the number needed (`out_of_memory`). Default: no limit.
   */
  readonly memory?: number
  /** Milliseconds without a call after which workers end and give their memory back; the next call starts new ones. Default: 60000. */
  readonly idle?: number
  /** `reference` runs the readable kernels: the same bytes, about ten times slower. For checks and benchmarks. */
  readonly kernels?: 'fast' | 'reference'
}

/** Where joining parts writes to, and how its call is watched. `hashes`: those of the outputs; the inputs' are there if the parts have them. */
export type JoinOptions = Omit<MergeOptions, 'shard'>

/** What an adapter file holds. */
export type Inspection = AdapterData
/** What a merge will do. */
export type MergePlan = PlanData

/** Keeps workers warm for many calls. */
export interface Merger {
  /** Threads it works with, in each lane. */
  readonly threads: number
  /** Workers among which it shares out the modules of a merge. */
  readonly lanes: number
  /**
   * What an adapter holds, weights unread: modules with ranks and scales, and what a merge would lose.
   * Rejects with MergeError.
   */
  inspect(input: MergeInput, options?: Pick<MergeOptions, 'signal'>): Promise<Inspection>
  /**
   * How adapters stand to each other, and how they are best merged. Reads all weights, and of each input its
   * weight. Of what is no LoRA factor only DoRA's magnitudes count, with the base model's weights. Rejects with MergeError
   * wherever merge() would refuse, or with the signal's reason.
   */
  compare(inputs: readonly MergeInput[], options?: CompareOptions): Promise<Comparison>
  /** What a merge would do, weights unread. Rejects with MergeError wherever merge() would refuse. */
  plan(inputs: readonly MergeInput[], recipe?: Recipe, options?: Pick<MergeOptions, 'signal'>): Promise<MergePlan>
  /** Merges adapters. Rejects with MergeError, or with the signal's reason. */
  merge(inputs: readonly MergeInput[], recipe?: Recipe, options?: MergeOptions): Promise<MergeResult>
  /**
   * Writes one adapter in another format. Its factors stay as they are where no dtype changes and the format
   * can say their scales; otherwise scales are folded into them. Rejects as merge().
   */
  convert(input: MergeInput, conversion: Conversion, options?: MergeOptions): Promise<MergeResult>
  /**
   * Puts the parts of one merge together, in any order: the bytes and the report of the whole merge, but for times and
   * memory. In Node a part may also be a path, of a folder with all of them too. Rejects with bad_part where they are
   * not all parts of one merge.
   */
  join(parts: Source | readonly Source[], options?: JoinOptions): Promise<MergeResult>
  /** Ends the worker and gives its memory back; open calls reject with `closed`. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface Api {
  createMerger: (options?: MergerOptions) => Merger
  inspect: Merger['inspect']
  compare: Merger['compare']
  plan: Merger['plan']
  merge: Merger['merge']
  convert: Merger['convert']
  join: Merger['join']
}

const mostWorkers = 64
// What is used unless asked for; a merge is bound by memory long before more cores help.
const standardWorkers = 8
// A core, a merge of a few adapters in it, and what the rest of the machine needs.
const memoryPerWorker = 2 ** 30

export function defineApi(platform: Platform): Api {
  function createMerger({ threads: asked, lanes: askedLanes, memory = 0, idle = 60_000, kernels = 'fast' }: MergerOptions = {}): Merger {
    checkWhole('threads', asked, 1, mostWorkers)
    checkWhole('lanes', askedLanes, 1, mostWorkers)
    checkWhole('memory', memory, 0, Number.MAX_SAFE_INTEGER)
    checkWhole('idle', idle, 0, 2 ** 31 - 1)
    const suitable = Math.min(platform.cores, standardWorkers, Math.max(1, Math.floor(platform.memory / memoryPerWorker)))
    const sharesMemory = platform.canShareMemory && askedLanes === undefined
    const threads = sharesMemory ? (asked ?? suitable) : 1
    const lanes = sharesMemory ? 1 : (askedLanes ?? suitable)
    const variant = sharesMemory && (threads > 1 || platform.readsIntoMemory) ? 'threads' : 'single'
    const settings: WorkerSettings = { threads, variant, reference: kernels === 'reference' }
    const effort: Effort = { lanes, memory }
    const pool = new Pool(platform, settings, idle)
    let closed = false

    const call: Pool['call'] = async (name, args, options) => {
      if (closed) throw new MergeError({ code: 'closed', message: 'this merger was closed' })
      return pool.call(name, args, options)
    }
    const collect = async <C extends 'merge' | 'join'>(name: C, args: Calls[C]['in'], options: CallOptions & Pick<CallLines, 'lines'>): Promise<MergeResult> => {
      const modules: ModuleReport[] = []
      const answer = await call(name, args, { ...options, onModules: some => void modules.push(...some) })
      return resultOf(answer, modules)
    }
    const checkedOutput = async (target: Output | undefined, inputs: readonly FileReference[]): Promise<{ output: OutputReference; lines: readonly Transferable[] }> => {
      const output = outputOf(platform, target)
      await platform.checkOutput?.(output, inputs)
      return { output, lines: output.kind === 'stream' ? [output.stream] : [] }
    }
    const run = async (whole: Job, { output: target, hashes = false, shard, ...options }: MergeOptions): Promise<MergeResult> => {
      const job = shard === undefined ? whole : { ...whole, shard: checkedShard(shard, target) }
      const { output, lines } = await checkedOutput(target, job.adapters.flatMap(({ tensors, config }) => (config ? [tensors, config] : [tensors])))
      return collect('merge', { job, effort, output, hashes }, { ...options, lines })
    }
    const close = async (): Promise<void> => {
      closed = true
      pool.close()
    }
    return {
      threads,
      lanes,
      async inspect(input, options = {}) {
        const { adapter } = await resolveInput(platform, input, 0)
        return call('inspect', { adapter }, options)
      },
      async compare(inputs, { base, policies = {}, ...options } = {}) {
        // What would be kept as it is has no part in a comparison.
        const looked = Object.entries(policies).map(([kind, policy]) => [kind, policy === 'refuse' || policy === 'merge' ? policy : 'drop'] as const)
        const job = await jobOf(platform, inputs, { method: 'svd', rank: 'auto', policies: Object.fromEntries(looked), ...(base !== undefined && { base }) })
        return call('compare', { job, effort }, options)
      },
      async plan(inputs, recipe = {}, options = {}) {
        return call('plan', { job: await jobOf(platform, inputs, recipe), effort }, options)
      },
      async merge(inputs, recipe = {}, options = {}) {
        return run(await jobOf(platform, inputs, recipe), options)
      },
      async convert(input, conversion, options = {}) {
        return run({ ...(await jobOf(platform, [input], { ...conversion, method: 'cat' })), keepScales: true }, options)
      },
      async join(parts, { output: target, hashes = false, ...options } = {}) {
        const files = await resolveParts(platform, parts)
        const { output, lines } = await checkedOutput(target, files)
        return collect('join', { parts: files, output, hashes }, { ...options, lines })
      },
      close,
      [Symbol.asyncDispose]: close,
    }
  }

  /** One call with a merger of its own. */
  async function once<T>(work: (merger: Merger) => Promise<T>): Promise<T> {
    const merger = createMerger()
    try {
      return await work(merger)
    } finally {
      await merger.close()
    }
  }
  return {
    createMerger,
    inspect: (input, options) => once(merger => merger.inspect(input, options)),
    compare: (inputs, options) => once(merger => merger.compare(inputs, options)),
    plan: (inputs, recipe, options) => once(merger => merger.plan(inputs, recipe, options)),
    merge: (inputs, recipe, options) => once(merger => merger.merge(inputs, recipe, options)),
    convert: (input, conversion, options) => once(merger => merger.convert(input, conversion, options)),
    join: (parts, options) => once(merger => merger.join(parts, options)),
  }
}

function outputOf(platform: Platform, output: Output | undefined): OutputReference {
  if (output === undefined) return { kind: 'memory' }
  if (typeof output === 'string') {
    if (!platform.checkOutput) throw new MergeError({ code: 'not_supported', message: 'an output path can only be written in Node' })
    return { kind: 'path', path: output }
  }
  return output instanceof WritableStream ? { kind: 'stream', stream: output } : { kind: 'handle', handle: output }
}

/** Resolves inputs and fills in defaults. The core checks what the values mean; this, that they are values. */
async function jobOf(platform: Platform, inputs: readonly MergeInput[], recipe: Recipe): Promise<Job> {
  const given: unknown = inputs
  if (!Array.isArray(given)) throw new MergeError({ code: 'bad_input', message: 'the inputs must be a list, one entry for each adapter' })
  const { method = defaultMethod, rank, maxRank, moduleRanks = {}, seed = 0, scale = 1, dtype = 'same', format = 'same', base, onnx = {}, policies = {}, metadata = true, ...options } = recipe
  const rankRule = rankRuleOf(rank)
  if (maxRank !== undefined && rankRule.kind === 'fixed') throw new MergeError({ code: 'bad_rank', message: 'maxRank limits a rank rule; a rank that is a number needs none' })
  if (!(Number.isSafeInteger(seed) && seed >= 0)) throw new MergeError({ code: 'bad_option', message: `seed must be a whole number from 0 to 2^53 - 1, not ${seed}` })
  if (typeof scale !== 'number') throw new MergeError({ code: 'bad_option', message: `scale must be a number, not ${String(scale)}` })
  const resolved = await Promise.all(inputs.map((input, index) => resolveInput(platform, input, index)))
  return {
    adapters: resolved.map(({ adapter }) => adapter),
    weights: resolved.map(({ weight }) => weight),
    moduleWeights: resolved.flatMap(({ moduleWeights }, adapter) => Object.entries(moduleWeights).map(([glob, weight]) => ({ adapter, glob, weight }))),
    method,
    rank: checkedRank(typeof rank === 'number' ? rank : maxRank) ?? 0,
    rankRule,
    moduleRanks: Object.entries(moduleRanks).map(([glob, value]) => ({ glob, rank: checkedRank(value) ?? 0 })),
    seed,
    scale,
    dtype: String(dtype),
    format: String(format),
    onnx,
    policies,
    base: base === undefined ? [] : await resolveBase(platform, base),
    metadata: Boolean(metadata),
    keepScales: false,
    options,
    coreOptions: Object.entries(options).flatMap(([name, value]) => (value === undefined ? [] : [{ name: (Object.hasOwn(coreNames, name) && coreNames[name]) || name, value: String(value) }])),
  }
}

function checkWhole(name: string, value: number | undefined, least: number, most: number): void {
  if (value === undefined || (Number.isInteger(value) && value >= least && value <= most)) return
  throw new MergeError({ code: 'bad_option', message: `${name} must be a whole number from ${least} to ${most}, not ${value}` })
}

function checkedShard({ index, of }: Shard, output: Output | undefined): Shard {
  if (!(Number.isInteger(of) && of >= 1 && of <= mostShards)) throw new MergeError({ code: 'bad_option', message: `a merge has from 1 to ${mostShards} shards, not ${String(of)}` })
  if (!(Number.isInteger(index) && index >= 1 && index <= of)) throw new MergeError({ code: 'bad_option', message: `shards are counted from 1: of ${of} there is none with the number ${String(index)}` })
  if (typeof output === 'string' && namesFile(output) && !output.endsWith('.safetensors')) throw new MergeError({ code: 'bad_option', message: `'${output}': a part of a merge is a safetensors file; give the name of a folder, or one in .safetensors` })
  return { index, of }
}

function checkedRank(rank: number | undefined): number | undefined {
  if (rank === undefined || (Number.isInteger(rank) && rank >= 1 && rank <= 0xffff)) return rank
  throw new MergeError({ code: 'bad_rank', message: `rank must be a whole number from 1 on, not ${String(rank)}` })
}

function rankRuleOf(rank: Recipe['rank']): Job['rankRule'] {
  if (rank === undefined || typeof rank === 'number') return { kind: 'fixed', value: 0 }
  if (rank === 'auto') return { kind: 'auto', value: 0 }
  const entries: [string, unknown][] = typeof rank === 'object' && rank !== null ? Object.entries(rank) : []
  const [entry] = entries
  if (entries.length !== 1 || !entry || typeof entry[1] !== 'number') {
    throw new MergeError({ code: 'bad_rank', message: `a rank is a number, 'auto' or one rule such as { energy: 0.95 }, not ${JSON.stringify(rank)}` })
  }
  return { kind: entry[0], value: entry[1] }
}

export type { ExtraKind, FormatInfo, FormatName, MethodInfo, MethodName, MethodOptions, OnnxLayout, Policies, Progress, Shard }

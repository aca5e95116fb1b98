// What is said of a finished merge. It is put together in the worker: of many modules it takes a while.

import type { ReportValue } from './generated/core-single.mjs'
import { version } from './generated/registry.js'
import { namesFile } from './file-names.js'
import { partName, type Shard } from './shard.js'
import type { SinkResult } from './sink.js'
import type { Job, MergeOutcome, PlanData } from './protocol.js'
import { cosineOf, pairMatrix, totalCosine, type PairValue } from './totals.js'

/** How the result relates to one input. */
export interface InputReport {
  /** Index into the inputs. */
  readonly adapter: number
  /** Frobenius norm of the input's delta. */
  readonly norm: number
  /** Norm of the difference between result and input, over the input's norm; null where the input is zero and the result is not. */
  readonly relativeError: number | null
  /** Cosine of the angle between result and input; 0 where one of them is zero. */
  readonly cosine: number
}

/** What a merged rank of LEGO was made of. */
export interface ClusterReport {
  /** How many ranks of each input. */
  readonly members: readonly number[]
  /** Norm of the centroid before reweighting (LEGO: of the joint vector; lego_delta: of the product). */
  readonly centroidNorm: number
  /** Whether the members cancelled, and were left as they are. */
  readonly nearZero: boolean
}

/** How one module was merged. */
export interface ModuleReport {
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
  /** Frobenius norm of the result X. */
  readonly norm: number
  /** Frobenius norm of the exact weighted sum D*, weights and scale as given. */
  readonly targetNorm: number
  /** |X - D*| / |D*|; null where D* is zero and X is not. */
  readonly relativeError: number | null
  /** Cosine of the angle between X and D*. */
  readonly cosine: number
  /** Share of D*'s energy that X keeps at the scale that suits it best. */
  readonly retainedEnergy: number
  /** Of what the inputs' ranks have in common, the share that opposes: 0.5 where they know nothing of each other. */
  readonly conflict: number
  /** Of the inputs that have the module. */
  readonly inputs: readonly InputReport[]
  /** Cosines between these inputs, each with each. */
  readonly pairCosines: readonly (readonly number[])[]
  /** |a| |b| of each merged rank. */
  readonly mergedNorms: readonly number[]
  /** LEGO: one for each merged rank. */
  readonly clusters: readonly ClusterReport[]
  /** LEGO: merged rank of each rank of the inputs, one input after the other. */
  readonly labels: readonly number[]
  /** LEGO: sum of weighted squared distances to the centroids. */
  readonly inertia: number
  readonly seconds: number
}

/** A report without its modules: these are told one batch after the other (protocol.ts). */
export type ReportFrame = Omit<MergeReport, 'modules'>

/** What a report needs of a job. */
export interface ReportedJob extends Pick<Job, 'method' | 'rank' | 'rankRule' | 'moduleRanks' | 'seed' | 'scale' | 'dtype' | 'format' | 'options' | 'weights' | 'moduleWeights'> {
  readonly adapters: readonly { readonly label: string; readonly tensors: { readonly name: string } }[]
  readonly shard?: Shard
}

export interface FileReport {
  readonly name: string
  readonly bytes: number
  /** In hexadecimal, where hashes were asked for. */
  readonly sha256?: string
}

/** What was merged, how, and how good it is. As JSON: docs/report.md. */
export interface MergeReport {
  /** Raised when a field is removed or changes its meaning. */
  readonly schemaVersion: 1
  /** Of the library that merged. */
  readonly version: string
  /** Of one part of a merge: which of how many. Its `modules` and `totals` are then those of this part alone. */
  readonly shard?: Shard
  /** The recipe with its defaults. */
  readonly recipe: Pick<Job, 'method' | 'rank' | 'rankRule' | 'moduleRanks' | 'seed' | 'scale' | 'dtype' | 'format' | 'options'>
  readonly inputs: readonly { readonly name: string; readonly weight: number; readonly moduleWeights: Readonly<Record<string, number>>; readonly file: FileReport }[]
  readonly outputs: readonly FileReport[]
  readonly modules: readonly ModuleReport[]
  /** All modules together, as one long vector. */
  readonly totals: {
    /** |X - D*| / |D*|; null where D* is zero and X is not. */
    readonly relativeError: number | null
    /** Cosine of the angle between X and D*. */
    readonly cosine: number
    /** Share of D*'s energy that X keeps at the scale that suits it best. */
    readonly retainedEnergy: number
    /** Mean over the modules, by the norm of what is merged there. */
    readonly conflict: number
    readonly inputs: readonly InputReport[]
    /** Cosines between the inputs, each with each; 0 where they share no module. */
    readonly pairCosines: readonly (readonly number[])[]
    /** Sums over the modules. */
    readonly units: number
    readonly rank: number
    readonly nearZero: number
    readonly inputBytes: number
    readonly outputBytes: number
    /** Wall time from the first byte read to the last one written; of parts that were joined, their sum. */
    readonly seconds: number
    /** Wall time that hashing inputs and outputs took on top of that, where hashes were asked for. */
    readonly hashSeconds: number
    readonly threads: number
    /** Workers among which the modules were shared out. */
    readonly lanes: number
    /**
     * The cores' memory and the buffers that fed them, in bytes: what `plan().peakBytes` promised. WebAssembly
     * memory never shrinks, so in a merger that has done larger merges before it is theirs.
     */
    readonly memoryBytes: number
  }
  readonly notices: readonly string[]
}

/** A single file that was written to a path is called as that says. */
function writtenName(output: SinkResult, name: string): string {
  return 'path' in output && namesFile(output.path) ? (output.path.split(/[\\/]/).at(-1) as string) : name
}

/** The report of a finished merge, its modules aside. */
export function reportOf(job: ReportedJob, { plan, modules, part, output, seconds, threads, lanes, memoryBytes, hashes }: MergeOutcome): ReportFrame {
  const { shard, method, rank, rankRule, moduleRanks, seed, scale, dtype, format, options } = job
  const file = (name: string, bytes: number, sha256: string | undefined): FileReport => ({ name, bytes, ...(sha256 !== undefined && { sha256 }) })
  return {
    schemaVersion: 1,
    version,
    ...(shard && { shard }),
    recipe: { method, rank, rankRule, moduleRanks, seed, scale, dtype, format, options },
    inputs: job.adapters.map(({ label, tensors }, i) => ({
      name: label,
      weight: job.weights[i] as number,
      moduleWeights: Object.fromEntries(job.moduleWeights.filter(({ adapter }) => adapter === i).map(({ glob, weight }) => [glob, weight])),
      file: file(tensors.name, plan.fileSizes[i] ?? 0, hashes?.inputs[i]),
    })),
    outputs: [
      part && shard ? file(writtenName(output, partName(shard)), part.bytes, hashes?.outputs[0]) : file(writtenName(output, plan.tensorFile), plan.outputBytes, hashes?.outputs[0]),
      ...(plan.configFile === '' || part ? [] : [file(plan.configFile, new TextEncoder().encode(plan.config).length, hashes?.outputs[1])]),
    ],
    totals: {
      ...qualityTotals(modules, job.adapters.length),
      inputBytes: plan.inputBytes,
      outputBytes: part?.bytes ?? plan.outputBytes,
      seconds,
      hashSeconds: hashes?.seconds ?? 0,
      threads,
      lanes,
      memoryBytes,
    },
    notices: plan.notices,
  }
}

/** What is said of the module with this number in the plan, from its plan and what the core says of it. */
export function moduleReport({ modules }: Pick<PlanData, 'modules'>, number: number, { clusters, centroidNorms, nearZero, relativeError, inputs, ...report }: ReportValue): ModuleReport {
  const { path, ...planned } = modules[number] as PlanData['modules'][number]
  return {
    module: path,
    ...planned,
    ...report,
    relativeError: finite(relativeError),
    inputs: inputs.map(input => ({ ...input, relativeError: finite(input.relativeError) })),
    clusters: clusters.map((members, q) => ({ members, centroidNorm: centroidNorms[q] as number, nearZero: nearZero.includes(q) })),
  }
}

/** The core says Infinity where a difference has nothing to be compared with, which JSON cannot. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)

/** Norm of a difference, from its share of the norm of what it was compared with. */
export function errorNorm(relative: number | null, of: number, own: number): number {
  return relative === null ? own : relative * of
}

/** Norms and inner products of all modules together follow from theirs: the modules are parts of one vector. */
function qualityTotals(modules: readonly ModuleReport[], adapters: number): Pick<MergeReport['totals'], 'relativeError' | 'cosine' | 'retainedEnergy' | 'conflict' | 'inputs' | 'pairCosines' | 'units' | 'rank' | 'nearZero'> {
  const sum = (value: (module: ModuleReport) => number): number => modules.reduce((total, module) => total + value(module), 0)
  const ratio = (x: number, y: number): number | null => (y > 0 ? x / y : x > 0 ? null : 0)

  const own = sum(({ norm }) => norm ** 2)
  const target = sum(({ targetNorm }) => targetNorm ** 2)
  const cosine = cosineOf(sum(module => module.cosine * module.norm * module.targetNorm), own, target)
  const input = (module: ModuleReport, i: number): InputReport | undefined => module.inputs.find(({ adapter }) => adapter === i)
  const energies = Array.from({ length: adapters }, (_, i) => sum(module => (input(module, i)?.norm ?? 0) ** 2))
  const inputs = energies.map((energy, adapter): InputReport => {
    // Where it lacks the module, an input does nothing, and all of the result is a difference.
    const error = sum(module => {
      const found = input(module, adapter)
      return (found ? errorNorm(found.relativeError, found.norm, module.norm) : module.norm) ** 2
    })
    const inner = sum(module => {
      const found = input(module, adapter)
      return found ? found.cosine * found.norm * module.norm : 0
    })
    return { adapter, norm: Math.sqrt(energy), relativeError: ratio(Math.sqrt(error), Math.sqrt(energy)), cosine: cosineOf(inner, own, energy) }
  })
  const pairs = (i: number, j: number): PairValue[] =>
    modules.flatMap(module => {
      const a = module.inputs.findIndex(({ adapter }) => adapter === i)
      const b = module.inputs.findIndex(({ adapter }) => adapter === j)
      return a < 0 || b < 0 ? [] : [{ norms: [module.inputs[a]?.norm ?? 0, module.inputs[b]?.norm ?? 0] as const, value: module.pairCosines[a]?.[b] ?? 0 }]
    })
  const pairCosines = pairMatrix(adapters, (i, j) => totalCosine(pairs(i, j), energies[i] as number, energies[j] as number))
  return {
    relativeError: ratio(Math.sqrt(sum(module => errorNorm(module.relativeError, module.targetNorm, module.norm) ** 2)), Math.sqrt(target)),
    cosine,
    retainedEnergy: cosine ** 2,
    conflict: target > 0 ? sum(module => module.conflict * module.targetNorm ** 2) / target : 0,
    inputs,
    pairCosines,
    units: sum(({ units }) => units),
    rank: sum(module => module.rank),
    nearZero: sum(({ clusters }) => clusters.filter(({ nearZero }) => nearZero).length),
  }
}

// How adapters stand to each other before a merge: put together in the worker.

import { adviceFor, type Advice } from './advice.js'
import type { SurveyValue } from './generated/core-single.mjs'
import type { ComparisonData } from './protocol.js'
import { pairMatrix, totalCosine, weightedMean, type PairValue } from './totals.js'

/** How the inputs stand to each other. Matrices have a row and a column for each input, in their order. */
export interface Relations {
  /** Frobenius norm of each input's delta; 0 where it lacks the module. */
  readonly norms: readonly number[]
  /** Cosines between the deltas: 1 for the same direction, 0 for nothing in common. */
  readonly pairCosines: readonly (readonly number[])[]
  /**
   * How much two inputs read the same directions, whatever they do with them: the cosine between
   * D_i^T D_i and D_j^T D_j, 0 to 1. What shares inputs and does not agree is where a merge loses most.
   */
  readonly sharedInputs: readonly (readonly number[])[]
  /** The same for what they write to: the cosine between D_i D_i^T and D_j D_j^T. */
  readonly sharedOutputs: readonly (readonly number[])[]
  /** Of what the inputs' ranks have in common, the share that opposes: 0.5 where they know nothing of each other. */
  readonly conflict: number
  /**
   * How far they are in each other's way, 0 to 1: the mean over the pairs, by their norms, of
   * sharedInputs (1 - pairCosines) / 2. 0 where they read nothing in common or do the same, 1 where they read
   * the same and do the opposite.
   */
  readonly interference: number
}

export interface ModuleComparison extends Relations {
  readonly module: string
  readonly kind: string
  readonly in: number
  readonly out: number
  /** Rank of each input in this module; 0 where it lacks the module. */
  readonly ranks: readonly number[]
  /** Rank that the rule `auto` gives the weighted sum here. */
  readonly suggestedRank: number
}

/** What a look at adapters tells before they are merged. */
export interface Comparison {
  readonly names: readonly string[]
  /** All modules together, as one long vector; shared inputs and outputs are means over the modules, by the norms there. */
  readonly totals: Relations
  readonly modules: readonly ModuleComparison[]
  readonly advice: Advice
  readonly notices: readonly string[]
}

export function comparisonOf(names: readonly string[], weights: readonly number[], { plan, surveys }: ComparisonData): Comparison {
  const modules = plan.modules.map(({ path, rank, kind, in: inputs, out, ranks }, m): ModuleComparison => {
    const survey = surveys[m] as SurveyValue
    const at = names.map((_, adapter) => survey.adapters.indexOf(adapter))
    const spread = (matrix: readonly (readonly number[])[]): number[][] => pairMatrix(names.length, (i, j) => matrix[at[i] as number]?.[at[j] as number] ?? 0)
    const norms = at.map(index => survey.norms[index] ?? 0)
    const pairCosines = spread(survey.pairCosines)
    const sharedInputs = spread(survey.sharedInputs)
    return {
      module: path,
      kind,
      in: inputs,
      out,
      ranks,
      suggestedRank: rank,
      norms,
      pairCosines,
      sharedInputs,
      sharedOutputs: spread(survey.sharedOutputs),
      conflict: survey.conflict,
      interference: weightedMean(interferences({ norms, pairCosines, sharedInputs })),
    }
  })
  const totals = totalsOf(names.length, modules)
  return { names, totals, modules, advice: adviceFor(names, weights, totals, modules), notices: plan.notices }
}

/** Of each pair in one module. */
function interferences({ norms, pairCosines, sharedInputs }: Pick<Relations, 'norms' | 'pairCosines' | 'sharedInputs'>): PairValue[] {
  return norms.flatMap((norm, i) =>
    norms.slice(0, i).map((other, j) => ({
      norms: [norm, other] as const,
      value: ((sharedInputs[i]?.[j] as number) * (1 - (pairCosines[i]?.[j] as number))) / 2,
    })),
  )
}

function totalsOf(adapters: number, modules: readonly ModuleComparison[]): Relations {
  const energies = Array.from({ length: adapters }, (_, i) => modules.reduce((sum, { norms }) => sum + (norms[i] as number) ** 2, 0))
  const pairs = (of: (module: ModuleComparison) => readonly (readonly number[])[], i: number, j: number): PairValue[] =>
    modules.map(module => ({ norms: [module.norms[i] as number, module.norms[j] as number], value: of(module)[i]?.[j] as number }))
  // As in a report: the mean over the modules, by the energy of what is merged there.
  const energy = ({ norms }: ModuleComparison): number => norms.reduce((sum, norm) => sum + norm ** 2, 0)
  const all = modules.reduce((sum, module) => sum + energy(module), 0)
  return {
    norms: energies.map(Math.sqrt),
    pairCosines: pairMatrix(adapters, (i, j) => totalCosine(pairs(module => module.pairCosines, i, j), energies[i] as number, energies[j] as number)),
    sharedInputs: pairMatrix(adapters, (i, j) => weightedMean(pairs(module => module.sharedInputs, i, j))),
    sharedOutputs: pairMatrix(adapters, (i, j) => weightedMean(pairs(module => module.sharedOutputs, i, j))),
    conflict: all > 0 ? modules.reduce((sum, module) => sum + module.conflict * energy(module), 0) / all : 0,
    interference: weightedMean(modules.flatMap(interferences)),
  }
}

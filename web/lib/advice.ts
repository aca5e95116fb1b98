// What to do with adapters that stand to each other as they do. Every rule and every number in it was measured on
// the models of the quality benchmark: docs/methods.md, "How the advice was found".

import type { ModuleComparison, Relations } from './comparison.js'
import type { MethodName } from './generated/registry.js'

export interface Reason {
  readonly about: 'method' | 'rank' | 'weights'
  /** One line for people. */
  readonly text: string
}

/** How adapters are best merged, and why. */
export interface Advice {
  readonly method: MethodName
  /** Rank of the result; absent where the method takes none. */
  readonly rank?: number
  /** One for each adapter. */
  readonly weights: readonly number[]
  readonly reasons: readonly Reason[]
}

/** From here on two adapters do the same: on minibench, adapters for different tasks stay below 0.3. */
const copyCosine = 0.9
/** An adapter this many times as strong as another outweighs it in every method. */
const unevenNorms = 5

/** `weights`: what the user gave each adapter. */
export function adviceFor(names: readonly string[], weights: readonly number[], totals: Relations, modules: readonly ModuleComparison[]): Advice {
  const largest = Math.max(1, ...modules.flatMap(({ ranks }) => ranks))
  return {
    ...methodFor(names, weights, totals, modules, largest),
    weights,
  }
}

function methodFor(names: readonly string[], weights: readonly number[], totals: Relations, modules: readonly ModuleComparison[], largest: number): Omit<Advice, 'weights'> {
  const needed = Math.max(1, ...modules.map(({ suggestedRank }) => suggestedRank))
  if (names.length === 1) {
    return {
      method: 'svd',
      rank: Math.min(largest, needed),
      reasons: [
        { about: 'method', text: 'There is nothing to merge; svd makes one adapter smaller with the least loss.' },
        { about: 'rank', text: needed < largest ? `Rank ${needed} keeps 95 % of its energy in every module; it has ${largest}.` : `It uses all of its ${largest} ranks.` },
      ],
    }
  }
  const negative = weights.findIndex(weight => weight < 0)
  if (negative >= 0) {
    return {
      method: 'svd',
      rank: needed,
      reasons: [
        { about: 'method', text: `${names[negative]} is subtracted (weight ${weights[negative]}), which only an exact sum does as meant.` },
        { about: 'rank', text: `Rank ${needed} keeps 95 % of the sum's energy in every module.` },
        ...weightReasons(names, totals),
      ],
    }
  }
  if (modules.every(({ ranks }) => ranks.filter(rank => rank > 0).length < 2)) {
    return { method: 'cat', reasons: [{ about: 'method', text: 'No module is in two of the adapters, so the exact sum (cat) costs no rank and loses nothing.' }, ...weightReasons(names, totals)] }
  }
  const { value, i, j } = closest(totals.pairCosines)
  const inputs = mean(pairsOf(totals.sharedInputs))
  return {
    method: 'least_interference',
    rank: largest,
    reasons: [
      {
        about: 'method',
        text:
          value > copyCosine
            ? `${names[i]} and ${names[j]} do nearly the same (cosine ${value.toFixed(2)}); least_interference counts that once, a sum twice.`
            : `They share ${percent(inputs)} of the directions they read, and agree there to ${percent(mean(pairsOf(totals.pairCosines)))}; least_interference keeps each one's own part, and was first in the benchmark wherever adapters share modules.`,
      },
      { about: 'rank', text: rankText(largest, needed) },
      ...weightReasons(names, totals),
    ],
  }
}

function rankText(largest: number, needed: number): string {
  return needed > largest ? `Rank ${largest}, the largest among them, keeps the size of one adapter; up to ${needed} would keep 95 % of the sum in every module.` : `Rank ${needed} is all that the sum needs.`
}

function weightReasons(names: readonly string[], { norms }: Relations): Reason[] {
  const present = norms.map((norm, index) => ({ norm, index })).filter(({ norm }) => norm > 0)
  const strongest = present.reduce((x, y) => (y.norm > x.norm ? y : x), { norm: 0, index: 0 })
  const weakest = present.reduce((x, y) => (y.norm < x.norm ? y : x), strongest)
  const ratio = strongest.norm / (weakest.norm || 1)
  if (ratio > unevenNorms) {
    return [{ about: 'weights', text: `${names[strongest.index]} is ${ratio.toFixed(1)} times as strong as ${names[weakest.index]}: if its alpha is right, leave the weights; if it drowns the other, lower its weight.` }]
  }
  return [{ about: 'weights', text: 'Their strengths are alike, so equal weights serve all of them.' }]
}

/** The two that are most alike. */
function closest(cosines: readonly (readonly number[])[]): { value: number; i: number; j: number } {
  let best = { value: -Infinity, i: 0, j: 0 }
  for (const [i, row] of cosines.entries()) {
    for (let j = 0; j < i; j++) {
      const value = row[j] as number
      if (value > best.value) best = { value, i: j, j: i }
    }
  }
  return best
}

function pairsOf(matrix: readonly (readonly number[])[]): number[] {
  return matrix.flatMap((row, i) => row.slice(0, i))
}

function mean(values: readonly number[]): number {
  return values.length > 0 ? values.reduce((sum, value) => sum + value, 0) / values.length : 0
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`
}

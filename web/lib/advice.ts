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
  /** Recipe.rank */
  readonly rank: number | 'auto'
  /** One for each adapter. */
  readonly weights: readonly number[]
  readonly reasons: readonly Reason[]
}

/** Independently trained adapters for one task have cosines from 0.1 to 0.4 there, those for different tasks less than 0.05. */
const alike = 0.1
/** An adapter this many times as strong as another outweighs it in every method. */
const unevenNorms = 5

/** `weights`: what the user gave each adapter. */
export function adviceFor(names: readonly string[], weights: readonly number[], totals: Relations, modules: readonly ModuleComparison[]): Advice {
  const fromData = { about: 'rank', text: `Ranks from the data: ${rangeText(modules.map(({ suggestedRank }) => suggestedRank))} keep 99 % of what the ${names.length === 1 ? 'adapter' : 'sum'} does.` } as const
  if (names.length === 1) {
    return { method: 'svd', rank: 'auto', weights, reasons: [{ about: 'method', text: 'There is nothing to merge; svd makes one adapter smaller with the least loss.' }, fromData] }
  }
  const negative = weights.findIndex(weight => weight < 0)
  if (negative >= 0) {
    const text = `${names[negative]} is subtracted (weight ${weights[negative]}), which only an exact sum does as meant.`
    return { method: 'svd', rank: 'auto', weights, reasons: [{ about: 'method', text }, fromData, weightReason(names, totals)] }
  }
  const { value, i, j } = closest(totals.pairCosines)
  const method =
    value > alike
      ? `${names[i]} and ${names[j]} have much in common (cosine ${value.toFixed(2)}), as adapters for one task have: least_interference counts that once, a sum twice.`
      : `They read ${percent(mean(pairsOf(totals.sharedInputs)))} in common and have a mean cosine of ${mean(pairsOf(totals.pairCosines)).toFixed(2)}: different skills. least_interference keeps each one's part, and was first for such adapters in the benchmark.`
  const largest = Math.max(...modules.flatMap(({ ranks }) => ranks))
  const rank = `Rank ${largest}, the largest among them, gives the size of one adapter. In the benchmark half as much again gained a point, and more than that nothing.`
  return {
    method: 'least_interference',
    rank: largest,
    weights,
    reasons: [{ about: 'method', text: method }, { about: 'rank', text: rank }, weightReason(names, totals)],
  }
}

function weightReason(names: readonly string[], { norms }: Relations): Reason {
  const strongest = norms.indexOf(Math.max(...norms))
  const weakest = norms.indexOf(Math.min(...norms.filter(norm => norm > 0)))
  const ratio = (norms[strongest] as number) / (norms[weakest] ?? Infinity)
  const text =
    ratio > unevenNorms
      ? `${names[strongest]} is ${ratio.toFixed(1)} times as strong as ${names[weakest]}: if its alpha is right, leave the weights; if it drowns the other, lower its weight.`
      : 'Their strengths are alike, so none needs another weight to be heard.'
  return { about: 'weights', text }
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

/** "3 to 12, 5.2 on average," */
function rangeText(ranks: readonly number[]): string {
  const [least, most] = [Math.min(...ranks), Math.max(...ranks)]
  return least === most ? `${least}` : `${least} to ${most}, ${mean(ranks).toFixed(1)} on average,`
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`
}

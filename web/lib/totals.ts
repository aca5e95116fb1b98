// Sums over the modules of a model: its modules are parts of one long vector.

/** A pair of adapters in one module: their norms there, and a value such as the cosine between them. */
export interface PairValue {
  readonly norms: readonly [number, number]
  readonly value: number
}

/** inner / (|x| |y|) from squared norms; 0 where one is zero. */
export function cosineOf(inner: number, x: number, y: number): number {
  return x > 0 && y > 0 ? inner / Math.sqrt(x * y) : 0
}

/** Of each adapter with each: a matrix of what `value(i, j)` says. */
export function pairMatrix(adapters: number, value: (i: number, j: number) => number): number[][] {
  return Array.from({ length: adapters }, (_, i) => Array.from({ length: adapters }, (_, j) => value(i, j)))
}

/** Cosine between two adapters from those in their modules, and their squared norms over all modules. */
export function totalCosine(pairs: readonly PairValue[], x: number, y: number): number {
  return cosineOf(
    pairs.reduce((sum, { norms, value }) => sum + value * norms[0] * norms[1], 0),
    x,
    y,
  )
}

/** Mean of values of pairs, each by the product of the pair's norms. */
export function weightedMean(pairs: readonly PairValue[]): number {
  const all = pairs.reduce((sum, { norms }) => sum + norms[0] * norms[1], 0)
  return all > 0 ? pairs.reduce((sum, { norms, value }) => sum + value * norms[0] * norms[1], 0) / all : 0
}

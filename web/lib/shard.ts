// Shards of a merge: which batches each of them has.

import type { BatchValue } from './generated/core-single.mjs'

/** Which part of a merge: `index` from 1 to `of`. */
export interface Shard {
  readonly index: number
  readonly of: number
}

/** The most shards of one merge: the names of their files stay sorted. */
export const mostShards = 99_999

const digits = (value: number): string => String(value).padStart(5, '0')
/** What a part's file is called where the caller does not say. */
export const partName = ({ index, of }: Shard): string => `part-${digits(index)}-of-${digits(of)}.safetensors`
export const namesPart = (name: string): boolean => /^part-\d{5}-of-\d{5}\.safetensors$/.test(name)

/** A plan's batch, by its number there. */
export interface NumberedBatch extends BatchValue {
  readonly number: number
  /** Number of its first module in the plan. */
  readonly firstModule: number
}

export function numbered(batches: readonly BatchValue[]): NumberedBatch[] {
  let firstModule = 0
  return batches.map((batch, number) => {
    const numbered = { ...batch, number, firstModule }
    firstModule += batch.modules
    return numbered
  })
}

/**
 * The batches that are a shard's, in file order; all of them where the merge is not shared. By size they are dealt out
 * forwards and backwards in turn, so that shares differ by one batch at most: every n-th in file order would give one
 * shard the same kind of module in every layer, which may be the largest.
 */
export function batchesOf(shard: Shard | undefined, batches: readonly NumberedBatch[]): readonly NumberedBatch[] {
  if (!shard) return batches
  const { index, of } = shard
  return [...batches]
    .sort((x, y) => y.inputBytes - x.inputBytes || x.number - y.number)
    .filter((_, place) => (Math.floor(place / of) % 2 === 0 ? place % of : of - 1 - (place % of)) === index - 1)
    .sort((x, y) => x.number - y.number)
}

/** Numbers of the modules of some batches. */
export function modulesOf(batches: readonly NumberedBatch[]): number[] {
  return batches.flatMap(({ firstModule, modules }) => Array.from({ length: modules }, (_, i) => firstModule + i))
}

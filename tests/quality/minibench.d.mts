import type { MergeResult } from 'lora-lego'
import type { Factors } from '../runtime/minibench-gguf.mjs'

export declare const tasks: readonly string[]
/** Folders of the adapters, by kind and task. */
export declare const adapterSets: { readonly plain: (task: string) => string; readonly gated: (task: string) => string }
export declare const subsets: Readonly<Record<string, readonly (readonly string[])[]>>
export declare function mean(values: readonly number[]): number
export type Score = Record<string, { token: number; exact: number }>
/** Token accuracy over all tasks of a score. */
export declare function tokens(scores: Score): number
export declare class Minibench {
  static open(): Promise<Minibench>
  /** Percent of tokens and of whole sequences that are right, by task. */
  score(tensors: MergeResult['tensors'], options?: { scale?: number; kind?: 'test' | 'val'; of?: readonly string[] }): Promise<Score>
  /** Log probabilities of all tokens after each token of a sequence, of the base alone or with an adapter. */
  logProbabilities(ids: readonly number[], factors?: Factors): Promise<number[][]>
}

export interface Matrix {
  /** [rows, columns] */
  readonly shape: readonly number[]
  readonly values: Float32Array
}
/** `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank] for all 28 projections, delta = lora_B lora_A. */
export type Factors = ReadonlyMap<string, Matrix>

/** The model of tests/minibench as a GGUF file: F32, with a character for every token. */
export declare function baseGguf(): Promise<Uint8Array<ArrayBuffer>>
/** A GGUF adapter in F32, written by the tests alone. */
export declare function adapterGguf(factors: Factors): Uint8Array<ArrayBuffer>
/** A PEFT adapter in F32, scaling folded into lora_B, read by the tests alone. Throws where it is of another kind. */
export declare function readPeft(safetensors: Uint8Array, config: unknown): Factors
export declare function readPeftFolder(folder: string): Promise<Factors>
/** Factors whose delta is the weighted sum of the adapters' deltas: A's below each other, weighted B's side by side. */
export declare function stacked(adapters: readonly Factors[], weights: readonly number[]): Factors
/** The prompt that llama.cpp turns into these tokens, the first of them BOS. */
export declare function textOf(ids: readonly number[]): string

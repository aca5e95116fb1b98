// onnxruntime-web in a page, beside the library, which merges there what the graph is then given.

import { inPage } from './page.js'

export interface AdapterBytes {
  readonly tensors: Uint8Array
  readonly config: Uint8Array
  readonly weight: number
}

declare global {
  interface Window {
    /** Of tests/runtime/page/onnx.html. */
    mergeAndRun(weights: readonly number[], sequences: readonly (readonly number[])[]): Promise<number[][][]>
  }
}

/**
 * Logarithms of the probabilities of the next token after each token of each sequence, from a model whose graph takes
 * factors as inputs: those of the PEFT adapters merged with `cat` at their weights, in the page.
 */
export async function mergeAndRun(model: Uint8Array, adapters: readonly AdapterBytes[], sequences: readonly (readonly number[])[]): Promise<number[][][]> {
  const files = [
    { name: 'model.onnx', bytes: model },
    ...adapters.flatMap(({ tensors, config }) => [
      { name: 'adapter_model.safetensors', bytes: tensors },
      { name: 'adapter_config.json', bytes: config },
    ]),
  ]
  const weights = adapters.map(({ weight }) => weight)
  return inPage('onnx.html', files, page => page.evaluate(([weights, sequences]) => window.mergeAndRun(weights, sequences), [weights, sequences] as const))
}

// window.mergeAndRun(weights, sequences) merges the chosen adapters and gives the result to the chosen model: what
// tests/runtime/onnx.ts asks for.

import { createMerger } from 'lora-lego'
import * as ort from 'onnxruntime-web/wasm'
import wasm from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url'

const input = document.querySelector('input')

/** The merged factors by the names of the graph's inputs, as its tensors. */
async function mergedFeeds(adapters, names) {
  const merger = createMerger()
  try {
    const onnx = { names: ['{module}.lora_A', '{module}.lora_B'], layout: 'peft' }
    const { tensors } = await merger.merge(adapters, { method: 'cat', dtype: 'f32', format: 'onnx', onnx })
    if ([...tensors.keys()].sort().join() !== [...names].sort().join()) throw new Error('the graph has other inputs than the merged adapter has tensors')
    const feeds = {}
    for (const [name, tensor] of tensors) feeds[name] = new ort.Tensor('float32', await tensor.data(), [...tensor.shape])
    return feeds
  } finally {
    await merger.close()
  }
}

function logProbabilities(row) {
  const largest = Math.max(...row)
  const total = largest + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0))
  return row.map(logit => logit - total)
}

window.mergeAndRun = async (weights, sequences) => {
  const [model, ...files] = input.files
  ort.env.wasm.numThreads = 1
  ort.env.wasm.wasmPaths = { wasm: new URL(wasm, location.href).href }
  const session = await ort.InferenceSession.create(await model.arrayBuffer())
  const adapters = weights.map((weight, i) => ({ source: files.slice(2 * i, 2 * i + 2), weight }))
  const feeds = await mergedFeeds(adapters, session.inputNames.filter(name => name !== 'input_ids'))
  const answers = []
  for (const ids of sequences) {
    const { logits } = await session.run({ input_ids: new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]), ...feeds })
    const vocabulary = logits.dims[2]
    answers.push(ids.map((_, i) => logProbabilities([...logits.data.subarray(i * vocabulary, (i + 1) * vocabulary)])))
  }
  await session.release()
  return answers
}

// window.run(requests) loads the chosen GGUF files, the model first and then its adapters, and answers the requests:
// what tests/runtime/wllama.ts asks for.

import { Wllama } from '@wllama/wllama'
import wasm from '@wllama/wllama/esm/wasm/wllama.wasm?url'

const input = document.querySelector('input')

window.run = async requests => {
  const wllama = new Wllama({ default: new URL(wasm, location.href).href }, { suppressNativeLog: true })
  // Otherwise it would take a build for older browsers from elsewhere.
  wllama.setCompat(null)
  // All Blobs become files of wllama's, named as parts of one model are, and the first is opened as the model. Plain
  // Blobs stay in their order; Files would be sorted by name.
  const blobs = [...input.files].map(file => new Blob([file]))
  const part = number => String(number).padStart(5, '0')
  await wllama.loadModel(blobs, {
    n_ctx: 64,
    n_gpu_layers: 0,
    n_parallel: 1,
    n_threads: 1,
    warmup: false,
    // F32 throughout, so that small differences can be seen.
    cache_type_k: 'f32',
    cache_type_v: 'f32',
    flash_attn: false,
    lora_adapters: blobs.slice(1).map((_, i) => ({ path: `models/model-${part(i + 2)}-of-${part(blobs.length)}.gguf`, scale: 0 })),
  })
  try {
    const answers = []
    for (const { prompt, length, scales } of requests) {
      const { choices } = await wllama.createCompletion({
        prompt,
        max_tokens: length,
        temperature: 0,
        n_probs: wllama.getLoadedContextInfo().n_vocab,
        cache_prompt: false,
        stream: false,
        // Of this request alone.
        lora: scales.map((scale, id) => ({ id, scale })),
      })
      answers.push(
        choices[0].logprobs.content.map(({ id, top_logprobs: all }) => ({
          token: id,
          logProbabilities: [...all].sort((a, b) => a.id - b.id).map(({ logprob }) => logprob),
        })),
      )
    }
    return answers
  } finally {
    await wllama.exit()
  }
}

// The small trained model of tests/minibench: how many tokens it gets right with a merged adapter on, run by
// onnxruntime-web as an application would.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as ort from 'onnxruntime-web/wasm'

const folder = join(import.meta.dirname, '../minibench')
/** The tasks that adapters were trained for, in the order of the reference tables. */
export const tasks = ['sortdesc', 'swapnb', 'rotl2', 'add3', 'interleave', 'revhalf2']
export const adapterSets = {
  plain: task => join(import.meta.dirname, '../../examples', task),
  gated: task => join(folder, 'gated', task),
}

/** Sequences of one task: prompt and target tokens, padded to one length, and where the targets are. */
async function readSequences(task, kind) {
  const { prompts, targets, prompt_len: start } = JSON.parse(await readFile(join(folder, `eval/${task}.${kind}.json`), 'utf8'))
  const length = start + Math.max(...targets.map(target => target.length))
  const ids = new BigInt64Array(prompts.length * length)
  for (const [i, prompt] of prompts.entries()) [...prompt, ...targets[i]].forEach((token, j) => (ids[i * length + j] = BigInt(token)))
  return { ids: new ort.Tensor('int64', ids, [prompts.length, length]), targets, start, length }
}

/** A factor of rank 1 that changes nothing; `shape` names the dimension that is the rank. */
function zeros(shape) {
  const numbers = shape.map(side => (typeof side === 'number' ? side : 1))
  return { shape: numbers, values: new Float32Array(numbers.reduce((product, side) => product * side, 1)) }
}

export class Minibench {
  #session
  #sequences = new Map()

  static async open() {
    ort.env.wasm.numThreads = 1
    const bench = new Minibench()
    bench.#session = await ort.InferenceSession.create(await readFile(join(folder, 'base-lora-inputs.onnx')))
    for (const task of tasks) {
      for (const kind of ['test', 'val']) bench.#sequences.set(`${task}.${kind}`, await readSequences(task, kind))
    }
    return bench
  }

  /**
   * Shares of right tokens and of sequences that are right as a whole, for each task, in percent.
   * `tensors`: a merged PEFT adapter in F32 (MergeResult.tensors); its delta is multiplied by `scale`.
   */
  async score(tensors, { scale = 1, kind = 'test', of = tasks } = {}) {
    const feeds = {}
    for (const name of this.#session.inputNames) {
      if (name === 'input_ids') continue
      const tensor = tensors.get(`base_model.model.${name}.weight`)
      const data = await tensor.data()
      feeds[name] = new ort.Tensor('float32', name.endsWith('lora_B') ? data.map(value => scale * value) : data, [...tensor.shape])
    }
    const scores = {}
    for (const task of of) scores[task] = await this.#scoreTask(feeds, this.#sequences.get(`${task}.${kind}`))
    return scores
  }

  /**
   * Natural logarithms of the probabilities of the next token after each token of one sequence: one row per position.
   * `factors`: name of an input of the graph -> shape and values, scaling included; the base alone without.
   */
  async logProbabilities(ids, factors = new Map()) {
    const feeds = { input_ids: new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]) }
    for (const { name, shape } of this.#session.inputMetadata) {
      if (name === 'input_ids') continue
      const factor = factors.get(name) ?? zeros(shape)
      feeds[name] = new ort.Tensor('float32', factor.values, [...factor.shape])
    }
    const { logits } = await this.#session.run(feeds)
    const vocabulary = logits.dims[2]
    return ids.map((_, i) => {
      const row = [...logits.data.subarray(i * vocabulary, (i + 1) * vocabulary)]
      const largest = Math.max(...row)
      const total = largest + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0))
      return row.map(logit => logit - total)
    })
  }

  async #scoreTask(feeds, { ids, targets, start, length }) {
    const { logits } = await this.#session.run({ input_ids: ids, ...feeds })
    const vocabulary = logits.dims[2]
    let right = 0
    let tokens = 0
    let whole = 0
    for (const [i, target] of targets.entries()) {
      let all = true
      for (const [j, token] of target.entries()) {
        // The token at a position is predicted by the one before it.
        const row = logits.data.subarray((i * length + start + j - 1) * vocabulary, (i * length + start + j) * vocabulary)
        const predicted = row.indexOf(Math.max(...row))
        tokens++
        if (predicted === token) right++
        else all = false
      }
      if (all) whole++
    }
    return { token: (100 * right) / tokens, exact: (100 * whole) / targets.length }
  }
}

export const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length
/** Token accuracy over all tasks of a score. */
export const tokens = scores => mean(Object.values(scores).map(({ token }) => token))

/** Which adapters are merged together: by their number, as many groups as make the figures comparable. */
export const subsets = {
  2: [
    ['sortdesc', 'swapnb'],
    ['rotl2', 'add3'],
    ['interleave', 'revhalf2'],
    ['sortdesc', 'interleave'],
    ['swapnb', 'add3'],
    ['rotl2', 'revhalf2'],
  ],
  4: [
    ['sortdesc', 'swapnb', 'rotl2', 'add3'],
    ['rotl2', 'add3', 'interleave', 'revhalf2'],
    ['sortdesc', 'swapnb', 'interleave', 'revhalf2'],
  ],
  6: [tasks],
}

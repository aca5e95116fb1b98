// Worker of the quality benchmark: what is left of the adapters' accuracy under one entry of entries.mjs.

import { parentPort, workerData } from 'node:worker_threads'
import { entries, rankTrials, sameTaskTrials } from './entries.mjs'
import { adapterSets, mean, Minibench, subsets, tasks, tokens } from './minibench.mjs'

const rank = 8
const grid = Math.SQRT2

/**
 * The power of sqrt(2) that the whole delta is best multiplied by on validation sequences, from 1 on in whichever
 * direction helps, until two steps in a row do not.
 */
async function bestScale(bench, tensors, of) {
  const scoreAt = async exponent => tokens(await bench.score(tensors, { scale: grid ** exponent, kind: 'val', of }))
  let best = { exponent: 0, score: await scoreAt(0) }
  for (const direction of [1, -1]) {
    const before = best.exponent
    for (let exponent = direction, worse = 0; worse < 2 && Math.abs(exponent) <= 6; exponent += direction) {
      const score = await scoreAt(exponent)
      worse = score > best.score ? 0 : worse + 1
      if (score > best.score) best = { exponent, score }
    }
    if (best.exponent !== before) break
  }
  return grid ** best.exponent
}

const inputs = (set, group, weights) => group.map(task => ({ source: adapterSets[set](task), weight: weights === 'share' ? 1 / group.length : 1 }))

/** All merges of one entry: by set of adapters and number of adapters, over subsets and seeds. */
async function measureEntry(bench, merger, entry) {
  const sets = {}
  for (const set of Object.keys(adapterSets)) {
    sets[set] = {}
    for (const [count, groups] of Object.entries(subsets)) {
      if (entry.most && Number(count) > entry.most) continue
      const runs = []
      for (const group of groups) {
        // Subsets show as much of the spread as seeds do.
        for (const seed of groups.length > 1 ? entry.seeds.slice(0, 1) : entry.seeds) {
          const { tensors } = await merger.merge(inputs(set, group, entry.weights), { ...entry.recipe, seed, dtype: 'f32', ...(entry.takesRank && { rank }) })
          const scale = await bestScale(bench, tensors, group)
          const own = await bench.score(tensors, { of: group })
          runs.push({ own, best: scale === 1 ? own : await bench.score(tensors, { scale, of: group }), scale })
        }
      }
      sets[set][count] = runs
    }
  }
  return sets
}

/** Accuracy of all six adapters under one method at a rank, and the mean rank that it has. */
async function measureRank(bench, merger, { recipe, rank }) {
  const sets = {}
  for (const set of Object.keys(adapterSets)) {
    const { tensors, report } = await merger.merge(inputs(set, tasks), { ...recipe, rank, dtype: 'f32' })
    sets[set] = { token: tokens(await bench.score(tensors)), rank: mean(report.modules.map(module => module.rank)) }
  }
  return sets
}

/** Accuracy on each task of two adapters for it, and the mean cosine between them. */
async function measureSameTask(bench, merger, { recipe }) {
  const pairs = { twice: ['plain', 'plain'], both: ['plain', 'gated'] }
  const sets = {}
  for (const [name, [first, second]] of Object.entries(pairs)) {
    const scores = []
    const cosines = []
    for (const task of tasks) {
      const sources = [adapterSets[first](task), adapterSets[second](task)]
      const { tensors, report } = await merger.merge(sources, { ...recipe, rank, dtype: 'f32' })
      scores.push(tokens(await bench.score(tensors, { of: [task] })))
      cosines.push(report.totals.pairCosines[1][0])
    }
    sets[name] = { token: mean(scores), cosine: mean(cosines) }
  }
  return sets
}

const { createMerger, methods } = await import(workerData.library)
const bench = await Minibench.open()
const merger = createMerger({ threads: 1 })
const measures = {
  entry: index => measureEntry(bench, merger, entries(methods)[index]),
  rank: index => measureRank(bench, merger, rankTrials[index]),
  sameTask: index => measureSameTask(bench, merger, sameTaskTrials[index]),
}
parentPort.on('message', async ({ kind, index, close }) => {
  if (close) {
    await merger.close()
    parentPort.close()
    return
  }
  parentPort.postMessage(await measures[kind](index))
})
parentPort.postMessage('ready')

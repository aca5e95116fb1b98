// `npm run quality`: merges the adapters of tests/minibench with every method at rank 8, runs the model with each
// result, and prints what is left of the adapters' accuracy. `npm run quality -- --update` writes docs/quality.md
// (about an hour); `--only NAME` looks at one method.

import { cpus } from 'node:os'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { entries } from '../tests/quality/entries.mjs'
import { adapterSets, mean, Minibench, subsets, tasks } from '../tests/quality/minibench.mjs'
import { build } from './build.mjs'
import { main, step } from './say.mjs'
import { project } from './toolchain.mjs'

const rank = 8
/** Factors on the whole delta, of which the one that is best on validation sequences is reported beside 1. */
const scales = [0.35, 0.5, 0.71, 1, 1.41, 2, 2.83, 4, 5.66]

/** Scores of one merge: at its own scale, and at the best one. */
async function scoreMerge(bench, tensors, of) {
  const total = scores => mean(Object.values(scores).map(({ token }) => token))
  let best = { scale: 1, score: -Infinity }
  for (const scale of scales) {
    const score = total(await bench.score(tensors, { scale, kind: 'val', of }))
    if (score > best.score) best = { scale, score }
  }
  const own = await bench.score(tensors, { of })
  return { own, best: best.scale === 1 ? own : await bench.score(tensors, { scale: best.scale, of }), scale: best.scale }
}

/** All merges of one entry on one set of adapters: by number of adapters, over subsets and seeds. */
async function measure(bench, merger, entry, set) {
  const results = {}
  for (const [count, groups] of Object.entries(subsets)) {
    if (entry.most && Number(count) > entry.most) continue
    const runs = []
    for (const group of groups) {
      for (const seed of entry.seeds) {
        const weight = entry.weights === 'share' ? 1 / group.length : 1
        const { tensors } = await merger.merge(
          group.map(task => ({ source: adapterSets[set](task), weight })),
          { ...entry.recipe, seed, dtype: 'f32', ...(entry.takesRank && { rank }) },
        )
        runs.push(await scoreMerge(bench, tensors, group))
      }
    }
    results[count] = runs
  }
  return results
}

const tokens = scores => mean(Object.values(scores).map(({ token }) => token))
const exacts = scores => mean(Object.values(scores).map(({ exact }) => exact))
const deviation = values => Math.sqrt(mean(values.map(value => (value - mean(values)) ** 2)))
const figure = value => value.toFixed(1)

/** Accuracy at the default and at the best scale, averaged over everything that was run. */
function summary(results) {
  const of = pick => Object.fromEntries(Object.entries(results).map(([count, runs]) => [count, mean(runs.map(run => tokens(run[pick])))]))
  return { own: of('own'), best: of('best') }
}

function table(head, rows) {
  const line = cells => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

/** One row for each entry, best first. */
function overview(measured, pick) {
  const counts = Object.keys(subsets)
  const rows = measured.map(({ entry, sets }) => {
    const values = Object.keys(adapterSets).flatMap(set => counts.map(count => summary(sets[set])[pick][count]))
    const known = values.filter(value => value !== undefined)
    return { entry, values, average: known.length === values.length ? mean(known) : undefined }
  })
  rows.sort((x, y) => (y.average ?? -1) - (x.average ?? -1))
  return table(
    ['method', 'rank', ...Object.keys(adapterSets).flatMap(set => counts.map(count => `${set}, ${count}`)), 'average'],
    rows.map(({ entry, values, average }) => [entry.label, entry.rankText, ...values.map(value => (value === undefined ? '-' : figure(value))), average === undefined ? '-' : `**${figure(average)}**`]),
  )
}

/** Single tasks, exact matches and spread, for all six adapters at the default scale. */
function details(measured, set) {
  const rows = measured
    .filter(({ sets }) => sets[set][6])
    .map(({ entry, sets }) => {
      const runs = sets[set][6]
      const totals = runs.map(run => tokens(run.own))
      return { entry, total: mean(totals), cells: [figure(mean(totals)) + (runs.length > 1 ? ` ± ${figure(deviation(totals))}` : ''), figure(mean(runs.map(run => exacts(run.own)))), ...tasks.map(task => figure(mean(runs.map(run => run.own[task].token)))), [...new Set(runs.map(run => run.scale))].join(', ')] }
    })
  rows.sort((x, y) => y.total - x.total)
  return table(['method', 'token', 'exact', ...tasks, 'best scale'], rows.map(({ entry, cells }) => [entry.label, ...cells]))
}

/** What the reference implementation reached with the same method, and what this does. */
function comparison(measured) {
  const rows = measured.flatMap(({ entry, sets }) =>
    Object.entries(entry.reference ?? {}).map(([set, { own, best }]) => {
      const found = summary(sets[set])
      const cell = (value, expected) => (expected === undefined ? '-' : `${figure(value)} (${figure(expected)})`)
      return [entry.label, set, cell(found.own[6], own), cell(found.best[6], best)]
    }),
  )
  return table(['method', 'adapters', 'default scale: here (reference)', 'best scale: here (reference)'], rows)
}

async function update(sections) {
  const path = join(project, 'docs/quality.md')
  let text = await readFile(path, 'utf8')
  for (const [name, section] of Object.entries(sections)) {
    const pattern = new RegExp(`(<!-- ${name}:start -->\\n)[^]*?(<!-- ${name}:end -->)`)
    if (!pattern.test(text)) throw new Error(`docs/quality.md has no markers for ${name}`)
    text = text.replace(pattern, (_, before, after) => `${before}${section}\n${after}`)
  }
  await writeFile(path, text)
}

await main(async () => {
  const { values: flags } = parseArgs({ options: { update: { type: 'boolean' }, only: { type: 'string', multiple: true } } })
  await build()
  const { createMerger, methods } = await import(join(project, 'dist/node/index.js'))
  const bench = await Minibench.open()
  const merger = createMerger()
  const measured = []
  try {
    for (const entry of entries(methods)) {
      if (flags.only && !flags.only.includes(entry.recipe.method) && !flags.only.includes(entry.label)) continue
      await step(entry.label, async () => {
        const sets = {}
        for (const set of Object.keys(adapterSets)) sets[set] = await measure(bench, merger, entry, set)
        measured.push({ entry, sets })
        for (const set of Object.keys(adapterSets)) {
          const { own, best } = summary(sets[set])
          const text = values => Object.entries(values).map(([count, value]) => `${count}: ${figure(value)}`).join('  ')
          console.log(`  ${set.padEnd(6)} default ${text(own)}   best scale ${text(best)}`)
        }
      })
    }
  } finally {
    await merger.close()
  }
  const sections = {
    default: overview(measured, 'own'),
    best: overview(measured, 'best'),
    plain: details(measured, 'plain'),
    gated: details(measured, 'gated'),
    reference: comparison(measured),
    machine: `Measured with Node ${process.versions.node} and onnxruntime-web on ${cpus()[0].model.replace(/\s+/g, ' ').trim()}.`,
  }
  for (const section of Object.values(sections)) console.log(`\n${section}`)
  if (flags.update) await update(sections)
})

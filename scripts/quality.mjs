// `npm run quality`: merges the adapters of tests/minibench with every method at rank 8, runs the model with each
// result, and prints what is left of the adapters' accuracy. `npm run quality -- --update` writes docs/quality.md
// (about an hour); `--only NAME` looks at one method, one entry, or one kind of table (entry, rank, sameTask).

import { once, on } from 'node:events'
import { availableParallelism, cpus } from 'node:os'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { entries, rankTrials, sameTaskTrials } from '../tests/quality/entries.mjs'
import { adapterSets, mean, subsets, tasks, tokens } from '../tests/quality/minibench.mjs'
import { build } from './build.mjs'
import { main, step } from './say.mjs'
import { project } from './toolchain.mjs'

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
      return { entry, total: mean(totals), cells: [figure(mean(totals)) + (runs.length > 1 ? ` ± ${figure(deviation(totals))}` : ''), figure(mean(runs.map(run => exacts(run.own)))), ...tasks.map(task => figure(mean(runs.map(run => run.own[task].token)))), [...new Set(runs.map(run => figure(run.scale)))].join(', ')] }
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

/** Accuracy at each rank, with the rank that `auto` found. */
function rankTable(trials) {
  const ranks = [...new Set(trials.map(({ rank }) => rank))]
  const rows = [...new Set(trials.map(({ recipe }) => recipe.method))].flatMap(method =>
    Object.keys(adapterSets).map(set => [
      method,
      set,
      ...ranks.map(rank => {
        const { sets } = trials.find(trial => trial.recipe.method === method && trial.rank === rank)
        return figure(sets[set].token) + (rank === 'auto' ? ` (rank ${figure(sets[set].rank)})` : '')
      }),
    ]),
  )
  return table(['method', 'adapters', ...ranks.map(rank => (rank === 'auto' ? 'auto (mean rank)' : `rank ${rank}`))], rows)
}

/** Two adapters for one task. */
function sameTaskTable(trials) {
  const head = ({ twice, both }) => ['method', `an adapter with itself (cosine ${twice.cosine.toFixed(2)})`, `plain with gated (cosine ${both.cosine.toFixed(2)})`]
  return table(head(trials[0].sets), trials.map(({ recipe, sets }) => [recipe.method, figure(sets.twice.token), figure(sets.both.token)]))
}

/** Hands work to a worker for each core; `done` gets each result as it comes. */
async function measureAll(library, work, done) {
  const waiting = [...work.entries()]
  const results = []
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      const worker = new Worker(join(project, 'tests/quality/measure.mjs'), { workerData: { library } })
      const answers = on(worker, 'message')
      await answers.next()
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        const [place, item] = next
        worker.postMessage({ kind: item.kind, index: item.index })
        results[place] = { ...item, sets: (await answers.next()).value[0] }
        done(results[place])
      }
      worker.postMessage({ close: true })
      await once(worker, 'exit')
    }),
  )
  return results
}

function lines({ kind, label, sets }) {
  if (kind === 'entry') {
    return Object.entries(sets).map(([set, results]) => {
      const { own, best } = summary(results)
      const text = values => Object.entries(values).map(([count, value]) => `${count}: ${figure(value)}`).join('  ')
      return `${label}, ${set}: default ${text(own)}   best scale ${text(best)}`
    })
  }
  return Object.entries(sets).map(([set, { token }]) => `${label}, ${set}: ${figure(token)}`)
}

await main(async () => {
  const { values: flags } = parseArgs({ options: { update: { type: 'boolean' }, only: { type: 'string', multiple: true } } })
  await build()
  const library = join(project, 'dist/node/index.js')
  const { methods } = await import(library)
  const work = [
    ...entries(methods).map((entry, index) => ({ kind: 'entry', index, entry, recipe: entry.recipe, label: entry.label })),
    ...rankTrials.map(({ recipe, rank }, index) => ({ kind: 'rank', index, recipe, rank, label: `${recipe.method}, rank ${rank}` })),
    ...sameTaskTrials.map(({ recipe }, index) => ({ kind: 'sameTask', index, recipe, label: `${recipe.method}, same task` })),
  ].filter(({ kind, label, recipe }) => !flags.only || [kind, label, recipe.method].some(name => flags.only.includes(name)))
  const results = await step(`${work.length} measurements`, () => measureAll(library, work, result => lines(result).forEach(line => console.log(`  ${line}`))))
  const of = kind => results.filter(result => result.kind === kind)
  const measured = of('entry')
  const sections = {
    ...(measured.length > 0 && {
      default: overview(measured, 'own'),
      best: overview(measured, 'best'),
      plain: details(measured, 'plain'),
      gated: details(measured, 'gated'),
      reference: comparison(measured),
    }),
    ...(of('rank').length > 0 && { ranks: rankTable(of('rank')) }),
    ...(of('sameTask').length > 0 && { sameTask: sameTaskTable(of('sameTask')) }),
    machine: `Measured with Node ${process.versions.node} and onnxruntime-web on ${cpus()[0].model.replace(/\s+/g, ' ').trim()}.`,
  }
  for (const section of Object.values(sections)) console.log(`\n${section}`)
  if (flags.update) await update(sections)
})

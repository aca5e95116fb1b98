// The command line's results as text for people.

import { errorNorm } from '../lib/report.js'
import { worstModules } from '../lib/worst-modules.js'
import type { BatchEntry } from './batch.js'
import type { Comparison, FormatInfo, Inspection, MergePlan, MergeReport, MethodInfo } from './index.js'

/** 1234567 -> "1.23 MB" */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000
    unit++
  }
  return `${unit === 0 ? bytes : bytes.toPrecision(3)} ${units[unit]}`
}

/** Distinct values with how often they occur: "8 (x 24), 16 (x 4)"; a single one alone. */
function tally(values: readonly (number | string)[]): string {
  const counts = new Map<number | string, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  const short = (value: number | string): string => (typeof value === 'number' ? String(Number(value.toPrecision(6))) : value)
  if (counts.size === 1) return short(values[0] ?? '')
  const common = [...counts].sort(([, a], [, b]) => b - a)
  const shown = common.slice(0, 6).map(([value, count]) => `${short(value)} (x ${count})`)
  return shown.join(', ') + (common.length > shown.length ? `, and ${common.length - shown.length} more` : '')
}

/** "8", or "2 to 9" */
function range(values: readonly number[]): string {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  return least === most ? String(least) : `${least} to ${most}`
}

function lines(entries: readonly (readonly [string, string])[]): string {
  const width = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `  ${name.padEnd(width)}  ${value}\n`).join('')
}

const percent = (share: number | null): string => (share === null ? '-' : `${(100 * share).toFixed(1)} %`)

function bullets(title: string, items: readonly string[]): string {
  return items.length === 0 ? '' : `  ${title}\n${items.map(item => `    - ${item}\n`).join('')}`
}

export function inspectionText(found: Inspection): string {
  const { modules } = found
  return (
    `${found.label}\n` +
    lines([
      ['format', `${found.format} (${found.reason})`],
      ['base model', found.baseModel || 'not named'],
      ['modules', `${modules.length}, ${tally(modules.map(module => module.kind))}`],
      ['rank', tally(modules.map(module => module.rank))],
      ['scale', tally(modules.map(module => module.scale))],
      ['dtype', tally(modules.map(module => module.dtype))],
      ['weights', bytesText(found.bytes)],
    ]) +
    bullets(
      'no LoRA factors, which are refused unless a policy says otherwise',
      found.unsupported.map(({ tensor, reason, kind }) => `${tensor ? `${tensor}: ` : ''}${reason} (policy ${kind})`),
    ) +
    bullets('note', found.notices)
  )
}

export function planText(plan: MergePlan): string {
  const { modules } = plan
  return (
    `${plan.method}, ${modules.length} modules\n` +
    lines([
      ['rank', `${plan.ranksAreKnown ? '' : 'chosen from the weights, at most '}${tally(modules.map(module => module.rank))}, from ${tally(modules.map(module => module.units))} units`],
      ['dtype', plan.dtype],
      ['format', plan.format],
      ['reads', bytesText(plan.inputBytes)],
      ['writes', `${plan.ranksAreKnown ? '' : 'at most '}${bytesText(plan.outputBytes)}`],
      ['memory', `${bytesText(plan.peakBytes)} beside Node itself`],
    ]) +
    bullets(
      'no LoRA factors',
      plan.extras.map(({ adapter, tensor, kind, policy }) => `adapter ${adapter + 1}: ${tensor || 'a setting of its config'} (${kind}): ${policy}`),
    ) +
    bullets('note', plan.notices)
  )
}

/** Columns of text, the first one left, the others right aligned. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map(row => row[column]?.length ?? 0)))
  const line = (row: readonly string[]): string => `  ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join('  ')}`.trimEnd() + '\n'
  return [head, ...rows].map(line).join('')
}

export function comparisonText(comparison: Comparison): string {
  const { names, totals, advice, notices } = comparison
  // Numbers in place of names keep a matrix of twenty adapters readable.
  const cosines = table(
    ['cosines', '', ...names.slice(0, -1).map((_, j) => String(j + 1))],
    names.map((name, i) => [`${i + 1} ${name}`, '', ...names.slice(0, -1).map((_, j) => (j < i ? (totals.pairCosines[i]?.[j] ?? 0).toFixed(2) : ''))]),
  )
  const worst = worstModules(comparison)
  return (
    cosines +
    '\n' +
    lines([
      ['interference', `${percent(totals.interference)}, 0 where they read different things or do the same, 100 where they do the opposite`],
      ['conflict', `${percent(totals.conflict)} of what their ranks have in common opposes; 50 is chance`],
    ]) +
    '\n' +
    (worst.length > 0
      ? `${table(
          ['most in each other\'s way', 'interference', 'conflict', 'rank of the sum'],
          worst.map(({ module, interference, conflict, suggestedRank }) => [module, percent(interference), percent(conflict), String(suggestedRank)]),
        )}\n`
      : '') +
    `  advice: --method ${advice.method} --rank ${advice.rank} --weights ${advice.weights.join(',')}\n` +
    advice.reasons.map(({ about, text }) => `    - ${about}: ${text}\n`).join('') +
    bullets('note', notices)
  )
}

/** Modules by their last name, such as q_proj, experts of a stack without their numbers: what differs most in practice is the kind of layer. */
function moduleTable(modules: MergeReport['modules']): string {
  const kinds = new Map<string, MergeReport['modules'][number][]>()
  for (const module of modules) {
    const name = module.module.slice(module.module.lastIndexOf('.') + 1).replace(/\[\d+\]$/, '')
    kinds.set(name, [...(kinds.get(name) ?? []), module])
  }
  const norm = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  const rows = [...kinds].map(([name, of]) => {
    const target = norm(of.map(module => module.targetNorm))
    const error = norm(of.map(module => errorNorm(module.relativeError, module.targetNorm, module.norm)))
    const mean = (value: (module: (typeof of)[number]) => number): number => of.reduce((sum, module) => sum + value(module), 0) / of.length
    return [name, String(of.length), `${range(of.map(module => module.units))} -> ${range(of.map(module => module.rank))}`, percent(target > 0 ? error / target : null), percent(mean(module => module.retainedEnergy)), percent(mean(module => module.conflict))]
  })
  return table(['modules', 'number', 'ranks', 'difference', 'energy kept', 'conflict'], rows)
}

export function mergeText(output: string, report: MergeReport): string {
  const { totals, modules } = report
  const notices = [...report.notices]
  if (totals.nearZero > 0) notices.push(`the members of ${totals.nearZero} clusters cancelled (nearZero in the report); gauge balanced avoids this`)
  const speed = `${totals.seconds.toFixed(2)} s, ${bytesText(totals.inputBytes / totals.seconds)} a second with ${totals.lanes > 1 ? `${totals.lanes} lanes` : `${totals.threads} thread${totals.threads === 1 ? '' : 's'}`}`
  return (
    `${output}\n` +
    lines([
      ['method', report.recipe.method],
      ['modules', String(modules.length)],
      ['rank', tally(modules.map(module => module.rank))],
      ['difference', `${percent(totals.relativeError)} of the exact weighted sum`],
      ['size', bytesText(totals.outputBytes)],
      ['time', speed],
    ]) +
    '\n' +
    table(
      ['inputs', 'weight', 'norm', 'cosine', 'difference'],
      report.inputs.map(({ name, weight }, i) => {
        const found = totals.inputs[i]
        return [name, String(weight), (found?.norm ?? 0).toPrecision(3), (found?.cosine ?? 0).toFixed(3), percent(found?.relativeError ?? null)]
      }),
    ) +
    '\n' +
    moduleTable(modules) +
    bullets('note', notices)
  )
}

export function partText(output: string, { shard, inputs, outputs, modules, notices }: MergeReport): string {
  return (
    `${output}\n` +
    lines([
      ['part', `${shard?.index} of ${shard?.of}`],
      ['from', inputs.map(({ name }) => name).join(', ')],
      ['files', outputs.map(({ name, bytes }) => `${name} (${bytesText(bytes)})`).join(', ')],
      ['modules', String(modules.length)],
    ]) +
    bullets('note', notices)
  )
}

export function batchText({ state, line, output, modules, seconds }: BatchEntry): string {
  const words = { done: 'done', failed: 'failed', kept: 'done before' }
  return `${words[state].padEnd(11)}  line ${line}  ${output}${modules === undefined ? '' : `  (${modules} modules, ${seconds} s)`}\n`
}

export function batchTotalText(counts: Readonly<Record<BatchEntry['state'], number>>, lines: number, log: string | undefined): string {
  const left = lines - counts.done - counts.failed - counts.kept
  const parts = [`${counts.done} done`, `${counts.failed} failed`, `${counts.kept} done before`, ...(left > 0 ? [`${left} not tried`] : [])]
  return `${parts.join(', ')}${log === undefined ? '' : `; log: ${log}`}\n`
}

export function convertText(output: string, { recipe, inputs, outputs, modules, notices, totals }: MergeReport): string {
  return (
    `${output}\n` +
    lines([
      ['from', inputs[0]?.name ?? ''],
      ['format', recipe.format],
      ['files', outputs.map(({ name, bytes }) => `${name} (${bytesText(bytes)})`).join(', ')],
      ['modules', String(modules.length)],
      ['rank', tally(modules.map(module => module.rank))],
      ['difference', `${percent(totals.relativeError)} before rounding to the written type`],
    ]) +
    bullets('note', notices)
  )
}

export function formatsText(formats: readonly FormatInfo[]): string {
  return formats.map(({ name, sentence, tensorFile, configFile }) => `${name}\n  ${sentence}\n  written as ${tensorFile}${configFile === '' ? '' : ` and ${configFile}`}\n`).join('\n')
}

const familyText: Record<MethodInfo['family'], string> = {
  'exact sum': 'weights as they are',
  consensus: 'weights as they are, what adapters share counts once',
  mean: 'weights are relative',
  factors: "weights as PEFT's",
}

export function methodsText(methods: readonly MethodInfo[]): string {
  return methods
    .map(method => {
      const options = method.options.map(option => [
        `--${option.coreName.replaceAll('_', '-')}`,
        `${option.type === 'choice' ? option.choices.join(' | ') : `${option.minimum} to ${option.maximum}`}, default ${option.default}: ${option.sentence}`,
      ] as const)
      const names = [method.name, ...method.aliases].join(', ')
      return `${names} (${familyText[method.family]})\n  ${method.sentence}\n  ${method.source}\n${options.length > 0 ? lines(options) : ''}`
    })
    .join('\n')
}

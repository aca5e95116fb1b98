// The command line's results as text for people.

import type { Inspection, MergePlan, MergeReport, MethodInfo } from './index.js'

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

function lines(entries: readonly (readonly [string, string])[]): string {
  const width = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `  ${name.padEnd(width)}  ${value}\n`).join('')
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

function bullets(title: string, items: readonly string[]): string {
  return items.length === 0 ? '' : `  ${title}\n${items.map(item => `    - ${item}\n`).join('')}`
}

export function inspectionText(found: Inspection): string {
  const { modules } = found
  return (
    `${found.label}\n` +
    lines([
      ['base model', found.baseModel || 'not named'],
      ['modules', `${modules.length}, ${tally(modules.map(module => module.kind))}`],
      ['rank', tally(modules.map(module => module.rank))],
      ['scale', tally(modules.map(module => module.scale))],
      ['dtype', tally(modules.map(module => module.dtype))],
      ['weights', bytesText(found.bytes)],
    ]) +
    bullets(
      'cannot be merged without losing',
      found.unsupported.map(({ tensor, reason }) => (tensor ? `${tensor}: ${reason}` : reason)),
    ) +
    bullets('note', found.notices)
  )
}

export function planText(plan: MergePlan): string {
  const { modules } = plan
  return (
    `${plan.method}, ${modules.length} modules\n` +
    lines([
      ['rank', `${tally(modules.map(module => module.rank))}, from ${tally(modules.map(module => module.units))} units`],
      ['dtype', plan.dtype],
      ['reads', bytesText(plan.inputBytes)],
      ['writes', bytesText(plan.outputBytes)],
      ['memory', `${bytesText(plan.peakBytes)} beside Node itself`],
    ]) +
    bullets('note', plan.notices)
  )
}

export function mergeText(output: string, report: MergeReport): string {
  const { totals, modules } = report
  const nearZero = modules.filter(module => module.nearZero.length > 0)
  const notices = [...report.notices]
  if (nearZero.length > 0) notices.push(`in ${nearZero.length} modules units cancelled (the report lists them as nearZero); gauge balanced avoids this`)
  return (
    `${output}\n` +
    lines([
      ['merged', report.inputs.map(({ name, weight }) => `${weight} x ${name}`).join(' + ')],
      ['method', report.recipe.method],
      ['modules', String(modules.length)],
      ['rank', tally(modules.map(module => module.rank))],
      ['difference', `${percent(totals.relativeError)} of the exact weighted sum`],
      ['size', bytesText(totals.outputBytes)],
      ['time', `${totals.seconds.toFixed(2)} s, ${bytesText(totals.inputBytes / totals.seconds)} a second with ${totals.threads} thread${totals.threads === 1 ? '' : 's'}`],
    ]) +
    bullets('note', notices)
  )
}

export function methodsText(methods: readonly MethodInfo[]): string {
  return methods
    .map(method => {
      const options = method.options.map(option => [
        `--${option.coreName.replaceAll('_', '-')}`,
        `${option.type === 'choice' ? option.choices.join(' | ') : `${option.minimum} to ${option.maximum}`}, default ${option.default}: ${option.sentence}`,
      ] as const)
      return `${method.name} (${method.family})\n  ${method.sentence}\n  ${method.source}\n${options.length > 0 ? lines(options) : ''}`
    })
    .join('\n')
}

// What the scripts that measure share: Markdown tables, and the places in the documents that they are written to.

import { readFile, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { capture } from './say.mjs'
import { project } from './toolchain.mjs'

/** A Markdown table. */
export function table(head, rows) {
  const line = cells => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

export const figure = value => Number(value.toPrecision(3)).toString()
export const percent = share => `${Math.round(100 * share)} %`

export const machine = () => `Measured on ${cpus()[0].model.replace(/\s+/g, ' ').trim()}, ${cpus().length} cores, Node ${process.versions.node}.`

/** Replaces what stands between the markers of this name. */
export async function update(file, name, text) {
  const path = join(project, file)
  const content = await readFile(path, 'utf8')
  const pattern = new RegExp(`(<!-- ${name}:start -->\\n)[^]*?(<!-- ${name}:end -->)`)
  if (!pattern.test(content)) throw new Error(`${file} has no markers for ${name}`)
  await writeFile(path, content.replace(pattern, (_, start, end) => `${start}${text}\n${end}`))
}

/**
 * Rows of core_bench, best of some rounds in which the builds take turns: what else the machine does then meets all of
 * them alike. `builds`: name -> command with its arguments.
 */
export async function coreBench(builds, { rounds, seconds, only = [] }) {
  const best = {}
  for (let round = 0; round < rounds; round++) {
    for (const [name, [command, ...args]] of Object.entries(builds)) {
      const text = await capture(command, [...args, String(seconds), ...only])
      if (!text) throw new Error(`${command} ${args.join(' ')} failed`)
      const rows = text.trim().split('\n').map(line => JSON.parse(line))
      best[name] = best[name]?.map((old, i) => better(old, rows[i])) ?? rows
    }
  }
  return best
}

/** The better of two measurements of a row; times are smaller, rates larger. */
function better(x, y) {
  if (x.unit === 'ms') return { ...x, fast: Math.min(x.fast, y.fast), share: Math.min(x.share, y.share) }
  return { ...x, fast: Math.max(x.fast, y.fast), ...(x.limit && { limit: Math.max(x.limit, y.limit) }), ...(x.reference && { reference: Math.max(x.reference, y.reference) }) }
}

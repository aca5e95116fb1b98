// Measured figures as Markdown tables in the docs.

import { readFile, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { project } from './toolchain.mjs'

/** A Markdown table. */
export function table(head, rows) {
  const line = cells => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

/** What the figures were measured on. */
export function machine() {
  return `Measured on ${cpus()[0].model.replace(/\s+/g, ' ').trim()}, ${cpus().length} cores, Node ${process.versions.node}.`
}

/** Replaces what stands between the markers of this name. */
export async function update(file, name, text) {
  const path = join(project, file)
  const content = await readFile(path, 'utf8')
  const pattern = new RegExp(`(<!-- ${name}:start -->\\n)[^]*?(<!-- ${name}:end -->)`)
  if (!pattern.test(content)) throw new Error(`${file} has no markers for ${name}`)
  await writeFile(path, content.replace(pattern, `$1${text}\n$2`))
}

// The result: files to download, and the report, module by module.

import { downloadZip } from 'client-zip'
import type { MergeReport, MergeResult, ModuleReport } from 'lora-lego'
import { bytesText, make, number, percentText, scrolling } from './dom.js'

const urls: string[] = []
/** Names of inputs that are longer than this together, in characters, are of no use as a name. */
const longestName = 40

/** A link that saves a blob. Links of an earlier result stop working. */
function downloadLink(text: string, name: string, blob: Blob, className: string): HTMLAnchorElement {
  const url = URL.createObjectURL(blob)
  urls.push(url)
  return make('a', { href: url, download: name, className }, text)
}

/** What a result is called when it is saved, its ending aside. */
export function resultName(inputs: readonly string[], convertedTo?: string): string {
  const [first = ''] = inputs
  const all = inputs.join('+')
  const name = convertedTo !== undefined ? `${first}-${convertedTo}` : inputs.length === 1 ? `${first}-merged` : all.length > longestName ? 'merged' : all
  // What some file systems do not take.
  return name.replace(/[\\/:*?"<>|\p{Cc}]/gu, '_')
}

export interface ResultText {
  /** What it is saved as. */
  readonly name: string
  /** What was done, in one sentence. */
  readonly done: string
}

export async function showResult(root: HTMLElement, { files, report }: MergeResult, { name, done }: ResultText): Promise<void> {
  for (const url of urls.splice(0)) URL.revokeObjectURL(url)
  const reportFile = await jsonFile(report)
  root.replaceChildren(
    make('h3', {}, 'Done'),
    make('p', {}, `${done} ${quality(report)}`),
    make('p', { className: 'row' }, ...(await fileLinks(files, name)), downloadLink('report.json', 'report.json', reportFile, 'button')),
    ...report.notices.map(text => make('p', { className: 'notice' }, text)),
    make('h3', {}, 'Report'),
    scrolling('Report, adapter by adapter', inputTable(report)),
    ...legend(report),
    ...moduleReports(report),
  )
  root.hidden = false
}

const nextTask = (): Promise<void> => new Promise(resolve => setTimeout(resolve))

// Of the report, written in one task: all of them would make a pause that is felt.
const modulesAtOnce = 32

/** The report as `JSON.stringify(report, null, 2)` has it, but for the indentation of the modules. */
async function jsonFile({ modules, ...frame }: MergeReport): Promise<Blob> {
  const parts = [JSON.stringify(frame, null, 2).replace(/\n}$/, ',\n  "modules": [')]
  for (let i = 0; i < modules.length; i += modulesAtOnce) {
    await nextTask()
    const texts = modules.slice(i, i + modulesAtOnce).map(module => JSON.stringify(module, null, 2))
    parts.push(i > 0 ? ',\n' : '\n', texts.join(',\n'))
  }
  await nextTask()
  return new Blob([...parts, '\n]}'], { type: 'application/json' })
}

// Rows that are laid out in one frame: with a bar for each merged rank, more of them make a pause that is felt.
const rowsAtOnce = 6
// More than a screen holds.
const rowsAtFirst = 60

/** The table of the modules: the first of many, and a button for the others. */
function moduleReports(report: MergeReport): HTMLElement[] {
  const table = reportTable(report)
  const body = table.tBodies[0] as HTMLTableSectionElement
  /** Adds some rows; false when there are no more. */
  const addRows = (): boolean => {
    const begin = body.rows.length
    body.append(...report.modules.slice(begin, begin + rowsAtOnce).map(module => row(module, report)))
    return body.rows.length < report.modules.length
  }
  const addUpTo = (count: number): void => {
    requestAnimationFrame(() => {
      if (addRows() && body.rows.length < count) addUpTo(count)
    })
  }
  addUpTo(rowsAtFirst)
  const shown = scrolling('Report, module by module', table)
  if (report.modules.length <= rowsAtFirst) return [shown]
  const more = make('button', { type: 'button', className: 'quiet' }, `Show all ${report.modules.length} modules`)
  more.addEventListener('click', () => {
    more.remove()
    addUpTo(report.modules.length)
  })
  return [shown, more]
}

/** The adapter as one download, a folder as a zip; and then also its files. */
async function fileLinks(files: readonly File[], name: string): Promise<HTMLAnchorElement[]> {
  // It was written to a folder.
  if (files.length === 0) return []
  const [only] = files
  const adapter = (file: string, blob: Blob): HTMLAnchorElement => downloadLink(`Download the adapter (${bytesText(blob.size)})`, file, blob, 'button primary')
  if (only && files.length === 1) return [adapter(name + only.name.slice(only.name.lastIndexOf('.')), only)]
  const zip = await downloadZip(files.map(file => ({ name: `${name}/${file.name}`, input: file, lastModified: new Date(2000, 0, 1) }))).blob()
  return [adapter(`${name}.zip`, zip), ...files.map(file => downloadLink(file.name, file.name, file, 'button'))]
}

function quality({ totals, inputs }: MergeReport): string {
  return `The result keeps ${percentText(totals.retainedEnergy)} of what ${inputs.length === 1 ? 'the adapter' : 'the exact weighted sum'} does.`
}

/** How much of each adapter is in the result. */
function inputTable({ inputs, totals }: MergeReport): HTMLTableElement {
  const head = ['Adapter', 'Weight', 'Norm', 'Cosine with the result']
  return make(
    'table',
    {},
    make('caption', { className: 'visually-hidden' }, 'How the result relates to each adapter'),
    make('thead', {}, make('tr', {}, ...head.map(text => make('th', { scope: 'col' }, text)))),
    make(
      'tbody',
      {},
      ...inputs.map(({ name, weight }, i) => {
        const found = totals.inputs[i]
        return make('tr', {}, make('th', { scope: 'row' }, name), number(String(weight)), number((found?.norm ?? 0).toPrecision(3)), number((found?.cosine ?? 0).toFixed(3)))
      }),
    ),
  )
}

const hasClusters = (report: MergeReport): boolean => report.modules.some(module => module.clusters.length > 0)
// In style.css.
const colours = 8
const colour = (adapter: number): string => `owner owner-${adapter % colours}`

/** Which colour stands for which adapter. */
function legend(report: MergeReport): HTMLElement[] {
  if (!hasClusters(report)) return []
  const names = report.inputs.map(({ name }, i) => make('li', {}, make('i', { className: colour(i) }), ` ${name}`))
  return [make('p', { className: 'muted' }, 'Each bar is one merged rank, made of units of these adapters:'), make('ul', { className: 'legend' }, ...names)]
}

function reportTable(report: MergeReport): HTMLTableElement {
  const head = ['Module', 'Units → rank', 'Energy kept', 'Conflict', ...(hasClusters(report) ? ['Merged ranks'] : [])]
  return make(
    'table',
    {},
    make('caption', { className: 'visually-hidden' }, 'How each module was merged'),
    make('thead', {}, make('tr', {}, ...head.map(text => make('th', { scope: 'col' }, text)))),
    make('tbody'),
  )
}

function row(module: ModuleReport, report: MergeReport): HTMLTableRowElement {
  const cells = [
    make('th', { scope: 'row' }, module.module),
    number(`${module.units} → ${module.rank}`, `ranks of the adapters: ${module.ranks.join(', ')}`),
    number(percentText(module.retainedEnergy), `cosine with the exact weighted sum: ${module.cosine.toFixed(3)}`),
    number(percentText(module.conflict)),
  ]
  if (hasClusters(report)) cells.push(make('td', { className: 'clusters' }, ...module.clusters.map(({ members, nearZero }, q) => clusterBar(members, q, nearZero, report))))
  return make('tr', {}, ...cells)
}

// Of a bar, in rem.
const widthOfUnit = 0.28

/** One merged rank: a bar with a part for each adapter that its units come from. */
function clusterBar(counts: readonly number[], index: number, nearZero: boolean, report: MergeReport): HTMLElement {
  const owners = counts.map((count, i) => (count > 0 ? `${count} of ${report.inputs[i]?.name}` : '')).filter(text => text !== '')
  const title = `rank ${index + 1}: ${owners.join(', ')}${nearZero ? '; its members cancel' : ''}`
  const bar = make('span', { className: nearZero ? 'cluster near-zero' : 'cluster', title, role: 'img', ariaLabel: title })
  // One element, whatever it is made of: a report can have thousands of bars.
  let width = 0
  const stops = counts.flatMap((count, i) => {
    if (count === 0) return []
    const begin = width
    width += widthOfUnit * count
    return [`var(--adapter-${i % colours}) ${begin.toFixed(2)}rem ${width.toFixed(2)}rem`]
  })
  bar.style.width = `${width.toFixed(2)}rem`
  bar.style.background = `linear-gradient(to right, ${stops.join(', ')})`
  return bar
}

// Making elements and finding them.

type Child = Node | string

/** A new element with properties and children. */
export function make<K extends keyof HTMLElementTagNameMap>(tag: K, properties: Partial<Omit<HTMLElementTagNameMap[K], 'style'>> = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}

/** The element with this id, of this class; index.html has it. */
export function find<T extends HTMLElement>(id: string, type: new () => T): T {
  const element = document.getElementById(id)
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`)
  return element
}

/** 1234567 -> "1.23 MB" */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB']
  const unit = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log10(bytes) / 3) : 0)
  return `${unit === 0 ? bytes : (bytes / 1000 ** unit).toPrecision(3)} ${units[unit]}`
}

/** "8, 16", or, where that grows long, "2 to 64" */
export function rangeText(values: readonly number[]): string {
  const distinct = [...new Set(values)].sort((a, b) => a - b)
  return distinct.length <= 4 ? distinct.join(', ') : `${distinct[0]} to ${distinct.at(-1)}`
}

/** "1 module", "28 modules" */
export const countText = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`

export function percentText(share: number | null): string {
  return share !== null ? `${(100 * share).toFixed(1)}\u00a0%` : '–'
}

/** A table that scrolls within the page, reachable by keyboard. */
export function scrolling(name: string, table: HTMLTableElement): HTMLElement {
  return make('div', { className: 'table', tabIndex: 0, role: 'region', ariaLabel: name }, table)
}

export const number = (text: string, title = ''): HTMLTableCellElement => make('td', { className: 'number', title }, text)

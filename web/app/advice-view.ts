// How the adapters stand to each other, and which settings suit them.

import { worstModules, type Advice, type Comparison, type ModuleComparison } from 'lora-lego'
import { make, number, percentText, scrolling } from './dom.js'

/** `use` is called when the settings are wanted. */
export function showAdvice(root: HTMLElement, comparison: Comparison, use: (advice: Advice) => void): void {
  const { advice, names, totals } = comparison
  const button = make('button', { type: 'button' }, 'Use these settings')
  button.addEventListener('click', () => use(advice))
  const worst = worstModules(comparison)
  const settings = `${advice.method}, ${advice.rank === 'auto' ? 'ranks from the data' : `rank ${advice.rank}`}`
  root.replaceChildren(
    make('div', { className: 'row' }, make('strong', {}, settings), button),
    make('ul', { className: 'reasons' }, ...advice.reasons.map(({ text }) => make('li', {}, text))),
    ...(names.length > 1
      ? [
          make(
            'details',
            {},
            make('summary', {}, 'How the adapters stand to each other'),
            make('p', { className: 'muted' }, 'Cosines: 1 where two adapters do the same, 0 where they have nothing in common, below 0 where they oppose.'),
            scrolling('Cosines between the adapters', cosineTable(names, totals.pairCosines)),
            make('p', { className: 'muted' }, `Interference ${percentText(totals.interference)}: 0 where they read different things or do the same, 100 % where they do the opposite.${worst.length > 0 ? ' The modules where it is largest:' : ''}`),
            ...(worst.length > 0 ? [scrolling('Modules with the most interference', moduleTable(worst))] : []),
          ),
        ]
      : []),
  )
  root.hidden = false
}

function cosineTable(names: readonly string[], cosines: readonly (readonly number[])[]): HTMLTableElement {
  return make(
    'table',
    { className: 'cosines' },
    make('caption', { className: 'visually-hidden' }, 'Cosines between the adapters'),
    make('thead', {}, make('tr', {}, make('td'), ...names.map((name, i) => make('th', { scope: 'col', title: name }, String(i + 1))))),
    make(
      'tbody',
      {},
      ...names.map((name, i) =>
        make(
          'tr',
          {},
          make('th', { scope: 'row' }, `${i + 1} ${name}`),
          ...names.map((other, j) => {
            const value = cosines[i]?.[j] ?? 0
            const cell = number(i === j ? '' : value.toFixed(2), i === j ? '' : `${name} and ${other}`)
            // Colour beside the figure: the eye finds the pair that stands out.
            if (i !== j) cell.style.backgroundColor = `color-mix(in srgb, ${value < 0 ? 'var(--wrong)' : 'var(--accent)'} ${Math.round(60 * Math.abs(value))}%, transparent)`
            return cell
          }),
        ),
      ),
    ),
  )
}

function moduleTable(worst: readonly ModuleComparison[]): HTMLTableElement {
  return make(
    'table',
    {},
    make('caption', { className: 'visually-hidden' }, 'Modules with the most interference'),
    make('thead', {}, make('tr', {}, ...['Module', 'Interference', 'Conflict'].map(text => make('th', { scope: 'col' }, text)))),
    make('tbody', {}, ...worst.map(({ module, interference, conflict }) => make('tr', {}, make('th', { scope: 'row' }, module), number(percentText(interference)), number(percentText(conflict))))),
  )
}

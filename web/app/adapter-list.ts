// The list of adapters: what each file holds, its weight, and what is wrong with it.

import { MergeError, type Inspection, type Merger, type WeightedInput } from 'lora-lego'
import { bytesText, countText, make, rangeText } from './dom.js'
import type { FileGroup } from './files.js'

interface Entry {
  readonly name: string
  readonly tensors: File
  config: File | undefined
  weight: number
  inspection?: Inspection
  problem?: MergeError
}

export class AdapterList {
  readonly #entries: Entry[] = []

  /** `changed` is called whenever the inputs of a merge are others than before. */
  constructor(
    private readonly root: HTMLElement,
    private readonly merger: Merger,
    private readonly changed: () => void,
  ) {}

  /** What merge() takes; empty while a file is being looked at or cannot be merged. */
  get inputs(): (WeightedInput & { readonly name: string })[] {
    if (!this.#entries.every(entry => entry.inspection)) return []
    return this.#entries.map(({ name, tensors, config, weight }) => ({ name, weight, source: config ? [tensors, config] : [tensors] }))
  }

  get names(): string[] {
    return this.#entries.map(entry => entry.name)
  }

  /** Whether a file cannot be merged as it is. */
  get hasProblem(): boolean {
    return this.#entries.some(entry => entry.problem)
  }

  /** The largest rank among the adapters, 0 without any. */
  get largestRank(): number {
    return Math.max(0, ...this.#entries.flatMap(entry => entry.inspection?.modules.map(module => module.rank) ?? []))
  }

  /** Returns whether every config that came alone has found its adapter. */
  async add(groups: readonly FileGroup[]): Promise<boolean> {
    const configs = groups.filter(({ tensors }) => !tensors)
    const added: Entry[] = []
    for (const { name, tensors, config } of groups) {
      if (tensors) added.push({ name: this.#uniqueName(name, added), tensors, config, weight: 1 })
    }
    this.#entries.push(...added)
    const completed = configs.flatMap(group => this.#complete(group))
    this.#render()
    this.changed()
    await Promise.all([...added, ...completed].map(entry => this.#look(entry)))
    this.#render()
    this.changed()
    return completed.length === configs.length
  }

  /** Gives a config to the adapter that lacks it. Another's would only give wrong scales, so a guess is none. */
  #complete({ name, config }: FileGroup): Entry[] {
    const waiting = this.#entries.filter(entry => entry.problem?.code === 'config_missing' && (name === '' || name === entry.name))
    const [entry] = waiting
    if (!entry || waiting.length > 1) return []
    entry.config = config
    delete entry.problem
    return [entry]
  }

  #uniqueName(name: string, others: readonly Entry[]): string {
    const taken = new Set([...this.#entries, ...others].map(entry => entry.name))
    let unique = name
    for (let i = 2; taken.has(unique); i++) unique = `${name} (${i})`
    return unique
  }

  async #look(entry: Entry): Promise<void> {
    try {
      entry.inspection = await this.merger.inspect({ name: entry.name, source: entry.config ? [entry.tensors, entry.config] : [entry.tensors] })
    } catch (error) {
      if (!(error instanceof MergeError)) throw error
      entry.problem = error
    }
  }

  #remove(entry: Entry): void {
    this.#entries.splice(this.#entries.indexOf(entry), 1)
    this.#render()
    this.changed()
  }

  #render(): void {
    if (this.#entries.length === 0) return this.root.replaceChildren()
    this.root.replaceChildren(make('ul', { className: 'adapters' }, ...this.#entries.map(entry => this.#card(entry))))
  }

  #card(entry: Entry): HTMLElement {
    const weight = make('input', { type: 'number', step: '0.1', value: String(entry.weight), required: true, ariaLabel: `Weight of ${entry.name}` })
    weight.addEventListener('input', () => {
      entry.weight = weight.valueAsNumber
      this.changed()
    })
    const remove = make('button', { type: 'button', className: 'quiet', title: `Remove ${entry.name}`, ariaLabel: `Remove ${entry.name}` }, '×')
    remove.addEventListener('click', () => this.#remove(entry))
    return make(
      'li',
      { className: entry.problem ? 'adapter wrong' : 'adapter' },
      make('div', { className: 'adapter-text' }, title(entry), ...describeEntry(entry)),
      make('label', { className: 'weight' }, 'weight ', weight),
      remove,
    )
  }
}

/** Name and format, and what the format was told from. */
function title({ name, inspection }: Entry): HTMLElement {
  const format = inspection ? [' ', make('span', { className: 'format', title: inspection.reason }, inspection.format)] : []
  return make('span', {}, make('strong', {}, name), ...format)
}

/** What a card says below the name. */
function describeEntry({ inspection, problem }: Entry): HTMLElement[] {
  if (problem) return [make('span', { className: 'problem' }, adviceFor(problem))]
  if (!inspection) return [make('span', { className: 'muted' }, 'reading its header …')]
  const { modules, bytes, baseModel, unsupported, notices } = inspection
  const dtypes = [...new Set(modules.map(module => module.dtype))].join(', ')
  const facts = [countText(modules.length, 'module'), `rank ${rangeText(modules.map(module => module.rank))}`, dtypes, bytesText(bytes)]
  return [
    make('span', { className: 'muted' }, facts.join(' · ')),
    make('span', { className: 'muted' }, baseModel ? `for ${baseModel}` : 'names no base model'),
    ...extraTexts(unsupported).map(text => make('span', { className: 'notice' }, text)),
    ...notices.map(text => make('span', { className: 'notice' }, text)),
  ]
}

/** What is no LoRA factor, reason by reason: whether that is in the way, the plan says. */
function extraTexts(unsupported: Inspection['unsupported']): string[] {
  const tensors = new Map<string, string[]>()
  for (const { tensor, reason } of unsupported) tensors.set(reason, [...(tensors.get(reason) ?? []), tensor])
  return [...tensors].map(([reason, names]) => {
    const named = names[0] ? ` (${names[0]}${names.length > 1 ? ', …' : ''})` : ''
    return `${names.length > 1 ? `${names.length} times ` : ''}${reason}${named}`
  })
}

function adviceFor(problem: MergeError): string {
  if (problem.code === 'config_missing') return 'Its adapter_config.json is missing: drop that file here too.'
  return problem.message
}

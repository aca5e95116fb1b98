// The recipe: method, rank, seed and the method's own options, made from the library's table of methods.

import { extraKinds, formats, methods, type Advice, type MethodInfo, type MethodName, type RankRule, type Recipe } from 'lora-lego'
import { make } from './dom.js'

const dtypes = ['same', 'f32', 'bf16', 'f16', 'q8_0'] as const

/** How ranks are found: what the value field takes, and what it makes. */
const rankRules = {
  fixed: { label: 'the same everywhere', unit: 'Rank', step: '1', minimum: '1', maximum: '4096', rule: (value: number) => value },
  auto: { label: 'what the adapters suggest', unit: '', step: '', minimum: '', maximum: '', rule: (): RankRule => 'auto' },
  energy: { label: 'a share of the energy', unit: 'Energy kept in %', step: 'any', minimum: '1', maximum: '100', rule: (value: number): RankRule => ({ energy: value / 100 }) },
  size: { label: 'a file size', unit: 'Size in MB', step: 'any', minimum: '0.001', maximum: '100000', rule: (value: number): RankRule => ({ size: value * 1e6 }) },
} as const
type FormatChoice = NonNullable<Recipe['format']>
type RankKind = keyof typeof rankRules

const familyTexts: Record<MethodInfo['family'], string> = {
  'exact sum': 'Weights are factors.',
  consensus: 'Weights are factors; what adapters share counts once.',
  mean: 'Weights are relative.',
  factors: 'Weights as in PEFT.',
}

export class RecipeForm {
  readonly #method = make('select', { name: 'method' }, ...methods.map(({ name }) => make('option', { value: name }, name)))
  readonly #rankKind = make('select', { name: 'rank-rule' }, ...Object.entries(rankRules).map(([value, { label }]) => make('option', { value }, label)))
  readonly #rank = make('input', { name: 'rank', type: 'number' })
  readonly #rankField = field('Rank', this.#rank)
  #defaultRank = 0
  readonly #seed = make('input', { name: 'seed', type: 'number', min: '0', step: '1', value: '0', required: true })
  readonly #scale = make('input', { name: 'scale', type: 'number', step: '0.1', value: '1', required: true })
  readonly #dtype = make('select', { name: 'dtype' }, ...dtypes.map(value => make('option', { value }, value === 'same' ? 'as the inputs' : value)))
  readonly #format = make('select', { name: 'format' }, make('option', { value: 'same' }, 'as the inputs'), ...formats.map(({ name, sentence }) => make('option', { value: name, title: sentence }, name)))
  readonly #formatSentence = make('p', { className: 'muted', hidden: true })
  readonly #metadata = make('input', { name: 'metadata', type: 'checkbox', checked: true })
  readonly #base = make('input', { name: 'base', type: 'file', accept: '.json,.gguf,.safetensors', multiple: true })
  readonly #leaveOut = make('input', { name: 'leave-out', type: 'checkbox' })
  readonly #explanation = make('p', { className: 'muted' })
  readonly #options = make('div', { className: 'fields' })
  readonly #more = make('details', {}, make('summary', {}, 'More settings'))

  /** `changed` is called whenever the recipe is another than before. */
  constructor(
    private readonly form: HTMLFormElement,
    private readonly changed: () => void,
  ) {
    this.#more.append(
      make('div', { className: 'fields' }, field('Format', this.#format), field('Values', this.#dtype), field('Scale', this.#scale), field('Base model', this.#base, 'Its config.json or GGUF file: needed to make GGUF adapters from others, or merge them with others. Its safetensors files: needed to merge DoRA.')),
      this.#formatSentence,
      make('label', { className: 'check' }, this.#leaveOut, 'Leave out what is no LoRA factor (DoRA magnitudes, biases, weights trained in full), which is refused otherwise'),
      make('label', { className: 'check' }, this.#metadata, 'Say in the file where it comes from: what the metadata of the inputs agree about, and this recipe'),
      this.#options,
    )
    form.append(make('div', { className: 'fields' }, field('Method', this.#method), field('Ranks', this.#rankKind), this.#rankField, field('Seed', this.#seed)), this.#explanation, this.#more)
    this.#showMethod()
    // `input` reaches the fields before the form, which then finds them as they should be; `change` comes later.
    this.#method.addEventListener('input', () => this.#showMethod())
    this.#rankKind.addEventListener('input', () => this.#showRank())
    this.#format.addEventListener('input', () => this.#showFormat())
    form.addEventListener('input', changed)
    form.addEventListener('submit', event => event.preventDefault())
  }

  /** Shown in the empty rank field: what is taken then. */
  set defaultRank(rank: number) {
    this.#defaultRank = rank
    this.#showRank()
  }

  /** Sets method and rank; the method's own options go back to their defaults. */
  choose({ method, rank }: Pick<Advice, 'method' | 'rank'>): void {
    this.#method.value = method
    this.#rankKind.value = rank === 'auto' ? 'auto' : 'fixed'
    this.#rank.value = rank === 'auto' ? '' : String(rank)
    this.#showMethod()
    this.changed()
  }

  /** What a conversion takes of the recipe; all of it may be set while another field has no valid value. */
  get output(): Pick<Recipe, 'dtype' | 'metadata' | 'base' | 'policies'> & { readonly format: FormatChoice } {
    const base = [...(this.#base.files ?? [])]
    return {
      dtype: this.#dtype.value as (typeof dtypes)[number],
      format: this.#format.value as FormatChoice,
      metadata: this.#metadata.checked,
      ...(base.length > 0 && { base }),
      ...(this.#leaveOut.checked && { policies: Object.fromEntries(extraKinds.map(({ name }) => [name, 'drop'])) }),
    }
  }

  /** The recipe, or nothing while a field has no valid value. */
  get recipe(): Recipe | undefined {
    if (!this.form.checkValidity()) return undefined
    const method = this.#info()
    const options = method.options.map(({ name, type }) => {
      const { value } = this.form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement
      return [name, type === 'choice' ? value : Number(value)] as const
    })
    return {
      method: this.#method.value as MethodName,
      seed: this.#seed.valueAsNumber,
      scale: this.#scale.valueAsNumber,
      ...this.output,
      ...this.#rankOf(method),
      ...Object.fromEntries(options),
    }
  }

  #rankOf(method: MethodInfo): Pick<Recipe, 'rank'> {
    const kind = this.#rankKind.value as RankKind
    if (!method.takesRank || (this.#rank.value === '' && kind !== 'auto')) return {}
    return { rank: rankRules[kind].rule(this.#rank.valueAsNumber) }
  }

  #showRank(): void {
    const method = this.#info()
    for (const option of this.#rankKind.options) option.disabled = option.value !== 'fixed' && !method.choosesRank
    if (this.#rankKind.selectedOptions[0]?.disabled) this.#rankKind.value = 'fixed'
    this.#rankKind.disabled = !method.takesRank
    const kind = this.#rankKind.value as RankKind
    const { unit, step, minimum, maximum } = rankRules[kind]
    this.#rankField.hidden = unit === ''
    this.#rankField.querySelector('.field-name')?.replaceChildren(unit)
    Object.assign(this.#rank, { step, min: minimum, max: maximum, disabled: !method.takesRank || unit === '', required: kind === 'energy' || kind === 'size' })
    this.#rank.placeholder = kind === 'fixed' ? (this.#defaultRank > 0 ? `${this.#defaultRank}` : 'automatic') : kind === 'energy' ? '90' : '20'
  }

  #showFormat(): void {
    const chosen = formats.find(({ name }) => name === this.#format.value)
    this.#formatSentence.textContent = chosen?.sentence ?? ''
    this.#formatSentence.hidden = !chosen
  }

  #info(): MethodInfo {
    return methods.find(method => method.name === this.#method.value) as MethodInfo
  }

  #showMethod(): void {
    const method = this.#info()
    this.#explanation.textContent = `${method.sentence} ${familyTexts[method.family]}`
    this.#showRank()
    this.#options.replaceChildren(
      ...method.options.map(option => {
        const input =
          option.type === 'choice'
            ? make('select', { name: option.name }, ...option.choices.map(value => make('option', { value }, value)))
            : make('input', { name: option.name, type: 'number', min: String(option.minimum), max: String(option.maximum), step: option.type === 'integer' ? '1' : 'any', value: option.default, required: true })
        return field(option.coreName.replaceAll('_', ' '), input, option.sentence)
      }),
    )
  }
}

function field(name: string, input: HTMLElement, explanation?: string): HTMLElement {
  const label = make('label', {}, make('span', { className: 'field-name' }, name), input)
  if (explanation) label.append(make('span', { className: 'muted field-help' }, explanation))
  return label
}

// The recipe: method, rank, seed and the method's own options, made from the library's table of methods.

import { methods, type MethodInfo, type MethodName, type Recipe } from 'lora-lego'
import { make } from './dom.js'

const dtypes = ['same', 'f32', 'bf16', 'f16'] as const

export class RecipeForm {
  readonly #method = make('select', { name: 'method' }, ...methods.map(({ name }) => make('option', { value: name }, name)))
  readonly #rank = make('input', { name: 'rank', type: 'number', min: '1', max: '4096', step: '1', placeholder: 'automatic' })
  readonly #seed = make('input', { name: 'seed', type: 'number', min: '0', step: '1', value: '0', required: true })
  readonly #scale = make('input', { name: 'scale', type: 'number', step: '0.1', value: '1', required: true })
  readonly #dtype = make('select', { name: 'dtype' }, ...dtypes.map(value => make('option', { value }, value === 'same' ? 'as the inputs' : value)))
  readonly #explanation = make('p', { className: 'muted' })
  readonly #options = make('div', { className: 'fields' })
  readonly #more = make('details', {}, make('summary', {}, 'More settings'))

  /** `changed` is called whenever the recipe is another than before. */
  constructor(
    private readonly form: HTMLFormElement,
    changed: () => void,
  ) {
    this.#more.append(make('div', { className: 'fields' }, field('Scale', this.#scale), field('Values', this.#dtype)), this.#options)
    form.append(make('div', { className: 'fields' }, field('Method', this.#method), field('Rank', this.#rank), field('Seed', this.#seed)), this.#explanation, this.#more)
    this.#showMethod()
    this.#method.addEventListener('change', () => this.#showMethod())
    form.addEventListener('input', changed)
    form.addEventListener('submit', event => event.preventDefault())
  }

  /** Shown in the empty rank field: what is taken then. */
  set defaultRank(rank: number) {
    this.#rank.placeholder = rank > 0 ? `${rank}` : 'automatic'
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
      dtype: this.#dtype.value as (typeof dtypes)[number],
      ...(method.takesRank && this.#rank.value !== '' && { rank: this.#rank.valueAsNumber }),
      ...Object.fromEntries(options),
    }
  }

  #info(): MethodInfo {
    return methods.find(method => method.name === this.#method.value) as MethodInfo
  }

  #showMethod(): void {
    const method = this.#info()
    this.#explanation.textContent = method.sentence + (method.family === 'mean' ? ' Weights are relative.' : ' Weights are factors.')
    this.#rank.disabled = !method.takesRank
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

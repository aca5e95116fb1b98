// The page: wires files, recipe, merge or conversion, and result together.

import { createMerger, formats, MergeError, version, type AdapterSource, type Conversion, type MergeOptions, type MergePlan, type MergeReport, type MergeResult, type Recipe } from 'lora-lego'
import { AdapterList } from './adapter-list.js'
import { showAdvice } from './advice-view.js'
import { bytesText, countText, find, make, rangeText } from './dom.js'
import { fetchExamples } from './examples.js'
import { chosenEndings, chosenFiles, droppedFiles, groupFiles, tensorEndings, type PlacedFile } from './files.js'
import { RecipeForm } from './recipe-form.js'
import { resultName, showResult, type ResultText } from './result-view.js'

const merger = createMerger()
const adapters = new AdapterList(find('adapters', HTMLElement), merger, () => {
  forgetAdvice()
  void replan()
})
const form = new RecipeForm(find('recipe', HTMLFormElement), () => void replan())
const mergeButton = find('merge', HTMLButtonElement)
const mergeIntoButton = find('merge-into', HTMLButtonElement)
const convertButton = find('convert', HTMLButtonElement)
const cancelButton = find('cancel', HTMLButtonElement)
const progressBar = find('progress', HTMLProgressElement)
const progressText = find('progress-text', HTMLElement)
const convertHint = find('convert-hint', HTMLElement)
const planView = find('plan', HTMLElement)
const failure = find('failure', HTMLElement)
const result = find('result', HTMLElement)
let running: AbortController | undefined
let planning: AbortController | undefined
const suggestButton = find('suggest', HTMLButtonElement)
const suggestText = find('suggest-text', HTMLElement)
const advice = find('advice', HTMLElement)
let suggesting: AbortController | undefined

find('environment', HTMLElement).textContent = `lora-lego ${version} · ${workersText()}`

function workersText(): string {
  if (merger.threads > 1) return `${merger.threads} threads`
  // The page is not isolated, or the browser shares no memory.
  return merger.lanes > 1 ? `${merger.lanes} workers, each with a memory of its own` : 'one thread'
}

const listed = (texts: readonly string[]): string => new Intl.ListFormat('en-GB').format(texts)
find('formats', HTMLElement).append(
  make('summary', {}, `Reads and writes ${listed(formats.filter(({ isRead }) => isRead).map(({ name }) => name))}`),
  make('dl', {}, ...formats.flatMap(({ name, sentence }) => [make('dt', {}, name), make('dd', {}, sentence)])),
)

/** Shows what a merge would do now, and allows what can be done. */
async function replan(): Promise<void> {
  planning?.abort()
  const controller = (planning = new AbortController())
  form.defaultRank = adapters.largestRank
  mergeButton.disabled = mergeIntoButton.disabled = convertButton.disabled = true
  const { inputs } = adapters
  const { recipe } = form
  offerConversion(recipe ?? {})
  if (inputs.length === 0 || !recipe) {
    planView.replaceChildren(make('p', { className: 'muted' }, inputs.length === 0 ? missingInputs() : 'A setting has no valid value.'))
    return
  }
  void allowConversion(controller.signal)
  try {
    const plan = await merger.plan(inputs, recipe, { signal: controller.signal })
    planView.replaceChildren(...planText(plan))
    mergeButton.disabled = mergeIntoButton.disabled = running !== undefined
  } catch (error) {
    if (controller.signal.aborted) return
    planView.replaceChildren(make('p', { className: 'problem' }, messageFor(error)))
  }
}

function missingInputs(): string {
  if (adapters.hasProblem) return 'Complete or remove the adapters that are marked above.'
  return adapters.names.length > 0 ? 'Reading the adapters …' : 'Add adapters to merge or convert.'
}

function planText(plan: MergePlan): HTMLElement[] {
  const atMost = plan.ranksAreKnown ? '' : 'at most '
  const files = plan.configFile === '' ? 'one file' : `a folder with ${plan.tensorFile} and ${plan.configFile}`
  const what = [countText(plan.modules.length, 'module'), `rank ${atMost}${rangeText(plan.modules.map(module => module.rank))}`, plan.dtype, `as ${plan.format} (${files})`]
  const text = `${what.join(', ')}. Reads ${bytesText(plan.inputBytes)}, gives ${atMost}${bytesText(plan.outputBytes)}, needs about ${bytesText(plan.peakBytes)} of memory.`
  return [make('p', {}, text), ...plan.notices.map(notice => make('p', { className: 'notice' }, notice))]
}

/** One adapter and another format are a conversion. */
function conversionNow(): (Conversion & { readonly name: string; readonly source: AdapterSource }) | undefined {
  const { inputs } = adapters
  const [input] = inputs
  const { format, ...output } = form.output
  // The adapter's weight is for merging.
  return input && inputs.length === 1 && format !== 'same' ? { name: input.name, source: input.source, format, ...output } : undefined
}

function offerConversion({ format = 'same' }: Recipe): void {
  const isOnly = adapters.names.length === 1
  convertButton.hidden = !isOnly
  convertHint.hidden = !isOnly || format !== 'same'
  convertButton.title = format === 'same' ? 'Choose a format under “More settings” first' : `Writes the adapter as ${format}, as it is: method, ranks, weight and scale play no part`
}

/** Allows a conversion where it can be done: that is known as soon as its plan is. */
async function allowConversion(signal: AbortSignal): Promise<void> {
  const asked = conversionNow()
  if (!asked) return
  const { name, source, ...conversion } = asked
  try {
    await merger.plan([{ name, source }], { ...conversion, method: 'cat' }, { signal })
  } catch {
    return
  }
  if (!signal.aborted) convertButton.disabled = running !== undefined
}

/** Advice is for the adapters that were looked at, and their weights. */
function forgetAdvice(): void {
  suggesting?.abort()
  suggesting = undefined
  advice.hidden = true
  suggestText.textContent = ''
  suggestButton.disabled = adapters.inputs.length === 0
}

/** Looks at the weights, and says which settings suit them. */
async function suggest(): Promise<void> {
  forgetAdvice()
  const controller = (suggesting = new AbortController())
  suggestButton.disabled = true
  try {
    const { base, policies } = form.output
    const comparison = await merger.compare(adapters.inputs, {
      ...(base && { base }),
      ...(policies && { policies }),
      signal: controller.signal,
      onProgress: ({ modulesDone, modules }) => {
        suggestText.textContent = `Looked at ${modulesDone} of ${modules} modules`
      },
    })
    suggestText.textContent = ''
    showAdvice(advice, comparison, settings => form.choose(settings))
  } catch (error) {
    // Other adapters by now: what was said about these is no news.
    if (controller.signal.aborted) return
    suggestText.textContent = messageFor(error)
  }
  suggestButton.disabled = false
}

function messageFor(error: unknown): string {
  if (error instanceof MergeError) return error.message
  return error instanceof Error ? error.message : String(error)
}

/** Merges, into memory unless a folder is given. */
async function merge(output?: FileSystemDirectoryHandle): Promise<void> {
  const { recipe } = form
  if (!recipe) return
  const { inputs, names } = adapters
  await run(
    options => merger.merge(inputs, recipe, { ...options, ...(output && { output }) }),
    report => ({ name: resultName(names), done: `${countText(report.modules.length, 'module')} merged with ${report.recipe.method} in ${timeText(report)}${output ? `, and written into the folder “${output.name}”` : ''}.` }),
  )
}

/** Chromium: a folder that the page may write to. */
const chooseFolder = (globalThis as { showDirectoryPicker?: (options: { mode: 'readwrite' }) => Promise<FileSystemDirectoryHandle> }).showDirectoryPicker
mergeIntoButton.hidden = !chooseFolder

/** Merges into a folder of the user's: a large result is nowhere in memory. */
async function mergeInto(): Promise<void> {
  const folder = await chooseFolder?.({ mode: 'readwrite' }).catch((error: unknown) => {
    // The user has chosen none.
    if (error instanceof DOMException && error.name === 'AbortError') return undefined
    throw error
  })
  if (folder) await merge(folder)
}

async function convert(): Promise<void> {
  const asked = conversionNow()
  if (!asked) return
  const { name, source, ...conversion } = asked
  await run(
    options => merger.convert({ name, source }, conversion, options),
    report => ({ name: resultName([name], conversion.format), done: `${countText(report.modules.length, 'module')} converted to ${conversion.format} in ${timeText(report)}.` }),
  )
}

function timeText({ totals }: MergeReport): string {
  return `${totals.seconds.toFixed(2)} s (${bytesText(totals.inputBytes / totals.seconds)} a second)`
}

/** Runs what makes a result, and shows it. */
async function run(work: (options: MergeOptions) => Promise<MergeResult>, textFor: (report: MergeReport) => ResultText): Promise<void> {
  if (running) return
  const controller = (running = new AbortController())
  setRunning(true)
  failure.hidden = true
  result.hidden = true
  try {
    const made = await work({
      signal: controller.signal,
      onProgress: ({ fraction, modulesDone, modules }) => {
        progressBar.value = fraction
        progressText.textContent = `${modulesDone} of ${modules} modules`
      },
    })
    await showResult(result, made, textFor(made.report))
    progressText.textContent = ''
  } catch (error) {
    progressText.textContent = controller.signal.aborted ? 'Cancelled.' : ''
    if (!controller.signal.aborted) showFailure(messageFor(error))
  } finally {
    running = undefined
    setRunning(false)
    void replan()
  }
}

function setRunning(on: boolean): void {
  mergeButton.disabled = mergeIntoButton.disabled = convertButton.disabled = on
  cancelButton.hidden = progressBar.hidden = !on
  if (on) {
    progressBar.value = 0
    progressText.textContent = ''
  }
}

async function addFiles(files: readonly PlacedFile[]): Promise<void> {
  const groups = groupFiles(files)
  const allPlaced = await adapters.add(groups)
  if (groups.length === 0) showFailure(`No adapters were found there: an adapter is a ${tensorEndings.join(' or ')} file, or a folder with one.`)
  else if (!allPlaced) showFailure('It cannot be told which adapter that config belongs to: drop it together with its tensor file.')
  else failure.hidden = true
}

function showFailure(text: string): void {
  failure.textContent = text
  failure.hidden = false
}

/** Runs an event's work; what goes wrong is shown. */
function handle(work: () => Promise<void>): void {
  work().catch((error: unknown) => showFailure(messageFor(error)))
}

function connectInput(buttonId: string, inputId: string): void {
  const input = find(inputId, HTMLInputElement)
  find(buttonId, HTMLButtonElement).addEventListener('click', () => input.click())
  input.addEventListener('change', () => {
    const files = input.files ? chosenFiles(input.files) : []
    // So that choosing the same files again is a change again.
    input.value = ''
    handle(() => addFiles(files))
  })
}
find('files-input', HTMLInputElement).accept = chosenEndings.join()
connectInput('choose-folder', 'folder-input')
connectInput('choose-files', 'files-input')
find('examples', HTMLButtonElement).addEventListener('click', () => handle(async () => void (await adapters.add(await fetchExamples()))))

const drop = find('drop', HTMLElement)
// Anywhere on the page: a file that misses the box would otherwise replace the page.
addEventListener('dragover', event => {
  event.preventDefault()
  drop.classList.add('over')
})
addEventListener('dragleave', event => {
  if (event.relatedTarget === null) drop.classList.remove('over')
})
addEventListener('drop', event => {
  event.preventDefault()
  drop.classList.remove('over')
  const { dataTransfer } = event
  if (dataTransfer) handle(async () => addFiles(await droppedFiles(dataTransfer)))
})

suggestButton.addEventListener('click', () => void suggest())
mergeButton.addEventListener('click', () => void merge())
mergeIntoButton.addEventListener('click', () => handle(mergeInto))
convertButton.addEventListener('click', () => void convert())
cancelButton.addEventListener('click', () => running?.abort())
addEventListener('pagehide', () => void merger.close())
void replan()

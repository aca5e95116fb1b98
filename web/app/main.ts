// The page: wires files, recipe, merge and result together.

import { createMerger, MergeError, version, type MergePlan } from 'lora-lego'
import { AdapterList } from './adapter-list.js'
import { showAdvice } from './advice-view.js'
import { bytesText, find, make } from './dom.js'
import { fetchExamples } from './examples.js'
import { chosenFiles, droppedFiles, groupFiles, type PlacedFile } from './files.js'
import { RecipeForm } from './recipe-form.js'
import { showResult } from './result-view.js'

const merger = createMerger()
const adapters = new AdapterList(find('adapters', HTMLElement), merger, () => {
  forgetAdvice()
  void replan()
})
const form = new RecipeForm(find('recipe', HTMLFormElement), () => void replan())
const mergeButton = find('merge', HTMLButtonElement)
const cancelButton = find('cancel', HTMLButtonElement)
const progressBar = find('progress', HTMLProgressElement)
const progressText = find('progress-text', HTMLElement)
const planView = find('plan', HTMLElement)
const failure = find('failure', HTMLElement)
const result = find('result', HTMLElement)
let running: AbortController | undefined
let planning: AbortController | undefined
const suggestButton = find('suggest', HTMLButtonElement)
const suggestText = find('suggest-text', HTMLElement)
const advice = find('advice', HTMLElement)
let suggesting: AbortController | undefined

find('environment', HTMLElement).textContent =
  `lora-lego ${version} · ` + (merger.threads > 1 ? `${merger.threads} threads` : 'one thread (this page is not isolated, or this browser shares no memory)')

/** Shows what a merge would do now, and allows it if it can be done. */
async function replan(): Promise<void> {
  planning?.abort()
  const controller = (planning = new AbortController())
  form.defaultRank = adapters.largestRank
  mergeButton.disabled = true
  const { inputs } = adapters
  const { recipe } = form
  if (inputs.length === 0 || !recipe) {
    planView.replaceChildren(make('p', { className: 'muted' }, inputs.length === 0 ? 'Add adapters to merge.' : 'A setting has no valid value.'))
    return
  }
  try {
    const plan = await merger.plan(inputs, recipe, { signal: controller.signal })
    planView.replaceChildren(...planText(plan))
    mergeButton.disabled = running !== undefined
  } catch (error) {
    if (controller.signal.aborted) return
    planView.replaceChildren(make('p', { className: 'problem' }, messageFor(error)))
  }
}

function planText(plan: MergePlan): HTMLElement[] {
  const ranks = [...new Set(plan.modules.map(module => module.rank))].join(', ')
  const atMost = plan.ranksAreKnown ? '' : 'at most '
  const text = `${plan.modules.length} modules, rank ${atMost}${ranks}, ${plan.dtype}. Reads ${bytesText(plan.inputBytes)}, gives ${atMost}${bytesText(plan.outputBytes)}, needs about ${bytesText(plan.peakBytes)} of memory.`
  return [make('p', {}, text), ...plan.notices.map(notice => make('p', { className: 'notice' }, notice))]
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
    const comparison = await merger.compare(adapters.inputs, {
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

async function merge(): Promise<void> {
  const { recipe } = form
  if (!recipe || running) return
  const controller = (running = new AbortController())
  setRunning(true)
  failure.hidden = true
  result.hidden = true
  try {
    const merged = await merger.merge(adapters.inputs, recipe, {
      signal: controller.signal,
      onProgress: ({ fraction, modulesDone, modules }) => {
        progressBar.value = fraction
        progressText.textContent = `${modulesDone} of ${modules} modules`
      },
    })
    await showResult(result, merged)
    progressText.textContent = ''
  } catch (error) {
    progressText.textContent = controller.signal.aborted ? 'Cancelled.' : ''
    if (!controller.signal.aborted) {
      failure.textContent = messageFor(error)
      failure.hidden = false
    }
  } finally {
    running = undefined
    setRunning(false)
    void replan()
  }
}

function setRunning(on: boolean): void {
  mergeButton.disabled = on
  cancelButton.hidden = progressBar.hidden = !on
  if (on) {
    progressBar.value = 0
    progressText.textContent = ''
  }
}

async function addFiles(files: readonly PlacedFile[]): Promise<void> {
  const groups = groupFiles(files)
  failure.hidden = groups.length > 0
  if (groups.length === 0) failure.textContent = 'No adapters were found there: a PEFT adapter has adapter_model.safetensors and adapter_config.json.'
  await adapters.add(groups)
}

/** Runs an event's work; what goes wrong is shown. */
function handle(work: () => Promise<void>): void {
  work().catch((error: unknown) => {
    failure.textContent = messageFor(error)
    failure.hidden = false
  })
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
connectInput('choose-folder', 'folder-input')
connectInput('choose-files', 'files-input')
find('examples', HTMLButtonElement).addEventListener('click', () => handle(async () => adapters.add(await fetchExamples())))

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
cancelButton.addEventListener('click', () => running?.abort())
addEventListener('pagehide', () => void merger.close())
void replan()

// Many merges from one file: JSON lines with a recipe each, and a log that says which of them are done.

import { createHash } from 'node:crypto'
import { open, readFile, stat, type FileHandle } from 'node:fs/promises'
import { join, resolve, sep } from 'node:path'
import { fields, isFlag, isNumber, isText, listOf, recordOf, type Check } from '../lib/check.js'
import { messageOf, type ErrorData } from '../lib/error.js'
import { namesFile } from '../lib/file-names.js'
import { extraKinds, formats, MergeError, methods, type MergeInput, type MergeReport, type MethodInfo, type Recipe, type WeightedInput } from './index.js'

/** One merge. Paths are absolute. */
export interface BatchLine {
  /** Its line in the file, from 1. */
  readonly number: number
  /** SHA-256 of the recipe as it stands in the file, but for spaces. */
  readonly id: string
  readonly inputs: readonly MergeInput[]
  readonly output: string
  /** File for the report, if one is wanted. */
  readonly report?: string
  readonly recipe: Recipe
  /** Every path that is read. */
  readonly reads: readonly string[]
}

/** What became of a line. `kept`: it was done before, which the log need not say again. */
export interface BatchEntry {
  /** BatchLine::id */
  readonly recipe: string
  readonly line: number
  readonly output: string
  readonly state: 'done' | 'failed' | 'kept'
  /** Paths and sizes of what was written. */
  readonly files?: readonly { readonly path: string; readonly bytes: number }[]
  readonly modules?: number
  readonly error?: ErrorData
  readonly seconds?: number
  readonly ended?: string
}

type Fields = Readonly<Record<string, unknown>>
const isOneOf =
  (values: readonly unknown[]): Check =>
  value =>
    values.includes(value)
const isTextOrList: Check = value => isText(value) || listOf(isText)(value)

/** What a line may have: the fields of a Recipe, with what their values must be in words. */
const recipeFields: Readonly<Record<Exclude<keyof Recipe, (typeof methods)[number]['options'][number]['name']>, readonly [Check, string]>> = {
  method: [isOneOf(methods.flatMap(({ name, aliases }) => [name, ...aliases])), "the name of a method ('lora-lego methods' lists them)"],
  rank: [value => isNumber(value) || value === 'auto' || recordOf(isNumber)(value), 'a number, "auto" or a rule such as {"energy": 0.95}'],
  maxRank: [isNumber, 'a number'],
  moduleRanks: [recordOf(isNumber), 'numbers by patterns, such as {"*mlp*": 8}'],
  seed: [isNumber, 'a number'],
  scale: [isNumber, 'a number'],
  dtype: [isOneOf(['same', 'f64', 'f32', 'f16', 'bf16', 'q8_0']), 'same, f64, f32, f16, bf16 or q8_0'],
  format: [isOneOf(['same', ...formats.map(({ name }) => name)]), "the name of a format ('lora-lego formats' lists them)"],
  base: [isTextOrList, 'a path, or a list of paths'],
  policies: [value => recordOf(isText)(value) && Object.keys(value as object).every(isOneOf(extraKinds.map(({ name }) => name))), 'what to do by kinds, such as {"bias": "sum"}'],
  onnx: [recordOf(value => isText(value) || listOf(isText)(value)), 'an object with names and layout'],
  metadata: [isFlag, 'true or false'],
}

const isWeighted = fields({ source: isTextOrList })
const weightedFields: Readonly<Record<keyof WeightedInput, Check>> = { source: isTextOrList, weight: isNumber, moduleWeights: recordOf(isNumber), name: isText }

/** Problems of one line, in words; none if it can be tried. */
function problemsOf(line: Fields): string[] {
  const problems: string[] = []
  const must = (name: string, isRight: boolean, what: string): void => {
    if (!isRight) problems.push(`${name} must be ${what}`)
  }
  const { inputs, output, report, ...recipe } = line
  must('inputs', Array.isArray(inputs) && inputs.length > 0, 'a list of adapters')
  for (const [i, input] of (Array.isArray(inputs) ? (inputs as unknown[]) : []).entries()) {
    if (isTextOrList(input)) continue
    must(`input ${i + 1}`, isWeighted(input), 'a path, or an object such as {"source": "path", "weight": 0.7}')
    for (const [name, value] of Object.entries((isWeighted(input) ? input : {}) as Fields)) {
      const check = weightedFields[name as keyof WeightedInput] as Check | undefined
      if (!check) problems.push(`input ${i + 1} has the field '${name}', which is none of ${Object.keys(weightedFields).join(', ')}`)
      else if (!check(value)) problems.push(`${name} of input ${i + 1} is of the wrong type`)
    }
  }
  must('output', isText(output) && output !== '', 'the path of a folder or file')
  must('report', report === undefined || isText(report), 'the path of a file')
  const [standard] = methods as [MethodInfo]
  const method = methods.find(({ name, aliases }) => recipe.method === name || aliases.some(alias => recipe.method === alias)) ?? standard
  for (const [name, value] of Object.entries(recipe)) {
    const known = recipeFields[name as keyof typeof recipeFields] as readonly [Check, string] | undefined
    const option = method.options.find(info => info.name === name)
    if (known) must(name, known[0](value), known[1])
    else if (option?.type === 'choice') must(name, option.choices.some(choice => choice === value), option.choices.join(' or '))
    else if (option) must(name, isNumber(value) && (value as number) >= option.minimum && (value as number) <= option.maximum, `a number from ${option.minimum} to ${option.maximum}`)
    else if (name === 'weights') problems.push('weights stand with the inputs: {"source": "path", "weight": 0.7}')
    else problems.push(`there is no field '${name}' for the method ${method.name}`)
  }
  return problems
}

/** The line with every path made absolute. */
function lineOf(number: number, line: Fields, folder: string): BatchLine {
  const { inputs, output, report, ...recipe } = line as unknown as { inputs: (string | string[] | WeightedInput)[]; output: string; report?: string } & Recipe
  const reads: string[] = []
  const read = (path: string): string => {
    reads.push(resolve(folder, path))
    return resolve(folder, path)
  }
  const source = (paths: string | readonly string[]): string | string[] => (typeof paths === 'string' ? read(paths) : paths.map(read))
  const { base } = recipe as { base?: string | string[] }
  return {
    number,
    id: createHash('sha256').update(JSON.stringify(line)).digest('hex'),
    inputs: inputs.map(input => (typeof input === 'string' || Array.isArray(input) ? source(input) : { ...input, source: source((input as { source: string | string[] }).source) })),
    output: resolve(folder, output),
    ...(report !== undefined && { report: resolve(folder, report) }),
    recipe: { ...recipe, ...(base !== undefined && { base: source(base) }) },
    reads,
  }
}

/**
 * The merges of a file. `name`: what messages call it; `folder`: what its paths count from. Throws bad_option with
 * everything that is wrong, line by line, if one line cannot be tried.
 */
export function readBatch(name: string, text: string, folder: string): BatchLine[] {
  const problems: string[] = []
  const lines: BatchLine[] = []
  for (const [i, row] of text.split('\n').entries()) {
    if (row.trim() === '') continue
    let value: unknown
    try {
      value = JSON.parse(row)
    } catch (error) {
      problems.push(`line ${i + 1}: it is no JSON (${messageOf(error)})`)
      continue
    }
    const found = fields({})(value) ? problemsOf(value as Fields) : ['it must be an object with inputs and output']
    problems.push(...found.map(problem => `line ${i + 1}: ${problem}`))
    if (found.length > 0) continue
    const line = lineOf(i + 1, value as Fields, folder)
    const twin = lines.find(({ output }) => output === line.output)
    if (twin) problems.push(`line ${line.number}: it writes '${line.output}', as line ${twin.number} does`)
    lines.push(line)
  }
  if (problems.length === 0) return lines
  const more = problems.length > 10 ? `\n  and ${problems.length - 10} more` : ''
  throw new MergeError({ code: 'bad_option', message: `'${name}': nothing was merged, because\n  ${problems.slice(0, 10).join('\n  ')}${more}`, file: name })
}

/** What a merge has written. */
export function filesOf(output: string, { outputs }: MergeReport): NonNullable<BatchEntry['files']> {
  return outputs.map(({ name, bytes }) => ({ path: namesFile(output) ? output : join(output, name), bytes }))
}

const isDoneEntry = fields({ recipe: isText, state: isOneOf(['done']), files: listOf(fields({ path: isText, bytes: isNumber })) })

/** What was done, by recipes. Entries are appended as they come, so that a crash loses none of them. */
export class BatchLog {
  readonly #path: string | undefined
  #handle: FileHandle | undefined
  /** The last entry of each recipe that is done, and how many came before it. */
  readonly #done = new Map<string, { readonly place: number; readonly entry: BatchEntry }>()
  #length = 0
  /** A crash has cut off the last line. */
  #isCut = false

  private constructor(path: string | undefined) {
    this.#path = path
  }

  /** Reads what is there; undefined: nothing is kept. What is no entry is passed over: a crash may have left half a line. */
  static async open(path: string | undefined): Promise<BatchLog> {
    const log = new BatchLog(path)
    if (path === undefined) return log
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw new MergeError({ code: 'read_failed', message: `'${path}': could not be read (${error.message})`, file: path }, { cause: error })
    })
    log.#isCut = text !== '' && !text.endsWith('\n')
    for (const row of text.split('\n')) {
      try {
        log.#take(JSON.parse(row) as BatchEntry)
      } catch {
        // Not an entry.
      }
    }
    return log
  }

  #take(entry: BatchEntry): void {
    this.#length++
    if (isDoneEntry(entry)) this.#done.set(entry.recipe, { place: this.#length, entry })
    else this.#done.delete(entry.recipe)
  }

  /** The entry of a recipe that is done, and its place among all; undefined if it is not, or failed since. */
  find(id: string): { readonly place: number; readonly entry: BatchEntry } | undefined {
    return this.#done.get(id)
  }

  /** Rejects with write_failed. */
  async append(entry: BatchEntry): Promise<void> {
    this.#take(entry)
    if (this.#path === undefined) return
    try {
      this.#handle ??= await open(this.#path, 'a')
      await this.#handle.appendFile(`${this.#isCut ? '\n' : ''}${JSON.stringify(entry)}\n`)
      await this.#handle.datasync()
      this.#isCut = false
    } catch (error) {
      throw new MergeError({ code: 'write_failed', message: `'${this.#path}': could not be written (${messageOf(error)})`, file: this.#path }, { cause: error })
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close()
    this.#handle = undefined
  }
}

/** Whether a line need not run: it is done, its files are there, and no output that it reads was written after it. */
export async function isUpToDate(line: BatchLine, lines: readonly BatchLine[], log: BatchLog): Promise<boolean> {
  const done = log.find(line.id)
  if (!done) return false
  for (const { path, bytes } of done.entry.files ?? []) if ((await stat(path).catch(() => undefined))?.size !== bytes) return false
  const isIn = (path: string, folder: string): boolean => path === folder || path.startsWith(folder + sep)
  return lines.filter(other => other !== line && line.reads.some(path => isIn(path, other.output))).every(({ id }) => (log.find(id)?.place ?? Infinity) < done.place)
}

// The command line's options for a recipe: definitions, parsers, and the recipe that they make.

import { basename, resolve } from 'node:path'
import { CommanderError, InvalidArgumentError, Option, type Command } from 'commander'
import { extraKinds, methods, type MethodOptions, type Policies, type RankRule, type Recipe, type Shard, type WeightedInput } from './index.js'
import { mostShards } from '../lib/shard.js'

export interface CommonFlags {
  json?: boolean
  threads?: number
  lanes?: number
  memory?: number
}
export interface RecipeFlags extends CommonFlags, MethodOptions {
  weights?: number[]
  weight?: ModuleWeight[]
  method: NonNullable<Recipe['method']>
  rank?: number | RankRule
  size?: number
  maxRank?: number
  moduleRank?: [string, number][]
  seed?: number
  scale?: number
  dtype?: NonNullable<Recipe['dtype']>
}
/** `adapter:glob=weight` */
interface ModuleWeight {
  readonly text: string
  readonly adapter: string
  readonly glob: string
  readonly weight: number
}

export function number(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.')
  return value
}
const between = (minimum: number, maximum: number) => (text: string): number => {
  const value = number(text)
  if (value < minimum || value > maximum) throw new InvalidArgumentError(`It must be a number from ${minimum} to ${maximum}.`)
  return value
}
const whole = (minimum: number, maximum: number) => (text: string): number => {
  const value = number(text)
  if (!Number.isSafeInteger(value) || value < minimum || value > maximum) throw new InvalidArgumentError(`It must be a whole number from ${minimum} to ${maximum}.`)
  return value
}
const rankNumber = whole(1, 65535)

function rank(text: string): number | RankRule {
  if (text === 'auto') return text
  const rule = /^(energy|cumulative|ratio|frobenius)=(.+)$/.exec(text)
  if (rule) return { [rule[1] as string]: number(rule[2] as string) } as unknown as RankRule
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It must be a whole number, auto, energy=SHARE, cumulative=SHARE, frobenius=SHARE or ratio=NUMBER.')
  return rankNumber(text)
}

/** "20MB", "512kB", "1.5G" in bytes; powers of 1000, as file managers count, and of 1024 with an i. */
function bytes(text: string): number {
  const match = /^([\d.]+) *([kMGT]?)(i?)B?$/.exec(text)
  if (!match) throw new InvalidArgumentError('It must be a number of bytes, such as 20MB.')
  return Math.floor(number(match[1] as string) * (match[3] ? 1024 : 1000) ** ['', 'k', 'M', 'G', 'T'].indexOf(match[2] as string))
}

/** Splits `left=value` at the last `=`. */
function assignment(text: string, form = 'PATTERN=NUMBER'): [string, string] {
  const at = text.lastIndexOf('=')
  if (at < 1) throw new InvalidArgumentError(`It must have the form ${form}.`)
  return [text.slice(0, at), text.slice(at + 1)]
}

function moduleWeight(text: string, earlier: ModuleWeight[] = []): ModuleWeight[] {
  const [left, value] = assignment(text)
  const colon = left.indexOf(':')
  if (colon < 1) throw new InvalidArgumentError('It must have the form ADAPTER:PATTERN=NUMBER.')
  return [...earlier, { text, adapter: left.slice(0, colon), glob: left.slice(colon + 1), weight: number(value) }]
}

function moduleRank(text: string, earlier: [string, number][] = []): [string, number][] {
  const [glob, value] = assignment(text)
  return [...earlier, [glob, rankNumber(value)]]
}

export const dashed = (name: string): string => name.replaceAll('_', '-')

export function onnxNames(text: string): [string, string] {
  const names = text.split(',')
  if (names.length !== 2 || !names.every(name => name.includes('{module}'))) throw new InvalidArgumentError('It must be two names with {module} in them, separated by a comma.')
  return names as [string, string]
}

/** "2/8": the second of eight. */
export function shard(text: string): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text)
  const [index, of] = [Number(match?.[1]), Number(match?.[2])]
  if (!match || of < 1 || of > mostShards) throw new InvalidArgumentError('It must have the form I/N, such as 2/8 for the second of eight.')
  if (index < 1 || index > of) throw new InvalidArgumentError(`Shards are counted from 1: of ${of} there is none with the number ${index}.`)
  return { index, of }
}

export function policies(text: string, earlier: Policies = {}): Policies {
  const [kind, what] = assignment(text, 'KIND=WHAT')
  const known = extraKinds.find(({ name }) => name === kind)
  if (!known) throw new InvalidArgumentError(`There is no kind ${kind}.`)
  if (!known.policies.some(policy => policy === what)) throw new InvalidArgumentError(`For ${kind} it must be one of ${known.policies.join(', ')}.`)
  return { ...earlier, [kind]: what }
}

export function dtypeOption(): Option {
  return new Option('--dtype <type>', 'type of the written values; q8_0 is for GGUF').choices(['same', 'f64', 'f32', 'f16', 'bf16', 'q8_0']).default('same')
}

/** Adds what all commands that merge have in common. Options of single methods come from the core's table. */
export function withRecipe(command: Command, allowed: readonly string[], defaultMethod: string): Command {
  const known = methods.filter(method => allowed.includes(method.name))
  command
    .addOption(new Option('-m, --method <name>', "merge method ('lora-lego methods' explains them)").choices(known.flatMap(method => [method.name, ...method.aliases])).default(defaultMethod))
    .option('-r, --rank <rank>', 'rank of the result, or how to find each module\'s: auto, energy=0.95, cumulative=0.9, frobenius=0.95, ratio=20 (default: the largest rank among the adapters)', rank)
    .option('--size <bytes>', 'instead of a rank: the most that the tensor file may take, such as 20MB', bytes)
    .option('--max-rank <k>', 'with a rule or a size: the most ranks that a module may get', rankNumber)
    .option('--module-rank <glob=k>', 'rank of the modules that a pattern matches; may be repeated, the last match counts', moduleRank)
    .option('--scale <factor>', 'multiplies the result', number, 1)
    .option('--seed <number>', 'seed of all random choices', whole(0, Number.MAX_SAFE_INTEGER), 0)
    .addOption(dtypeOption())
  addMethodOptions(command, known)
  return withCommon(command)
}

/** One option for each name, whichever methods have it. */
function addMethodOptions(command: Command, known: typeof methods): void {
  const names = new Set(known.flatMap(method => method.options.map(option => option.coreName)))
  for (const name of names) {
    const users = known.filter(method => method.options.some(option => option.coreName === name))
    const infos = users.flatMap(method => method.options.filter(option => option.coreName === name))
    const [info] = infos as [(typeof infos)[number]]
    const option = new Option(`--${dashed(name)} <${info.type === 'choice' ? 'choice' : 'number'}>`)
    if (info.type === 'choice') option.choices(info.choices)
    else option.argParser((info.type === 'integer' ? whole : between)(Math.min(...infos.map(({ minimum }) => minimum)), Math.max(...infos.map(({ maximum }) => maximum))))
    // No default here: an option that is not given must not reach a method that lacks it.
    const defaults = [...new Set(infos.map(({ default: value }) => value))].join(' or ')
    option.description = `${info.sentence} (${users.map(method => method.name).join(', ')}; default: ${defaults})`
    command.addOption(option)
  }
}

export function withWeights(command: Command): Command {
  return command
    .option('-w, --weights <list>', 'one weight per adapter, separated by commas (default: all 1)', text => text.split(',').map(number))
    .option('--weight <adapter:glob=w>', "weight of an adapter (its name or number, from 1) in the modules that a pattern matches; may be repeated, the last match counts", moduleWeight)
}

export function withCommon(command: Command): Command {
  return command
    .option('--threads <number>', 'threads to work with (default: all cores, at most 8)', whole(1, 64))
    .addOption(new Option('--lanes <number>', 'instead of threads: workers with a memory of their own, as in a page that cannot share memory').argParser(whole(1, 64)).conflicts('threads'))
    .option('--memory <bytes>', 'the most that the work may take, such as 512MB; what cannot fit is refused with the number needed', bytes)
    .option('--json', 'print the result as JSON')
}

/** Wrong usage, found after parsing. */
export function usageError(code: string, message: string): CommanderError {
  return new CommanderError(2, code, `error: ${message}`)
}

export function recipeOf(flags: RecipeFlags): Recipe {
  const { method, rank: asked, size, maxRank, moduleRank: moduleRanks, seed, scale, dtype } = flags
  if (asked !== undefined && size !== undefined) throw usageError('rank', '--rank and --size cannot be given together')
  const rankOrRule = size === undefined ? asked : { size }
  const options = Object.fromEntries(
    methods.flatMap(info => info.options.map(option => [option.name, flags[option.name]] as const)).filter(([, value]) => value !== undefined),
  )
  return {
    method,
    ...options,
    ...(rankOrRule !== undefined && { rank: rankOrRule }),
    ...(maxRank !== undefined && { maxRank }),
    ...(moduleRanks && { moduleRanks: Object.fromEntries(moduleRanks) }),
    ...(seed !== undefined && { seed }),
    ...(scale !== undefined && { scale }),
    ...(dtype !== undefined && { dtype }),
  }
}

/** The adapters of a command with their weights. */
export function inputsOf(paths: readonly string[], { weights, weight: rules = [] }: Pick<RecipeFlags, 'weights' | 'weight'>): WeightedInput[] {
  if (weights && weights.length !== paths.length) throw usageError('weights', `${weights.length} weights were given for ${paths.length} adapters`)
  const inputs = paths.map((source, i): { source: string; weight: number; moduleWeights: Record<string, number> } => ({ source, weight: weights?.[i] ?? 1, moduleWeights: {} }))
  for (const { text, adapter, glob, weight } of rules) {
    const matches = inputs.filter(({ source }, i) => adapter === String(i + 1) || adapter === source || adapter === basename(resolve(source)))
    if (matches.length !== 1) throw usageError('weight', `--weight ${text}: ${matches.length === 0 ? 'no adapter is called' : 'more than one adapter is called'} '${adapter}'`)
    // Later patterns come later in the object, too, even if they were given before.
    const { moduleWeights } = matches[0] as (typeof inputs)[number]
    delete moduleWeights[glob]
    moduleWeights[glob] = weight
  }
  return inputs
}

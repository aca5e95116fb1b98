#!/usr/bin/env node
// The command line: arguments in, results on stdout, everything else on stderr.
// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.

import { writeFile } from 'node:fs/promises'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { createMerger, MergeError, methods, version, type Inspection, type Merger, type MethodOptions, type Recipe } from './index.js'
import { messageOf } from '../lib/error.js'
import { inspectionText, mergeText, methodsText, planText } from './cli-text.js'
import { progressBar } from './progress-bar.js'

interface CommonFlags {
  json?: boolean
  threads?: number
}
interface RecipeFlags extends CommonFlags, MethodOptions {
  weights?: number[]
  method: NonNullable<Recipe['method']>
  rank?: number
  seed?: number
  scale?: number
  dtype?: NonNullable<Recipe['dtype']>
}
interface MergeFlags extends RecipeFlags {
  output: string
  report?: string
  format: string
}

const number = (text: string): number => {
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
const dashed = (name: string): string => name.replaceAll('_', '-')

/** Adds what plan and merge have in common. Options of single methods come from the core's table. */
function withRecipe(command: Command): Command {
  command
    .addOption(new Option('-m, --method <name>', 'merge method').choices(methods.map(method => method.name)).default(methods[0]?.name))
    .option('-w, --weights <list>', 'one weight per adapter, separated by commas (default: all 1)', text => text.split(',').map(number))
    .option('-r, --rank <k>', 'rank of the result (default: the largest rank among the adapters)', whole(1, 65535))
    .option('--scale <factor>', 'multiplies the result', number, 1)
    .option('--seed <number>', 'seed of all random choices', whole(0, Number.MAX_SAFE_INTEGER), 0)
    .addOption(new Option('--dtype <type>', 'type of the written values').choices(['same', 'f64', 'f32', 'f16', 'bf16']).default('same'))
  for (const method of methods) {
    for (const info of method.options) {
      const option = new Option(`--${dashed(info.coreName)} <${info.type === 'choice' ? 'choice' : 'number'}>`, `${method.name}: ${info.sentence}`)
      if (info.type === 'choice') option.choices(info.choices)
      else option.argParser((info.type === 'integer' ? whole : between)(info.minimum, info.maximum))
      // No default here: an option that is not given must not reach a method that lacks it.
      option.description += ` (default: ${info.default})`
      command.addOption(option)
    }
  }
  return withCommon(command)
}

function withCommon(command: Command): Command {
  return command.option('--threads <number>', 'threads to work with (default: all cores, at most 8)', whole(1, 64)).option('--json', 'print the result as JSON')
}

function recipeOf(flags: RecipeFlags): Recipe {
  const { method, rank, seed, scale, dtype } = flags
  const options = Object.fromEntries(
    methods.flatMap(info => info.options.map(option => [option.name, flags[option.name]] as const)).filter(([, value]) => value !== undefined),
  )
  return { method, ...options, ...(rank !== undefined && { rank }), ...(seed !== undefined && { seed }), ...(scale !== undefined && { scale }), ...(dtype !== undefined && { dtype }) }
}

function inputsOf(paths: readonly string[], weights: readonly number[] | undefined): { source: string; weight: number }[] {
  if (weights && weights.length !== paths.length) {
    throw new CommanderError(2, 'weights', `error: ${weights.length} weights were given for ${paths.length} adapters`)
  }
  return paths.map((source, i) => ({ source, weight: weights?.[i] ?? 1 }))
}

/** Runs `work` with a merger and a signal that the first interrupt aborts. */
async function withMerger(flags: CommonFlags, work: (merger: Merger, signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController()
  const interrupt = (): void => controller.abort(new CommanderError(130, 'interrupted', 'interrupted'))
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const merger = createMerger(flags.threads === undefined ? {} : { threads: flags.threads })
  try {
    await work(merger, controller.signal)
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
    await merger.close()
  }
}

function print(flags: CommonFlags, value: unknown, text: () => string): void {
  process.stdout.write(flags.json ? `${JSON.stringify(value, null, 2)}\n` : text())
}

function defineProgram(): Command {
  const program = new Command('lora-lego')
    .description('Merge LoRA adapters on this machine: PEFT folders (or their adapter_model.safetensors) in, one PEFT folder out.')
    .version(version)
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', '\nExample:\n  lora-lego merge style-a style-b -o merged --weights 0.7,0.3 --rank 16')

  withRecipe(program.command('merge'))
    .description('merge adapters into one')
    .argument('<adapters...>', 'PEFT folders, or tensor files with their adapter_config.json beside them')
    .requiredOption('-o, --output <folder>', 'folder for the result; it appears only when it is complete')
    .addOption(new Option('--format <format>', 'file format of the result').choices(['same', 'peft']).default('same'))
    .option('--report <file>', 'write the full report, module by module, as JSON')
    .action((adapters: string[], flags: MergeFlags) =>
      withMerger(flags, async (merger, signal) => {
        if (flags.output.endsWith('.safetensors')) throw new CommanderError(2, 'output', 'error: a PEFT adapter is a folder: give -o a folder name, without .safetensors')
        const inputs = inputsOf(adapters, flags.weights)
        const bar = progressBar()
        try {
          const { report } = await merger.merge(inputs, recipeOf(flags), { output: flags.output, signal, onProgress: bar.update })
          bar.end()
          if (flags.report) await writeFile(flags.report, `${JSON.stringify(report, null, 2)}\n`)
          print(flags, { output: flags.output, ...report }, () => mergeText(flags.output, report))
        } finally {
          bar.end()
        }
      }),
    )

  withRecipe(program.command('plan'))
    .description('show what a merge would do, without reading a single weight')
    .argument('<adapters...>', 'PEFT folders or tensor files')
    .action((adapters: string[], flags: RecipeFlags) =>
      withMerger(flags, async (merger, signal) => {
        const plan = await merger.plan(inputsOf(adapters, flags.weights), recipeOf(flags), { signal })
        print(flags, plan, () => planText(plan))
      }),
    )

  withCommon(program.command('inspect'))
    .description('show what adapters hold')
    .argument('<adapters...>', 'PEFT folders or tensor files')
    .action((adapters: string[], flags: CommonFlags) =>
      withMerger(flags, async (merger, signal) => {
        const found: Inspection[] = []
        for (const adapter of adapters) found.push(await merger.inspect(adapter, { signal }))
        print(flags, found, () => found.map(inspectionText).join('\n'))
      }),
    )

  program
    .command('methods')
    .description('list the merge methods and their options')
    .option('--json', 'print the list as JSON')
    .action((flags: CommonFlags) => print(flags, methods, () => methodsText(methods)))
  return program
}

/** Says why it ended, and with which exit code. */
function fail(error: unknown, json: boolean): number {
  if (error instanceof CommanderError) {
    // Commander has printed help, version and its own errors; 0 and 1 are its codes for them.
    if (error.code === 'weights' || error.code === 'output' || error.code === 'interrupted') process.stderr.write(`${error.message}\n`)
    return error.exitCode === 0 ? 0 : error.exitCode === 130 ? 130 : 2
  }
  const data = error instanceof MergeError ? error.toJSON() : { code: 'internal', message: messageOf(error) }
  if (json) process.stdout.write(`${JSON.stringify({ error: data }, null, 2)}\n`)
  process.stderr.write(`lora-lego: ${data.code}: ${data.message}\n`)
  return 1
}

try {
  await defineProgram().parseAsync()
} catch (error) {
  process.exitCode = fail(error, process.argv.includes('--json'))
}

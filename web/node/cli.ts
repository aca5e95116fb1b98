#!/usr/bin/env node
// The command line: arguments in, results on stdout, everything else on stderr.
// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { text as textOf } from 'node:stream/consumers'
import { Command, CommanderError, Option } from 'commander'
import { createMerger, extraKinds, formats, MergeError, methods, version, type Comparison, type FormatName, type MergeReport, type Inspection, type MergeOptions, type Merger, type MergeResult, type Policies, type Recipe, type Shard, type WeightedInput } from './index.js'
import { messageOf } from '../lib/error.js'
import { BatchLog, filesOf, isUpToDate, readBatch, type BatchEntry, type BatchLine } from './batch.js'
import { dtypeOption, inputsOf, onnxNames, policies, recipeOf, shard, usageError, withCommon, withRecipe, withWeights, type CommonFlags, type RecipeFlags } from './cli-recipe.js'
import { batchText, batchTotalText, comparisonText, convertText, formatsText, inspectionText, mergeText, methodsText, partText, planText } from './cli-text.js'
import { progressBar } from './progress-bar.js'

interface OutputFlags extends CommonFlags {
  output: string
  report?: string
  format: 'same' | FormatName
  base?: string[]
  policy?: Policies
  onnxNames?: [string, string]
  onnxLayout: 'matmul' | 'peft'
  metadata: boolean
}
interface MergeFlags extends RecipeFlags, OutputFlags {
  shard?: Shard
  hashes?: boolean
}
type WriteFlags = CommonFlags & Pick<OutputFlags, 'output' | 'report'> & Pick<MergeFlags, 'hashes'>
interface ConvertFlags extends OutputFlags, Pick<RecipeFlags, 'dtype'> {}

/** Runs `work` with a merger and a signal that the first interrupt aborts. */
async function withMerger(flags: CommonFlags, work: (merger: Merger, signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController()
  const interrupt = (): void => controller.abort(new CommanderError(130, 'interrupted', 'interrupted'))
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const { threads, lanes, memory } = flags
  const merger = createMerger({ ...(threads !== undefined && { threads }), ...(lanes !== undefined && { lanes }), ...(memory !== undefined && { memory }) })
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

function formatOption(): Option {
  return new Option('--format <format>', "file format of the result ('lora-lego formats' explains them)").choices(['same', ...formats.map(({ name }) => name)]).default('same')
}

function baseOption(): Option {
  return new Option('--base <path>', "the base model's folder, config.json or GGUF file: for GGUF adapters that are made from others, or merged with others; its folder or safetensors file: for merging DoRA; may be repeated").argParser<string[]>((path, earlier = []) => [...earlier, path])
}

function withOutput(command: Command): Command {
  return command
    .requiredOption('-o, --output <path>', 'folder for the result, or, for formats of one file, a name in .safetensors, .gguf or .onnx_adapter; it appears only when it is complete')
    .addOption(formatOption())
    .addOption(baseOption())
    .addOption(policyOption())
    .option('--onnx-names <a,b>', "format onnx: what the graph's inputs are called, with {module} for a module's path (default: {module}.lora_A.weight,{module}.lora_B.weight)", onnxNames)
    .addOption(new Option('--onnx-layout <layout>', 'format onnx: A (in x rank) and B (rank x out), or as PEFT has them').choices(['matmul', 'peft']).default('matmul'))
    .option('--no-metadata', 'leave out where the result comes from: the metadata that the inputs share, and the recipe')
    .option('--report <file>', 'write the full report, module by module and with hashes of all files, as JSON; the metadata then have the hashes of the inputs, too')
}

interface LookFlags extends CommonFlags {
  headersOnly?: boolean
}

function withHeadersOnly(command: Command): Command {
  return command.option('--headers-only', 'read no weights: nothing is said about how the adapters stand to each other')
}

/** How several adapters stand to each other, unless the flags forbid to read weights. */
async function compareAll(merger: Merger, inputs: readonly WeightedInput[], flags: LookFlags & Partial<FormatFlags>, signal: AbortSignal): Promise<Comparison | undefined> {
  if (flags.headersOnly || inputs.length < 2) return undefined
  const bar = progressBar()
  try {
    const { base, policy } = flags
    return await merger.compare(inputs, { signal, onProgress: bar.update, ...(base && { base }), ...(policy && { policies: policy }) })
  } finally {
    bar.end()
  }
}

/** Runs `work`, which writes a result, and says what came of it. */
async function writeResult(flags: WriteFlags, text: (output: string, report: MergeReport) => string, work: (merger: Merger, options: MergeOptions) => Promise<MergeResult>): Promise<void> {
  await withMerger(flags, async (merger, signal) => {
    const bar = progressBar()
    try {
      const { report } = await work(merger, { output: flags.output, signal, onProgress: bar.update, hashes: flags.hashes === true || flags.report !== undefined })
      bar.end()
      if (flags.report) await writeFile(flags.report, `${JSON.stringify(report, null, 2)}\n`)
      print(flags, { output: flags.output, ...report }, () => text(flags.output, report))
    } finally {
      bar.end()
    }
  })
}

type FormatFlags = Pick<OutputFlags, 'format' | 'base' | 'policy'>

function formatOf({ format, base, policy }: FormatFlags): Pick<Recipe, 'format' | 'base' | 'policies'> {
  return { format, ...(base !== undefined && { base }), ...(policy && { policies: policy }) }
}

function policyOption(): Option {
  const kinds = extraKinds.map(({ name }) => name).join(', ')
  return new Option('--policy <kind=what>', `what happens to tensors that are no LoRA factors, and otherwise refused (${kinds}): drop, first, average or sum, and merge for DoRA; may be repeated`).argParser(policies)
}

/** What only commands that write take. */
function writingOf({ metadata, onnxNames: names, onnxLayout: layout }: OutputFlags): Pick<Recipe, 'metadata' | 'onnx'> {
  return { metadata, onnx: { layout, ...(names && { names }) } }
}

async function mergeTo(inputs: readonly WeightedInput[], flags: MergeFlags): Promise<void> {
  const recipe = { ...recipeOf(flags), ...formatOf(flags), ...writingOf(flags) }
  const { shard } = flags
  if (shard && flags.report !== undefined) throw usageError('report', "a part has no report of its own: give --hashes to every shard, and --report to 'lora-lego join'")
  await writeResult(flags, shard ? partText : mergeText, (merger, options) => merger.merge(inputs, recipe, { ...options, ...(shard && { shard }) }))
}

interface BatchFlags extends CommonFlags {
  log?: string
  failFast?: boolean
}

/** Merges one line. Rejects only if it is interrupted: a failure is an entry like success. */
async function mergeLine(merger: Merger, { number, id, inputs, output, report: reportPath, recipe }: BatchLine, signal: AbortSignal): Promise<BatchEntry> {
  const bar = progressBar()
  const start = performance.now()
  const entry = { recipe: id, line: number, output }
  const times = (): Pick<BatchEntry, 'seconds' | 'ended'> => ({ seconds: Math.round(performance.now() - start) / 1000, ended: new Date().toISOString() })
  try {
    const { report } = await merger.merge(inputs, recipe, { output, signal, onProgress: bar.update, hashes: reportPath !== undefined })
    if (reportPath !== undefined) {
      await mkdir(dirname(reportPath), { recursive: true })
      await writeFile(reportPath, `${JSON.stringify(report, null, 2)}\n`)
    }
    return { ...entry, state: 'done', files: filesOf(output, report), modules: report.modules.length, ...times() }
  } catch (error) {
    if (signal.aborted) throw error
    return { ...entry, state: 'failed', error: error instanceof MergeError ? error.toJSON() : { code: 'write_failed', message: messageOf(error) }, ...times() }
  } finally {
    bar.end()
  }
}

/** Merges line by line. Nothing is run if one line is wrong; what fails later does not stop the others, unless asked for. */
async function runBatch(file: string, flags: BatchFlags): Promise<void> {
  const isInput = file === '-'
  const text = await (isInput ? textOf(process.stdin) : readFile(file, 'utf8')).catch((error: unknown) => {
    throw new MergeError({ code: 'read_failed', message: `'${file}': could not be read (${messageOf(error)})`, file }, { cause: error })
  })
  const lines = readBatch(isInput ? 'standard input' : file, text, isInput ? process.cwd() : dirname(resolve(file)))
  const logPath = flags.log ?? (isInput ? undefined : `${file}.log`)
  const log = await BatchLog.open(logPath)
  const counts = { done: 0, failed: 0, kept: 0 }
  const count = (entry: BatchEntry): void => {
    counts[entry.state]++
    process.stdout.write(flags.json ? `${JSON.stringify(entry)}\n` : batchText(entry))
    if (entry.error) process.stderr.write(`lora-lego: line ${entry.line}: ${entry.error.code}: ${entry.error.message}\n`)
  }
  try {
    await withMerger(flags, async (merger, signal) => {
      for (const line of lines) {
        if (await isUpToDate(line, lines, log)) {
          count({ recipe: line.id, line: line.number, output: line.output, state: 'kept' })
          continue
        }
        const entry = await mergeLine(merger, line, signal)
        await log.append(entry)
        count(entry)
        if (flags.failFast && counts.failed > 0) break
      }
    })
  } finally {
    await log.close()
  }
  if (!flags.json) process.stdout.write(batchTotalText(counts, lines.length, logPath))
  if (counts.failed > 0) process.exitCode = 1
}

function defineProgram(): Command {
  const program = new Command('lora-lego')
    .description('Merge and convert LoRA adapters on this machine, of PEFT, kohya, diffusers, ComfyUI, MLX and others.')
    .version(version)
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', '\nExample:\n  lora-lego merge style-a style-b -o merged --weights 0.7,0.3 --rank 16')

  const everyMethod = methods.map(method => method.name)
  withOutput(withWeights(withRecipe(program.command('merge'), everyMethod, everyMethod[0] as string)))
    .description('merge adapters into one')
    .argument('<adapters...>', 'folders of adapters, or their tensor files (a PEFT or MLX file with its adapter_config.json beside it)')
    .option('--shard <i/n>', "compute only part I of N, to be put together by 'lora-lego join'; the output is then a folder that all parts may share, or the part's name in .safetensors", shard)
    .option('--hashes', 'read the inputs once more and write their SHA-256 into the metadata, as --report does')
    .action((adapters: string[], flags: MergeFlags) => mergeTo(inputsOf(adapters, flags), flags))

  withCommon(program.command('join'))
    .description("put the parts of one merge together that 'lora-lego merge --shard' wrote: the same bytes as without")
    .argument('<parts...>', 'part files, or folders with part-*.safetensors; all parts of the merge, in any order')
    .requiredOption('-o, --output <path>', 'as for merge')
    .option('--report <file>', 'write the full report of the merge, with hashes of the outputs, as JSON; those of the inputs are in it if --hashes was given to the shards')
    .action((parts: string[], flags: WriteFlags) => writeResult(flags, mergeText, (merger, options) => merger.join(parts, options)))

  withCommon(program.command('batch'))
    .description('merge many times, one recipe a line; run again, it goes on where it ended, and tries again what failed')
    .argument('<file>', 'JSON lines such as {"inputs": [{"source": "a", "weight": 0.7}, "b"], "output": "merged", "rank": 8}: the names of the library\'s Recipe, and report for a file; paths count from the folder of this file; - reads standard input')
    .option('--log <file>', 'where it says what was done, as JSON lines (default: the file\'s name and .log; with - none)')
    .option('--fail-fast', 'stop at the first merge that fails, instead of going on with the others')
    .action((file: string, flags: BatchFlags) => runBatch(file, flags))

  withOutput(withRecipe(program.command('resize'), ['svd', 'lego', 'lego_delta', 'prune'], 'svd'))
    .description('give one adapter another rank')
    .argument('<adapter>', 'folder or tensor file')
    .action((adapter: string, flags: MergeFlags) => {
      if (flags.rank === undefined && flags.size === undefined) throw usageError('rank', "resize needs --rank or --size")
      return mergeTo([{ source: adapter }], flags)
    })

  withCommon(withOutput(program.command('convert')))
    .description('write one adapter in another format; its factors stay as they are wherever the format can say their scales')
    .argument('<adapter>', 'folder or tensor file')
    .addOption(dtypeOption())
    .action((adapter: string, flags: ConvertFlags) => {
      const { format, dtype } = flags
      if (format === 'same') throw usageError('format', 'convert needs --format')
      return writeResult(flags, convertText, (merger, options) => merger.convert(adapter, { ...formatOf(flags), format, ...writingOf(flags), ...(dtype && { dtype }) }, options))
    })

  withHeadersOnly(withWeights(withRecipe(program.command('plan'), everyMethod, everyMethod[0] as string)))
    .description('show what a merge would do, where the adapters are in each other\'s way, and which settings suit them')
    .argument('<adapters...>', 'folders or tensor files')
    .addOption(formatOption())
    .addOption(baseOption())
    .addOption(policyOption())
    .action((adapters: string[], flags: RecipeFlags & LookFlags & FormatFlags) =>
      withMerger(flags, async (merger, signal) => {
        const inputs = inputsOf(adapters, flags)
        const plan = await merger.plan(inputs, { ...recipeOf(flags), ...formatOf(flags) }, { signal })
        const comparison = await compareAll(merger, inputs, flags, signal)
        print(flags, { plan, ...(comparison && { comparison }) }, () => planText(plan) + (comparison ? `\n${comparisonText(comparison)}` : ''))
      }),
    )

  withHeadersOnly(withCommon(program.command('inspect')))
    .description('show what adapters hold, and how several of them stand to each other')
    .argument('<adapters...>', 'folders or tensor files')
    .action((adapters: string[], flags: LookFlags) =>
      withMerger(flags, async (merger, signal) => {
        const found: Inspection[] = []
        for (const adapter of adapters) found.push(await merger.inspect(adapter, { signal }))
        try {
          const comparison = await compareAll(merger, inputsOf(adapters, {}), flags, signal)
          print(flags, { adapters: found, ...(comparison && { comparison }) }, () => [...found.map(inspectionText), ...(comparison ? [comparisonText(comparison)] : [])].join('\n'))
        } catch (error) {
          // Adapters that cannot be merged can still be looked at.
          if (!(error instanceof MergeError)) throw error
          print(flags, { adapters: found, problem: error.toJSON() }, () => `${found.map(inspectionText).join('\n')}\nThey cannot be merged: ${error.message}\n`)
        }
      }),
    )

  program
    .command('formats')
    .description('list the file formats of adapters')
    .option('--json', 'print the list as JSON')
    .action((flags: CommonFlags) => print(flags, formats, () => formatsText(formats)))
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
    if (!error.code.startsWith('commander.')) process.stderr.write(`${error.message}\n`)
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

// The parts of one merge, put together: the bytes that the merge would have written as a whole. Parts come from files
// that may be damaged, or of another merge: everything that they say is checked before it is used.

import { fields, isCount, isFlag, isNumber, isNumberOrNull, isText, listOf, optional, recordOf } from './check.js'
import { MergeError } from './error.js'
import type { ReportValue } from './generated/core-single.mjs'
import { formatFiles } from './generated/registry.js'
import { FileHasher, type Hasher } from './hash.js'
import { fileWriter, type FileWriter } from './kohya-hashes.js'
import { partKey, partTensors, type PartDescription, type PartPlan, type PartReport } from './part.js'
import type { JoinOutcome } from './protocol.js'
import { moduleReport } from './report.js'
import { checkCancelled, checkpointOf, readHeader, type Listener, type Tools } from './run.js'
import { mostShards } from './shard.js'
import { mustReadBack, type OutputReference } from './sink.js'
import type { ByteSource, FileReference } from './source.js'

/** Bytes of a file, or of a part's tensor. */
interface Range {
  readonly begin: number
  readonly length: number
}

/** Bytes of the result's tensor file, `begin` there, and where in a part they are. */
interface ResultRange extends Range {
  readonly part: Part
  readonly at: number
}

interface Part {
  readonly source: ByteSource
  readonly description: PartDescription
  /** Its tensors by name, in file order; places in its file. */
  readonly tensors: ReadonlyMap<string, Range>
  /** Of its tensors, as far as they have been read, but for the report. */
  readonly hasher: Hasher
}

// What the texts of a part may have at most: a report takes about a kilobyte for each module and adapter.
const largestText = 256 << 20
// Of one merge (limits.h, kAdapters).
const mostAdapters = 1024
// Long enough to copy at full speed, short enough for memory.
const pieceBytes = 4 << 20
// Of the report, in one message.
const modulesAtOnce = 16

function bad(file: string, message: string): MergeError {
  return new MergeError({ code: 'bad_part', message: `'${file}' ${message}`, file })
}

const isDescription = fields({ version: isCount, shard: fields({ index: isCount, of: isCount }), merge: isText, file: isText, bytes: isCount, configFile: isText })

const isPlan = fields({
  job: fields({
    ...{ method: isText, rank: isCount, rankRule: fields({ kind: isText, value: isNumber }), moduleRanks: listOf(fields({ glob: isText, rank: isCount })), seed: isCount, scale: isNumber, dtype: isText, format: isText },
    options: recordOf(value => isText(value) || isNumber(value)),
    weights: listOf(isNumber),
    moduleWeights: listOf(fields({ adapter: isCount, glob: isText, weight: isNumber })),
    adapters: listOf(fields({ label: isText, tensors: fields({ name: isText }) })),
  }),
  plan: fields({
    ...{ method: isText, dtype: isText, format: isText, tensorFile: isText, configFile: isText, ranksAreKnown: isFlag, inputBytes: isCount, outputBytes: isCount, peakBytes: isNumber },
    modules: listOf(fields({ path: isText, kind: isText, in: isCount, out: isCount, units: isCount, rank: isCount, ranks: listOf(isCount) })),
    tensors: listOf(fields({ name: isText, dtype: value => ['F64', 'F32', 'F16', 'BF16', 'Q8_0'].includes(value as string), shape: listOf(isCount), begin: isCount, end: isCount })),
    notices: listOf(isText),
    extras: listOf(fields({ adapter: isCount, tensor: isText, kind: isText, policy: isText })),
    fileSizes: listOf(isCount),
  }),
  hashes: optional(fields({ dataBegin: isCount, modelAt: isCount, legacyAt: isCount })),
  inputHashes: listOf(isText),
})

const isReport = fields({
  modules: listOf(
    fields({
      number: isCount,
      report: fields({
        ...{ norm: isNumberOrNull, targetNorm: isNumberOrNull, relativeError: isNumberOrNull, cosine: isNumberOrNull, retainedEnergy: isNumberOrNull, conflict: isNumberOrNull, seconds: isNumberOrNull, inertia: isNumberOrNull },
        inputs: listOf(fields({ adapter: isCount, norm: isNumberOrNull, relativeError: isNumberOrNull, cosine: isNumberOrNull })),
        pairCosines: listOf(listOf(isNumberOrNull)),
        mergedNorms: listOf(isNumberOrNull),
        labels: listOf(isCount),
        clusters: listOf(listOf(isCount)),
        centroidNorms: listOf(isNumberOrNull),
        nearZero: listOf(isCount),
      }),
    }),
  ),
  ...{ seconds: isNumber, hashSeconds: isNumber, threads: isCount, lanes: isCount, memoryBytes: isCount, sha256: isText },
})

function parsed(file: string, what: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw bad(file, `is damaged: its ${what} is no JSON`)
  }
}

/** Reads a part's header. The other checks of formats are the core's: sizes against the file's, and what is no safetensors. */
async function openPart(tools: Tools, reference: FileReference, sources: ByteSource[]): Promise<Part> {
  const source = await tools.open(reference)
  sources.push(source)
  const { name } = source
  const bytes = await readHeader(tools, source)
  const header = parsed(name, 'header', new TextDecoder().decode(bytes.subarray(8)))
  if (!recordOf(value => typeof value === 'object')(header)) throw bad(name, 'is damaged: its header is no table')
  const { __metadata__: metadata, ...entries } = header as Record<string, Record<string, unknown> | null>
  const text = metadata?.[partKey]
  if (typeof text !== 'string') throw bad(name, "is no part of a merge: 'lora-lego merge --shard' writes them")
  const description = parsed(name, 'description', text)
  if (!isDescription(description)) throw bad(name, 'is damaged: its description lacks something')
  const known = description as PartDescription
  if ((known.version as number) !== 1) throw bad(name, `was written by a newer version of lora-lego (parts of version ${known.version})`)
  const { index, of } = known.shard
  if (!(index >= 1 && index <= of && of <= mostShards)) throw bad(name, `is damaged: it says that it is part ${index} of ${of}`)
  // A name is written to as it is: it must be one of ours.
  if (!formatFiles.some(({ tensorFile, configFile }) => tensorFile === known.file && configFile === known.configFile)) throw bad(name, `is damaged: no format has the files '${known.file}' and '${known.configFile}'`)
  return { source, description: known, hasher: await tools.createHasher(), tensors: tensorsOf(name, entries, bytes.length, source.size) }
}

/** The tensors of a header, which must fill the rest of the file without a gap. */
function tensorsOf(file: string, entries: Readonly<Record<string, unknown>>, dataBegin: number, fileSize: number): Map<string, Range> {
  const isTensor = fields({ dtype: value => value === 'U8', shape: listOf(isCount), data_offsets: listOf(isCount) })
  const found = Object.entries(entries).map(([name, entry]) => {
    if (!isTensor(entry)) throw bad(file, `is damaged: ${name} is no row of bytes`)
    const { shape, data_offsets: offsets } = entry as { shape: number[]; data_offsets: number[] }
    const [begin = 0, end = 0] = offsets
    if (offsets.length !== 2 || shape.length !== 1 || end - begin !== shape[0]) throw bad(file, `is damaged: the size of ${name} does not fit its place`)
    return { name, begin, end }
  })
  let position = 0
  for (const { name, begin, end } of found.sort((x, y) => x.begin - y.begin || x.end - y.end)) {
    if (begin !== position) throw bad(file, `is damaged: ${name} does not begin where the tensor before it ends`)
    position = end
  }
  if (dataBegin + position !== fileSize) throw bad(file, `is damaged: it has ${fileSize} bytes, and its header speaks of ${dataBegin + position}`)
  return new Map(found.map(({ name, begin, end }) => [name, { begin: dataBegin + begin, length: end - begin }]))
}

const rangeName = /^range\.(\d{1,16})$/

/** Feeds a part's digest with the tensors in front of its ranges, or with those behind them. */
async function hashAround(part: Part, isBehind: boolean): Promise<void> {
  const names = [...part.tensors.keys()].filter(name => name !== partTensors.report)
  const first = names.findIndex(name => rangeName.test(name))
  const last = names.findLastIndex(name => rangeName.test(name))
  // A part without ranges has everything in front.
  const those = isBehind ? (last < 0 ? [] : names.slice(last + 1)) : first < 0 ? names : names.slice(0, first)
  for (const name of those) part.hasher.update(await readTensor(part, name))
}

/** Bytes of a tensor that is read as a whole. */
async function readTensor({ source, tensors }: Part, name: string): Promise<Uint8Array> {
  const place = tensors.get(name)
  if (!place) throw bad(source.name, `is damaged: it has no tensor ${name}`)
  if (place.length > largestText) throw bad(source.name, `is damaged: ${name} has ${place.length} bytes`)
  return source.read(place.begin, place.length)
}

/** A tensor that is JSON of a known form. */
async function readJson<T>(part: Part, name: string, isValid: (value: unknown) => boolean): Promise<T> {
  const value = parsed(part.source.name, name, new TextDecoder().decode(await readTensor(part, name)))
  if (!isValid(value)) throw bad(part.source.name, `is damaged: its ${name} is not what this version writes`)
  return value as T
}

/** "3, 7 and 9", and no more than ten of them. */
function listed(numbers: readonly number[]): string {
  const shown = numbers.slice(0, 10).map(String)
  if (numbers.length > shown.length) return `${shown.join(', ')} and ${numbers.length - shown.length} more`
  return shown.length < 2 ? shown.join('') : `${shown.slice(0, -1).join(', ')} and ${shown.at(-1)}`
}

/** Parts by their number. Throws bad_part unless they are all parts of one merge. */
function sorted(parts: readonly Part[]): Part[] {
  const [first] = parts as [Part]
  const { shard, merge, file, bytes, configFile } = first.description
  const found: Part[] = []
  for (const part of parts) {
    const { source, description } = part
    const other = description.shard
    if (other.of !== shard.of) throw bad(source.name, `is part ${other.index} of ${other.of}, and '${first.source.name}' is one of ${shard.of}`)
    const isSame = description.merge === merge && description.file === file && description.bytes === bytes && description.configFile === configFile
    if (!isSame) throw bad(source.name, `is part of another merge than '${first.source.name}': the inputs, the recipe or the version of lora-lego are not the same`)
    const twin = found[other.index - 1]
    if (twin) throw bad(source.name, `is part ${other.index} of ${other.of}, as '${twin.source.name}' is`)
    found[other.index - 1] = part
  }
  const missing = Array.from({ length: shard.of }, (_, i) => i + 1).filter(index => !found[index - 1])
  if (missing.length > 0) {
    const text = missing.length === 1 ? `part ${missing[0]} of ${shard.of} is missing` : `of ${shard.of} parts, ${listed(missing)} are missing`
    throw new MergeError({ code: 'bad_part', message: `${text}; '${first.source.name}' is of the same merge`, file: first.source.name })
  }
  return found
}

/** All ranges of the result's tensor file behind its header, in its order. Throws bad_part unless they cover it, each byte once. */
function rangesOf(parts: readonly Part[], headerBytes: number, bytes: number): ResultRange[] {
  const ranges = parts.flatMap(part =>
    [...part.tensors].flatMap(([name, { begin: at, length }]): ResultRange[] => {
      const begin = rangeName.exec(name)?.[1]
      return begin === undefined ? [] : [{ part, at, begin: Number(begin), length }]
    }),
  )
  let position = headerBytes
  for (const { part, begin, length } of ranges.sort((x, y) => x.begin - y.begin || x.length - y.length)) {
    if (begin < position) throw bad(part.source.name, `is damaged: it has the result's bytes from ${begin} on, which are in another place already`)
    if (begin > position) throw bad(part.source.name, `is damaged: in front of its range from ${begin} on, the result's bytes from ${position} on are in no part`)
    position += length
  }
  const [first] = parts as [Part]
  const { part: last } = ranges.at(-1) ?? { part: first }
  if (position !== bytes) throw bad(last.source.name, `is damaged: the parts have the result up to byte ${position}, of ${bytes}`)
  return ranges
}

/** Copies ranges to the file; the next piece is on its way while one is written. */
async function copy(ranges: readonly ResultRange[], writer: FileWriter, checkpoint: (bytesDone: number) => Promise<void>): Promise<void> {
  const pieces = ranges.flatMap(({ part, at, length }) =>
    Array.from({ length: Math.ceil(length / pieceBytes) }, (_, i) => ({ part, begin: at + i * pieceBytes, length: Math.min(pieceBytes, length - i * pieceBytes) })),
  )
  const largest = Math.max(0, ...pieces.slice(0, 1).map(({ length }) => length), pieces.length > 1 ? pieceBytes : 0)
  const spaces = [new Uint8Array(largest), new Uint8Array(largest)]
  const start = (i: number): Promise<Uint8Array> => {
    const piece = pieces[i]
    const reading = piece ? piece.part.source.read(piece.begin, piece.length, spaces[i % 2]?.subarray(0, piece.length)) : Promise.resolve(new Uint8Array())
    // If the join fails first, nobody waits for it.
    reading.catch(() => undefined)
    return reading
  }
  let next = start(0)
  let done = 0
  for (const [i, { part, length }] of pieces.entries()) {
    const bytes = await next
    part.hasher.update(bytes)
    next = start(i + 1)
    await checkpoint(done)
    await writer.write(bytes)
    done += length
  }
}

/** What the parts know of how their modules were merged, and what that took. */
async function readReports(parts: readonly Part[], modules: number): Promise<Omit<PartReport, 'modules' | 'sha256'> & { modules: ReportValue[]; digests: string[] }> {
  const found: ReportValue[] = []
  const digests: string[] = []
  const total = { seconds: 0, hashSeconds: 0, threads: 0, lanes: 0, memoryBytes: 0 }
  for (const part of parts) {
    const report = await readJson<PartReport>(part, partTensors.report, isReport)
    for (const { number, report: module } of report.modules) {
      if (number >= modules || found[number]) throw bad(part.source.name, `is damaged: it reports on module ${number + 1} of ${modules}${found[number] ? ', as another part does' : ''}`)
      found[number] = { ...module, relativeError: module.relativeError ?? Infinity, inputs: module.inputs.map(input => ({ ...input, relativeError: input.relativeError ?? Infinity })) }
    }
    digests.push(report.sha256)
    total.seconds += report.seconds
    total.hashSeconds += report.hashSeconds
    total.threads = Math.max(total.threads, report.threads)
    total.lanes = Math.max(total.lanes, report.lanes)
    total.memoryBytes = Math.max(total.memoryBytes, report.memoryBytes)
  }
  for (let number = 0; number < modules; number++) {
    if (!found[number]) throw new MergeError({ code: 'bad_part', message: `no part reports on module ${number + 1} of ${modules}` })
  }
  return { ...total, modules: found, digests }
}

/** Puts the parts of one merge together. Rejects with bad_part where they are not all of its parts. */
export async function join(tools: Tools, references: readonly FileReference[], output: OutputReference, wantsHashes: boolean, listener: Listener): Promise<JoinOutcome> {
  const start = performance.now()
  const sources: ByteSource[] = []
  try {
    const opened: Part[] = []
    for (const reference of references) {
      checkCancelled(listener)
      opened.push(await openPart(tools, reference, sources))
    }
    const parts = sorted(opened)
    const [first] = parts as [Part]
    const { name } = first.source
    const { file, bytes, configFile } = first.description
    const { job, plan, hashes, inputHashes } = await readJson<PartPlan>(first, partTensors.plan, isPlan)
    if (plan.tensorFile !== file || plan.configFile !== configFile || plan.outputBytes !== bytes) throw bad(name, 'is damaged: its plan is not that of its result')
    // A report compares each adapter with each.
    const adapters = job.adapters.length
    if (adapters > mostAdapters || job.weights.length !== adapters || plan.fileSizes.length !== adapters) throw bad(name, 'is damaged: its plan is not one of its adapters')
    const header = await readTensor(first, partTensors.header)
    const legacyHeader = hashes ? await readTensor(first, partTensors.legacyHeader) : new Uint8Array()
    const config = configFile === '' ? new Uint8Array() : await readTensor(first, partTensors.config)
    if (hashes && !(hashes.dataBegin <= header.length && hashes.modelAt + 64 <= hashes.dataBegin && hashes.legacyAt + 8 <= hashes.dataBegin)) throw bad(name, 'is damaged: its hashes have no place in its header')
    const ranges = rangesOf(parts, header.length, bytes)
    const { modules, digests, seconds, hashSeconds, ...used } = await readReports(parts, plan.modules.length)

    const checkpoint = checkpointOf(listener)
    const hasher = new FileHasher(tools.createHasher, checkpoint)
    // 1 is kept for the moment when the result is complete.
    const progress = (done: number): void => listener.progress({ fraction: Math.min(done / bytes, 0.999), modulesDone: Math.floor((done / bytes) * modules.length), modules: modules.length })
    const sink = await tools.openSink(output, configFile === '' ? [file] : [file, configFile])
    try {
      const writer = await fileWriter(sink, hashes && { areWritten: true, ...hashes, legacyHeader }, tools.createHasher)
      if (wantsHashes) mustReadBack(sink, 'hashes are made by reading the result once more')
      const outputs: string[] = []
      await sink.begin({ name: file, size: bytes })
      await writer.write(header)
      for (const part of parts) await hashAround(part, false)
      await copy(ranges, writer, async done => {
        await checkpoint()
        progress(done)
      })
      for (const [i, part] of parts.entries()) {
        await hashAround(part, true)
        if (part.hasher.digest() !== digests[i]) throw bad(part.source.name, 'is damaged: its bytes are not those that were written; copy it again, or compute it again')
      }
      await writer.complete()
      if (wantsHashes) outputs.push(await hasher.digest(await sink.written()))
      if (configFile !== '') {
        await sink.begin({ name: configFile, size: config.length })
        await sink.write(config)
        if (wantsHashes) outputs.push(await hasher.digest(await sink.written()))
      }
      checkCancelled(listener)
      // Some at a time, as in a merge.
      const told = modules.map((report, number) => moduleReport(plan, number, report))
      for (let i = 0; i < told.length; i += modulesAtOnce) listener.modules(told.slice(i, i + modulesAtOnce))
      const outcome = {
        job,
        plan: { ...plan, config: new TextDecoder().decode(config) },
        modules: told,
        output: await sink.finish(),
        seconds: seconds + (performance.now() - start) / 1000 - hasher.seconds,
        ...used,
        ...((wantsHashes || inputHashes.length > 0) && { hashes: { inputs: inputHashes, outputs, seconds: hashSeconds + hasher.seconds } }),
      }
      listener.progress({ fraction: 1, modulesDone: modules.length, modules: modules.length })
      return outcome
    } catch (error) {
      await sink.abort()
      throw error
    }
  } finally {
    await Promise.allSettled(sources.map(source => source.close()))
  }
}

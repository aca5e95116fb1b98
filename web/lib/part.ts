// The file that a shard of a merge writes: a safetensors file, which any reader of them opens, with the
// result's bytes as tensors of U8. join.ts puts such files together.

import type { HashesValue, ReportValue } from './generated/core-single.mjs'
import { version } from './generated/registry.js'
import type { CreateHasher, Hasher } from './hash.js'
import type { Job, PlanData } from './protocol.js'
import type { ReportedJob } from './report.js'
import { partName, type NumberedBatch, type Shard } from './shard.js'
import type { OutputFile, Sink, SinkResult } from './sink.js'
import type { ByteSource, FileReference, OpenSource } from './source.js'

/** The key of a part file's metadata that says what it is: a PartDescription as JSON. */
export const partKey = 'lora_lego_part'

/** What a part says of itself. */
export interface PartDescription {
  /** Raised when older versions cannot read the file. */
  readonly version: 1
  readonly shard: Shard
  /** Hexadecimal digest that all parts of one merge share, and no others. */
  readonly merge: string
  /** Name and size in bytes of the result's tensor file. */
  readonly file: string
  readonly bytes: number
  /** Name of its config; empty where it has none. */
  readonly configFile: string
}

/** Names of a part's tensors, each a row of U8. */
export const partTensors = {
  /** A PartPlan as JSON. */
  plan: 'plan',
  /** First bytes of the result's tensor file. */
  header: 'header',
  /** Text of the result's config, where it has one. */
  config: 'config',
  /** HashesValue::legacyHeader, where the result says what it hashes to. */
  legacyHeader: 'legacy_header',
  /** A PartReport as JSON. */
  report: 'report',
  /** Bytes of the result's tensor file from this one on. */
  range: (begin: number): string => `range.${begin}`,
} as const

/** What every part of a merge knows of the whole. */
export interface PartPlan {
  readonly job: ReportedJob
  readonly plan: Omit<PlanData, 'config'>
  /** Where the result's header has places for hashes of its own bytes. */
  readonly hashes?: Omit<HashesValue, 'areWritten' | 'legacyHeader'>
  /** SHA-256 of the adapters' tensor files, where they were asked for. */
  readonly inputHashes: readonly string[]
}

/** What a part knows of itself once it is computed. */
export interface PartReport {
  /** Its modules: their numbers in the plan, and how they were merged. */
  readonly modules: readonly { readonly number: number; readonly report: ReportValue }[]
  readonly seconds: number
  readonly hashSeconds: number
  readonly threads: number
  readonly lanes: number
  readonly memoryBytes: number
  /** SHA-256, in hexadecimal, of all tensors in front of this one. */
  readonly sha256: string
}

// Enough to tell trainings apart whose files have the same header, at the price of a few reads.
const samples = 16
const sampleBytes = 4096

async function hashSamples(update: (bytes: Uint8Array) => void, reference: FileReference, open: OpenSource): Promise<void> {
  const source = await open(reference)
  try {
    update(new TextEncoder().encode(`${source.size}\n`))
    if (source.size <= samples * sampleBytes) return update(await source.read(0, source.size))
    for (let i = 0; i < samples; i++) update(await source.read(Math.floor((i * (source.size - sampleBytes)) / (samples - 1)), sampleBytes))
  } finally {
    await source.close()
  }
}

/**
 * Hexadecimal digest of what makes a merge this one: version, recipe, number of shards, how the result is cut into all
 * `batches`, its header and config, size and samples of every input. Names and places of files have no part in it: machines may mount them differently.
 */
export async function fingerprintOf(tools: { readonly open: OpenSource; readonly createHasher: CreateHasher }, job: Job, plan: PlanData, batches: readonly NumberedBatch[], header: Uint8Array, inputHashes: readonly string[]): Promise<string> {
  const hasher = await tools.createHasher()
  const update = (bytes: Uint8Array): void => hasher.update(bytes)
  const { adapters, base, shard, ...recipe } = job
  const text = JSON.stringify({ version, shards: shard?.of, recipe, inputHashes, bytes: plan.outputBytes, header: header.length, config: plan.config, batches: batches.map(({ outputEnd }) => outputEnd) })
  update(new TextEncoder().encode(text))
  update(header)
  for (const file of [...adapters.flatMap(({ tensors, config }) => (config ? [tensors, config] : [tensors])), ...base]) await hashSamples(update, file, tools.open)
  return hasher.digest()
}

/** What of a job stands in a report; no handles of files. */
function reportedJob(job: Job): ReportedJob {
  const { method, rank, rankRule, moduleRanks, seed, scale, dtype, format, options, weights, moduleWeights } = job
  return {
    ...{ method, rank, rankRule, moduleRanks, seed, scale, dtype, format, options, weights, moduleWeights },
    adapters: job.adapters.map(({ label, tensors }) => ({ label, tensors: { name: tensors.name } })),
  }
}

/** What a PartSink must know before the first byte. */
export interface PartContents {
  readonly shard: Shard
  readonly merge: string
  readonly job: Job
  readonly plan: PlanData
  readonly hashes: HashesValue
  readonly inputHashes: readonly string[]
  readonly batches: readonly NumberedBatch[]
  /** Size of the result's header in bytes. */
  readonly headerBytes: number
}

/**
 * Writes a part: takes what the sink of a whole merge would be given, but for other shards' batches, and puts it where
 * the part's own header says. The size of the report is known last: until then the header has room for any.
 */
export class PartSink implements Sink {
  readonly readsBack: boolean
  readonly #inner: Sink
  readonly #shard: Shard
  readonly #description: PartDescription
  /** What stands in front of what the merge writes. */
  readonly #preface: readonly Uint8Array[]
  readonly #tensors: readonly { readonly name: string; readonly length: number }[]
  /** Of what stands behind the file's header. */
  readonly #hasher: Hasher
  #isBegun = false

  /** `hasher`: a new one. */
  constructor(inner: Sink, hasher: Hasher, { shard, merge, job, plan: { config, ...plan }, hashes, inputHashes, batches, headerBytes }: PartContents) {
    this.#inner = inner
    this.readsBack = inner.readsBack
    this.#hasher = hasher
    this.#shard = shard
    this.#description = { version: 1, shard, merge, file: plan.tensorFile, bytes: plan.outputBytes, configFile: plan.configFile }
    const { dataBegin, modelAt, legacyAt } = hashes
    const text = encoded({ job: reportedJob(job), plan, ...(hashes.areWritten && { hashes: { dataBegin, modelAt, legacyAt } }), inputHashes } satisfies PartPlan)
    // A copy: it lies in the core's memory.
    const legacyHeader = hashes.areWritten ? hashes.legacyHeader.slice() : new Uint8Array()
    this.#preface = [text, legacyHeader]
    this.#tensors = [
      { name: partTensors.plan, length: text.length },
      { name: partTensors.legacyHeader, length: legacyHeader.length },
      { name: partTensors.header, length: headerBytes },
      ...batches.map(({ outputBegin, outputEnd }) => ({ name: partTensors.range(outputBegin), length: outputEnd - outputBegin })),
      { name: partTensors.config, length: new TextEncoder().encode(config).length },
    ].filter(({ length }) => length > 0)
  }

  #header(reportBytes: number): Uint8Array {
    const header: Record<string, unknown> = { __metadata__: { [partKey]: JSON.stringify(this.#description) } }
    let begin = 0
    for (const { name, length } of [...this.#tensors, { name: partTensors.report, length: reportBytes }]) {
      header[name] = { dtype: 'U8', shape: [length], data_offsets: [begin, begin + length] }
      begin += length
    }
    return encoded(header)
  }

  /** The file's first bytes, always as many: its tensors begin at a multiple of 8, as the format asks. */
  #start(reportBytes: number): Uint8Array {
    const room = Math.ceil(this.#header(Number.MAX_SAFE_INTEGER / 2).length / 8) * 8
    const start = new Uint8Array(8 + room).fill(0x20)
    new DataView(start.buffer).setBigUint64(0, BigInt(room), true)
    start.set(this.#header(reportBytes), 8)
    return start
  }

  /** All of the result's files go into the part, one behind the other. */
  async begin(): Promise<void> {
    if (this.#isBegun) return
    this.#isBegun = true
    const start = this.#start(0)
    const file: OutputFile = { name: partName(this.#shard), size: this.#tensors.reduce((sum, { length }) => sum + length, start.length) }
    await this.#inner.begin(file)
    await this.#inner.write(start)
    for (const bytes of this.#preface) await this.write(bytes)
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#hasher.update(bytes)
    return this.#inner.write(bytes)
  }

  /** Writes the last tensor, and the header as it is now known. */
  async report(report: Omit<PartReport, 'sha256'>): Promise<void> {
    const bytes = encoded({ ...report, sha256: this.#hasher.digest() } satisfies PartReport)
    await this.#inner.write(bytes)
    await this.#inner.rewrite(0, this.#start(bytes.length))
  }

  /** Only the joined result has the bytes that would be written over. */
  rewrite(): Promise<void> {
    return Promise.reject(new Error('a part was to be written over'))
  }

  written(): Promise<ByteSource> {
    return this.#inner.written()
  }

  finish(): Promise<SinkResult> {
    return this.#inner.finish()
  }

  abort(): Promise<void> {
    return this.#inner.abort()
  }
}

const encoded = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))

// One call from open files to written bytes, in the worker: the only place that drives the core.

import { MergeError, type MergeErrorCode } from './error.js'
import type { AdapterValue, BatchValue, ErrorValue, MainModule, PlanValue, ReadValue, ReportValue, Session } from './generated/core-single.mjs'
import { methods } from './generated/registry.js'
import { hashOf, type CreateHasher } from './hash.js'
import { writeHashes } from './kohya-hashes.js'
import { batchesOf, fingerprintOf, modulesOf, numbered, partName, PartSink, type NumberedBatch } from './part.js'
import type { AdapterData, AdapterReference, CancelFlag, ComparisonData, Job, MergeOutcome, PlanData, Progress } from './protocol.js'
import type { WorkerSettings } from './platform.js'
import type { OpenSink, OutputReference } from './sink.js'
import { readFailed, type ByteSource, type FileReference, type OpenSource } from './source.js'

// PEFT's own configs have 1 to 3 KB; the core refuses more than this (limits.h, kConfigBytes).
const largestConfig = 4_000_000

/** What a call may use. */
export interface Tools {
  readonly core: MainModule
  /** What the worker was started with. */
  readonly settings: WorkerSettings
  readonly open: OpenSource
  readonly openSink: OpenSink
  readonly createHasher: CreateHasher
}

/** How a running call talks to its caller. */
export interface Listener {
  readonly cancelled: () => boolean
  readonly progress: (progress: Progress) => void
  readonly flag: (flag: CancelFlag) => void
}

/** Throws if the core's answer is an error. */
export function check(error: ErrorValue): void {
  if (error.code === '') return
  throw new MergeError({
    code: error.code as MergeErrorCode,
    message: error.message,
    ...(error.file && { file: error.file }),
    ...(error.tensor && { tensor: error.tensor }),
    ...(error.offset >= 0 && { offset: error.offset }),
  })
}

export function checkCancelled(listener: Listener): void {
  if (listener.cancelled()) throw new MergeError({ code: 'cancelled', message: 'The work was cancelled.' })
}

/** Opens an adapter's files, gives its header and config to the session, and keeps the tensor file open. */
async function openAdapter(tools: Tools, session: Session, reference: AdapterReference, sources: ByteSource[]): Promise<AdapterData> {
  const source = await tools.open(reference.tensors)
  sources.push(source)
  const header = await readHeader(tools, source)
  const config = reference.config && (await readConfig(tools, reference.config))
  const names = { label: reference.label, file: source.name, configFile: reference.config?.name ?? '', fileSize: source.size, hasConfig: config !== undefined }
  const opened = checkedAdapter(session.addAdapter(names, header, config ?? new Uint8Array()))
  if (opened.alphas.length === 0) return opened.adapter
  const values = await Promise.all(opened.alphas.map(({ offset, length }) => source.read(offset, length)))
  return checkedAdapter(session.setAlphas(new Uint8Array(await new Blob(values as BlobPart[]).arrayBuffer()))).adapter
}

/** What the core says of an adapter, and which ranges of its file it still needs for that. */
function checkedAdapter({ error, alphas, ...adapter }: AdapterValue): { adapter: AdapterData; alphas: ReadValue[] } {
  check(error)
  return { adapter, alphas }
}

/** The first bytes of a file that the core needs: how many, it says bit by bit. */
export async function readHeader(tools: Tools, source: ByteSource): Promise<Uint8Array> {
  let bytes = await source.read(0, Math.min(8, source.size))
  for (;;) {
    const needed = tools.core.headerNeeds(source.name, bytes, source.size)
    check(needed.error)
    if (needed.bytes === bytes.length) return bytes
    bytes = await source.read(0, needed.bytes)
  }
}

/** Tells the session what the base model is, by one of its files; one with weights stays open. */
async function openBase(tools: Tools, session: Session, reference: FileReference, sources: ByteSource[]): Promise<void> {
  const source = await tools.open(reference)
  let isKept = false
  try {
    const start = await source.read(0, Math.min(8, source.size))
    const isGguf = new TextDecoder().decode(start.subarray(0, 4)) === 'GGUF'
    // The top of a length in a safetensors file, and never zero in a text.
    const hasWeights = !isGguf && start[7] === 0
    check(session.setBase(source.name, isGguf || hasWeights ? await readHeader(tools, source) : await readWhole(source), source.size))
    isKept = hasWeights
  } finally {
    if (isKept) sources.push(source)
    else await source.close()
  }
}

async function readConfig(tools: Tools, reference: AdapterReference['tensors']): Promise<Uint8Array> {
  const source = await tools.open(reference)
  try {
    return await readWhole(source)
  } finally {
    await source.close()
  }
}

async function readWhole(source: ByteSource): Promise<Uint8Array> {
  if (source.size > largestConfig) throw new MergeError({ code: 'bad_config', message: `'${source.name}': a config of ${source.size} bytes is none`, file: source.name })
  return source.read(0, source.size)
}

/** Runs `work` with a session and open files, both of which end with it. */
async function withSession<T>(tools: Tools, threads: number, work: (session: Session, sources: ByteSource[]) => Promise<T>): Promise<T> {
  const session = new tools.core.Session(threads, tools.settings.reference)
  const sources: ByteSource[] = []
  try {
    return await work(session, sources)
  } finally {
    session.delete()
    await Promise.allSettled(sources.map(source => source.close()))
  }
}

async function openAll(tools: Tools, session: Session, sources: ByteSource[], job: Job, listener: Listener): Promise<void> {
  for (const adapter of job.adapters) {
    checkCancelled(listener)
    await openAdapter(tools, session, adapter, sources)
  }
  for (const file of job.base) await openBase(tools, session, file, sources)
}

interface CheckedPlan {
  readonly plan: PlanData
  readonly batches: readonly NumberedBatch[]
}

function checkedPlan({ error, batches, ...plan }: PlanValue): CheckedPlan {
  check(error)
  return { plan, batches: numbered(batches) }
}

function makePlan(session: Session, job: Job, inputHashes: readonly string[] = []): CheckedPlan {
  const known = methods.flatMap(method => method.options)
  const options = Object.entries(job.options)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => ({ name: known.find(option => option.name === name)?.coreName ?? name, value: String(value) }))
  return checkedPlan(
    session.makePlan({
      method: job.method,
      weights: [...job.weights],
      moduleWeights: job.moduleWeights.map(entry => ({ ...entry })),
      rank: job.rank,
      rankRule: job.rankRule.kind,
      rankValue: job.rankRule.value,
      moduleRanks: job.moduleRanks.map(entry => ({ ...entry })),
      seed: job.seed,
      scale: job.scale,
      dtype: job.dtype,
      format: job.format,
      onnxNameA: job.onnx.names?.[0] ?? '',
      onnxNameB: job.onnx.names?.[1] ?? '',
      onnxMatMul: job.onnx.layout !== 'peft',
      metadata: job.metadata,
      inputHashes: [...inputHashes],
      keepScales: job.keepScales,
      shards: job.shard?.of ?? 1,
      policies: Object.entries(job.policies).map(([name, value]) => ({ name, value: String(value) })),
      options,
    }),
  )
}

export async function inspect(tools: Tools, adapter: AdapterReference): Promise<AdapterData> {
  return withSession(tools, 1, (session, sources) => openAdapter(tools, session, adapter, sources))
}

export async function plan(tools: Tools, job: Job, listener: Listener): Promise<PlanData> {
  return withSession(tools, tools.settings.threads, async (session, sources) => {
    await openAll(tools, session, sources, job, listener)
    return makePlan(session, job).plan
  })
}

/**
 * Reads the ranges of one batch at the same time, into one of two spaces that take turns: one batch is read
 * while the one before is handed to the core. New memory for each would pile up until it is collected.
 */
class BatchReader {
  /** Size of both spaces together. */
  readonly bytes: number
  readonly #sources: readonly ByteSource[]
  #spaces: [ArrayBuffer, ArrayBuffer]

  constructor(sources: readonly ByteSource[], batches: readonly BatchValue[]) {
    const largest = Math.max(0, ...batches.map(batch => batch.inputBytes))
    this.#sources = sources
    this.#spaces = [new ArrayBuffer(largest), new ArrayBuffer(largest)]
    this.bytes = 2 * largest
  }

  /** Starts reading. If the merge fails first, nobody waits for it: its own failure is then no news. */
  start(batch: BatchValue | undefined): Promise<Uint8Array[]> {
    const [space, other] = this.#spaces
    this.#spaces = [other, space]
    const reading = Promise.all(
      (batch?.reads ?? []).map(async ({ adapter, offset, length, at }) => {
        const source = this.#sources[adapter]
        if (!source) throw readFailed('?', `no adapter ${adapter}`)
        return source.read(offset, length, new Uint8Array(space, at, length))
      }),
    )
    reading.catch(() => undefined)
    return reading
  }
}

/** Reads every batch into the core, the next one while `work` runs on the one before. Returns the bytes of the read buffers. */
async function forEachBatch(session: Session, sources: readonly ByteSource[], batches: readonly NumberedBatch[], listener: Listener, work: (number: number, batch: NumberedBatch) => Promise<void>): Promise<number> {
  const reader = new BatchReader(sources, batches)
  let next = reader.start(batches[0])
  for (const [index, batch] of batches.entries()) {
    const ranges = await next
    await nextTask()
    // The next batch is on its way while this one is computed.
    next = reader.start(batches[index + 1])
    checkCancelled(listener)
    const input = session.input(batch.number)
    check(input.error)
    for (const [r, bytes] of ranges.entries()) input.bytes.set(bytes, batch.reads[r]?.at)
    await work(batch.number, batch)
  }
  return reader.bytes
}

/** Looks at every module, and makes the plan with the ranks that their weights suggest. */
async function survey(session: Session, sources: readonly ByteSource[], first: CheckedPlan, progress: (modulesSeen: number) => void, listener: Listener): Promise<CheckedPlan> {
  let seen = 0
  await forEachBatch(session, sources, first.batches, listener, async (number, batch) => {
    check(session.survey(number))
    seen += batch.modules
    progress(seen)
  })
  return checkedPlan(session.chooseRanks())
}

/** Lets the caller set the session's cancel flag himself, where memory is shared. */
function shareCancelFlag(tools: Tools, session: Session, listener: Listener): void {
  const { buffer } = tools.core.wasmMemory as WebAssembly.Memory
  if (typeof SharedArrayBuffer !== 'undefined' && buffer instanceof SharedArrayBuffer) listener.flag({ buffer, address: session.cancelAddress() })
}

/** `job` must leave the ranks to the weights. */
export async function compare(tools: Tools, job: Job, listener: Listener): Promise<ComparisonData> {
  return withSession(tools, tools.settings.threads, async (session, sources) => {
    shareCancelFlag(tools, session, listener)
    await openAll(tools, session, sources, job, listener)
    const first = makePlan(session, job)
    const modules = first.plan.modules.length
    const { plan } = await survey(session, sources, first, modulesDone => listener.progress({ fraction: modulesDone / modules, modulesDone, modules }), listener)
    return { plan, surveys: session.surveys() }
  })
}

export async function merge(tools: Tools, job: Job, output: OutputReference, wantsHashes: boolean, listener: Listener): Promise<MergeOutcome> {
  const start = performance.now()
  return withSession(tools, tools.settings.threads, async (session, sources) => {
    shareCancelFlag(tools, session, listener)
    await openAll(tools, session, sources, job, listener)
    let first = makePlan(session, job)
    const checkpoint = async (): Promise<void> => {
      await nextTask()
      checkCancelled(listener)
    }
    let hashSeconds = 0
    const hash = async (source: ByteSource): Promise<string> => {
      const begun = performance.now()
      const digest = await hashOf(source, tools.createHasher, checkpoint)
      hashSeconds += (performance.now() - begun) / 1000
      return digest
    }
    const inputHashes: string[] = []
    const outputHashes: string[] = []
    if (wantsHashes) for (const source of sources.slice(0, job.adapters.length)) inputHashes.push(await hash(source))
    // With the hashes, which the output's metadata repeats.
    if (wantsHashes) first = makePlan(session, job, inputHashes)
    // 1 is kept for the moment when the result is complete.
    const modules = modulesOf(batchesOf(job.shard, first.batches))
    const share = shareOf(job, first)
    const progress = (modulesDone: number): void => listener.progress({ fraction: Math.min(session.progress() / share, 0.999), modulesDone, modules: modules.length })
    const { plan, batches: all } = first.plan.ranksAreKnown ? first : await survey(session, sources, first, () => progress(0), listener)
    const batches = batchesOf(job.shard, all)
    const part = await openPart(tools, session, job, plan, all, output, inputHashes)
    const sink = part ?? (await tools.openSink(output, plan.configFile === '' ? [plan.tensorFile] : [plan.tensorFile, plan.configFile]))
    try {
      await sink.begin({ name: plan.tensorFile, size: plan.outputBytes })
      await sink.write(session.outputHeader())
      let modulesDone = 0
      const readBytes = await forEachBatch(session, sources, batches, listener, async (number, batch) => {
        const result = session.run(number)
        check(result.error)
        await sink.write(result.bytes)
        modulesDone += batch.modules
        progress(modulesDone)
      })
      const hashes = session.outputHashes()
      if (hashes.areWritten && !part) await writeHashes(hashes, sink, tools.createHasher, checkpoint)
      if (wantsHashes && !part) outputHashes.push(await hash(await sink.written()))
      if (plan.configFile !== '') {
        const config = new TextEncoder().encode(plan.config)
        await sink.begin({ name: plan.configFile, size: config.length })
        await sink.write(config)
        if (wantsHashes && !part) outputHashes.push(await hash(await sink.written()))
      }
      checkCancelled(listener)
      const seconds = (performance.now() - start) / 1000 - hashSeconds
      const used = { seconds, threads: session.threads(), memoryBytes: (tools.core.wasmMemory as WebAssembly.Memory).buffer.byteLength + readBytes }
      const reports = session.reports()
      await part?.report({ ...used, hashSeconds, modules: modules.map(number => ({ number, report: reports[number] as ReportValue })) })
      if (part && wantsHashes) outputHashes.push(await hash(await part.written()))
      const outcome = {
        plan,
        modules: reports,
        ...(part && { part: { modules, bytes: (await part.written()).size } }),
        output: await sink.finish(),
        ...used,
        ...(wantsHashes && { hashes: { inputs: inputHashes, outputs: outputHashes, seconds: hashSeconds } }),
      }
      listener.progress({ fraction: 1, modulesDone: modules.length, modules: modules.length })
      return outcome
    } catch (error) {
      await sink.abort()
      throw error
    }
  })
}

/** Share of the work of a whole merge that a shard's is: it reads its own batches, after a survey of all. */
function shareOf(job: Job, { plan, batches }: CheckedPlan): number {
  const bytes = (some: readonly NumberedBatch[]): number => some.reduce((sum, { inputBytes }) => sum + inputBytes, 0)
  const share = bytes(batchesOf(job.shard, batches)) / bytes(batches)
  return plan.ranksAreKnown ? Math.max(share, Number.EPSILON) : (1 + share) / 2
}

/** The sink of one shard, of a plan's `batches`. */
async function openPart(tools: Tools, session: Session, job: Job, plan: PlanData, batches: readonly NumberedBatch[], output: OutputReference, inputHashes: readonly string[]): Promise<PartSink | undefined> {
  const { shard } = job
  if (!shard) return undefined
  const header = session.outputHeader()
  const headerBytes = header.length
  const merge = await fingerprintOf(tools, job, plan, batches, header.slice(), inputHashes)
  const inner = await tools.openSink(output, [partName(shard)])
  return new PartSink(inner, tools.createHasher, { shard, merge, job, plan, hashes: session.outputHashes(), inputHashes, batches: batchesOf(shard, batches), headerBytes })
}

/** Lets messages in that have arrived, a cancel among them; promises alone would go on before them. */
export function nextTask(): Promise<void> {
  return new Promise(resolve => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(null)
  })
}

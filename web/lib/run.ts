// One call from open files to written bytes, in the worker: the only place that drives the core.

import { BatchRunner, footprintOf, heapBytes, type CoreUse, type Session } from './batches.js'
import { OrderedBatches } from './claims.js'
import { checkCore } from './core-error.js'
import { cancelledError, MergeError } from './error.js'
import type { MainModule, PlanValue, ReportValue, SurveyValue } from './generated/core-single.mjs'
import { partsOfMethods } from './generated/registry.js'
import { FileHasher, type CreateHasher } from './hash.js'
import { fileWriter } from './kohya-hashes.js'
import { helpLeader, leadHelper, type BatchResult } from './lanes.js'
import { loaded } from './load.js'
import type { PartSink } from './part.js'
import type { AdapterData, AdapterReference, AssistRequest, CancelFlag, ComparisonData, Effort, Job, MergeOutcome, PlanData, Progress } from './protocol.js'
import type { WorkerSettings } from './platform.js'
import { moduleReport, type ModuleReport } from './report.js'
import { batchesOf, modulesOf, numbered, partName, type NumberedBatch } from './shard.js'
import { mustReadBack, type OpenSink, type OutputReference } from './sink.js'
import { readRanges, type ByteSource, type FileReference, type OpenSource } from './source.js'

// PEFT's own configs have 1 to 3 KB; the core refuses more than this (limits.h, kConfigBytes).
const largestConfig = 4_000_000

/** What a call may use. */
export interface Tools {
  readonly core: MainModule
  /** What the worker was started with. */
  readonly settings: WorkerSettings
  readonly open: OpenSource
  /** Whether this platform reads files into memory that it is given, shared memory too. */
  readonly readsIntoMemory: boolean
  readonly openSink: OpenSink
  readonly createHasher: CreateHasher
}

/** How a running call talks to its caller. */
export interface Listener {
  readonly cancelled: () => boolean
  /** Calls `told` with the error to end with when the call is cancelled, for work that waits. */
  readonly onCancel: (told: (error: unknown) => void) => void
  readonly progress: (progress: Progress) => void
  /** Takes modules of the report, in their order. */
  readonly modules: (modules: readonly ModuleReport[]) => void
  readonly flag: (flag: CancelFlag) => void
  /** Gets lines to workers that help with the call. */
  readonly helpers: (request: AssistRequest, count: number) => Promise<readonly MessagePort[]>
}

export function checkCancelled(listener: Listener): void {
  if (listener.cancelled()) throw cancelledError()
}

/** Opens an adapter's files, gives its header and config to the session, and keeps the tensor file open. */
async function openAdapter(tools: Tools, session: Session, reference: AdapterReference, sources: ByteSource[]): Promise<void> {
  const source = await tools.open(reference.tensors)
  sources.push(source)
  const header = await readHeader(tools, source)
  const config = reference.config && (await readConfig(tools, reference.config))
  const names = { label: reference.label, file: source.name, configFile: reference.config?.name ?? '', fileSize: source.size, hasConfig: config !== undefined }
  const { error, alphas } = session.addAdapter(names, header, config ?? new Uint8Array())
  checkCore(error)
  if (alphas.length === 0) return
  checkCore(session.setAlphas(await readRanges(source, alphas)))
}

/** The first bytes of a file that the core needs: how many, it says bit by bit. */
export async function readHeader(tools: Tools, source: ByteSource): Promise<Uint8Array> {
  let bytes = await source.read(0, Math.min(8, source.size))
  for (;;) {
    const needed = tools.core.headerNeeds(source.name, bytes, source.size)
    checkCore(needed.error)
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
    checkCore(session.setBase(source.name, isGguf || hasWeights ? await readHeader(tools, source) : await readWhole(source), source.size))
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

const isShared = ({ buffer }: WebAssembly.Memory): boolean => typeof SharedArrayBuffer !== 'undefined' && buffer instanceof SharedArrayBuffer

function useOf(tools: Tools, { lanes, memory }: Effort, job?: Job): CoreUse {
  const isDirect = tools.readsIntoMemory && isShared(tools.core.wasmMemory as WebAssembly.Memory)
  return { threads: tools.settings.threads, isDirect, lanes, memory, shards: job?.shard?.of ?? 1 }
}

/** Runs `work` with a session and open files, both of which end with it. */
async function withSession<T>(tools: Tools, use: CoreUse, work: (session: Session, sources: ByteSource[]) => Promise<T>): Promise<T> {
  const session = tools.core
  session.openSession(footprintOf(use), tools.settings.reference)
  const sources: ByteSource[] = []
  try {
    return await work(session, sources)
  } finally {
    session.closeSession()
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
  /** Batches that a core has room for. */
  readonly slots: number
  readonly batches: readonly NumberedBatch[]
}

function checkedPlan({ error, batches, slots, ...plan }: PlanValue): CheckedPlan {
  checkCore(error)
  return { plan, slots, batches: numbered(batches) }
}

function makePlan(session: Session, job: Job, inputHashes: readonly string[] = []): CheckedPlan {
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
      policies: Object.entries(job.policies).map(([name, value]) => ({ name, value: String(value) })),
      options: job.coreOptions.map(option => ({ ...option })),
    }),
  )
}

export async function inspect(tools: Tools, adapter: AdapterReference): Promise<AdapterData> {
  return withSession(tools, useOf(tools, { lanes: 1, memory: 0 }), async (session, sources) => {
    await openAdapter(tools, session, adapter, sources)
    return session.adapter()
  })
}

export async function plan(tools: Tools, job: Job, effort: Effort, listener: Listener): Promise<PlanData> {
  return withSession(tools, useOf(tools, effort, job), async (session, sources) => {
    await openAll(tools, session, sources, job, listener)
    return makePlan(session, job).plan
  })
}

/** Lets the caller set the session's cancel flag himself, where memory is shared. */
function shareCancelFlag(tools: Tools, session: Session, listener: Listener): void {
  const memory = tools.core.wasmMemory as WebAssembly.Memory
  if (isShared(memory)) listener.flag({ buffer: memory.buffer as unknown as SharedArrayBuffer, address: session.cancelAddress() })
}

export const checkpointOf = (listener: Listener) => async (): Promise<void> => {
  await nextTask()
  checkCancelled(listener)
}

/** Looks at each batch, or merges it. */
interface Pass {
  readonly isSurvey: boolean
  /** What helpers need to make the same plan. */
  readonly inputHashes: readonly string[]
  readonly energies: readonly (readonly number[])[]
}

function resultOf(session: Session, isSurvey: boolean, batch: number, bytes: Uint8Array): BatchResult {
  return isSurvey ? { bytes, reports: [], surveys: session.surveys(batch) } : { bytes, reports: session.reports(batch), surveys: [] }
}

// 20 ms, about (docs/numerics.md, Kernels), in which a helper could have been ready.
const longWork = 5e8

/** Whether a batch keeps a core busy for long, by the multiply-adds of its Gram matrices, which no method goes without. */
function isLongWork({ modules }: PlanData, batch: NumberedBatch | undefined): boolean {
  if (!batch) return false
  const own = modules.slice(batch.firstModule, batch.firstModule + batch.modules)
  return own.reduce((sum, module) => sum + ((module.in + module.out) * module.units ** 2) / 2, 0) > longWork
}

/**
 * Runs the batches `own` of a plan, in this worker and in as many helpers as the plan has further lanes; `pass` takes what
 * comes of each, in file order. Returns the bytes of memory of all that took part.
 */
async function runBatches(tools: Tools, session: Session, sources: readonly ByteSource[], { plan, slots, batches: planned }: CheckedPlan, own: readonly NumberedBatch[], use: CoreUse, { isSurvey, inputHashes, energies }: Pass, listener: Listener, pass: (batch: NumberedBatch, result: BatchResult) => Promise<void>): Promise<number> {
  const helpers = Math.min(plan.lanes, own.length) - 1
  // As the core counts on (src/job/memory.cpp, bytesOfAll).
  const window = 3 * plan.lanes + 2
  const batches = new OrderedBatches<BatchResult>(own.map(({ number }) => number), helpers + 1, window, (batch, result) => pass(planned[batch] as NumberedBatch, result))
  listener.onCancel(error => batches.abort(error))
  const runner = new BatchRunner(session, sources, planned, slots, use)
  // Before threads load it for themselves: what they cannot have ends them, with no code to say why.
  const parts = use.memory > 0 ? undefined : partsOfMethods[plan.method]
  if (use.threads > 1) for (const part of parts ?? (['decompose', 'rest'] as const)) tools.core.loadPart(part)
  const ports = helpers > 0 ? await listener.helpers({ isSurvey, inputHashes, energies }, helpers) : []
  const running = runner.run(isSurvey, batches, {
    checkpoint: checkpointOf(listener),
    deliver: (batch, view) => {
      // What has to wait for others' batches must not lie where the core goes on to write.
      const bytes = batches.isNext(batch) ? view : view.slice()
      return batches.put(batch, resultOf(session, isSurvey, batch, bytes))
    },
    fail: (batch, error) => batches.fail(batch, error),
  })
  const isLong = isLongWork(plan, own[0])
  const led = ports.map(port => leadHelper(port, batches, isLong))
  try {
    await running
    await batches.finished()
  } catch (error) {
    batches.abort(error)
    throw error
  }
  const memory = await Promise.all(led)
  return memory.reduce((sum, bytes) => sum + bytes, heapBytes(tools.core) + runner.bufferBytes)
}

/** Takes part in another worker's call, until that has no more to hand out. */
export async function assist(tools: Tools, job: Job, effort: Effort, { isSurvey, inputHashes, energies }: AssistRequest, port: MessagePort, listener: Listener): Promise<void> {
  const use = useOf(tools, effort, job)
  return withSession(tools, use, async (session, sources) => {
    await openAll(tools, session, sources, job, listener)
    const first = makePlan(session, job, inputHashes)
    const { slots, batches } = energies.length === 0 ? first : chooseRanks(session, energies)
    const runner = new BatchRunner(session, sources, batches, slots, use)
    const result = (batch: number, bytes: Uint8Array): BatchResult => resultOf(session, isSurvey, batch, bytes)
    await helpLeader(port, runner, isSurvey, checkpointOf(listener), result, () => heapBytes(tools.core) + runner.bufferBytes, listener.onCancel)
  })
}

function chooseRanks(session: Session, energies: readonly (readonly number[])[]): CheckedPlan {
  return checkedPlan(session.chooseRanks(energies.map(module => [...module])))
}

interface Survey {
  readonly planned: CheckedPlan
  readonly surveys: readonly SurveyValue[]
  readonly energies: readonly (readonly number[])[]
}

/** Looks at every module, and makes the plan with the ranks that their weights suggest. */
async function survey(tools: Tools, session: Session, sources: readonly ByteSource[], first: CheckedPlan, use: CoreUse, inputHashes: readonly string[], progress: (bytesSeen: number, modulesSeen: number) => void, listener: Listener): Promise<Survey> {
  const surveys: SurveyValue[] = []
  let bytes = 0
  await runBatches(tools, session, sources, first, first.batches, use, { isSurvey: true, inputHashes, energies: [] }, listener, async (batch, result) => {
    surveys.push(...result.surveys)
    bytes += batch.inputBytes
    progress(bytes, surveys.length)
  })
  const energies = surveys.map(module => module.energies)
  return { planned: chooseRanks(session, energies), surveys, energies }
}

const sizeOf = (batches: readonly NumberedBatch[]): number => batches.reduce((sum, batch) => sum + batch.inputBytes, 0)

/** `job` must leave the ranks to the weights. */
export async function compare(tools: Tools, job: Job, effort: Effort, listener: Listener): Promise<ComparisonData> {
  const use = useOf(tools, effort, job)
  return withSession(tools, use, async (session, sources) => {
    shareCancelFlag(tools, session, listener)
    await openAll(tools, session, sources, job, listener)
    const first = makePlan(session, job)
    const modules = first.plan.modules.length
    const total = sizeOf(first.batches)
    const { planned, surveys } = await survey(tools, session, sources, first, use, [], (bytes, modulesDone) => listener.progress({ fraction: bytes / total, modulesDone, modules }), listener)
    return { plan: planned.plan, surveys }
  })
}

export async function merge(tools: Tools, job: Job, effort: Effort, output: OutputReference, wantsHashes: boolean, listener: Listener): Promise<MergeOutcome> {
  const start = performance.now()
  const use = useOf(tools, effort, job)
  return withSession(tools, use, async (session, sources) => {
    shareCancelFlag(tools, session, listener)
    await openAll(tools, session, sources, job, listener)
    let first = makePlan(session, job)
    const checkpoint = checkpointOf(listener)
    const hasher = new FileHasher(tools.createHasher, checkpoint)
    const inputHashes: string[] = []
    const outputHashes: string[] = []
    if (wantsHashes) for (const source of sources.slice(0, job.adapters.length)) inputHashes.push(await hasher.digest(source))
    // With the hashes, which the output's metadata repeats.
    if (wantsHashes) first = makePlan(session, job, inputHashes)
    const modules = modulesOf(batchesOf(job.shard, first.batches))
    // A survey is always of all modules.
    const surveyBytes = first.plan.ranksAreKnown ? 0 : sizeOf(first.batches)
    const total = surveyBytes + sizeOf(batchesOf(job.shard, first.batches))
    // 1 is kept for the moment when the result is complete.
    const progress = (bytes: number, modulesDone: number): void => listener.progress({ fraction: Math.min(bytes / total, 0.999), modulesDone, modules: modules.length })
    const { planned, energies } = first.plan.ranksAreKnown ? { planned: first, energies: [] } : await survey(tools, session, sources, first, use, inputHashes, bytes => progress(bytes, 0), listener)
    const { plan } = planned
    const own = batchesOf(job.shard, planned.batches)
    const part = await openPart(tools, session, job, planned, output, inputHashes)
    const sink = part ?? (await tools.openSink(output, plan.configFile === '' ? [plan.tensorFile] : [plan.tensorFile, plan.configFile]))
    try {
      if (part) mustReadBack(sink, 'the header of a part is written last')
      const hashes = session.outputHashes()
      // A part knows only some of the bytes.
      const writer = await fileWriter(sink, hashes.areWritten && !part ? hashes : undefined, tools.createHasher)
      if (wantsHashes) mustReadBack(sink, 'hashes are made by reading the result once more')
      await sink.begin({ name: plan.tensorFile, size: plan.outputBytes })
      await writer.write(session.outputHeader())
      // Of a shard's modules only.
      const reports: { readonly number: number; readonly report: ReportValue }[] = []
      const merged: ModuleReport[] = []
      let bytesDone = surveyBytes
      let modulesDone = 0
      const memoryBytes = await runBatches(tools, session, sources, planned, own, use, { isSurvey: false, inputHashes, energies }, listener, async (batch, result) => {
        await writer.write(result.bytes)
        const found = result.reports.map((report, i) => ({ number: batch.firstModule + i, report }))
        const told = found.map(({ number, report }) => moduleReport(plan, number, report))
        // A part has them as the core gives them.
        if (part) reports.push(...found)
        merged.push(...told)
        listener.modules(told)
        bytesDone += batch.inputBytes
        modulesDone += batch.modules
        progress(bytesDone, modulesDone)
      })
      await writer.complete()
      if (wantsHashes && !part) outputHashes.push(await hasher.digest(await sink.written()))
      if (plan.configFile !== '') {
        const config = new TextEncoder().encode(plan.config)
        await sink.begin({ name: plan.configFile, size: config.length })
        await sink.write(config)
        if (wantsHashes && !part) outputHashes.push(await hasher.digest(await sink.written()))
      }
      checkCancelled(listener)
      const seconds = (performance.now() - start) / 1000 - hasher.seconds
      const used = { seconds, threads: session.threads(), lanes: Math.max(1, Math.min(plan.lanes, own.length)), memoryBytes }
      await part?.report({ ...used, hashSeconds: hasher.seconds, modules: reports })
      if (part && wantsHashes) outputHashes.push(await hasher.digest(await part.written()))
      const outcome = {
        plan,
        modules: merged,
        ...(part && { part: { bytes: (await part.written()).size } }),
        output: await sink.finish(),
        ...used,
        ...(wantsHashes && { hashes: { inputs: inputHashes, outputs: outputHashes, seconds: hasher.seconds } }),
      }
      listener.progress({ fraction: 1, modulesDone: modules.length, modules: modules.length })
      return outcome
    } catch (error) {
      await sink.abort()
      throw error
    }
  })
}

/** The sink of one shard. */
async function openPart(tools: Tools, session: Session, job: Job, { plan, batches }: CheckedPlan, output: OutputReference, inputHashes: readonly string[]): Promise<PartSink | undefined> {
  const { shard } = job
  if (!shard) return undefined
  const { fingerprintOf, PartSink } = await loaded(import('./part.js'))
  const header = session.outputHeader()
  const headerBytes = header.length
  const merge = await fingerprintOf(tools, job, plan, batches, header.slice(), inputHashes)
  const inner = await tools.openSink(output, [partName(shard)])
  return new PartSink(inner, await tools.createHasher(), { shard, merge, job, plan, hashes: session.outputHashes(), inputHashes, batches: batchesOf(shard, batches), headerBytes })
}

/** Lets messages in that have arrived, a cancel among them; promises alone would go on before them. */
function nextTask(): Promise<void> {
  return new Promise(resolve => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(null)
  })
}

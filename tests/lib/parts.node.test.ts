// Parts of a merge and what they are joined to: the bytes of the whole merge, or an error that names the part.

import { createMerger, type MergeInput, type MergeOptions, type Merger, type MergeReport, type Recipe } from 'lora-lego'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { adapter, config, hexDigest, pair, parse, safetensors } from './fixtures.js'
import { flatName, kohyaTensors, pairsOf } from './formats.js'

let merger: Merger
beforeAll(() => {
  merger = createMerger({ threads: 2 })
})
afterAll(() => merger.close())

const inputs = ['examples/add3', { source: 'examples/rotl2', weight: 0.5 }, 'examples/swapnb']
/** What files hold, as digests: comparing arrays value by value takes seconds. */
const hashesOf = async (files: readonly Blob[]): Promise<string[]> => Promise.all(files.map(async file => hexDigest(await file.arrayBuffer())))

/** A report without what depends on the clock and on who computed. */
function lasting(report: MergeReport): MergeReport {
  return { ...report, totals: { ...report.totals, seconds: 0, hashSeconds: 0, threads: 0, lanes: 0, memoryBytes: 0 }, modules: report.modules.map(module => ({ ...module, seconds: 0 })) }
}

async function partsOf(given: readonly MergeInput[], recipe: Recipe, of: number, options: MergeOptions = {}): Promise<File[]> {
  const parts: File[] = []
  for (let index = 1; index <= of; index++) parts.push(...(await merger.merge(given, recipe, { ...options, shard: { index, of } })).files)
  return parts
}

const headerOf = (part: Uint8Array): Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> & { __metadata__: Record<string, string> } =>
  JSON.parse(new TextDecoder().decode(part.subarray(8, 8 + Number(new DataView(part.buffer).getBigUint64(0, true))))) as never

describe('parts, joined, are the whole merge byte for byte', () => {
  const flat = async (name: string): Promise<File> => {
    const pairs = pairsOf(parse(new Uint8Array(await readFile(`examples/${name}/adapter_model.safetensors`)).buffer))
    return new File([safetensors(kohyaTensors(pairs, 2, flatName), { ss_base_model_version: 'sd_v1' })], `${name}.safetensors`)
  }
  const heads = new Blob([JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 })])
  const biased = (value: number): File[] => adapter([{}, { module: 'second', in: 7, out: 4 }]).map(file => (file.name.endsWith('.json') ? new File([config({ bias: 'all' })], file.name) : new File([safetensors([...pair(), ...pair({ module: 'second', in: 7, out: 4 }), { name: 'base_model.model.layer.bias', shape: [5], values: [value, 2, 3, 4, 5] }])], file.name)))

  it.each<{ title: string; given?: () => Promise<MergeInput[]>; recipe: Recipe; options?: MergeOptions; shards: number[] }>([
    { title: 'PEFT, the default method', recipe: { rank: 8 }, shards: [1, 2, 3] },
    { title: 'LEGO with hashes', recipe: { method: 'lego', rank: 8 }, options: { hashes: true }, shards: [3] },
    { title: 'ranks from the weights', recipe: { rank: 'auto' }, shards: [2, 5] },
    { title: 'a size', recipe: { method: 'svd', rank: { size: 100_000 }, dtype: 'bf16' }, shards: [3] },
    { title: 'kohya, with hashes in its header', given: () => Promise.all([flat('add3'), flat('rotl2')]), recipe: { rank: 4 }, shards: [1, 3] },
    { title: 'GGUF', recipe: { method: 'svd', format: 'gguf', base: heads, dtype: 'f16' }, shards: [3] },
    { title: 'onnx', recipe: { method: 'svd', format: 'onnx' }, shards: [4] },
    { title: 'MLX', recipe: { method: 'cat', format: 'mlx' }, shards: [2] },
    { title: 'tensors that are no factors', given: async () => [biased(1), biased(3)], recipe: { method: 'svd', policies: { bias: 'sum' } }, shards: [2, 9] },
    { title: 'without metadata', recipe: { method: 'cat', metadata: false }, shards: [2] },
  ])('$title', { timeout: 120_000 }, async ({ given = async () => inputs, recipe, options = {}, shards }) => {
    const adapters = await given()
    const whole = await merger.merge(adapters, recipe, options)
    for (const of of shards) {
      const parts = await partsOf(adapters, recipe, of, options)
      const joined = await merger.join(parts.reverse(), options)
      expect(joined.files.map(({ name }) => name)).toEqual(whole.files.map(({ name }) => name))
      expect(await hashesOf(joined.files)).toEqual(await hashesOf(whole.files))
      expect(lasting(joined.report)).toEqual(lasting(whole.report))
      expect([...joined.tensors.keys()]).toEqual([...whole.tensors.keys()])
    }
  })
})

it('a part is a safetensors file that tells what it is, with a report of its own', { timeout: 60_000 }, async () => {
  const progress: number[] = []
  const { files, tensors, report } = await merger.merge(inputs, { rank: 'auto' }, { shard: { index: 2, of: 3 }, hashes: true, onProgress: ({ fraction }) => progress.push(fraction) })
  expect(files.map(({ name }) => name)).toEqual(['part-00002-of-00003.safetensors'])
  expect(tensors.size).toBe(0)
  const bytes = new Uint8Array(await (files[0] as File).arrayBuffer())
  const { __metadata__: metadata, ...entries } = headerOf(bytes)
  expect(JSON.parse(metadata.lora_lego_part as string)).toEqual({ version: 1, shard: { index: 2, of: 3 }, merge: expect.stringMatching(/^[0-9a-f]{64}$/) as string, file: 'adapter_model.safetensors', bytes: expect.any(Number) as number, configFile: 'adapter_config.json' })
  let end = 0
  for (const { dtype, shape, data_offsets: offsets } of Object.values(entries)) {
    expect({ dtype, offsets, size: shape }).toEqual({ dtype: 'U8', offsets: [end, offsets[1]], size: [offsets[1] - end] })
    end = offsets[1]
  }
  expect(bytes.length - end).toBeGreaterThan(0)
  expect((bytes.length - end) % 8).toBe(0)
  expect(report).toMatchObject({ shard: { index: 2, of: 3 }, outputs: [{ name: 'part-00002-of-00003.safetensors', bytes: bytes.length, sha256: await hexDigest(bytes) }] })
  // About a third of 28.
  expect(report.modules.length).toBeGreaterThanOrEqual(7)
  expect(report.modules.length).toBeLessThanOrEqual(12)
  expect(progress.at(-1)).toBe(1)
  expect(progress).toEqual([...progress].sort((x, y) => x - y))
})

it('a shard that is none is refused', async () => {
  for (const shard of [{ index: 0, of: 3 }, { index: 4, of: 3 }, { index: 1.5, of: 3 }, { index: 1, of: 0 }, { index: 1, of: 1e6 }]) await expect(merger.merge(inputs, {}, { shard })).rejects.toMatchObject({ code: 'bad_option' })
  await expect(merger.merge(inputs, {}, { shard: { index: 1, of: 2 }, output: 'part.gguf' })).rejects.toMatchObject({ code: 'bad_option' })
})

describe('parts that are not those of one merge', { timeout: 60_000 }, () => {
  const recipe: Recipe = { method: 'svd', rank: 4 }
  let parts: File[]
  beforeAll(async () => {
    parts = await partsOf(inputs, recipe, 3)
  })
  const part = (i: number): File => parts[i] as File

  it('are missing, or given twice', async () => {
    await expect(merger.join([part(0), part(2)])).rejects.toMatchObject({ code: 'bad_part', message: expect.stringMatching(/part 2 of 3 is missing.*part-00001/) as string })
    await expect(merger.join([part(2)])).rejects.toMatchObject({ code: 'bad_part', message: expect.stringContaining('of 3 parts, 1 and 2 are missing') as string })
    await expect(merger.join([...parts, part(1)])).rejects.toMatchObject({ code: 'bad_part', file: 'part-00002-of-00003.safetensors', message: expect.stringContaining('is part 2 of 3, as') as string })
    await expect(merger.join([])).rejects.toMatchObject({ code: 'bad_input' })
  })

  it('are of another recipe, number of shards, inputs or hashing', async () => {
    const renamed = async (merging: ReturnType<Merger['merge']>): Promise<File> => new File([(await merging).files[0] as File], 'odd.safetensors')
    const shard = { index: 2, of: 3 }
    const retrained = adapter([{}, { module: 'second' }])
    const other = adapter([{}, { module: 'second' }]).map(file => (file.name.endsWith('.json') ? file : new File([safetensors([...pair(), ...pair({ module: 'second', bad: 0.125 })])], file.name)))
    for (const odd of [
      await renamed(merger.merge(inputs, { ...recipe, seed: 1 }, { shard })),
      await renamed(merger.merge(inputs, { ...recipe, metadata: false }, { shard })),
      await renamed(merger.merge(inputs.slice(0, 2), recipe, { shard })),
      await renamed(merger.merge(inputs, recipe, { shard, hashes: true })),
      await renamed(merger.merge(inputs, recipe, { shard: { index: 2, of: 4 } })),
    ]) await expect(merger.join([part(0), odd, part(2)])).rejects.toMatchObject({ code: 'bad_part', file: 'odd.safetensors' })
    // The same headers, other values.
    const [one, two] = [await partsOf([retrained], { method: 'svd' }, 2), await partsOf([other], { method: 'svd' }, 2)]
    await expect(merger.join([one[0] as File, two[1] as File])).rejects.toMatchObject({ code: 'bad_part', message: expect.stringContaining('part of another merge') as string })
  })

  /** A part with another header, or other bytes in a tensor. */
  const changed = async (file: File, change: (header: ReturnType<typeof headerOf>, description: Record<string, unknown>) => void): Promise<File> => {
    const bytes = new Uint8Array(await file.arrayBuffer())
    const header = headerOf(bytes)
    const description = JSON.parse(header.__metadata__.lora_lego_part as string) as Record<string, unknown>
    change(header, description)
    header.__metadata__.lora_lego_part = JSON.stringify(description)
    const room = Number(new DataView(bytes.buffer).getBigUint64(0, true))
    const text = new TextEncoder().encode(JSON.stringify(header))
    const start = new Uint8Array(8 + Math.max(text.length, room)).fill(0x20)
    new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true)
    start.set(text, 8)
    return new File([start, bytes.subarray(8 + room)], file.name)
  }
  const withText = async (file: File, tensor: string, change: (text: string) => string): Promise<File> => {
    const bytes = new Uint8Array(await file.arrayBuffer())
    const dataBegin = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true))
    const [begin, end] = (headerOf(bytes)[tensor] as { data_offsets: [number, number] }).data_offsets.map(offset => dataBegin + offset) as [number, number]
    const text = change(new TextDecoder().decode(bytes.subarray(begin, end)))
    if (text.length !== end - begin) throw new Error('the text must stay as long')
    return new File([bytes.subarray(0, begin), text, bytes.subarray(end)], file.name)
  }
  const firstRange = (header: object): string => Object.keys(header).find(name => name.startsWith('range.')) as string

  it('are damaged', async () => {
    const bytes = new Uint8Array(await part(1).arrayBuffer())
    const rename = (from: string, to: string) => (header: ReturnType<typeof headerOf>) => {
      header[to] = header[from] as (typeof header)[string]
      delete header[from]
    }
    const cases: Record<string, File | Promise<File>> = {
      'no part': new File([safetensors(pair())], 'x'),
      'an empty file': new File([], 'x'),
      garbage: new File(['part of nothing'], 'x'),
      cut: new File([bytes.subarray(0, -1)], 'x'),
      'cut in its header': new File([bytes.subarray(0, 100)], 'x'),
      longer: new File([bytes, 'x'], 'x'),
      'a newer version': changed(part(1), (_, about) => (about.version = 2)),
      'no description': changed(part(1), (_, about) => delete about.merge),
      'a part that cannot be': changed(part(1), (_, about) => (about.shard = { index: 4, of: 3 })),
      'too many parts': changed(part(1), (_, about) => (about.shard = { index: 2, of: 4e9 })),
      'another size': changed(part(1), (_, about) => (about.bytes = 1)),
      'a name that leads elsewhere': changed(part(1), (_, about) => (about.file = '../../adapter_model.safetensors')),
      'another dtype': changed(part(1), header => ((header.plan as { dtype: string }).dtype = 'I8')),
      'another shape': changed(part(1), header => ((header.plan as { shape: number[] }).shape = [1])),
      'an offset that is none': changed(part(1), header => ((header.plan as { data_offsets: number[] }).data_offsets = [-1, 5])),
      'overlapping tensors': changed(part(1), header => {
        const place = (header[firstRange(header)] as { data_offsets: number[]; shape: number[] })
        place.data_offsets[0] = (place.data_offsets[0] as number) - 1
        place.shape = [(place.shape[0] as number) + 1]
      }),
      'a lost range': changed(part(1), header => rename(firstRange(header), 'other')(header)),
      'a range twice': changed(part(1), header => rename(firstRange(header), 'range.0')(header)),
      'a range behind the end': changed(part(1), header => rename(firstRange(header), 'range.9999999999999999')(header)),
      'no report': changed(part(1), rename('report', 'other')),
      'a report that is no JSON': withText(part(1), 'report', text => `(${text.slice(1)}`),
      'a report without a number': withText(part(1), 'report', text => text.replace('"number"', '"nombre"')),
      'a report on too many modules': withText(part(1), 'report', text => text.replace(/"number":\d\d/, '"number":99')),
      'a report with texts': withText(part(1), 'report', text => text.replace(/"norm":\d\.\d*/, found => `"norm":"${'x'.repeat(found.length - 9)}"`)),
    }
    for (const [title, made] of Object.entries(cases)) {
      const error: unknown = await merger.join([part(0), await made, part(2)]).then(
        () => 'none',
        (thrown: unknown) => thrown,
      )
      expect({ title, error }).toMatchObject({ title, error: { name: 'MergeError', code: expect.stringMatching(/^(bad_part|file_truncated|bad_header|header_too_large|unknown_format|trailing_bytes)$/) as string } })
    }
    // What the first part says of the whole.
    for (const [title, made] of Object.entries({
      'a plan without modules': await withText(part(0), 'plan', text => text.replace('"modules"', '"modulos"')),
      'a plan with another file': await withText(part(0), 'plan', text => text.replace('"tensorFile":"adapter_model', '"tensorFile":"../pter_model')),
      'another dtype': await withText(part(0), 'plan', text => text.replace('"dtype":"F32","shape"', '"dtype":"I32","shape"')),
      'no header': await changed(part(0), rename('header', 'other')),
    })) await expect(merger.join([made, part(1), part(2)]), title).rejects.toMatchObject({ code: 'bad_part', file: 'part-00001-of-00003.safetensors' })
  })

  it('have bytes flipped anywhere in what they say: an error, or still the same result', async () => {
    const small = await partsOf([adapter([{}, { module: 'second' }, { module: 'third' }])], { method: 'svd' }, 2)
    const wanted = await hashesOf((await merger.join(small)).files)
    let state = 1
    const random = (below: number): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % below
    const codes = new Set<string>()
    for (let i = 0; i < 400; i++) {
      const which = random(2)
      const bytes = new Uint8Array(await (small[which] as File).arrayBuffer())
      const at = random(bytes.length)
      bytes[at] = (bytes[at] as number) ^ (1 << random(8))
      const outcome: unknown = await merger.join([new File([bytes], 'flipped'), small[1 - which] as File]).then(
        ({ files }) => hashesOf(files),
        (error: unknown) => error,
      )
      if (Array.isArray(outcome)) expect({ at, which, outcome }).toEqual({ at, which, outcome: wanted })
      else {
        expect({ at, which, outcome }).toMatchObject({ outcome: { name: 'MergeError' } })
        codes.add((outcome as { code: string }).code)
      }
    }
    expect([...codes].filter(code => !['bad_part', 'bad_header', 'file_truncated', 'header_too_large', 'unknown_format'].includes(code))).toEqual([])
    expect(codes).toContain('bad_part')
  })
})

describe('in folders', { timeout: 60_000 }, () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-parts-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  it('several processes share one, and a folder of parts is joined to a folder', async () => {
    const output = join(folder, 'deep/parts')
    // Four workers that make the folder at the same time.
    const mergers = [1, 2, 3, 4].map(() => createMerger({ threads: 1 }))
    await Promise.all(mergers.map((own, i) => own.merge(inputs, { rank: 8 }, { output, shard: { index: i + 1, of: 4 } })))
    await Promise.all(mergers.map(own => own.close()))
    expect(await readdir(join(folder, 'deep'))).toEqual(['parts'])
    expect((await readdir(output)).sort()).toEqual([1, 2, 3, 4].map(i => `part-0000${i}-of-00004.safetensors`))
    await writeFile(join(output, 'notes.txt'), 'mine')
    const merged = join(folder, 'merged')
    const { files, report } = await merger.join(output, { output: merged, hashes: true })
    expect(files).toEqual([])
    const whole = await merger.merge(inputs, { rank: 8 })
    const written = await Promise.all(['adapter_model.safetensors', 'adapter_config.json'].map(async name => hexDigest(await readFile(join(merged, name)))))
    expect(written).toEqual(await hashesOf(whole.files))
    expect(report.outputs.map(({ sha256 }) => sha256)).toEqual(written)
    expect((await readdir(folder)).sort()).toEqual(['deep', 'merged'])
  })

  it('nothing is left behind where it fails or is cancelled', async () => {
    const parts = join(folder, 'parts')
    await merger.merge(inputs, {}, { output: parts, shard: { index: 1, of: 2 } })
    await expect(merger.join(parts, { output: join(folder, 'merged') })).rejects.toMatchObject({ code: 'bad_part' })
    await merger.merge(inputs, {}, { output: join(parts, 'part-00002-of-00002.safetensors'), shard: { index: 2, of: 2 } })
    await expect(merger.join(parts, { output: join(parts, 'part-00001-of-00002.safetensors') })).rejects.toMatchObject({ code: 'output_is_input' })
    await expect(merger.join(parts, { output: join(folder, 'merged.safetensors') })).rejects.toMatchObject({ code: 'write_failed' })
    await expect(merger.join(parts, { output: join(folder, 'merged'), signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    await mkdir(join(folder, 'empty'))
    await expect(merger.join(join(folder, 'empty'))).rejects.toMatchObject({ code: 'bad_input' })
    await expect(merger.join(join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'not_found' })
    expect((await readdir(folder)).sort()).toEqual(['empty', 'parts'])
  })
})

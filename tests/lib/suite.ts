// What the library promises, on every platform: run in Node and in Chromium, isolated and not.

import { compare, createMerger, errorCodes, inspect, merge, MergeError, methods, plan, worstModules, type MergeInput, type Merger, type Recipe } from 'lora-lego'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { adapter, badInputs, config, dataHash, hexDigest, keyA, metadataOf, pair, parse, safetensors } from './fixtures.js'
import { defineFormats } from './formats-suite.js'
import { flippedGguf, malformed, malformedFormats, type Malformed } from './malformed.js'

/** Three of the example adapters merged by lego with its defaults at rank 8: the same bytes everywhere. */
const expectedHash = '8c50c4eaf1479ea76a97e41ceded62e0e622395157a3f846217f1a51887a8ad5'

export interface Platform {
  /** Threads that a merger must have by default. */
  readonly threads: (found: number) => boolean
  readonly example: (name: string) => Promise<[Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]>
}

export function defineSuite({ threads, example }: Platform): void {
  let merger: Merger
  const examples: [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>][] = []
  beforeAll(async () => {
    merger = createMerger()
    for (const name of ['sortdesc', 'swapnb', 'rotl2']) examples.push(await example(name))
  })
  afterAll(() => merger.close())

  /** The error of a call that must fail with one. */
  async function failure(call: Promise<unknown>): Promise<MergeError> {
    const error = await call.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(MergeError)
    return error as MergeError
  }

  describe('merge', () => {
    it('uses the threads that it should', () => {
      expect(merger.threads).toSatisfy(threads)
    })

    it('merges the examples to the same bytes everywhere, with a report', async () => {
      const progress: number[] = []
      const { files, tensors, report } = await merger.merge(
        examples.map((source, i) => ({ source, name: `adapter ${i}` })),
        { method: 'lego', rank: 8 },
        { onProgress: ({ fraction }) => progress.push(fraction) },
      )
      expect(files.map(file => file.name)).toEqual(['adapter_model.safetensors', 'adapter_config.json'])
      const bytes = await (files[0] as File).arrayBuffer()
      expect(await dataHash(bytes)).toBe(expectedHash)

      const parsed = parse(bytes)
      expect(parsed.size).toBe(56)
      expect([...tensors.keys()]).toEqual([...parsed.keys()])
      const [name, tensor] = [...tensors][0] as [string, NonNullable<ReturnType<(typeof tensors)['get']>>]
      expect(tensor.shape).toEqual(parsed.get(name)?.shape)
      expect(await tensor.data()).toEqual(parsed.get(name)?.values)

      const written = JSON.parse(await (files[1] as File).text()) as Record<string, unknown>
      expect(written).toMatchObject({ peft_type: 'LORA', r: 8, lora_alpha: 8, rank_pattern: {}, base_model_name_or_path: 'minibench-llama-0.8m' })

      expect(report.modules).toHaveLength(28)
      expect(report.inputs).toMatchObject([0, 1, 2].map(i => ({ name: `adapter ${i}`, weight: 1, file: { bytes: examples[i]?.[0].length } })))
      expect(report.outputs).toEqual(files.map(({ name, size }) => ({ name, bytes: size })))
      expect(report.modules[0]).toMatchObject({ module: 'model.layers.0.mlp.down_proj', kind: 'linear', in: 352, out: 128, ranks: [8, 8, 8], units: 24, rank: 8 })
      expect(report.modules[0]?.clusters.flatMap(({ members }) => members).reduce((sum, count) => sum + count)).toBe(24)
      expect(report.totals.relativeError).toBeGreaterThan(0.1)
      expect(report.totals.relativeError).toBeLessThan(1)
      expect(report.totals).toMatchObject({ units: 28 * 24, rank: 28 * 8, nearZero: 0 })

      expect(progress.at(-1)).toBe(1)
      expect(progress).toEqual([...progress].sort((x, y) => x - y))
    })

    it('computes parts, and joins them to the same bytes', async () => {
      const parts: File[] = []
      for (const index of [1, 2, 3]) parts.push(...(await merger.merge(examples, { method: 'lego', rank: 8 }, { shard: { index, of: 3 } })).files)
      expect(parts.map(({ name }) => name)).toEqual([1, 2, 3].map(index => `part-0000${index}-of-00003.safetensors`))
      const { files, tensors, report } = await merger.join([parts[1] as File, await (parts[0] as File).arrayBuffer(), new Blob([parts[2] as File])], { hashes: true })
      const bytes = await (files[0] as File).arrayBuffer()
      expect(await dataHash(bytes)).toBe(expectedHash)
      expect([...tensors.keys()]).toEqual([...parse(bytes).keys()])
      expect(report.outputs[0]?.sha256).toBe(await hexDigest(bytes))
      const error = await failure(merger.join(parts.slice(1)))
      expect(error).toMatchObject({ code: 'bad_part' })
      expect(error.message).toContain('part 1 of 3 is missing')
    })

    it('takes files, blobs, buffers and views, and leaves the caller his buffers', async () => {
      const [tensors, settings] = examples[0] as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]
      const offset = new Uint8Array(tensors.length + 5)
      offset.set(tensors, 3)
      const sources: MergeInput[] = [
        [tensors, settings],
        [settings, tensors],
        [tensors.buffer, settings.buffer],
        [offset.subarray(3, 3 + tensors.length), settings],
        [new Blob([tensors]), new Blob([settings])],
        [new File([tensors], 'adapter_model.safetensors'), new File([settings], 'adapter_config.json'), new File(['x'], 'optimizer.pt'), new File(['x'], 'README.md')],
        { source: [tensors, settings], weight: 1, name: 'named' },
      ]
      const results = await Promise.all(sources.map(source => merger.merge([source], { method: 'cat' })))
      const hashes = await Promise.all(results.map(async ({ files }) => dataHash(await (files[0] as File).arrayBuffer())))
      expect(new Set(hashes).size).toBe(1)
      expect(tensors.byteLength).toBeGreaterThan(0)
      expect(results.at(-1)?.report.inputs[0]?.name).toBe('named')
    })

    it('merges exactly: one adapter with weight and its negative is nothing', async () => {
      const { files } = await merger.merge(
        [
          { source: adapter(), weight: 0.5 },
          { source: adapter(), weight: -0.5 },
        ],
        { method: 'svd', rank: 2 },
      )
      for (const { values } of parse(await (files[0] as File).arrayBuffer()).values()) expect(values.every(value => value === 0)).toBe(true)
    })

    it('lego gives one adapter of scale 1 back bit for bit', async () => {
      const { tensors, report } = await merger.merge([adapter([{}, { module: 'second', rank: 2, in: 9, out: 3 }])], { method: 'lego' })
      const expected = new Map([...pair(), ...pair({ module: 'second', in: 9, out: 3 })].map(({ name, values }) => [name, Float32Array.from(values ?? [])]))
      for (const [name, tensor] of tensors) expect(await tensor.data()).toEqual(expected.get(name))
      expect(report.totals.relativeError).toBeLessThan(1e-6)
    })

    it('writes the dtype that is asked for', async () => {
      const { tensors } = await merger.merge([adapter()], { method: 'cat', dtype: 'bf16' })
      const tensor = tensors.get(keyA('layer'))
      expect(tensor?.dtype).toBe('BF16')
      const bits = (await tensor?.data()) as Uint16Array
      expect(bits).toBeInstanceOf(Uint16Array)
      // sin(1) = 0.8415 is 0x3F57 in bfloat16.
      expect(bits[0]).toBe(0x3f57)
    })

    it('takes the options of the method, and refuses those of others', async () => {
      const { report } = await merger.merge([adapter(), adapter()], { method: 'lego', gauge: 'balanced', restarts: 5, parameterReweight: 'l2' })
      expect(report.recipe.options).toEqual({ gauge: 'balanced', restarts: 5, parameterReweight: 'l2' })
      expect((await failure(merger.merge([adapter()], { method: 'cat', gauge: 'raw' }))).code).toBe('bad_option')
      expect((await failure(merger.merge([adapter()], { method: 'lego', restarts: 0 }))).code).toBe('bad_option')
      expect((await failure(merger.merge([adapter()], { method: 'least_interference', eps: 0 }))).code).toBe('bad_option')
      expect((await failure(merger.merge([{ source: adapter(), weight: -1 }], { method: 'least_interference' }))).code).toBe('bad_weights')
      expect((await merger.plan([adapter()], { method: 'least_interference', eps: 0.25 })).method).toBe('least_interference')
      expect((await failure(merger.merge([adapter()], { seed: -1 }))).code).toBe('bad_option')
      expect((await failure(merger.merge([adapter()], { rank: 1.5 }))).code).toBe('bad_rank')
      expect((await failure(merger.merge([adapter()], { method: 'blend' as 'lego' }))).code).toBe('unknown_method')
      expect((await failure(merger.merge([adapter()], { scale: NaN }))).code).toBe('bad_option')
      expect((await failure(merger.merge([{ source: adapter(), weight: Infinity }]))).code).toBe('bad_weights')
    })

    it('works without a merger of its own', async () => {
      expect((await merge([adapter()])).files).toHaveLength(2)
      expect((await inspect(adapter())).modules).toHaveLength(1)
      expect((await plan([adapter(), adapter()])).modules[0]?.units).toBe(4)
    })

    it('answers many calls at once', async () => {
      const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => (i % 2 ? merger.plan([adapter()]) : merger.inspect(adapter()))))
      expect(answers).toHaveLength(20)
    })
  })

  describe('inspect and plan', () => {
    it('say what an adapter holds', async () => {
      expect(await merger.inspect(adapter([{ rank: 4 }], { r: 4, lora_alpha: 8, base_model_name_or_path: 'base' }))).toMatchObject({
        label: 'good',
        baseModel: 'base',
        modules: [{ path: 'layer', kind: 'linear', rank: 4, in: 6, out: 5, alpha: 8, scale: 2, dtype: 'F32' }],
        unsupported: [],
        notices: [],
      })
    })

    it('describe what cannot be merged instead of refusing to look', async () => {
      const tensors = safetensors([...pair(), { name: 'base_model.model.layer.lora_B.bias', shape: [5] }])
      const { unsupported } = await merger.inspect([tensors, config({ use_dora: true })])
      expect(unsupported.map(({ tensor }) => tensor)).toEqual(['base_model.model.layer.lora_B.bias', ''])
    })

    it('say what a merge would do', async () => {
      const found = await merger.plan([adapter(), adapter([{ rank: 3 }, { module: 'extra', rank: 3 }], { r: 3 }), { source: adapter(), weight: 0 }])
      expect(found).toMatchObject({ method: 'least_interference', dtype: 'F32', modules: [{ path: 'extra', units: 3, rank: 3, ranks: [0, 3, 0] }, { path: 'layer', units: 5, rank: 3, ranks: [2, 3, 0] }] })
      expect(found.outputBytes).toBe((await merger.merge([adapter(), adapter([{ rank: 3 }, { module: 'extra', rank: 3 }], { r: 3 }), { source: adapter(), weight: 0 }])).files[0]?.size)
      expect(found.peakBytes).toBeGreaterThan(found.outputBytes)
      expect(found.notices.join()).toContain('weight 0')
    })
  })

  describe('bad input gets its own code and a message that names file and tensor', () => {
    for (const { title, code, inputs, rank, names } of badInputs()) {
      it(title, async () => {
        const error = await failure(merger.merge(inputs, rank === undefined ? {} : { rank }))
        expect(error.code).toBe(code)
        expect(errorCodes).toHaveProperty(code)
        for (const name of names) expect(error.message).toContain(name)
        expect(JSON.parse(JSON.stringify(error))).toMatchObject({ code, message: error.message })
      })
    }

    /** What is wrong with the answers to malformed adapters; those that are merged all the same count as wrong unless they may. */
    async function answers(cases: readonly Malformed[], mayMerge = false): Promise<{ merged: number; wrong: string[] }> {
      const found = { merged: 0, wrong: [] as string[] }
      expect(new Set(cases.map(({ title }) => title)).size).toBe(cases.length)
      for (const { title, codes, files, good } of cases) {
        const error: unknown = await merger.merge([good, files]).then(
          () => undefined,
          (thrown: unknown) => thrown,
        )
        if (error === undefined) found.merged++
        // A name of a megabyte must not become a message of a megabyte.
        const told = error instanceof MergeError && codes.includes(error.code) && error.message.length < 1500 && /(bad|good)\/(adapter|lora)/.test(error.message)
        if (!told && !(error === undefined && mayMerge)) found.wrong.push(`${title}: ${error instanceof Error ? error.message.slice(0, 200) : 'was merged'}`)
      }
      return found
    }

    it('more than 300 malformed adapters, each with a code and a message', async () => {
      const cases = malformed()
      expect(cases.length).toBeGreaterThan(300)
      expect(await answers(cases)).toEqual({ merged: 0, wrong: [] })
    })

    it('malformed files of other formats', async () => {
      const cases = malformedFormats()
      expect(cases.length).toBeGreaterThan(150)
      expect(await answers(cases)).toEqual({ merged: 0, wrong: [] })
    })

    it('GGUF files with a bit flipped, where they then say something wrong', async () => {
      const cases = flippedGguf()
      const { merged, wrong } = await answers(cases, true)
      expect(wrong).toEqual([])
      // Most of the header counts.
      expect(merged).toBeGreaterThan(0)
      expect(merged).toBeLessThan(cases.length / 2)
    })

    it('and the merger goes on working', async () => {
      expect((await merger.merge([adapter()])).files).toHaveLength(2)
    })

    it('what is no input at all', async () => {
      for (const input of [42, null, 'path', new Date(), []]) expect((await failure(merger.merge([input as unknown as MergeInput]))).code).toMatch(/bad_input|not_found/)
      expect((await failure(merger.merge(adapter()[0] as unknown as []))).code).toBe('bad_input')
    })
  })

  defineFormats(() => merger, examples, failure)

  describe('cancel and close', () => {
    it('rejects with the reason of the signal, before the start', async () => {
      await expect(merger.merge([adapter()], {}, { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
      await expect(merger.plan([adapter()], {}, { signal: AbortSignal.abort('why') })).rejects.toBe('why')
    })

    it('stops a running merge', async () => {
      const controller = new AbortController()
      const reason = new Error('enough')
      const many = Array.from({ length: 40 }, (_, i) => ({ module: `m${i}`, rank: 64, in: 512, out: 512 }))
      const big = adapter(many, { r: 64 })
      const running = merger.merge([big, big, big, big], { method: 'lego', restarts: 10_000 }, { signal: controller.signal })
      setTimeout(() => controller.abort(reason), 200)
      const start = performance.now()
      await expect(running).rejects.toBe(reason)
      expect(performance.now() - start).toBeLessThan(5_000)
      expect((await merger.merge([adapter()])).files).toHaveLength(2)
    })

    it('cancels a call that waits behind another', async () => {
      const controller = new AbortController()
      const first = merger.merge([adapter()])
      const second = merger.merge([adapter()], {}, { signal: controller.signal })
      controller.abort('not needed')
      await expect(second).rejects.toBe('not needed')
      expect((await first).files).toHaveLength(2)
    })

    it('close ends open calls and refuses new ones', async () => {
      const other = createMerger()
      const open = other.plan([adapter()])
      await other.close()
      expect((await failure(open)).code).toBe('closed')
      expect((await failure(other.inspect(adapter()))).code).toBe('closed')
      await other.close()
    })

    it('is an async disposable', async () => {
      const other = createMerger()
      await other[Symbol.asyncDispose]()
      expect((await failure(other.inspect(adapter()))).code).toBe('closed')
    })
  })

  it('lists the methods with their options', () => {
    expect(methods[0]).toMatchObject({ name: 'least_interference', family: 'mean', takesRank: true, choosesRank: true })
    const lego = methods.find(({ name }) => name === 'lego')
    expect(lego).toMatchObject({ family: 'mean', takesRank: true, choosesRank: true })
    expect(lego?.options.map(({ name }) => name)).toEqual(['restarts', 'parameterReweight', 'outputReweight', 'gauge', 'canonical'])
    expect(methods.find(({ aliases }) => aliases.includes('task_arithmetic'))?.name).toBe('svd')
    expect(methods.length).toBeGreaterThan(25)
  })

  describe('every method', () => {
    it.each(methods.map(method => [method.name, method] as const))('%s merges, and says how well', async (name, method) => {
      const inputs = examples.slice(0, method.mostAdapters || 3)
      const { files, report } = await merger.merge(inputs, { method: name, ...(method.takesRank && { rank: 4 }) })
      expect([...parse(await (files[0] as File).arrayBuffer()).values()].every(({ values }) => values.every(Number.isFinite))).toBe(true)
      const { totals } = report
      expect(totals.cosine).toBeGreaterThan(0.1)
      expect(totals.retainedEnergy).toBeCloseTo(totals.cosine ** 2, 12)
      expect(totals.inputs.map(({ adapter }) => adapter)).toEqual(inputs.map((_, i) => i))
      expect(totals.pairCosines.flat().every(cosine => Math.abs(cosine) <= 1 + 1e-9)).toBe(true)
    })

    it('is known by its other names', async () => {
      const hashes = await Promise.all(
        (['svd', 'task_arithmetic', 'linear'] as const).map(async method => dataHash(await ((await merger.merge(examples, { method })).files[0] as File).arrayBuffer())),
      )
      expect(new Set(hashes).size).toBe(1)
    })
  })

  describe('ranks from the data', () => {
    const ranksFor = async (recipe: Recipe): Promise<number[]> => (await merger.merge(examples, recipe)).report.modules.map(({ rank }) => rank)

    it('keeps the energy that is asked for', async () => {
      const { report } = await merger.merge(examples, { method: 'svd', rank: { energy: 0.9 } })
      for (const module of report.modules) expect(module.retainedEnergy).toBeGreaterThanOrEqual(0.9)
      const smaller = await merger.merge(examples, { method: 'svd', moduleRanks: Object.fromEntries(report.modules.map(({ module, rank }) => [module, Math.max(1, rank - 1)])) })
      for (const [i, module] of smaller.report.modules.entries()) if (report.modules[i]?.rank !== 1) expect(module.retainedEnergy).toBeLessThan(0.9)
    })

    it('keeps the Frobenius norm that is asked for, which is an energy of the square', async () => {
      expect(await ranksFor({ method: 'svd', rank: { frobenius: Math.sqrt(0.8) } })).toEqual(await ranksFor({ method: 'svd', rank: { energy: 0.8 } }))
    })

    it('fills a size and does not exceed it', async () => {
      for (const size of [60_000, 150_000, 400_000]) {
        const { files, report } = await merger.merge(examples, { method: 'least_interference', rank: { size } })
        expect(files[0]?.size).toBeLessThanOrEqual(size)
        // What is left is less than one more rank of the smallest module takes.
        expect(files[0]?.size).toBeGreaterThan(size - 4 * 256)
        expect(new Set(report.modules.map(({ rank }) => rank)).size).toBeGreaterThan(1)
      }
      expect((await failure(merger.merge(examples, { method: 'svd', rank: { size: 20_000 } }))).code).toBe('bad_rank')
    })

    it('plans without reading, with the most that may come out', async () => {
      const found = await merger.plan(examples, { method: 'svd', rank: { ratio: 5 }, maxRank: 6 })
      expect(found).toMatchObject({ ranksAreKnown: false, modules: found.modules.map(() => ({ rank: 6 })) })
      expect(Math.max(...(await ranksFor({ method: 'svd', rank: { ratio: 5 }, maxRank: 6 })))).toBeLessThanOrEqual(6)
    })

    it('gives parts of the model ranks of their own', async () => {
      const { report } = await merger.merge(examples, { rank: 8, moduleRanks: { '*.mlp.*': 2, '*.up_proj': 3 } })
      for (const { module, rank } of report.modules) expect(rank).toBe(module.endsWith('.up_proj') ? 3 : module.includes('.mlp.') ? 2 : 8)
    })

    it('refuses what is no rank', async () => {
      for (const recipe of [{ rank: { energy: 2 } }, { rank: { energy: 'all' } }, { rank: { share: 0.5 } }, { rank: {} }, { rank: 'many' }, { rank: 8, maxRank: 9 }, { rank: { energy: 0.5 }, maxRank: 0 }, { method: 'cat', rank: 'auto' }, { method: 'dense_ties', rank: 'auto' }, { moduleRanks: { '*.nothing': 3 } }, { moduleRanks: { '*': 0 } }]) {
        expect({ recipe, code: (await failure(merger.merge(examples, recipe as unknown as Recipe))).code }).toEqual({ recipe, code: 'bad_rank' })
      }
    })
  })

  describe('comparison before a merge', () => {
    it('says what a report says about the same adapters', async () => {
      const progress: number[] = []
      const found = await merger.compare(examples, { onProgress: ({ fraction }) => progress.push(fraction) })
      const { report } = await merger.merge(examples, { method: 'svd', rank: 'auto' })
      expect(progress.at(-1)).toBe(1)
      expect(found.modules.map(({ module, suggestedRank }) => [module, suggestedRank])).toEqual(report.modules.map(({ module, rank }) => [module, rank]))
      for (const [m, module] of found.modules.entries()) {
        const merged = report.modules[m] as (typeof report.modules)[number]
        module.norms.forEach((norm, i) => expect(norm / (merged.inputs[i]?.norm ?? 0)).toBeCloseTo(1, 5))
        module.pairCosines.flat().forEach((cosine, at) => expect(cosine).toBeCloseTo(merged.pairCosines.flat()[at] as number, 5))
        expect(module.conflict).toBeCloseTo(merged.conflict, 5)
        expect(module.sharedInputs.flat().every(value => value >= 0 && value <= 1 + 1e-9)).toBe(true)
      }
      found.totals.pairCosines.flat().forEach((cosine, at) => expect(cosine).toBeCloseTo(report.totals.pairCosines.flat()[at] as number, 5))
    })

    it('advises least_interference, with a reason for each setting', async () => {
      const comparison = await merger.compare(examples)
      const { advice, totals, modules } = comparison
      const worst = worstModules(comparison, 3).map(({ interference }) => interference)
      expect(worst).toEqual(modules.map(({ interference }) => interference).sort((x, y) => y - x).slice(0, 3))
      expect(advice).toMatchObject({ method: 'least_interference', rank: 8, weights: [1, 1, 1] })
      expect(advice.reasons.map(({ about }) => about)).toEqual(['method', 'rank', 'weights'])
      expect(totals.interference).toBeGreaterThan(0)
      expect(totals.interference).toBeLessThan(0.2)
      const { report } = await merger.merge(examples, { method: advice.method, rank: advice.rank })
      expect(report.totals.rank).toBe(28 * 8)
    })

    it('knows copies, opposites and adapters that are alone', async () => {
      const [first] = examples
      const copies = await merger.compare([
        { name: 'one', source: first as Uint8Array[] },
        { name: 'two', source: first as Uint8Array[] },
      ])
      expect(copies.totals.pairCosines[1]?.[0]).toBeCloseTo(1, 6)
      expect(copies.totals.sharedInputs[1]?.[0]).toBeCloseTo(1, 6)
      expect(copies.totals.interference).toBeCloseTo(0, 6)
      expect(copies.advice.reasons[0]?.text).toContain('one and two have much in common (cosine 1.00)')
      const subtracted = await merger.compare([{ source: first as Uint8Array[] }, { source: examples[1] as Uint8Array[], weight: -0.5 }])
      expect(subtracted.advice).toMatchObject({ method: 'svd', rank: 'auto', weights: [1, -0.5] })
      const alone = await compare([adapter([{ rank: 2 }])])
      expect(alone.advice).toMatchObject({ method: 'svd', rank: 'auto', reasons: { length: 2 } })
      expect(alone.totals.pairCosines).toEqual([[1]])
      expect(worstModules(alone)).toEqual([])
    })

    it('sees an adapter that drowns the others', async () => {
      const tensors = safetensors(pair().map(tensor => ({ ...tensor, values: tensor.values?.map(value => 10 * value) ?? [] })))
      const { advice } = await merger.compare([adapter(), { name: 'loud', source: [tensors, config()] }])
      expect(advice.reasons.find(({ about }) => about === 'weights')?.text).toMatch(/loud is 100\.0 times as strong/)
    })

    it('fails as a merge would, and can be cancelled', async () => {
      expect((await failure(merger.compare([]))).code).toBe('no_inputs')
      expect((await failure(merger.compare([adapter(), adapter([{ in: 7 }])]))).code).toBe('shape_mismatch')
      const controller = new AbortController()
      const call = merger.compare(examples, { signal: controller.signal })
      controller.abort(new Error('enough'))
      await expect(call).rejects.toThrow('enough')
    })
  })

  describe('weights of parts of a model', () => {
    it('override the adapter’s own', async () => {
      const [a, b] = examples as [MergeInput & object, MergeInput & object]
      const { report } = await merger.merge([{ source: a as Uint8Array[] }, { source: b as Uint8Array[], weight: 0.5, moduleWeights: { '*.mlp.*': 0, '*.layers.1.mlp.up_proj': 2 } }], { method: 'cat' })
      for (const { module, ranks, inputs, norm } of report.modules) {
        const alone = module.includes('.mlp.') && module !== 'model.layers.1.mlp.up_proj'
        expect({ module, ranks }).toEqual({ module, ranks: alone ? [8, 0] : [8, 8] })
        if (alone) expect(norm / (inputs[0]?.norm ?? 0)).toBeCloseTo(1, 5)
      }
      expect(report.inputs[1]?.moduleWeights).toEqual({ '*.mlp.*': 0, '*.layers.1.mlp.up_proj': 2 })
    })

    it('are refused where they match nothing, or are no numbers', async () => {
      expect((await failure(merger.merge([adapter(), { source: adapter(), moduleWeights: { 'no.such*': 1 } }]))).code).toBe('bad_weights')
      expect((await failure(merger.merge([adapter(), { source: adapter(), moduleWeights: { '*': Infinity } }]))).code).toBe('bad_weights')
      expect((await failure(merger.merge([adapter(), { source: adapter(), moduleWeights: { '*': 'half' as unknown as number } }]))).code).toBe('bad_input')
      expect((await failure(merger.merge([{ source: adapter(), moduleWeights: { '*': 0 } }]))).code).toBe('bad_weights')
    })
  })

  it('puts hashes of all files into the report', async () => {
    const { files, report } = await merger.merge(examples, {}, { hashes: true })
    expect(report.inputs.map(({ file }) => file.sha256)).toEqual(await Promise.all(examples.map(([tensors]) => hexDigest(tensors))))
    expect(report.outputs.map(({ sha256 }) => sha256)).toEqual(await Promise.all(files.map(async file => hexDigest(await file.arrayBuffer()))))
    const origin = JSON.parse(metadataOf(await (files[0] as File).arrayBuffer()).lora_lego ?? '') as { input_sha256: string[] }
    expect(origin.input_sha256).toEqual(report.inputs.map(({ file }) => file.sha256))
    expect((await merger.merge(examples)).report.outputs[0]).not.toHaveProperty('sha256')
  })

  it('refuses more adapters than a method takes', async () => {
    expect((await failure(merger.merge(examples, { method: 'slerp' }))).code).toBe('too_many_adapters')
  })

  it('gives the same bytes with the reference kernels', async () => {
    const reference = createMerger({ kernels: 'reference' })
    try {
      const { files } = await reference.merge(examples, { method: 'lego', rank: 8 })
      expect(await dataHash(await (files[0] as File).arrayBuffer())).toBe(expectedHash)
    } finally {
      await reference.close()
    }
  })
}

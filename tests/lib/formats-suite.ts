// Adapters that come in one format and leave in another. Part of the suite that runs on every platform.

import { formats, MergeError, type Conversion, type FormatInfo, type FormatName, type Merger } from 'lora-lego'
import { describe, expect, it } from 'vitest'
import { adapter, config, fileIn, hexDigest, keyA, keyB, metadataOf, pair, parse, safetensors, type TensorSpec, type Values } from './fixtures.js'
import { delta, deltasOf, diffusersTensors, distance, dora, flatName, kohyaHashes, kohyaTensors, pairsOf, transposed } from './formats.js'
import { adapterKeys, gguf, ggufPair, text } from './gguf.js'

/** Of the small model that the examples are for. */
const base = new File([JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 })], 'config.json')
/** Of the examples: alpha 16 at rank 8. */
const exampleScale = 2
/** Rounding of factors in F32. */
const rounding = 1e-6

/** What Stable Diffusion 1's text encoder and UNet have: kohya's name, diffusers' name, in, out. */
const stableDiffusion = [
  ['lora_te_text_model_encoder_layers_0_mlp_fc1', 'text_encoder.text_model.encoder.layers.0.mlp.fc1', 768, 3072],
  ['lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k', 'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k', 768, 320],
] as const

const formatInfo = (name: FormatName): FormatInfo => formats.find(format => format.name === name) as FormatInfo
const parsed = async (files: readonly File[]): Promise<Map<string, Values>> => parse(await (files[0] as File).arrayBuffer())
const metadata = async (files: readonly File[]): Promise<Record<string, string>> => metadataOf(await (files[0] as File).arrayBuffer())

/** Kohya's file for Stable Diffusion 1, of alpha twice the rank. */
function kohyaFile(folder = 'kohya', about?: Record<string, string>, rank = 4): File {
  const tensors = stableDiffusion.flatMap(([name, , columns, rows]) => {
    const pairs = pairsOf(parse(safetensors(pair({ module: 'x', rank, in: columns, out: rows })).buffer))
    return kohyaTensors(pairs, 2, () => name)
  })
  return fileIn(folder, 'lora.safetensors', safetensors(tensors, about))
}

export function defineFormats(merger: () => Merger, examples: readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>][], failure: (call: Promise<unknown>) => Promise<MergeError>): void {
  const example = (index: number): [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] => examples[index] as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>]
  const original = (index: number): Map<string, Values> => parse(example(index)[0].buffer)
  const convert = async (source: readonly (Blob | Uint8Array)[], conversion: Conversion): Promise<readonly File[]> => (await merger().convert(source, conversion)).files
  /** An example as kohya would have it; its modules are no image model's. */
  const flat = (index: number, about?: Record<string, string>): File => fileIn('flat', 'lora.safetensors', safetensors(kohyaTensors(pairsOf(original(index)), exampleScale, flatName), about))

  describe('formats', () => {
    it('name the files that are written', async () => {
      expect(formats.map(({ name }) => name)).toEqual(['peft', 'kohya', 'diffusers', 'comfy', 'xlabs', 'control_lora', 'mlx', 'gguf', 'onnx'])
      expect(formats.filter(({ isRead }) => !isRead).map(({ name }) => name)).toEqual(['onnx'])
      for (const format of ['peft', 'mlx', 'gguf', 'onnx'] as const) {
        const { tensorFile, configFile } = formatInfo(format)
        expect((await convert(example(0), { format, base })).map(({ name }) => name)).toEqual(configFile === '' ? [tensorFile] : [tensorFile, configFile])
      }
    })

    it('PEFT becomes MLX, factors turned around and the scale in the config, and PEFT again', async () => {
      const there = await convert(example(0), { format: 'mlx' })
      const turned = await parsed(there)
      for (const [path, { a, b }] of pairsOf(original(0))) {
        expect(turned.get(`${path}.lora_a`)).toEqual(transposed(a))
        expect(turned.get(`${path}.lora_b`)).toEqual(transposed(b))
      }
      expect(JSON.parse(await (there[1] as File).text())).toMatchObject({ fine_tune_type: 'lora', lora_parameters: { rank: 8, scale: exampleScale } })
      const back = await convert(there, { format: 'peft' })
      const found = await parsed(back)
      expect(found.size).toBe(56)
      for (const [name, tensor] of original(0)) expect(found.get(name)).toEqual(tensor)
      const { modules } = await merger().inspect(example(0))
      expect(modules[0]).toMatchObject({ rank: 8, alpha: 16, scale: exampleScale })
      expect((await merger().inspect(there)).modules).toEqual(modules)
      expect((await merger().inspect(back)).modules).toEqual(modules)
    })

    it('PEFT becomes GGUF, its scale in the factors, and PEFT again', async () => {
      const { files, tensors } = await merger().convert(example(0), { format: 'gguf', base })
      const found = await merger().inspect(files)
      expect(found).toMatchObject({ format: 'gguf', modules: { length: 28 } })
      expect(found.reason).toContain('GGUF')
      expect(new Set(found.modules.map(({ scale }) => scale))).toEqual(new Set([1]))
      // llama.cpp turns neighbouring rows of a head: row i of 32 comes to stand beside row i + 16.
      const q = pairsOf(original(0)).get('model.layers.1.self_attn.q_proj') as { a: Values; b: Values }
      const written = async (side: string): Promise<Values> => {
        const tensor = tensors.get(`blk.1.attn_q.weight.lora_${side}`)
        return { shape: tensor?.shape ?? [], values: (await tensor?.data()) as Float32Array }
      }
      const rows = delta(await written('a'), await written('b'))
      const wanted = delta(q.a, q.b, exampleScale)
      for (let row = 0; row < 128; row++) {
        const inHead = row % 32
        const to = row - inHead + (inHead < 16 ? 2 * inHead : 2 * (inHead - 16) + 1)
        expect(rows.subarray(to * 128, (to + 1) * 128)).toEqual(wanted.subarray(row * 128, (row + 1) * 128))
      }
      const back = await convert(files, { format: 'peft', base })
      expect((await merger().inspect(back)).modules.map(({ path, rank, scale }) => ({ path, rank, scale }))).toEqual((await merger().inspect(example(0))).modules.map(({ path, rank }) => ({ path, rank, scale: 1 })))
      // Times two and back is exact.
      expect(distance(deltasOf(await parsed(back)), deltasOf(original(0), exampleScale))).toBe(0)
    })

    it('PEFT, MLX and GGUF are merged with each other as PEFT alone is', async () => {
      const mixed = [example(0), await convert(example(1), { format: 'mlx' }), await convert(example(2), { format: 'gguf', base })]
      const recipe = { method: 'svd', rank: 8 } as const
      const plain = await merger().merge(examples, recipe)
      const { files, report } = await merger().merge(mixed, { ...recipe, base })
      expect(files.map(({ name }) => name)).toEqual(['adapter_model.safetensors', 'adapter_config.json'])
      expect(report.notices.join()).toMatch(/several dialects \(.*peft.*mlx.*gguf.*\): the result is written as peft/)
      expect(distance(deltasOf(await parsed(files)), deltasOf(await parsed(plain.files)))).toBeLessThan(rounding)
      // And three copies of one adapter are three times that adapter.
      const copies = [example(0), await convert(example(0), { format: 'mlx' }), await convert(example(0), { format: 'gguf', base })]
      const tripled = await merger().merge(copies, { ...recipe, base })
      expect(distance(deltasOf(await parsed(tripled.files)), deltasOf(original(0), 3 * exampleScale))).toBeLessThan(1e-5)
    })

    it('kohya is known by its names, and merged into one file with alphas', async () => {
      const found = await merger().inspect(flat(0))
      expect(found).toMatchObject({ format: 'kohya', unsupported: [], modules: { length: 28 } })
      expect(found.reason).toMatch(/^56 tensors are named as 'lora_unet_model_layers_0_.*lora_down\.weight'$/)
      expect(found.modules.find(({ path }) => path === 'lora_unet_model_layers_0_mlp_down_proj')).toMatchObject({ rank: 8, alpha: 16, scale: exampleScale, in: 352, out: 128 })

      const { files } = await merger().merge([flat(0), { source: flat(1), weight: 0.5 }], { method: 'svd', rank: 6 })
      expect(files.map(({ name }) => name)).toEqual(['lora.safetensors'])
      expect(await metadata(files)).toMatchObject({ ss_network_module: 'networks.lora', ss_network_dim: '6', ss_network_alpha: expect.stringMatching(/^6(\.0)?$/) as string })
      const tensors = await parsed(files)
      expect(tensors.size).toBe(3 * 28)
      const plain = await merger().merge([example(0), { source: example(1), weight: 0.5 }], { method: 'svd', rank: 6 })
      for (const [path, { a, b }] of pairsOf(await parsed(plain.files))) {
        const part = (name: string): Values => tensors.get(`${flatName(path)}.${name}`) as Values
        expect(part('alpha')).toEqual({ shape: [], values: Float32Array.of(6) })
        expect(distance(new Map([[path, delta(part('lora_down.weight'), part('lora_up.weight'))]]), new Map([[path, delta(a, b)]]))).toBeLessThan(rounding)
      }
    })

    it('kohya becomes diffusers, where its modules are known, and kohya again', async () => {
      const source = kohyaFile()
      const before = await parsed([source])
      const there = await convert([source], { format: 'diffusers' })
      expect(there.map(({ name }) => name)).toEqual(['pytorch_lora_weights.safetensors'])
      const found = await merger().inspect(there)
      expect(found).toMatchObject({ format: 'diffusers' })
      expect(found.modules.map(({ path, alpha, scale }) => ({ path, alpha, scale }))).toEqual(stableDiffusion.map(([, path]) => ({ path, alpha: 8, scale: 2 })))
      expect(await metadata(there)).toHaveProperty('lora_adapter_metadata')
      const tensors = await parsed(there)
      expect(tensors.size).toBe(4)
      for (const [kohya, path] of stableDiffusion) {
        expect(tensors.get(`${path}.lora_A.weight`)).toEqual(before.get(`${kohya}.lora_down.weight`))
        expect(tensors.get(`${path}.lora_B.weight`)).toEqual(before.get(`${kohya}.lora_up.weight`))
      }
      const back = await convert(there, { format: 'kohya' })
      const after = await parsed(back)
      expect(after.size).toBe(before.size)
      for (const [name, tensor] of before) expect(after.get(name)).toEqual(tensor)
      expect(await metadata(back)).toMatchObject({ ss_network_dim: '4', ss_network_alpha: expect.stringMatching(/^8(\.0)?$/) as string })
    })

    it('diffusers without metadata has scale 1', async () => {
      const file = fileIn('flux', 'pytorch_lora_weights.safetensors', safetensors(diffusersTensors(pairsOf(original(0)), exampleScale, 'transformer')))
      const { format, modules } = await merger().inspect(file)
      expect({ format, scales: new Set(modules.map(({ scale }) => scale)) }).toEqual({ format: 'diffusers', scales: new Set([1]) })
    })

    it('names an ONNX graph’s inputs as it is told', async () => {
      const { tensors } = await merger().convert(example(0), { format: 'onnx', onnx: { names: ['{module}.lora_A', '{module}.lora_B'], layout: 'peft' } })
      for (const [path, { a, b }] of pairsOf(original(0))) {
        expect(tensors.get(`${path}.lora_A`)?.shape).toEqual(a.shape)
        expect(await tensors.get(`${path}.lora_A`)?.data()).toEqual(a.values)
        expect(await tensors.get(`${path}.lora_B`)?.data()).toEqual(b.values.map(value => exampleScale * value))
      }
      const matmul = await merger().convert(example(0), { format: 'onnx' })
      expect(matmul.tensors.get('model.layers.0.mlp.down_proj.lora_A.weight')?.shape).toEqual([352, 8])
    })

    it('DoRA is merged where the base model’s weights are given', async () => {
      const weight = Array.from({ length: 30 }, (_, i) => Math.sin(3 + i * 0.9))
      const key = 'base_model.model.layer.lora_magnitude_vector'
      const magnitudes = [[1, 2, 1.5, 1.2, 2.5], [2, 1.4, 1.6, 1.9, 1.1]]
      const adapters = magnitudes.map((values, i) => [fileIn(`dora${i}`, 'adapter_model.safetensors', safetensors([...pair(), { name: key, shape: [5], values }])), fileIn(`dora${i}`, 'adapter_config.json', config({ use_dora: true, lora_alpha: 2 + i }))])
      const shards = [safetensors([{ name: 'norm.weight', shape: [3], values: [1, 1, 1] }]), safetensors([{ name: 'layer.weight', shape: [5, 6], values: weight }])]
      const inputs = adapters.map((source, i) => ({ source, weight: i === 0 ? 1 : -0.5 }))
      expect(await failure(merger().merge(inputs, { method: 'cat' }))).toMatchObject({ code: 'unsupported_tensors', tensor: key })
      const recipe = { method: 'cat', base: shards.map((bytes, i) => new File([bytes], `model-${i}.safetensors`)) } as const
      expect((await merger().plan(inputs, recipe)).extras).toContainEqual({ adapter: 1, tensor: key, kind: 'dora', policy: 'merge' })
      const { base: weights } = recipe
      expect((await merger().compare(inputs, { base: weights })).modules).toHaveLength(1)
      expect(await failure(merger().compare(inputs))).toMatchObject({ code: 'unsupported_tensors' })
      expect((await merger().compare(inputs, { policies: { dora: 'drop' } })).modules).toHaveLength(1)
      const { files, totals } = await merger().merge(inputs, recipe).then(({ files, report }) => ({ files, totals: report.totals }))
      expect(totals.inputBytes).toBeGreaterThan(5 * 6 * 4)
      expect(JSON.parse(await (files[1] as File).text())).toMatchObject({ use_dora: true })
      const [a, b] = pair().map(({ shape, values = [] }) => ({ shape, values: Float32Array.from(values) })) as [Values, Values]
      const wanted = weight.map((value, at) => value + magnitudes.reduce((sum, magnitude, i) => sum + (i === 0 ? 1 : -0.5) * ((dora(weight, a, b, (2 + i) / 2, magnitude)[at] as number) - value), 0))
      const merged = await parsed(files)
      const made = dora(weight, merged.get(keyA('layer')) as Values, merged.get(keyB('layer')) as Values, 1, (merged.get(key) as Values).values)
      for (const [at, value] of wanted.entries()) expect(made[at]).toBeCloseTo(value, 5)
    })

    describe('that cannot be had are refused, with what is in the way', () => {
      it('another kind of model', async () => {
        const error = await failure(merger().merge([example(0), flat(0)]))
        expect(error).toMatchObject({ code: 'mixed_dialects', message: expect.stringMatching(/language models and .*image models.*peft, kohya/) as string })
        for (const format of ['kohya', 'diffusers', 'comfy'] as const) {
          expect(await failure(merger().convert(example(0), { format }))).toMatchObject({ code: 'bad_format', message: expect.stringMatching(`${format}.*peft`) as string })
        }
        expect(await failure(merger().convert(example(0), { format: 'pickle' as 'peft' }))).toMatchObject({ code: 'bad_format', message: expect.stringContaining("'pickle'") as string })
      })

      it('names that no table has', async () => {
        const error = await failure(merger().convert(flat(0), { format: 'diffusers' }))
        expect(error).toMatchObject({ code: 'mixed_dialects', file: 'flat/lora.safetensors', tensor: expect.stringMatching(/^lora_unet_model_layers_\d_.*\.lora_down\.weight$/) as string })
        expect(error.message).toContain('flat/lora.safetensors')
        expect(error.message).toContain(error.tensor)
      })

      it('names of two formats in one file', async () => {
        const tensors: TensorSpec[] = [...pair(), ...kohyaTensors(pairsOf(parse(safetensors(pair()).buffer)), 1, () => 'lora_unet_mid_block_attentions_0_proj_in')]
        const error = await failure(merger().inspect(fileIn('bad', 'both.safetensors', safetensors(tensors))))
        expect(error).toMatchObject({ code: 'ambiguous_dialect', file: 'bad/both.safetensors', tensor: 'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight' })
        for (const name of ['bad/both.safetensors', keyA('layer'), 'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight']) expect(error.message).toContain(name)
      })

      it('a config of another format', async () => {
        const [tensors] = await convert(example(0), { format: 'mlx' })
        const error = await failure(merger().inspect([tensors as File, new File([example(0)[1]], 'adapter_config.json')]))
        expect(error).toMatchObject({ code: 'ambiguous_dialect', message: expect.stringContaining('adapters.safetensors') as string })
      })

      it('GGUF without the base model', async () => {
        expect(await failure(merger().convert(example(0), { format: 'gguf' }))).toMatchObject({ code: 'base_missing', message: expect.stringContaining('config.json') as string })
        const files = await convert(example(0), { format: 'gguf', base })
        const error = await failure(merger().convert([fileIn('llama', 'adapter.gguf', files[0] as File)], { format: 'peft' }))
        expect(error).toMatchObject({ code: 'base_missing', file: 'llama/adapter.gguf', tensor: 'blk.0.attn_k.weight.lora_b' })
        for (const name of ['llama/adapter.gguf', 'blk.0.attn_k.weight.lora_b', 'config.json']) expect(error.message).toContain(name)
      })

      it('GGUF that is cut, or no adapter', async () => {
        const [whole] = await convert(example(0), { format: 'gguf', base })
        for (const size of [3, 20, 1000, (whole as File).size - 40]) {
          const error = await failure(merger().inspect(fileIn('bad', 'adapter.gguf', (whole as File).slice(0, size))))
          expect({ size, code: error.code }).toEqual({ size, code: 'file_truncated' })
          expect(error.message).toContain('bad/adapter.gguf')
        }
        const model = gguf({ keys: [text('general.architecture', 'llama'), text('general.type', 'model')], tensors: ggufPair('blk.0.ffn_up') })
        const controlVector = gguf({ keys: [...adapterKeys.filter(({ key }) => key !== 'adapter.type'), text('adapter.type', 'control_vector')], tensors: ggufPair('blk.0.ffn_up') })
        for (const file of [model, controlVector]) {
          expect(await failure(merger().inspect(fileIn('bad', 'model.gguf', file)))).toMatchObject({ code: 'unsupported_adapter', message: expect.stringContaining('bad/model.gguf') as string })
        }
      })
    })

    it('write where the result comes from, unless told not to', async () => {
      const about = { ss_base_model_version: 'sd_v1', ss_output_name: 'mine', ss_network_args: '{}', sshs_model_hash: 'f'.repeat(64) }
      const inputs = [kohyaFile('a', about), kohyaFile('b', { ...about, ss_output_name: 'other' })]
      const kept = await metadata((await merger().merge(inputs, { method: 'cat' })).files)
      expect(kept).toMatchObject({ ss_base_model_version: 'sd_v1', ss_network_dim: '8' })
      expect(JSON.parse(kept.lora_lego ?? '')).toMatchObject({ method: 'cat', weights: [1, 1] })
      // What only one of them says, and what no longer holds.
      for (const gone of ['ss_output_name', 'ss_network_args']) expect(kept).not.toHaveProperty(gone)
      const bare = await metadata((await merger().merge(inputs, { method: 'cat', metadata: false })).files)
      expect(Object.keys(bare).sort()).toEqual(['format', 'ss_network_alpha', 'ss_network_dim', 'ss_network_module'])
      const [file] = await convert(example(0), { format: 'gguf', base, metadata: false })
      expect(new TextDecoder().decode(await (file as File).arrayBuffer())).not.toContain('lora_lego')
      const [told] = await convert(example(0), { format: 'gguf', base })
      expect(new TextDecoder().decode(await (told as File).arrayBuffer())).toContain('lora_lego')
      expect(await metadata((await merger().merge([adapter()], { metadata: false })).files)).toEqual({ format: 'pt' })
    })

    it("hold kohya's hashes of what is written", async () => {
      const about = { ss_output_name: 'größer "mine"', ss_network_args: '{}', 'modelspec.title': 'x', sshs_model_hash: 'f'.repeat(64), sshs_legacy_hash: 'f'.repeat(8) }
      // The old hash looks at 64 KB from 1 MB on: where smaller files have nothing, and others still their header.
      for (const [rank, dtype, least, comment] of [[4, 'f16', 0, 0], [80, 'f32', 0x110000, 0], [80, 'f16', 0, 0], [72, 'f32', 0x100000, 0], [8, 'f32', 0x110000, 0x108000]] as const) {
        const source = kohyaFile('kohya', { ...about, ss_training_comment: 'x'.repeat(comment) }, rank)
        const { files, report } = await merger().merge([source], { method: 'cat', dtype }, { hashes: true })
        const file = await (files[0] as File).arrayBuffer()
        expect(file.byteLength).toBeGreaterThan(least)
        const { sshs_model_hash, sshs_legacy_hash, ...others } = metadataOf(file)
        expect({ sshs_model_hash, sshs_legacy_hash }).toEqual(await kohyaHashes(file))
        expect(others).toMatchObject({ ss_output_name: about.ss_output_name, 'modelspec.title': 'x' })
        expect(report.outputs[0]?.sha256).toBe(await hexDigest(file))
      }
      const ofDiffusers = await metadata(await convert([kohyaFile('kohya', about)], { format: 'diffusers' }))
      for (const none of ['sshs_model_hash', 'sshs_legacy_hash']) expect(ofDiffusers).not.toHaveProperty(none)
    })
  })
}

// What each format can hold beyond linear pairs: convolutions, embeddings and LyCORIS' factorisations. docs/formats.md
// says the same in its table, and names these tests.

import { convert, formats, inspect, type FormatName } from 'lora-lego'
import { describe, expect, it } from 'vitest'
import { adapterFiles, config, parse, safetensors, type TensorSpec } from './fixtures.js'

/** How a file names the parts of a module, and a module that it can have. */
const names: Partial<Record<FormatName, { module: string; a: string; b: string }>> = {
  peft: { module: 'base_model.model.features.0', a: '.lora_A.weight', b: '.lora_B.weight' },
  kohya: { module: 'lora_unet_down_blocks_0_resnets_0_conv1', a: '.lora_down.weight', b: '.lora_up.weight' },
  diffusers: { module: 'unet.down_blocks.0.resnets.0.conv1', a: '.lora_A.weight', b: '.lora_B.weight' },
  comfy: { module: 'diffusion_model.input_blocks.1.0.in_layers.2', a: '.lora_down.weight', b: '.lora_up.weight' },
  control_lora: { module: 'input_blocks.1.0.in_layers.2', a: '.down', b: '.up' },
}

const spec = (name: string, shape: number[]): TensorSpec => ({ name, shape, values: Array.from({ length: shape.reduce((product, side) => product * side, 1) }, (_, i) => Math.fround(Math.sin(name.length + 1.7 * i))) })
const filesOf = (tensors: readonly TensorSpec[], settings?: Uint8Array<ArrayBuffer>): File[] => (settings ? adapterFiles(safetensors(tensors), settings, 'x') : [new File([safetensors(tensors)], 'x.safetensors')])
const tensorsOf = async (files: readonly File[]): Promise<ReturnType<typeof parse>> => parse(await (files[0] as File).arrayBuffer())

const plain = config({ target_modules: ['features.0'] })

describe('convolutions', () => {
  it.each(Object.entries(names))('are read and written as they are: %s', async (format, { module, a, b }) => {
    const tensors = [spec(module + a, [2, 3, 3, 3]), spec(module + b, [5, 2, 1, 1])]
    const input = filesOf(tensors, format === 'peft' ? plain : undefined)
    expect((await inspect(input)).modules).toMatchObject([{ kind: 'convolution', rank: 2, in: 27, out: 5 }])
    const written = await tensorsOf((await convert(input, { format: format as FormatName })).files)
    for (const { name, shape, values } of tensors) expect(written.get(name)).toEqual({ shape, values: new Float32Array(values ?? []) })
  })

  it('are refused where a format has none: xlabs', async () => {
    const [a, b] = ['double_blocks.0.processor.qkv_lora1.down.weight', 'double_blocks.0.processor.qkv_lora1.up.weight']
    await expect(inspect(filesOf([spec(a, [2, 3, 3, 3]), spec(b, [5, 2, 1, 1])]))).rejects.toMatchObject({ code: 'shape_mismatch', tensor: a })
  })

  it.each(['mlx', 'gguf', 'onnx'] as const)('are not written where a format has none: %s', async format => {
    // Of a name that llama.cpp has, so that only the kernel is in the way.
    const module = 'base_model.model.model.layers.0.mlp.up_proj'
    const input = filesOf([spec(`${module}.lora_A.weight`, [2, 3, 3, 3]), spec(`${module}.lora_B.weight`, [5, 2, 1, 1])], config({ target_modules: ['up_proj'] }))
    const base = new File(['{"model_type":"llama","num_attention_heads":2}'], 'config.json')
    await expect(convert(input, { format, base })).rejects.toThrow(/a convolution, which the format/)
  })
})

describe('embeddings', () => {
  const module = 'model.embed_tokens'
  const peft = [spec(`base_model.model.${module}.lora_embedding_A`, [2, 11]), spec(`base_model.model.${module}.lora_embedding_B`, [6, 2])]
  const turned = (values: readonly number[], rows: number, columns: number): Float32Array => Float32Array.from({ length: values.length }, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)] as number)

  it('go from PEFT to MLX, which has both factors the other way round, and back', async () => {
    const input = filesOf(peft, config({ target_modules: ['embed_tokens'] }))
    const there = (await convert(input, { format: 'mlx' })).files
    const written = await tensorsOf(there)
    expect(written.get(`${module}.lora_a`)).toEqual({ shape: [11, 2], values: turned(peft[0]?.values ?? [], 2, 11) })
    expect(written.get(`${module}.lora_b`)).toEqual({ shape: [2, 6], values: turned(peft[1]?.values ?? [], 6, 2) })
    expect((await inspect([...there])).modules).toMatchObject([{ kind: 'embedding', in: 11, out: 6 }])
    const back = await tensorsOf((await convert([...there], { format: 'peft' })).files)
    for (const { name, shape, values } of peft) expect(back.get(name)).toEqual({ shape, values: new Float32Array(values ?? []) })
  })

  it('are not written to: onnx', async () => {
    await expect(convert(filesOf(peft, config({ target_modules: ['embed_tokens'] })), { format: 'onnx' })).rejects.toMatchObject({ code: 'bad_format' })
  })
})

describe('LyCORIS', () => {
  it.each(['kohya', 'diffusers', 'comfy'] as const)('comes out as pairs of the same delta: %s', async format => {
    const { module, a, b } = names[format] as { module: string; a: string; b: string }
    const [w1, w2] = [spec(`${module}.lokr_w1`, [2, 2]), spec(`${module}.lokr_w2`, [3, 4])]
    const written = await tensorsOf((await convert(filesOf([w1, w2]), { format })).files)
    const [down, up] = [written.get(module + a), written.get(module + b)]
    const rank = up?.shape[1] ?? 0
    expect(up?.shape).toEqual([6, rank])
    expect(down?.shape).toEqual([rank, 8])
    for (let o = 0; o < 6; ++o) {
      for (let i = 0; i < 8; ++i) {
        const kronecker = (w1.values?.[2 * Math.floor(o / 3) + Math.floor(i / 4)] ?? 0) * (w2.values?.[4 * (o % 3) + (i % 4)] ?? 0)
        let product = 0
        for (let k = 0; k < rank; ++k) product += (up?.values[o * rank + k] ?? 0) * (down?.values[k * 8 + i] ?? 0)
        expect(product).toBeCloseTo(kronecker, 6)
      }
    }
  })
})

describe('names', () => {
  const fused = { a: [4, 8], b: [24, 4] }

  it('of XLabs come out split as diffusers has them, exactly', async () => {
    const [a, b] = [spec('double_blocks.0.processor.qkv_lora1.down.weight', fused.a), spec('double_blocks.0.processor.qkv_lora1.up.weight', fused.b)]
    const written = await tensorsOf((await convert(filesOf([a, b]), { format: 'diffusers' })).files)
    for (const [i, name] of ['to_q', 'to_k', 'to_v'].entries()) {
      const module = `transformer.transformer_blocks.0.attn.${name}`
      expect(written.get(`${module}.lora_A.weight`)).toEqual({ shape: [4, 8], values: new Float32Array(a.values ?? []) })
      expect(written.get(`${module}.lora_B.weight`)).toEqual({ shape: [8, 4], values: new Float32Array(b.values?.slice(32 * i, 32 * i + 32) ?? []) })
    }
  })

  it.each(['kohya', 'comfy'] as const)('of parts are put together to fused ones: %s', async format => {
    // Of q and v alone: k has no ranks, and rows of zeros.
    const [q, v] = ['to_q', 'to_v'].map(name => ['A', 'B'].map(side => spec(`transformer.transformer_blocks.0.attn.${name}.lora_${side}.weight`, side === 'A' ? [2, 8] : [8, 2]))) as [TensorSpec[], TensorSpec[]]
    const written = await tensorsOf((await convert(filesOf([...q, ...v]), { format })).files)
    const module = format === 'kohya' ? 'lora_unet_double_blocks_0_img_attn_qkv' : 'diffusion_model.double_blocks.0.img_attn.qkv'
    expect(written.get(`${module}.lora_down.weight`)).toEqual({ shape: [4, 8], values: new Float32Array([...(q[0]?.values ?? []), ...(v[0]?.values ?? [])]) })
    const up = new Float32Array(24 * 4)
    for (let row = 0; row < 8; ++row) {
      for (let rank = 0; rank < 2; ++rank) {
        up[4 * row + rank] = q[1]?.values?.[2 * row + rank] ?? 0
        up[4 * (16 + row) + 2 + rank] = v[1]?.values?.[2 * row + rank] ?? 0
      }
    }
    expect(written.get(`${module}.lora_up.weight`)).toEqual({ shape: [24, 4], values: up })
    expect(written.get(`${module}.alpha`)?.values).toEqual(new Float32Array([4]))
  })

  it.each(['xlabs', 'control_lora'] as const)('of others are not written to: %s', async format => {
    const module = 'unet.down_blocks.0.attentions.0.proj_in'
    await expect(convert(filesOf([spec(`${module}.lora_A.weight`, [4, 8]), spec(`${module}.lora_B.weight`, [8, 4])]), { format })).rejects.toMatchObject({ code: 'bad_format' })
  })
})

describe('ranks that differ', () => {
  it('are filled up with zeros in MLX, whose config has one', async () => {
    const pair = (module: string, rank: number): TensorSpec[] => [spec(`base_model.model.${module}.lora_A.weight`, [rank, 4]), spec(`base_model.model.${module}.lora_B.weight`, [5, rank])]
    const [a, b] = pair('x.small', 1)
    const input = filesOf([...pair('x.large', 2), a as TensorSpec, b as TensorSpec], config({ rank_pattern: { small: 1 }, alpha_pattern: { small: 1 }, target_modules: ['small', 'large'] }))
    const written = await tensorsOf((await convert(input, { format: 'mlx' })).files)
    expect(written.get('x.small.lora_a')).toEqual({ shape: [4, 2], values: new Float32Array((a?.values ?? []).flatMap(value => [value, 0])) })
    expect(written.get('x.small.lora_b')).toEqual({ shape: [2, 5], values: new Float32Array([...(b?.values ?? []), 0, 0, 0, 0, 0]) })
  })
})

describe('formats that are only written', () => {
  it('are refused as inputs: onnx', async () => {
    expect(formats.filter(({ isRead }) => !isRead).map(({ name }) => name)).toEqual(['onnx'])
    const input = filesOf([spec('base_model.model.layer.lora_A.weight', [2, 6]), spec('base_model.model.layer.lora_B.weight', [5, 2])], config())
    const { files } = await convert(input, { format: 'onnx' })
    await expect(inspect([...files])).rejects.toMatchObject({ code: 'unknown_format' })
  })
})

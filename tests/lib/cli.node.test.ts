// The command line as a stranger uses it: exit codes, what goes to stdout and stderr, and nothing left behind.

import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import type { MergeReport } from 'lora-lego'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { adapter, badInputs, config, hexDigest, metadataOf, pair, parse, safetensors, type TensorSpec } from './fixtures.js'
import { deltasOf, distance, flatName, kohyaTensors, pairsOf } from './formats.js'
import { malformed, malformedFormats, type Malformed } from './malformed.js'

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

function start(args: string[], nodeOptions: string[] = []): { child: ReturnType<typeof spawn>; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [...nodeOptions, 'dist/node/cli.js', ...args])
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', data => (output.stdout += data))
  child.stderr.on('data', data => (output.stderr += data))
  return { child, ended: new Promise(resolve => child.on('close', code => resolve({ code, ...output }))) }
}
const run = (...args: string[]): Promise<Ended> => start(args).ended

const write = async (folder: string, files: readonly File[]): Promise<string> => {
  await mkdir(folder, { recursive: true })
  for (const file of files) await writeFile(join(folder, file.name), new Uint8Array(await file.arrayBuffer()))
  return folder
}

describe('command line', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-cli-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  it('merges folders into a folder', async () => {
    const output = join(folder, 'merged')
    const { code, stdout, stderr } = await run('merge', 'examples/add3', 'examples/rotl2', '-o', output, '--weights', '0.7,0.3', '--method', 'lego', '--rank', '4', '--seed', '5', '--gauge', 'balanced', '--dtype', 'f32')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/inputs +weight[^]*add3 +0.7 [^]*rotl2 +0.3 [^]*modules +number[^]*down_proj +4 +16 -> 4 /)
    expect(parse(new Uint8Array(await readFile(join(output, 'adapter_model.safetensors'))).buffer).size).toBe(56)
    expect(JSON.parse(await readFile(join(output, 'adapter_config.json'), 'utf8'))).toMatchObject({ r: 4, lora_alpha: 4 })
  })

  it('prints JSON, and writes a report', async () => {
    const report = join(folder, 'report.json')
    const { code, stdout } = await run('merge', 'examples/add3', 'examples/rotl2', '-o', join(folder, 'merged'), '--method', 'svd', '--json', '--report', report)
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ output: join(folder, 'merged'), recipe: { method: 'svd' }, modules: { length: 28 } })
    const written = JSON.parse(await readFile(report, 'utf8')) as MergeReport
    const tensors = await readFile(join(folder, 'merged/adapter_model.safetensors'))
    expect(written).toMatchObject({ recipe: { method: 'svd' }, outputs: [{ sha256: await hexDigest(tensors) }, {}] })
    const validate = new Ajv({ strict: false }).compile(JSON.parse(await readFile('docs/report.schema.json', 'utf8')) as object)
    expect({ valid: validate(written), errors: validate.errors }).toEqual({ valid: true, errors: null })
    expect(validate({ ...written, totals: {} })).toBe(false)
  })

  it('joins what shards have written to what one merge writes, report and hashes included', { timeout: 120_000 }, async () => {
    const args = ['examples/add3', 'examples/rotl2', '--weights', '0.7,0.3', '--rank', '4']
    const reportOf = async (name: string): Promise<MergeReport> => JSON.parse(await readFile(join(folder, name), 'utf8')) as MergeReport
    expect(await run('merge', ...args, '-o', join(folder, 'whole'), '--report', join(folder, 'whole.json'))).toMatchObject({ code: 0 })
    for (const shard of ['2/3', '1/3', '3/3']) {
      const said = await run('merge', ...args, '-o', join(folder, 'parts'), '--shard', shard, '--hashes', '--threads', '1')
      expect(said).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(new RegExp(`part +${shard[0]} of 3\n +from +add3, rotl2\n +files +part-0000${shard[0]}-of-00003\\.safetensors[^]*modules +\\d+\n`)) as string })
      if (shard === '1/3') expect(await run('join', join(folder, 'parts'), '-o', join(folder, 'joined'))).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/^lora-lego: bad_part: .*part 3 of 3 is missing/) as string })
    }
    expect(await run('join', join(folder, 'parts'), '-o', join(folder, 'joined'), '--report', join(folder, 'joined.json'))).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(/joined\n[^]*add3 +0.7 [^]*rotl2 +0.3 [^]*down_proj +4 +16 -> 4 /) as string })
    for (const name of ['adapter_model.safetensors', 'adapter_config.json']) expect(await hexDigest(await readFile(join(folder, 'joined', name)))).toBe(await hexDigest(await readFile(join(folder, 'whole', name))))
    const [whole, joined] = [await reportOf('whole.json'), await reportOf('joined.json')]
    expect(joined).toMatchObject({ recipe: whole.recipe, inputs: whole.inputs, outputs: whole.outputs, notices: whole.notices, modules: whole.modules.map(({ module, relativeError, clusters }) => ({ module, relativeError, clusters })) })
    const validate = new Ajv({ strict: false }).compile(JSON.parse(await readFile('docs/report.schema.json', 'utf8')) as object)
    expect({ valid: validate(joined), errors: validate.errors }).toEqual({ valid: true, errors: null })
    // Parts as files, in any order.
    const files = (await readdir(join(folder, 'parts'))).map(name => join(folder, 'parts', name)).reverse()
    expect(await run('join', ...files, '-o', join(folder, 'again'), '--json')).toMatchObject({ code: 0, stdout: expect.stringContaining('"totals"') as string })
    expect((await readdir(folder)).sort()).toEqual(['again', 'joined', 'joined.json', 'parts', 'whole', 'whole.json'])
  })

  it('takes weights and ranks of parts of the model, and rules for ranks', async () => {
    const output = join(folder, 'merged')
    const parts = ['--weight', 'rotl2:*self_attn*=0', '--weight', '1:*mlp*=0.5', '--module-rank', '*up_proj=3', '--rank', '5']
    const { stdout } = await run('merge', 'examples/add3', 'examples/rotl2', '-o', output, ...parts, '--json')
    const report = JSON.parse(stdout) as MergeReport
    expect(report.inputs.map(({ moduleWeights }) => moduleWeights)).toEqual([{ '*mlp*': 0.5 }, { '*self_attn*': 0 }])
    for (const { module, ranks, rank } of report.modules) expect({ ranks, rank }).toEqual({ ranks: module.includes('attn') ? [8, 0] : [8, 8], rank: module.endsWith('up_proj') ? 3 : 5 })

    const sized = await run('merge', 'examples/add3', 'examples/rotl2', '-o', output, '--size', '100 kB', '--method', 'svd', '--max-rank', '6')
    expect(sized).toMatchObject({ code: 0, stdout: expect.stringMatching(/16 -> \d to \d/) as string })
    expect((await stat(join(output, 'adapter_model.safetensors'))).size).toBeLessThanOrEqual(100_000)
    expect((await run('plan', 'examples/add3', '--method', 'svd', '--rank', 'energy=0.9')).stdout).toContain('chosen from the weights')
  })

  it('shows the experts of a stack as one kind of module', async () => {
    const stack = (name: string, shape: number[]): TensorSpec => ({ name, shape, values: Array.from({ length: shape.reduce((product, side) => product * side) }, (_, i) => Math.sin(i + 1)) })
    const module = 'model.layers.0.mlp.switch_mlp.up_proj'
    const input = await write(join(folder, 'mixture'), [
      new File([safetensors([stack(`${module}.lora_a`, [12, 2, 6]), stack(`${module}.lora_b`, [12, 5, 2])])], 'adapters.safetensors'),
      new File([JSON.stringify({ fine_tune_type: 'lora', lora_parameters: { rank: 2, scale: 1 } })], 'adapter_config.json'),
    ])
    const output = join(folder, 'merged')
    const { code, stdout, stderr } = await run('merge', input, input, '-o', output, '--method', 'svd', '--weight', '1:*[3]=2')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/modules +number[^]*up_proj +12 +4 -> 2 /)
    expect(parse(new Uint8Array(await readFile(join(output, 'adapters.safetensors'))).buffer).get(`${module}.lora_b`)).toMatchObject({ shape: [12, 5, 2] })
  })

  it('resizes one adapter', async () => {
    for (const method of ['svd', 'lego', 'prune']) {
      const output = join(folder, method)
      expect(await run('resize', 'examples/add3', '-o', output, '--rank', '3', '--method', method)).toMatchObject({ code: 0 })
      expect(JSON.parse(await readFile(join(output, 'adapter_config.json'), 'utf8'))).toMatchObject({ r: 3 })
    }
  })

  it('shows what adapters hold, what a merge would do, and the methods', async () => {
    const inspected = await run('inspect', 'examples/add3', 'examples/rotl2')
    expect(inspected.stdout).toContain('minibench-llama-0.8m')
    expect(inspected.stdout).toMatch(/1 add3\n +2 rotl2 +0\.0\d\n[^]*most in each other's way[^]*advice: --method least_interference --rank 8 --weights 1,1\n[^]*method: [^]*rank: [^]*weights: /)
    expect((await run('inspect', 'examples/add3', 'examples/rotl2', '--headers-only')).stdout).not.toContain('advice')
    expect(JSON.parse((await run('inspect', 'examples/add3', '--json')).stdout)).toEqual({ adapters: [expect.objectContaining({ label: 'add3' })] })
    expect(JSON.parse((await run('inspect', 'examples/add3', 'examples/rotl2', '--json')).stdout)).toMatchObject({ adapters: { length: 2 }, comparison: { names: ['add3', 'rotl2'], advice: { method: 'least_interference' } } })
    expect((await run('plan', 'examples/add3', 'examples/rotl2', '--method', 'svd', '--weights', '1,-1')).stdout).toMatch(/28 modules[^]*advice: --method svd --rank auto --weights 1,-1\n[^]*rotl2 is subtracted/)
    expect((await run('plan', 'examples/add3', 'examples/rotl2', '--headers-only')).stdout).not.toContain('advice')
    expect(JSON.parse((await run('plan', 'examples/add3', '--method', 'cat', '--json')).stdout)).toEqual({ plan: expect.objectContaining({ method: 'cat' }) as unknown })
    expect((await run('methods')).stdout).toMatch(/least_interference [^]*lego [^]*svd, task_arithmetic, linear [^]*cat [^]*peft_ties /)
    expect((JSON.parse((await run('methods', '--json')).stdout) as { name: string }[]).slice(0, 4)).toMatchObject([{ name: 'least_interference' }, { name: 'lego' }, { name: 'svd' }, { name: 'cat' }])
  })

  describe('formats', () => {
    const heads = { model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 }
    const load = async (path: string): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await readFile(path))
    const exampleDeltas = async (name: string): Promise<Map<string, Float64Array>> => deltasOf(parse((await load(`examples/${name}/adapter_model.safetensors`)).buffer), 2)

    it('are listed', async () => {
      const { code, stdout, stderr } = await run('formats')
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toMatch(/^peft\n.*PEFT[^]*kohya\n[^]*diffusers\n[^]*comfy\n[^]*mlx\n[^]*written as adapters\.safetensors and adapter_config\.json\n[^]*gguf\n[^]*written as adapter\.gguf\n[^]*onnx\n/)
      const listed = JSON.parse((await run('formats', '--json')).stdout) as { name: string; tensorFile: string }[]
      expect(listed).toContainEqual(expect.objectContaining({ name: 'gguf', tensorFile: 'adapter.gguf', configFile: '', isRead: true }))
    })

    it('are converted, to folders and to single files, and back', async () => {
      const base = join(folder, 'base')
      await mkdir(base)
      await writeFile(join(base, 'config.json'), JSON.stringify(heads))
      const wanted = await exampleDeltas('add3')
      const there = { mlx: join(folder, 'mlx'), gguf: join(folder, 'adapter-of-mine.gguf'), inFolder: join(folder, 'gguf') }
      const said = await run('convert', 'examples/add3', '--format', 'mlx', '-o', there.mlx)
      expect(said).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(/from +add3\n +format +mlx\n +files +adapters\.safetensors \(.*\), adapter_config\.json[^]*modules +28/) as string })
      expect((await readdir(there.mlx)).sort()).toEqual(['adapter_config.json', 'adapters.safetensors'])
      expect(await run('convert', 'examples/add3', '--format', 'gguf', '--base', join(base, 'config.json'), '-o', there.gguf)).toMatchObject({ code: 0 })
      expect(new TextDecoder().decode((await load(there.gguf)).subarray(0, 4))).toBe('GGUF')
      expect(await run('convert', 'examples/add3', '--format', 'gguf', '--base', base, '-o', there.inFolder)).toMatchObject({ code: 0 })
      expect(await readdir(there.inFolder)).toEqual(['adapter.gguf'])
      expect(await load(join(there.inFolder, 'adapter.gguf'))).toEqual(await load(there.gguf))
      for (const [name, path] of Object.entries(there)) {
        const output = join(folder, `back-${name}`)
        expect(await run('convert', path, '--format', 'peft', '--base', base, '-o', output)).toMatchObject({ code: 0 })
        const { r, lora_alpha: alpha } = JSON.parse(await readFile(join(output, 'adapter_config.json'), 'utf8')) as { r: number; lora_alpha: number }
        expect(distance(deltasOf(parse((await load(join(output, 'adapter_model.safetensors'))).buffer), alpha / r), wanted)).toBe(0)
      }
      expect((await run('inspect', there.gguf)).stdout).toMatch(/^adapter-of-mine\n +format +gguf \(/)
      expect((await readdir(folder)).filter(name => name.startsWith('.'))).toEqual([])
    })

    it('with DoRA are merged, the base model’s folder telling what they are relative to', async () => {
      const made = join(folder, 'dora')
      const base = join(folder, 'model')
      for (const path of [made, base]) await mkdir(path)
      const weight = Array.from({ length: 30 }, (_, i) => Math.sin(3 + i * 0.9))
      await writeFile(join(base, 'config.json'), JSON.stringify(heads))
      await writeFile(join(base, 'model.safetensors'), safetensors([{ name: 'layer.weight', shape: [5, 6], values: weight }]))
      const key = 'base_model.model.layer.lora_magnitude_vector'
      await writeFile(join(made, 'adapter_model.safetensors'), safetensors([...pair(), { name: key, shape: [5], values: [1, 2, 3, 4, 5] }]))
      await writeFile(join(made, 'adapter_config.json'), config({ use_dora: true }))
      const output = join(folder, 'merged')
      expect(await run('merge', made, '-o', output)).toMatchObject({ code: 1, stderr: expect.stringMatching(/unsupported_tensors: .*lora_magnitude_vector/) as string })
      // Two of them are compared, too.
      expect((await run('plan', made, made, '--base', base)).stdout).toMatch(/lora_magnitude_vector \(dora\): merge[^]*cosines/)
      expect(await run('merge', made, '--policy', 'dora=average', '-o', output)).toMatchObject({ code: 2, stderr: expect.stringContaining('refuse, drop, merge') as string })
      expect(await run('merge', made, '--base', join(base, 'config.json'), '--base', join(base, 'model.safetensors'), '--method', 'cat', '-o', output)).toMatchObject({ code: 0, stderr: '' })
      // One adapter at weight 1 comes back.
      const merged = parse((await load(join(output, 'adapter_model.safetensors'))).buffer)
      for (const [at, value] of [1, 2, 3, 4, 5].entries()) expect(merged.get(key)?.values[at]).toBeCloseTo(value, 5)
    })

    it('are merged with each other, the base telling what GGUF leaves out', async () => {
      const base = join(folder, 'config.json')
      await writeFile(base, JSON.stringify(heads))
      const gguf = join(folder, 'add3.gguf')
      await run('convert', 'examples/add3', '--format', 'gguf', '--base', base, '-o', gguf)
      expect(await run('merge', gguf, 'examples/rotl2', '-o', join(folder, 'merged'))).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/^lora-lego: base_missing: .*add3\.gguf.*attn_k/) as string })
      expect(await run('merge', gguf, 'examples/rotl2', '-o', join(folder, 'merged'), '--base', join(folder, 'none'))).toMatchObject({ code: 1, stderr: expect.stringContaining('not_found') as string })
      expect(await readdir(folder)).not.toContain('merged')
      expect(await run('merge', gguf, 'examples/rotl2', '-o', join(folder, 'merged'), '--base', base, '--method', 'cat')).toMatchObject({ code: 0, stdout: expect.stringContaining('several dialects') as string })
      const wanted = await exampleDeltas('add3')
      const others = await exampleDeltas('rotl2')
      const sums = new Map([...wanted].map(([path, delta]) => [path, delta.map((value, at) => value + (others.get(path)?.[at] ?? NaN))]))
      expect(distance(deltasOf(parse((await load(join(folder, 'merged/adapter_model.safetensors'))).buffer)), sums)).toBeLessThan(1e-6)
    })

    it('that cannot be written are refused, and nothing is left behind', async () => {
      for (const format of ['kohya', 'diffusers']) {
        const { code, stdout, stderr } = await run('convert', 'examples/add3', '--format', format, '-o', join(folder, 'out.safetensors'))
        expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
        expect(stderr).toMatch(/^lora-lego: bad_format: .*peft/)
      }
      // Both formats are a folder: their config holds the scale.
      for (const args of [['merge', 'examples/add3'], ['merge', 'examples/add3', '--format', 'mlx'], ['convert', 'examples/add3', '--format', 'mlx']]) {
        const { code, stdout, stderr } = await run(...args, '-o', join(folder, 'deep/x.safetensors'), '--json')
        expect({ args, code, error: (JSON.parse(stdout) as { error: unknown }).error }).toMatchObject({ args, code: 1, error: { code: 'write_failed' } })
        expect(stderr).toMatch(/^lora-lego: write_failed: .*deep\/x\.safetensors.*adapter_config\.json/)
      }
      expect(await readdir(folder)).toEqual([])
    })

    it('tell where the result comes from, unless told not to', async () => {
      const about = { ss_base_model_version: 'sd_v1' }
      const paths = await Promise.all(['a', 'b'].map(async name => {
        const path = join(folder, `${name}.safetensors`)
        await writeFile(path, safetensors(kohyaTensors(pairsOf(parse(safetensors(pair()).buffer)), 1, flatName), about))
        return path
      }))
      const output = join(folder, 'merged.safetensors')
      const found = async (...args: string[]): Promise<Record<string, string>> => {
        expect(await run('merge', ...paths, '-o', output, ...args)).toMatchObject({ code: 0 })
        return metadataOf((await load(output)).buffer)
      }
      expect(await found()).toMatchObject({ ...about, lora_lego: expect.stringContaining('least_interference') as string, ss_network_module: 'networks.lora' })
      const bare = await found('--no-metadata')
      for (const gone of ['lora_lego', 'ss_base_model_version']) expect(bare).not.toHaveProperty(gone)
      expect(bare).toHaveProperty('ss_network_dim')
    })

    it('name an ONNX graph’s inputs', async () => {
      const output = join(folder, 'mine.onnx_adapter')
      const written = async (...args: string[]): Promise<string> => {
        expect(await run('convert', 'examples/add3', '--format', 'onnx', '-o', output, ...args)).toMatchObject({ code: 0 })
        const bytes = await load(output)
        expect(new TextDecoder().decode(bytes.subarray(4, 8))).toBe('TORT')
        return new TextDecoder('latin1').decode(bytes)
      }
      const plain = await written()
      expect(plain).toContain('model.layers.0.mlp.down_proj.lora_A.weight')
      const named = await written('--onnx-names', 'left/{module},right/{module}', '--onnx-layout', 'peft')
      expect(named).toContain('left/model.layers.0.mlp.down_proj')
      expect(named).toContain('right/model.layers.3.self_attn.q_proj')
      expect(named).not.toContain('lora_A')
      expect(await run('inspect', output)).toMatchObject({ code: 1, stdout: '' })
    })
  })

  it('explains itself, with exit code 0', async () => {
    const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string }
    expect(await run('--version')).toMatchObject({ code: 0, stdout: `${version}\n` })
    for (const args of [['--help'], ['merge', '--help'], ['help', 'merge']]) expect(await run(...args)).toMatchObject({ code: 0, stderr: '' })
    expect((await run('merge', '--help')).stdout).toMatch(/--parameter-reweight[^]*--json/)
  })

  it('ends with 2 where it is used wrongly, and says how', { timeout: 120_000 }, async () => {
    const output = join(folder, 'merged')
    for (const args of [
      [],
      ['blend'],
      ['merge'],
      ['merge', 'examples/add3'],
      ['merge', '-o', output],
      ['merge', 'examples/add3', '-o', output, '--rank', '0'],
      ['merge', 'examples/add3', '-o', output, '--rank', 'many'],
      ['merge', 'examples/add3', '-o', output, '--rank', 'energy=lots'],
      ['merge', 'examples/add3', '-o', output, '--rank', '4', '--size', '1MB'],
      ['merge', 'examples/add3', '-o', output, '--size', 'small'],
      ['merge', 'examples/add3', '-o', output, '--module-rank', '4'],
      ['merge', 'examples/add3', '-o', output, '--weight', '*mlp*=1'],
      ['merge', 'examples/add3', '-o', output, '--weight', 'nobody:*mlp*=1'],
      ['merge', 'examples/add3', '-o', output, '--weight', 'add3:*mlp*=x'],
      ['resize', 'examples/add3', '-o', output],
      ['resize', 'examples/add3', 'examples/rotl2', '-o', output, '--rank', '2'],
      ['resize', 'examples/add3', '-o', output, '--rank', '2', '--method', 'ties'],
      ['merge', 'examples/add3', '-o', output, '--method', 'blend'],
      ['merge', 'examples/add3', '-o', output, '--gauge', 'loose'],
      ['merge', 'examples/add3', '-o', output, '--weights', '1,x'],
      ['merge', 'examples/add3', '-o', output, '--weights', '1,2'],
      ['merge', 'examples/add3', '-o', output, '--restarts', '0'],
      ['merge', 'examples/add3', '-o', output, '--method', 'least_interference', '--eps', '20'],
      ['merge', 'examples/add3', '-o', output, '--seed', '-1'],
      ['merge', 'examples/add3', '-o', output, '--threads', '0'],
      ['merge', 'examples/add3', '-o', output, '--colour', 'red'],
      ['merge', 'examples/add3', '-o', output, '--format', 'pickle'],
      ['merge', 'examples/add3', '-o', output, '--format', 'onnx', '--onnx-names', '{module}.a'],
      ['merge', 'examples/add3', '-o', output, '--format', 'onnx', '--onnx-layout', 'rows'],
      ['merge', 'examples/add3', '-o', output, '--shard', '2'],
      ['merge', 'examples/add3', '-o', output, '--shard', '0/3'],
      ['merge', 'examples/add3', '-o', output, '--shard', '4/3'],
      ['merge', 'examples/add3', '-o', output, '--shard', '1/3', '--report', join(folder, 'report.json')],
      ['join', '-o', output],
      ['join', 'examples/add3'],
      ['batch'],
      ['convert', 'examples/add3', '-o', output],
      ['convert', 'examples/add3', '-o', output, '--format', 'same'],
      ['convert', 'examples/add3', 'examples/rotl2', '-o', output, '--format', 'mlx'],
      ['convert', 'examples/add3', '--format', 'mlx'],
      ['convert', 'examples/add3', '-o', output, '--format', 'mlx', '--rank', '4'],
      ['inspect'],
    ]) {
      const { code, stdout, stderr } = await run(...args)
      expect({ args, code, stdout }).toEqual({ args, code: 2, stdout: '' })
      expect(stderr).not.toBe('')
    }
    expect(await readdir(folder)).toEqual([])
  })

  it('ends with 1 and the code where it refuses, and writes nothing', { timeout: 120_000 }, async () => {
    for (const { title, code: expected, inputs, rank, names } of badInputs()) {
      // An empty list is wrong usage here; a folder cannot hold two adapters under one name.
      if (inputs.length === 0 || title === 'two adapters as one') continue
      const paths = await Promise.all(inputs.map((files, i) => write(join(folder, title, `${i === 0 ? 'good' : 'bad'}${title.startsWith('rank above') ? i : ''}`), files)))
      const { code, stdout, stderr } = await run('merge', ...paths, '-o', join(folder, title, 'out'), '--json', ...(rank === undefined ? [] : ['--rank', String(rank)]))
      expect({ title, code, error: (JSON.parse(stdout) as { error: unknown }).error }).toMatchObject({ title, code: 1, error: { code: expected } })
      expect(stderr).toContain(`lora-lego: ${expected}: `)
      // A folder is named by its path here, not by a file in it.
      for (const name of names.filter(name => name !== 'README.md')) expect(stderr).toContain(name)
      expect(await readdir(join(folder, title))).not.toContain('out')
      expect((await readdir(join(folder, title))).filter(name => name.includes('partial'))).toEqual([])
    }
  })

  it('refuses every malformed adapter with a code, and without taking memory for what it claims', async () => {
    const reporter = join(folder, 'peak.mjs')
    await writeFile(reporter, "process.on('exit', () => process.stderr.write(`\\npeak ${process.resourceUsage().maxRSS} kB`))")
    const refusal = async ({ title, codes, files, good: others }: Malformed, index: number): Promise<{ problems: string[]; peak: number }> => {
      const good = await write(join(folder, String(index), 'good'), others)
      const bad = await write(join(folder, String(index), 'bad'), files)
      const output = join(folder, String(index), 'out')
      const { code, stderr } = await start(['merge', good, bad, '-o', output, '--threads', '1'], ['--import', reporter]).ended
      const said = /^lora-lego: (\w+): .+/m.exec(stderr)?.[1] ?? stderr.slice(0, 200)
      const left = (await readdir(join(folder, String(index)))).filter(name => name !== 'good' && name !== 'bad')
      const fine = code === 1 && codes.includes(said) && left.length === 0
      return { problems: fine ? [] : [`${title}: exit code ${code}, ${said}, left ${left.join()}`], peak: Number(/peak (\d+) kB/.exec(stderr)?.[1]) }
    }
    // Of the other formats a selection: their reader is the same here as in the library.
    const others = malformedFormats()
    const cases = [...[...malformed(), ...others.filter((_, i) => i % Math.ceil(others.length / 60) === 0)].entries()]
    const results: Awaited<ReturnType<typeof refusal>>[] = []
    // Each is a process of its own: as many at a time as there are cores.
    await Promise.all(
      Array.from({ length: availableParallelism() }, async () => {
        for (let next = cases.shift(); next; next = cases.shift()) results.push(await refusal(next[1], next[0]))
      }),
    )
    expect(results.flatMap(({ problems }) => problems)).toEqual([])
    // Node with the core takes about 70 MB, and these files have at most 5 MB; a header may claim 100 MB, or any number of values.
    expect(Math.max(...results.map(({ peak }) => peak))).toBeLessThan(250_000)
  }, 360_000)

  it('refuses a path that is not there, and an output that is an input', async () => {
    expect(await run('inspect', join(folder, 'nowhere'))).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('not_found') as string })
    const input = await write(join(folder, 'in'), adapter())
    expect(await run('merge', input, '-o', input)).toMatchObject({ code: 1, stderr: expect.stringContaining('output_is_input') as string })
  })

  it('ends with 130 when it is interrupted, and leaves nothing behind', async () => {
    const many = Array.from({ length: 60 }, (_, i) => ({ module: `m${i}`, rank: 64, in: 512, out: 512 }))
    const paths = await Promise.all(['a', 'b', 'c'].map(name => write(join(folder, 'in', name), adapter(many, { r: 64 }))))
    const { child, ended } = start(['merge', ...paths, '-o', join(folder, 'out/merged'), '--method', 'lego', '--restarts', '10000'])
    // The folder beside the output appears when the work begins.
    while ((await readdir(join(folder, 'out')).catch(() => [])).length === 0) await new Promise(resolve => setTimeout(resolve, 20))
    child.kill('SIGINT')
    expect(await ended).toMatchObject({ code: 130, stdout: '' })
    expect(await readdir(join(folder, 'out'))).toEqual([])
  })
})

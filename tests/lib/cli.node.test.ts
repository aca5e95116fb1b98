// The command line as a stranger uses it: exit codes, what goes to stdout and stderr, and nothing left behind.

import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import type { MergeReport } from 'lora-lego'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { adapter, badInputs, hexDigest, parse } from './fixtures.js'
import { malformed, type Malformed } from './malformed.js'

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
      ['merge', 'examples/add3', '-o', `${output}.safetensors`],
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
    const good = await write(join(folder, 'good'), adapter())
    const reporter = join(folder, 'peak.mjs')
    await writeFile(reporter, "process.on('exit', () => process.stderr.write(`\\npeak ${process.resourceUsage().maxRSS} kB`))")
    const refusal = async ({ title, codes, files }: Malformed, index: number): Promise<{ problems: string[]; peak: number }> => {
      const bad = await write(join(folder, String(index), 'bad'), files)
      const output = join(folder, String(index), 'out')
      const { code, stderr } = await start(['merge', good, bad, '-o', output, '--threads', '1'], ['--import', reporter]).ended
      const said = /^lora-lego: (\w+): .+/m.exec(stderr)?.[1] ?? stderr.slice(0, 200)
      const left = (await readdir(join(folder, String(index)))).filter(name => name !== 'bad')
      const fine = code === 1 && codes.includes(said) && left.length === 0
      return { problems: fine ? [] : [`${title}: exit code ${code}, ${said}, left ${left.join()}`], peak: Number(/peak (\d+) kB/.exec(stderr)?.[1]) }
    }
    const cases = [...malformed().entries()]
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
  }, 300_000)

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

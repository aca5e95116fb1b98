// lora-lego batch: many merges from one file, which goes on where it ended.

import { spawn } from 'node:child_process'
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { merge, type MergeReport } from 'lora-lego'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { adapter, hexDigest } from './fixtures.js'

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

let folder: string
let file: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-batch-'))
  file = join(folder, 'recipes.jsonl')
  await cp('examples', join(folder, 'examples'), { recursive: true })
})
afterEach(() => rm(folder, { recursive: true }))

function start(args: string[], input?: string): { child: ReturnType<typeof spawn>; ended: Promise<Ended> } {
  const child = spawn(process.execPath, ['dist/node/cli.js', 'batch', ...args])
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', data => (output.stdout += data))
  child.stderr.on('data', data => (output.stderr += data))
  child.stdin.end(input ?? '')
  return { child, ended: new Promise(done => child.on('close', code => done({ code, ...output }))) }
}
const run = (...args: string[]): Promise<Ended> => start(args).ended
const write = (...lines: object[]): Promise<void> => writeFile(file, lines.map(line => `${JSON.stringify(line)}\n`).join(''))
const said = (stdout: string): string[] => stdout.trim().split('\n').slice(0, -1).map(line => line.split('  ')[0] as string)
const logged = async (): Promise<Record<string, unknown>[]> => (await readFile(`${file}.log`, 'utf8')).trim().split('\n').map(line => JSON.parse(line) as Record<string, unknown>)

const first = { inputs: ['examples/add3', { source: 'examples/rotl2', weight: 0.5, moduleWeights: { '*mlp*': 0.25 }, name: 'second' }], output: 'out/first', rank: 8 }
const second = { inputs: ['examples/add3', 'examples/swapnb'], output: 'out/second.safetensors', method: 'lego', format: 'diffusers', seed: 1, restarts: 2, report: 'reports/second.json' }

it('merges line by line, with paths from the file’s folder, and keeps what is done', { timeout: 120_000 }, async () => {
  const third = { inputs: ['examples/add3', 'examples/swapnb'], output: 'out/third', method: 'lego', seed: 1, restarts: 2, report: 'reports/third.json' }
  await write(first, third)
  const { code, stdout, stderr } = await run(file)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(/^done +line 1 .*out\/first +\(28 modules, [^]*done +line 2 [^]*\n2 done, 0 failed, 0 done before; log: .*recipes\.jsonl\.log\n$/)
  const { files } = await merge(['examples/add3', { source: 'examples/rotl2', weight: 0.5, moduleWeights: { '*mlp*': 0.25 } }], { rank: 8 })
  expect(await hexDigest(await readFile(join(folder, 'out/first/adapter_model.safetensors')))).toBe(await hexDigest(await (files[0] as File).arrayBuffer()))
  const report = JSON.parse(await readFile(join(folder, 'reports/third.json'), 'utf8')) as MergeReport
  expect(report).toMatchObject({ recipe: { method: 'lego', seed: 1, options: { restarts: 2 } }, outputs: [{ sha256: expect.any(String) as string }, {}] })
  expect(await logged()).toMatchObject([{ line: 1, state: 'done', files: [{ path: join(folder, 'out/first/adapter_model.safetensors') }, {}] }, { line: 2, state: 'done' }])

  // Again: nothing. Other spaces and another place in the file do not count; a changed line and a lost file do.
  expect(said((await run(file)).stdout)).toEqual(['done before', 'done before'])
  await writeFile(file, `\n${JSON.stringify({ ...third, seed: 2 })}\n  ${JSON.stringify(first, null, 1).replaceAll('\n', ' ')}\n`)
  expect(said((await run(file)).stdout)).toEqual(['done', 'done before'])
  await rm(join(folder, 'out/first/adapter_config.json'))
  expect(said((await run(file)).stdout)).toEqual(['done before', 'done'])
  expect(await logged()).toHaveLength(4)
})

it('goes on after a failure, and tries again what failed', { timeout: 120_000 }, async () => {
  const missing = { inputs: ['examples/add3', 'later'], output: 'out/late', method: 'cat' }
  await write(first, missing, { ...first, output: 'out/last' })
  const { code, stdout, stderr } = await run(file)
  expect(code).toBe(1)
  expect(stderr).toMatch(/^lora-lego: line 2: not_found: .*later.*\n$/)
  expect(stdout).toMatch(/2 done, 1 failed, 0 done before/)
  expect((await readdir(join(folder, 'out'))).sort()).toEqual(['first', 'last'])
  expect((await logged())[1]).toMatchObject({ line: 2, state: 'failed', error: { code: 'not_found' } })

  await cp('examples/rotl2', join(folder, 'later'), { recursive: true })
  expect(said((await run(file)).stdout)).toEqual(['done before', 'done', 'done before'])

  await rm(join(folder, 'later'), { recursive: true })
  await rm(join(folder, 'out'), { recursive: true })
  const fast = await run(file, '--fail-fast', '--json')
  expect(fast.code).toBe(1)
  expect(fast.stdout.trim().split('\n').map(line => (JSON.parse(line) as { state: string }).state)).toEqual(['done', 'failed'])
})

it('goes on after an interrupt, which leaves nothing half-written', { timeout: 120_000 }, async () => {
  const many = Array.from({ length: 60 }, (_, i) => ({ module: `m${i}`, rank: 64, in: 512, out: 512 }))
  await mkdir(join(folder, 'big'))
  for (const part of adapter(many, { r: 64 })) await writeFile(join(folder, 'big', part.name), new Uint8Array(await part.arrayBuffer()))
  const long = { inputs: ['big', 'big', 'big'], output: 'out/long', method: 'lego', restarts: 10_000 }
  await write(first, long, { ...first, output: 'out/last' })
  const { child, ended } = start([file])
  while (!(await readdir(join(folder, 'out')).catch(() => [] as string[])).some(name => name.startsWith('.long'))) await new Promise(done => setTimeout(done, 20))
  child.kill('SIGINT')
  expect(await ended).toMatchObject({ code: 130, stdout: expect.stringMatching(/^done +line 1 .*\n$/) as string })
  expect(await readdir(join(folder, 'out'))).toEqual(['first'])
  expect(await logged()).toMatchObject([{ line: 1, state: 'done' }])

  // As a crash would have left it.
  await appendFile(`${file}.log`, '{"recipe":"0')
  await write(first, { ...long, restarts: 1, rank: 2 }, { ...first, output: 'out/last' })
  const again = await run(file)
  expect(again).toMatchObject({ code: 0, stderr: '' })
  expect(said(again.stdout)).toEqual(['done before', 'done', 'done'])
  expect(said((await run(file)).stdout)).toEqual(['done before', 'done before', 'done before'])
})

it('runs again what reads a result that was written anew', { timeout: 120_000 }, async () => {
  const both = { inputs: ['out/first', 'examples/swapnb'], output: 'out/both', method: 'svd' }
  await write(first, both)
  expect(said((await run(file)).stdout)).toEqual(['done', 'done'])
  await write({ ...first, seed: 7 }, both)
  expect(said((await run(file)).stdout)).toEqual(['done', 'done'])
  expect(said((await run(file)).stdout)).toEqual(['done before', 'done before'])
})

it('reads standard input, with paths from the current folder', { timeout: 120_000 }, async () => {
  const line = JSON.stringify({ ...first, output: join(folder, 'out') })
  expect(await start(['-'], line).ended).toMatchObject({ code: 0, stdout: expect.stringMatching(/1 done, 0 failed, 0 done before\n$/) as string })
  const log = join(folder, 'my.log')
  await start(['-', '--log', log], line).ended
  expect(said((await start(['-', '--log', log], line).ended).stdout)).toEqual(['done before'])
  expect((await stat(resolve('examples/add3'))).isDirectory()).toBe(true)
})

it('runs nothing if one line is wrong, and says what is', { timeout: 120_000 }, async () => {
  const wrong: [object | string, RegExp][] = [
    ['{"inputs": [', /no JSON/],
    [[1], /must be an object/],
    [{}, /inputs must be a list of adapters/],
    [{ ...first, output: undefined }, /output must be the path/],
    [{ ...first, rnak: 3 }, /no field 'rnak'/],
    [{ ...first, weights: [1, 2] }, /weights stand with the inputs/],
    [{ ...first, restarts: 3 }, /no field 'restarts' for the method least_interference/],
    [{ ...first, method: 'blend' }, /method must be the name of a method/],
    [{ ...first, rank: 'many' }, /rank must be a number, "auto"/],
    [{ ...first, dtype: 'f17' }, /dtype must be/],
    [{ ...first, policies: { byas: 'sum' } }, /policies must be/],
    [{ ...first, method: 'lego', restarts: 0 }, /restarts must be a number from 1/],
    [{ ...first, method: 'lego', gauge: 'loose' }, /gauge must be/],
    [{ ...first, inputs: [3] }, /input 1 must be a path/],
    [{ ...first, inputs: [{ source: 'x', wieght: 1 }] }, /input 1 has the field 'wieght'/],
    [{ ...first, inputs: [{ source: 'x', weight: '1' }] }, /weight of input 1 is of the wrong type/],
    [first, /it writes .*out\/first', as line 1 does/],
  ]
  // Ten lines at a time: more are not shown.
  for (const some of [wrong.slice(0, 9), wrong.slice(9)]) {
    await writeFile(file, [first, ...some.map(([line]) => line)].map(line => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''))
    const { code, stdout, stderr } = await run(file)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^lora-lego: bad_option: .*recipes\.jsonl.*nothing was merged/)
    for (const [i, [, message]] of some.entries()) expect(stderr.split('\n').find(text => text.includes(`line ${i + 2}: `))).toMatch(message)
  }
  expect((await readdir(folder)).sort()).toEqual(['examples', 'recipes.jsonl'])
  expect(await run(join(folder, 'none.jsonl'))).toMatchObject({ code: 1, stderr: expect.stringContaining('read_failed') as string })
  await write({ ...second })
  // What only the merge can know.
  expect(await run(file)).toMatchObject({ code: 1, stderr: expect.stringContaining('bad_format') as string })
})

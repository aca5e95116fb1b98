// Files beyond what 32 bits can count and any memory here should hold: five gigabytes of adapters, sparse on disk, merged
// in bounded memory by the command line and by the page. Each tensor has one value that is not zero, different in each,
// so that a wrong place in a file shows in the report.

import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { MergePlan, MergeReport } from 'lora-lego'
import { openChromium, serve, watch } from './site.js'

const side = 8192
const modules = 576
const alpha = 16

/** What stands in the first place of a module's A and B: exact in bfloat16. */
const valueOf = (adapter: number, module: number): number => (1 + (module % 128) / 128) * (adapter === 0 ? 1 : 0.5)

interface Format {
  readonly dtype: 'F64' | 'BF16'
  readonly bytes: number
  readonly write: (value: number) => Buffer
}
const f64: Format = {
  dtype: 'F64',
  bytes: 8,
  write: value => {
    const buffer = Buffer.alloc(8)
    buffer.writeDoubleLE(value)
    return buffer
  },
}
const bf16: Format = {
  dtype: 'BF16',
  bytes: 2,
  write: value => {
    const buffer = Buffer.alloc(4)
    buffer.writeFloatLE(value)
    return buffer.subarray(2)
  },
}

/** Writes an adapter of `modules` square modules; returns the bytes of its tensor file. */
async function makeAdapter(folder: string, adapter: number, rank: number, { dtype, bytes, write }: Format): Promise<number> {
  await mkdir(folder, { recursive: true })
  const header: Record<string, unknown> = {}
  const places: [number, number][] = []
  let position = 0
  for (let m = 0; m < modules; m++) {
    for (const [part, shape] of [['A', [rank, side]], ['B', [side, rank]]] as const) {
      header[`base_model.model.layers.${String(m).padStart(3, '0')}.proj.lora_${part}.weight`] = { dtype, shape, data_offsets: [position, position + rank * side * bytes] }
      places.push([position, valueOf(adapter, m)])
      position += rank * side * bytes
    }
  }
  let json = JSON.stringify(header)
  json += ' '.repeat(-json.length & 7)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const file = await open(join(folder, 'adapter_model.safetensors'), 'w')
  const begin = 8 + json.length
  try {
    await file.truncate(begin + position)
    await file.write(Buffer.concat([prefix, Buffer.from(json)]), 0, begin, 0)
    for (const [at, value] of places) await file.write(write(value), 0, bytes, begin + at)
  } finally {
    await file.close()
  }
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: rank === 64 ? 4 * alpha : alpha, target_modules: ['proj'] }))
  return begin + position
}

let folder: string
let paths: string[]
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-huge-'))
  paths = [join(folder, 'large'), join(folder, 'small')]
  const large = await makeAdapter(join(folder, 'large'), 0, 64, f64)
  const small = await makeAdapter(join(folder, 'small'), 1, 16, bf16)
  expect(large).toBeGreaterThan(2 ** 32)
  expect(large + small).toBeGreaterThan(5e9)
})
afterAll(() => rm(folder, { recursive: true }))

/** Both adapters do the same in every module, one four times as much as the other. */
function checkReport({ modules: merged, totals }: Pick<MergeReport, 'modules' | 'totals'>): void {
  expect(merged.length).toBe(modules)
  for (const [m, module] of merged.entries()) {
    expect(module.inputs[0]?.norm).toBeCloseTo(valueOf(0, m) ** 2, 5)
    expect(module.inputs[1]?.norm).toBeCloseTo(valueOf(1, m) ** 2, 5)
    expect(module.relativeError).toBeLessThan(1e-3)
  }
  expect(totals.inputBytes).toBeGreaterThan(5e9)
}

const recipe = ['--method', 'svd', '--rank', '1', '--dtype', 'bf16']

it.each([
  { name: 'two threads', options: ['--threads', '2'] },
  { name: 'two lanes', options: ['--lanes', '2'] },
  { name: 'as little memory as there can be', options: ['--threads', '2', '--memory', '70MB'] },
])('the command line merges it with $name', async ({ name, options }) => {
  const cli = async (command: string, ...args: string[]): Promise<unknown> =>
    JSON.parse((await promisify(execFile)(process.execPath, ['dist/node/cli.js', command, ...paths, ...recipe, ...options, '--json', ...args], { maxBuffer: 1e9 })).stdout)
  const { plan } = (await cli('plan', '--headers-only')) as { plan: MergePlan }
  const report = (await cli('merge', '-o', join(folder, 'merged'))) as MergeReport
  checkReport(report)
  expect(report.totals.memoryBytes).toBeLessThan(1.1 * plan.peakBytes)
  console.log(`${name}: ${(report.totals.inputBytes / 1e9).toFixed(1)} GB in ${report.totals.seconds.toFixed(1)} s, ${(report.totals.memoryBytes / 1e6).toFixed(0)} MB of ${(plan.peakBytes / 1e6).toFixed(0)} MB promised`)
})

describe.each([{ isolated: true }, { isolated: false }])('the page in Chromium, isolated: $isolated', ({ isolated }) => {
  it('merges it into a folder', async () => {
    const site = await serve({ isolated })
    const browser = await openChromium()
    try {
      const page = await browser.newPage()
      const problems = watch(page)
      // The folder that the page asks the user for is one of its own.
      await page.addInitScript(() => Object.assign(globalThis, { showDirectoryPicker: () => navigator.storage.getDirectory() }))
      await page.goto(site.url)
      for (const path of paths) await page.locator('#folder-input').setInputFiles(path)
      await page.getByLabel('Method').selectOption('svd')
      await page.getByLabel('Rank', { exact: true }).fill('1')
      await page.locator('#merge:enabled').waitFor()
      await page.getByRole('button', { name: 'Merge into a folder' }).click()
      const [saved] = await Promise.all([page.waitForEvent('download', { timeout: 240_000 }), page.getByRole('link', { name: /report/ }).click({ timeout: 240_000 })])
      checkReport(JSON.parse(await readFile(await saved.path(), 'utf8')) as MergeReport)
      expect(await page.evaluate(async () => {
        const folder = await navigator.storage.getDirectory()
        return (await (await folder.getFileHandle('adapter_model.safetensors')).getFile()).size
      })).toBeGreaterThan(modules * 2 * side * 2)
      expect(problems).toEqual([])
    } finally {
      await browser.close()
      await site.close()
    }
  })
})

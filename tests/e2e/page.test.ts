// The page in a real browser, from opening it to a file on disk.

import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { adapter, config, keyA, keyB, pair, parse, safetensors } from '../lib/fixtures.js'
import { formats } from '../../web/lib/generated/registry.js'
import { openChromium, serve, watch, type Site } from './site.js'

interface Factor {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

/** B A, for B out x rank and A rank x in, row by row. */
function product(b: Factor, a: Factor): number[] {
  const [out = 0, rank = 0] = b.shape
  const [, columns = 0] = a.shape
  return Array.from({ length: out * columns }, (_, at) => {
    let sum = 0
    for (let r = 0; r < rank; r++) sum += (b.values[Math.floor(at / columns) * rank + r] as number) * (a.values[r * columns + (at % columns)] as number)
    return sum
  })
}

const deltaOf = (tensors: ReadonlyMap<string, Factor>, module: string): number[] => product(tensors.get(`${module}.lora_up.weight`) as Factor, tensors.get(`${module}.lora_down.weight`) as Factor)

/** The factors of an example under flat names, as kohya's files have them, with no alpha: all scales are 1. */
async function kohyaFile(example: string): Promise<{ file: Uint8Array<ArrayBuffer>; factors: Map<string, { down: Factor; up: Factor }> }> {
  const tensors = parse((await readFile(`examples/${example}/adapter_model.safetensors`)).buffer)
  const factors = new Map<string, { down: Factor; up: Factor }>()
  for (const [key, down] of tensors) {
    const path = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(key)?.[1]
    if (path) factors.set(`lora_te_${path.replaceAll('.', '_')}`, { down, up: tensors.get(keyB(path)) as Factor })
  }
  const specs = [...factors].flatMap(([name, { down, up }]) => [
    { name: `${name}.lora_down.weight`, shape: down.shape, values: [...down.values] },
    { name: `${name}.lora_up.weight`, shape: up.shape, values: [...up.values] },
  ])
  return { file: safetensors(specs), factors }
}

/** What a safetensors file says about itself. */
function metadataOf(file: Uint8Array<ArrayBuffer>): Record<string, string> {
  const size = Number(new DataView(file.buffer).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.slice(8, 8 + size))) as { __metadata__: Record<string, string> }
  return header.__metadata__
}

describe.each([{ isolated: true }, { isolated: false }])('the page, isolated: $isolated', ({ isolated }) => {
  let site: Site
  let browser: Browser
  let context: BrowserContext
  let page: Page
  let problems: string[]
  let folder: string
  beforeAll(async () => {
    site = await serve({ isolated })
    browser = await openChromium()
  })
  afterAll(async () => {
    await browser.close()
    await site.close()
  })
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-page-'))
    context = await browser.newContext({ acceptDownloads: true })
    page = await context.newPage()
    problems = watch(page)
    await page.goto(site.url)
  })
  afterEach(async () => {
    await context.close()
    await rm(folder, { recursive: true })
    expect(problems).toEqual([])
  })

  const canMerge = (): Promise<void> => page.locator('#merge:enabled').waitFor()

  /** Clicks a link; gives what it saves, and under which name. */
  async function save(link: string): Promise<{ name: string; bytes: Uint8Array<ArrayBuffer> }> {
    const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: link }).click()])
    const path = join(folder, saved.suggestedFilename())
    await saved.saveAs(path)
    return { name: saved.suggestedFilename(), bytes: new Uint8Array(await readFile(path)) }
  }

  const download = async (link: string): Promise<Uint8Array<ArrayBuffer>> => (await save(link)).bytes

  /** Files for the hidden inputs. */
  const upload = async (files: readonly File[]): Promise<{ name: string; mimeType: string; buffer: Buffer }[]> =>
    Promise.all(files.map(async file => ({ name: file.name, mimeType: '', buffer: Buffer.from(await file.arrayBuffer()) })))

  it('merges the example adapters and saves an adapter that parses', async () => {
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(isolated)
    expect(await page.locator('#environment').textContent()).toMatch(isolated ? /\d+ threads/ : /\d+ workers|one thread/)
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
    await canMerge()
    expect(await page.locator('.adapter').count()).toBe(6)
    await page.getByLabel('Rank', { exact: true }).fill('6')
    await page.getByLabel('Weight of add3').fill('0.5')
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()
    await expect.poll(() => page.locator('[aria-label="Report, module by module"] tbody tr').count()).toBe(28)

    const tensors = parse((await download('adapter_model.safetensors')).buffer)
    expect(tensors.size).toBe(56)
    expect(tensors.get('base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight')?.shape).toEqual([6, 128])
    expect(JSON.parse(new TextDecoder().decode(await download('adapter_config.json')))).toMatchObject({ r: 6, lora_alpha: 6 })
    const report = JSON.parse(new TextDecoder().decode(await download('report.json'))) as { inputs: { name: string; weight: number }[] }
    expect(report.inputs.map(({ weight }) => weight).sort()).toEqual([0.5, 1, 1, 1, 1, 1])
    const zip = await download('Download the adapter')
    expect(new TextDecoder('latin1').decode(zip)).toMatch(/^PK[^]*merged\/adapter_model\.safetensors[^]*merged\/adapter_config\.json/)
  })

  it('suggests settings, says why, and uses them', async () => {
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
    await canMerge()
    await page.getByRole('button', { name: 'Suggest settings' }).click()
    await page.getByText('least_interference, rank 8').waitFor()
    expect(await page.locator('.reasons li').count()).toBe(3)
    await page.getByText('How the adapters stand to each other').click()
    expect(await page.locator('[aria-label="Cosines between the adapters"] tbody td').count()).toBe(36)
    await page.getByRole('button', { name: 'Use these settings' }).click()
    await canMerge()
    expect(await page.getByLabel('Method').inputValue()).toBe('least_interference')
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByText('modules merged with least_interference').waitFor()
    // Advice is for the adapters that were looked at.
    await page.getByLabel('Weight of add3').fill('-1')
    await page.locator('#advice').waitFor({ state: 'hidden' })
    await page.getByRole('button', { name: 'Suggest settings' }).click()
    await page.getByText('add3 is subtracted').waitFor()
    await page.getByRole('button', { name: 'Use these settings' }).click()
    await canMerge()
    expect(await page.getByLabel('Ranks').inputValue()).toBe('auto')
  })

  it('takes folders, shows what is in them, and lets them go again', async () => {
    for (const name of ['add3', 'rotl2']) {
      await page.locator('#folder-input').setInputFiles(resolve('examples', name))
      await page.locator('.adapter', { hasText: name }).waitFor()
    }
    await canMerge()
    expect(await page.locator('.adapter').first().textContent()).toMatch(/add3.*28 modules · rank 8 · F32 · 315 kB.*minibench-llama-0.8m/)
    await page.getByRole('button', { name: 'Remove add3' }).click()
    expect(await page.locator('.adapter').count()).toBe(1)
    await canMerge()
  })

  it('asks for a missing config, and takes it when it comes', async () => {
    const [tensors, settings] = adapter() as [File, File]
    await page.locator('#files-input').setInputFiles(await upload([tensors]))
    await page.getByText('adapter_config.json is missing').waitFor()
    expect(await page.locator('#merge').isDisabled()).toBe(true)
    await page.locator('#files-input').setInputFiles(await upload([settings]))
    await canMerge()
  })

  it('says what is wrong with an adapter, and what keeps two from being merged', async () => {
    await page.locator('#files-input').setInputFiles(await upload([new File([safetensors(pair()).slice(0, -2)], 'adapter_model.safetensors'), new File([config()], 'adapter_config.json')]))
    await page.getByText('the file has').waitFor()
    await page.getByText('Complete or remove the adapters').waitFor()
    await page.getByRole('button', { name: 'Remove' }).click()
    await page.locator('#files-input').setInputFiles(await upload(adapter()))
    await page.locator('#files-input').setInputFiles(await upload(adapter([{ in: 7 }])))
    await page.getByText('different base models').waitFor()
    expect(await page.locator('#plan').textContent()).toContain(keyA('layer'))
    expect(await page.locator('#merge').isDisabled()).toBe(true)
    await page.locator('#files-input').setInputFiles(await upload([new File(['x'], 'notes.txt')]))
    await page.getByText('No adapters were found there').waitFor()
  })

  it('shows a refusal of the merge itself', async () => {
    await page.locator('#files-input').setInputFiles(await upload(adapter([{ bad: NaN }])))
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('alert').filter({ hasText: 'NaN or infinity' }).waitFor()
    await canMerge()
  })

  it('can be cancelled, and merges again afterwards', async () => {
    const many = Array.from({ length: 12 }, (_, i) => ({ module: `m${i}`, rank: 64, in: 512, out: 512 }))
    for (let i = 0; i < 3; i++) await page.locator('#files-input').setInputFiles(await upload(adapter(many, { r: 64 })))
    await page.getByLabel('Method').selectOption('lego')
    await page.getByText('More settings', { exact: true }).click()
    await page.getByLabel('restarts').fill('10000')
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('progressbar').waitFor()
    await page.getByRole('button', { name: 'Cancel' }).click()
    await page.getByText('Cancelled.').waitFor()
    await page.getByLabel('restarts').fill('1')
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()
  })

  it('takes files that are dropped', async () => {
    const files = await Promise.all(adapter().map(async file => ({ name: file.name, bytes: [...new Uint8Array(await file.arrayBuffer())] })))
    const transfer = await page.evaluateHandle(dropped => {
      const data = new DataTransfer()
      for (const { name, bytes } of dropped) data.items.add(new File([new Uint8Array(bytes)], name))
      return data
    }, files)
    await page.locator('#drop').dispatchEvent('drop', { dataTransfer: transfer })
    await canMerge()
    expect(await page.locator('.adapter').count()).toBe(1)
  })

  it('merges a kohya file with itself, and saves one file', async () => {
    const { file, factors } = await kohyaFile('add3')
    await page.locator('#files-input').setInputFiles(await upload([new File([file], 'style.safetensors')]))
    await page.locator('.adapter', { hasText: 'style' }).waitFor()
    await page.locator('#files-input').setInputFiles(await upload([new File([file], 'style.safetensors')]))
    await page.locator('.adapter', { hasText: 'style (2)' }).waitFor()
    await canMerge()
    expect(await page.locator('.adapter .format').allTextContents()).toEqual(['kohya', 'kohya'])
    expect(await page.locator('.adapter .format').first().getAttribute('title')).toContain('are named as')
    await page.getByLabel('Method').selectOption('svd')
    await page.getByLabel('Weight of style', { exact: true }).fill('0.25')
    await page.getByLabel('Weight of style (2)').fill('0.5')
    await canMerge()
    expect(await page.locator('#plan').textContent()).toContain('28 modules, rank 8, F32, as kohya (one file)')
    expect(await page.locator('#convert').isHidden()).toBe(true)
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()

    // A file is a download as it is: the report is all that stands beside it.
    expect(await page.locator('#result a').count()).toBe(2)
    const { name, bytes } = await save('Download the adapter')
    expect(name).toBe('style+style (2).safetensors')
    expect(metadataOf(bytes)).toHaveProperty('lora_lego')
    const merged = parse(bytes.buffer)
    for (const [module, { down, up }] of factors) {
      const sum = deltaOf(merged, module)
      const expected = product(up, down)
      const error = Math.hypot(...sum.map((value, i) => value - 0.75 * (expected[i] as number)))
      expect(error).toBeLessThan(1e-5 * Math.hypot(...expected))
    }
  })

  it('converts an example to MLX, and saves its folder', async () => {
    await page.locator('#folder-input').setInputFiles(resolve('examples/add3'))
    await canMerge()
    const convert = page.getByRole('button', { name: 'Convert' })
    expect(await convert.isDisabled()).toBe(true)
    expect(await convert.getAttribute('title')).toContain('Choose a format')
    await page.getByText('choose a format under').waitFor()
    await page.getByText('More settings', { exact: true }).click()
    await page.getByLabel('Say in the file where it comes from').uncheck()
    // A format for other models is refused before anything is done.
    await page.getByRole('combobox', { name: 'Format' }).selectOption('kohya')
    await page.getByText('names other modules').waitFor()
    expect(await convert.isDisabled()).toBe(true)
    await page.getByRole('combobox', { name: 'Format' }).selectOption('mlx')
    await page.getByText('MLX: a folder with adapters.safetensors').last().waitFor()
    // A conversion is of the adapter as it is.
    await page.getByLabel('Weight of add3').fill('0.5')
    await page.locator('#convert:enabled').click()
    await page.getByText('28 modules converted to mlx').waitFor()

    const written = await download('adapters.safetensors')
    expect(metadataOf(written)).not.toHaveProperty('lora_lego')
    const tensors = parse(written.buffer)
    const original = parse((await readFile('examples/add3/adapter_model.safetensors')).buffer)
    expect(tensors.size).toBe(56)
    for (const [key, { shape: [rows = 0, columns = 0], values }] of original) {
      const found = tensors.get(key.replace('base_model.model.', '').replace('.lora_A.weight', '.lora_a').replace('.lora_B.weight', '.lora_b'))
      expect(found?.shape).toEqual([columns, rows])
      expect(found?.values).toEqual(Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)] as number))
    }
    const settings = JSON.parse(await readFile('examples/add3/adapter_config.json', 'utf8')) as { r: number; lora_alpha: number }
    expect(JSON.parse(new TextDecoder().decode(await download('adapter_config.json')))).toMatchObject({ lora_parameters: { rank: settings.r, scale: settings.lora_alpha / settings.r } })
    const zip = await save('Download the adapter')
    expect(zip.name).toBe('add3-mlx.zip')
    expect(new TextDecoder('latin1').decode(zip.bytes)).toMatch(/^PK[^]*add3-mlx\/adapters\.safetensors[^]*add3-mlx\/adapter_config\.json/)

    // What it wrote is an MLX folder, whose checkpoints are no adapters of their own.
    const trained = join(folder, 'trained')
    await mkdir(trained)
    await writeFile(join(trained, 'adapters.safetensors'), written)
    await writeFile(join(trained, '0000100_adapters.safetensors'), written)
    await writeFile(join(trained, 'adapter_config.json'), await readFile(join(folder, 'adapter_config.json')))
    await page.locator('#folder-input').setInputFiles(trained)
    await page.locator('.adapter', { hasText: 'trained' }).waitFor()
    // Format is still MLX, which both can be written in.
    await canMerge()
    expect(await page.locator('.adapter .format').allTextContents()).toEqual(['peft', 'mlx'])
    expect(await convert.isHidden()).toBe(true)
  })

  it('converts an example to GGUF once it knows the base model', async () => {
    await page.locator('#folder-input').setInputFiles(resolve('examples/add3'))
    await canMerge()
    await page.getByText('More settings', { exact: true }).click()
    await page.getByRole('combobox', { name: 'Format' }).selectOption('gguf')
    await page.getByText('config.json or GGUF file').last().waitFor()
    await page.locator('#plan .problem', { hasText: 'architecture of its base model' }).waitFor()
    expect(await page.locator('#convert').isDisabled()).toBe(true)
    const base = join(folder, 'config.json')
    await writeFile(base, JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 }))
    await page.getByLabel('Base model').setInputFiles(base)
    await page.locator('#convert:enabled').click()
    await page.getByText('28 modules converted to gguf').waitFor()
    const { name, bytes } = await save('Download the adapter')
    expect(name).toBe('add3-gguf.gguf')
    expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe('GGUF')
  })

  it('merges DoRA once it has the base model’s weights', async () => {
    const magnitudes = { one: [1, 2, 3, 4, 5], two: [5, 4, 3, 2, 1] }
    for (const [name, values] of Object.entries(magnitudes)) {
      await mkdir(join(folder, name))
      await writeFile(join(folder, name, 'adapter_model.safetensors'), safetensors([...pair(), { name: 'base_model.model.layer.lora_magnitude_vector', shape: [5], values }]))
      await writeFile(join(folder, name, 'adapter_config.json'), config({ use_dora: true }))
    }
    const weight = Array.from({ length: 30 }, (_, i) => Math.sin(3 + i * 0.9))
    const shards = [join(folder, 'model-1.safetensors'), join(folder, 'model-2.safetensors')] as const
    await writeFile(shards[0], safetensors([{ name: 'norm.weight', shape: [3], values: [1, 1, 1] }]))
    await writeFile(shards[1], safetensors([{ name: 'layer.weight', shape: [5, 6], values: weight }]))
    for (const name of Object.keys(magnitudes)) await page.locator('#folder-input').setInputFiles(join(folder, name))
    await page.locator('#plan .problem', { hasText: "needs the base model's weights" }).waitFor()
    await page.getByText('More settings', { exact: true }).click()
    await page.getByLabel('Base model').setInputFiles([...shards])
    await canMerge()
    expect(await page.locator('#plan .problem').count()).toBe(0)
    await page.locator('#merge').click()
    await page.getByRole('link', { name: 'Download the adapter' }).waitFor()
  })

  it('leaves out what is no factor, where that is asked for', async () => {
    const { file } = await kohyaFile('rotl2')
    const tensors = [...parse(file.buffer)].map(([name, { shape, values }]) => ({ name, shape, values: [...values] }))
    const path = join(folder, 'dora.safetensors')
    await writeFile(path, safetensors([...tensors, { name: 'lora_unet_model_layers_0_mlp_down_proj.dora_scale', shape: [128, 1], values: Array.from({ length: 128 }, () => 1) }]))
    await page.locator('#files-input').setInputFiles(path)
    await page.locator('#plan .problem', { hasText: 'a DoRA magnitude' }).waitFor()
    await page.getByText('More settings', { exact: true }).click()
    await page.getByLabel('Leave out what is no LoRA factor').check()
    await canMerge()
    await page.locator('#plan .notice', { hasText: 'left out as asked' }).waitFor()
  })

  it('takes each file of a shelf for an adapter', async () => {
    const shelf = join(folder, 'shelf')
    await mkdir(shelf)
    const { file } = await kohyaFile('rotl2')
    for (const name of ['one', 'two', 'three']) await writeFile(join(shelf, `${name}.safetensors`), file)
    await writeFile(join(shelf, 'readme.txt'), 'x')
    await page.locator('#folder-input').setInputFiles(shelf)
    await canMerge()
    expect(await page.locator('.adapter strong').allTextContents()).toEqual(['one', 'three', 'two'])
  })

  it('gives a lone config to no adapter by chance', async () => {
    const [tensors, settings] = adapter() as [File, File]
    for (let i = 0; i < 2; i++) await page.locator('#files-input').setInputFiles(await upload([tensors]))
    await page.getByText('adapter_config.json is missing').last().waitFor()
    await page.locator('#files-input').setInputFiles(await upload([settings]))
    await page.getByRole('alert').filter({ hasText: 'which adapter that config belongs to' }).waitFor()
    expect(await page.getByText('adapter_config.json is missing').count()).toBe(2)
    expect(await page.locator('#merge').isDisabled()).toBe(true)
  })

  it('says which formats there are', async () => {
    await page.getByText('Reads and writes').click()
    const names = await page.locator('#formats dt').allTextContents()
    expect(names).toEqual(formats.map(({ name }) => name))
    expect(await page.locator('#files-input').getAttribute('accept')).toContain('.safetensors')
  })

  it('fits a phone, and every control has a name', async () => {
    await page.setViewportSize({ width: 360, height: 740 })
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
    await canMerge()
    await page.getByText('More settings', { exact: true }).click()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true)
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLInputElement>('input:not([type=file]), select, button')].filter(control => !control.ariaLabel && !control.textContent?.trim() && !(control.labels?.length ?? 0)).map(control => control.outerHTML),
    )
    expect(nameless).toEqual([])
  })
})

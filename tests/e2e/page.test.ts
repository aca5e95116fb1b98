// The page in a real browser, from opening it to a file on disk.

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { adapter, config, keyA, pair, parse, safetensors } from '../lib/fixtures.js'
import { openChromium, serve, watch, type Site } from './site.js'

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

  async function download(link: string): Promise<Uint8Array<ArrayBuffer>> {
    const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: link }).click()])
    const path = join(folder, saved.suggestedFilename())
    await saved.saveAs(path)
    return new Uint8Array(await readFile(path))
  }

  /** Files for the hidden inputs. */
  const upload = async (files: readonly File[]): Promise<{ name: string; mimeType: string; buffer: Buffer }[]> =>
    Promise.all(files.map(async file => ({ name: file.name, mimeType: '', buffer: Buffer.from(await file.arrayBuffer()) })))

  it('merges the example adapters and saves an adapter that parses', async () => {
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(isolated)
    expect(await page.locator('#environment').textContent()).toMatch(isolated ? /\d+ threads/ : /one thread/)
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
    await canMerge()
    expect(await page.locator('.adapter').count()).toBe(6)
    await page.getByLabel('Rank', { exact: true }).fill('6')
    await page.getByLabel('Weight of add3').fill('0.5')
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()
    expect(await page.locator('[aria-label="Report, module by module"] tbody tr').count()).toBe(28)

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
    await page.getByText('More settings').click()
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

  it('fits a phone, and every control has a name', async () => {
    await page.setViewportSize({ width: 360, height: 740 })
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
    await canMerge()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await page.getByRole('heading', { name: 'Done' }).waitFor()
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true)
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLInputElement>('input:not([type=file]), select, button')].filter(control => !control.ariaLabel && !control.textContent?.trim() && !(control.labels?.length ?? 0)).map(control => control.outerHTML),
    )
    expect(nameless).toEqual([])
  })
})

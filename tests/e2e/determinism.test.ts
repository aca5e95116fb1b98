// The same adapters, recipe and seed: one SHA-256, whatever merges them.

import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import puppeteer, { type Page } from 'puppeteer-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { firefoxPath, openChromium, serve, sha256, watch } from './site.js'

// In the page's order: the metadata holds the weights, and the report the names, in the order of the inputs.
const examples = ['sortdesc', 'swapnb', 'rotl2', 'add3', 'interleave', 'revhalf2'].map(name => `examples/${name}`)
const rank = 8

/** Asks again and again: puppeteer's own waits run in the page, and in some builds of Firefox they never end. If it never comes, what the page says instead is in the failure. */
async function appears(page: Page, selector: string): Promise<void> {
  for (let left = 600; left > 0; left--) {
    if (await page.$(selector)) return
    await setTimeout(100)
  }
  expect.fail(`no ${selector}; the page says: ${await page.$eval('body', body => body.innerText)}`)
}

describe.each(['least_interference', 'lego'])('one SHA-256 of %s', method => {
  let folder: string
  let expected: string
  const merge = async (name: string, ...options: string[]): Promise<string> => {
    const output = join(folder, name)
    await promisify(execFile)(process.execPath, ['dist/node/cli.js', 'merge', ...examples, '-o', output, '--method', method, '--rank', String(rank), ...options])
    return sha256(await readFile(join(output, 'adapter_model.safetensors')))
  }
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-sha-'))
    expected = await merge('one', '--threads', '1')
  })
  afterAll(() => rm(folder, { recursive: true }))

  it('Node with 2, 3 and all threads', async () => {
    expect(await merge('two', '--threads', '2')).toBe(expected)
    expect(await merge('three', '--threads', '3')).toBe(expected)
    expect(await merge('all')).toBe(expected)
  })

  it('and another rank gives another one', async () => {
    expect(await merge('rank', '--rank', '7')).not.toBe(expected)
  })

  it.each([{ isolated: true }, { isolated: false }])('Chromium, isolated: $isolated', async ({ isolated }) => {
    const site = await serve({ isolated })
    const browser = await openChromium()
    try {
      const page = await browser.newPage()
      const problems = watch(page)
      await page.goto(site.url)
      expect(await page.evaluate(() => typeof SharedArrayBuffer)).toBe(isolated ? 'function' : 'undefined')
      await page.getByRole('button', { name: 'Try the example adapters' }).click()
      await page.getByLabel('Method').selectOption(method)
      await page.getByLabel('Rank', { exact: true }).fill(String(rank))
      await page.locator('#merge:enabled').waitFor()
      await page.getByRole('button', { name: 'Merge', exact: true }).click()
      const [saved] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'adapter_model.safetensors' }).click()])
      expect(sha256(await readFile(await saved.path()))).toBe(expected)
      expect(problems).toEqual([])
    } finally {
      await browser.close()
      await site.close()
    }
  })

  it.each([{ isolated: true }, { isolated: false }])('Firefox, isolated: $isolated', async ({ isolated }) => {
    const downloads = await mkdtemp(join(folder, 'firefox-'))
    const site = await serve({ isolated })
    const browser = await puppeteer.launch({
      browser: 'firefox',
      executablePath: firefoxPath,
      headless: true,
      extraPrefsFirefox: { 'browser.download.dir': downloads, 'browser.download.folderList': 2 },
    })
    try {
      const page = await browser.newPage()
      await page.goto(site.url)
      expect(await page.evaluate(() => typeof SharedArrayBuffer)).toBe(isolated ? 'function' : 'undefined')
      // The page's script fills the list of methods; a click before that would find nobody listening.
      await appears(page, '[name=method] option')
      await page.click('#examples')
      await appears(page, '#merge:enabled')
      await page.select('[name=method]', method)
      await page.type('[name=rank]', String(rank))
      await expect.poll(() => page.$eval('#plan', plan => plan.textContent), { timeout: 10_000 }).toContain('rank 8')
      await appears(page, '#merge:enabled')
      await page.click('#merge')
      await appears(page, '#result a[download="adapter_model.safetensors"]')
      await page.click('#result a[download="adapter_model.safetensors"]')
      await expect.poll(() => readdir(downloads), { timeout: 30_000 }).toEqual(['adapter_model.safetensors'])
      await expect.poll(async () => sha256(await readFile(join(downloads, 'adapter_model.safetensors'))), { timeout: 10_000 }).toBe(expected)
    } finally {
      await browser.close()
      await site.close()
    }
  })
})

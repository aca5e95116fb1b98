// The core's parts that few merges need: when they are loaded, and what a merge says that cannot have one.

import { execFile } from 'node:child_process'
import { cp, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openChromium, serve, type Site } from './site.js'

const run = promisify(execFile)
const partOf = (path: string): string | undefined => /\.(decompose|rest)\b.*\.wasm$/.exec(path)?.[1]

describe.each([{ isolated: true }, { isolated: false }])('the page, isolated: $isolated', ({ isolated }) => {
  let browser: Browser
  let site: Site
  let page: Page
  beforeAll(async () => void (browser = await openChromium()))
  afterAll(() => browser.close())
  beforeEach(async context => {
    site = await serve({ isolated })
    page = await browser.newPage()
    context.onTestFinished(async () => {
      await page.close()
      await site.close()
    })
    await page.goto(site.url)
    await page.getByLabel('Method').selectOption('lego')
    await page.getByRole('button', { name: 'Try the example adapters' }).click()
  })

  async function merge(method: string): Promise<void> {
    await page.getByLabel('Method').selectOption(method)
    await page.locator('#merge:enabled').waitFor()
    await page.getByRole('button', { name: 'Merge', exact: true }).click()
  }

  const loaded = (): string[] => [...new Set(site.requests.map(partOf).filter(part => part !== undefined))].sort()

  it('loads a part with the first merge that needs it', async () => {
    const merged = async (method: string): Promise<void> => {
      await merge(method)
      await page.getByText(`modules merged with ${method}`).waitFor()
    }
    await merged('lego')
    await merged('cat')
    expect(loaded()).toEqual([])
    await merged('least_interference')
    await merged('svd')
    expect(loaded()).toEqual(['decompose'])
    await merged('ties')
    expect(loaded()).toEqual(['decompose', 'rest'])
  })

  it.each(['decompose', 'rest'])('says that %s cannot be loaded, and merges again afterwards', async part => {
    const method = part === 'rest' ? 'ties' : 'least_interference'
    site.refused = `.${part}`
    const problem = page.getByText(new RegExp(`core-(single|threads)\\.${part}\\.wasm could not be loaded`))
    await page.locator('#merge:enabled').waitFor()
    await page.getByLabel('Method').selectOption(method)
    // The plan may need it already.
    await page.locator('#merge:enabled').or(problem).first().waitFor()
    if (!(await problem.isVisible())) await page.getByRole('button', { name: 'Merge', exact: true }).click()
    await problem.waitFor()
    await merge('lego')
    await page.getByText('modules merged with lego').waitFor()
    site.refused = undefined
    await merge(method)
    await page.getByText(`modules merged with ${method}`).waitFor()
  })
})

describe('the command line', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-parts-'))
    await cp('dist', join(folder, 'dist'), { recursive: true })
    await cp('package.json', join(folder, 'package.json'))
    await symlink(resolve('node_modules'), join(folder, 'node_modules'))
    for (const variant of ['single', 'threads']) await rm(join(folder, `dist/lib/generated/core-${variant}.rest.wasm`))
  })
  afterAll(() => rm(folder, { recursive: true }))

  const merge = (method: string, ...options: string[]): Promise<{ stderr: string }> =>
    run(process.execPath, [join(folder, 'dist/node/cli.js'), 'merge', ...['add3', 'rotl2'].map(name => resolve('examples', name)), '-o', join(folder, method), '--method', method, ...options])

  it.each([['--threads', '1'], ['--threads', '2'], ['--lanes', '2']])('%s %s', async (...options) => {
    for (const method of ['least_interference', 'lego', 'cat']) await merge(method, ...options)
    const { stderr } = await merge('ties', ...options).catch((error: unknown) => error as { stderr: string })
    expect(stderr).toMatch(/asset_not_found.*\.rest\.wasm could not be loaded/)
  })
})

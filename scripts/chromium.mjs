// Chromium, and a built page served to it, for the scripts that measure.

import { join } from 'node:path'
import { project } from './toolchain.mjs'

/**
 * Runs `work` with a browser and the address of a served folder, on isolated pages or not. `openPage(context)` opens the
 * folder's blank page, which has no policy of ours; the context is the browser's own unless one is given.
 */
export async function withChromium({ root, outDir, isIsolated }, work) {
  const { chromium } = await import('playwright-core')
  const { loadConfigFromFile, preview } = await import('vite')
  const { config } = await loadConfigFromFile({ command: 'serve', mode: 'production' }, join(project, 'vite.config.ts'))
  const headers = isIsolated ? config.preview.headers : {}
  const server = await preview({ configFile: false, root, build: { outDir }, preview: { port: 0, host: '127.0.0.1', headers }, logLevel: 'warn' })
  const browser = await chromium.launch({ executablePath: process.env.LORA_LEGO_CHROMIUM || '/usr/bin/chromium', headless: true, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking'] })
  const url = server.resolvedUrls.local[0]
  const openPage = async (context = browser) => {
    const page = await context.newPage()
    await page.route('**/blank.html', route => route.fulfill({ contentType: 'text/html', body: '<!doctype html>', headers }))
    await page.goto(new URL('blank.html', url).href)
    return page
  }
  try {
    return await work({ browser, url, openPage })
  } finally {
    await browser.close()
    await server.close()
  }
}

// The built page, served as `npm start` does or as a host without special headers would, and browsers to open it in.

import { createHash } from 'node:crypto'
import { chromium, type Browser, type Page } from 'playwright-core'
import { preview } from 'vite'
import { isolation } from '../../vite.config.js'

export interface Site {
  readonly url: string
  /** Paths that were asked for. */
  readonly requests: string[]
  /** Paths that hold this get no answer but 503. */
  refused: string | undefined
  close(): Promise<void>
}

/** Serves a built page, dist/app unless told otherwise, on a free port. */
export async function serve({ isolated, root = 'web/app', outDir = '../../dist/app' }: { isolated: boolean; root?: string; outDir?: string }): Promise<Site> {
  const requests: string[] = []
  const server = await preview({
    configFile: false,
    root,
    plugins: [
      {
        name: 'requests',
        configurePreviewServer: ({ middlewares }) =>
          void middlewares.use(({ url = '' }, response, next) => {
            requests.push(url)
            if (site.refused === undefined || !url.includes(site.refused)) return next()
            response.statusCode = 503
            response.end()
          }),
      },
    ],
    build: { outDir },
    preview: { port: 0, host: '127.0.0.1', headers: isolated ? isolation : {} },
    logLevel: 'warn',
  })
  const url = server.resolvedUrls?.local[0]
  if (!url) throw new Error('the preview server has no address')
  const site: Site = { url, requests, refused: undefined, close: () => server.close() }
  return site
}

export const chromiumPath = process.env.LORA_LEGO_CHROMIUM || '/usr/bin/chromium'
export const firefoxPath = process.env.LORA_LEGO_FIREFOX || '/usr/bin/firefox-esr'

export async function openChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: chromiumPath, headless: true, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking'] })
}

/** Everything that a page reports as wrong: exceptions, console errors, blocked or failed requests. */
export function watch(page: Page): string[] {
  const problems: string[] = []
  page.on('pageerror', error => problems.push(error.message))
  page.on('console', message => message.type() === 'error' && problems.push(message.text()))
  page.on('requestfailed', request => problems.push(`${request.url()}: ${request.failure()?.errorText ?? ''}`))
  return problems
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

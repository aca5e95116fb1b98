import { playwright } from '@vitest/browser-playwright'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { isolation } from './vite.config.js'

const fromRoot = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

/** The library's suite in a real browser, on a page with or without shared memory. */
const chromium = (name: string, headers: Record<string, string>) => ({
  // The tests use the library as it is published.
  resolve: { alias: { 'lora-lego': fromRoot('dist/lib/index.js') } },
  server: { headers },
  test: {
    name,
    include: ['tests/lib/*.browser.test.ts'],
    testTimeout: 30_000,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({
        launchOptions: { executablePath: process.env.LORA_LEGO_CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking'] },
      }),
      instances: [{ browser: 'chromium' as const }],
    },
  },
})

export default defineConfig({
  test: {
    projects: [
      {
        resolve: { alias: { 'lora-lego': fromRoot('dist/node/index.js') } },
        test: { name: 'node', include: ['tests/lib/*.node.test.ts'], testTimeout: 30_000 },
      },
      chromium('chromium, isolated', isolation),
      chromium('chromium, not isolated', {}),
      // Whole pages and processes: one file after the other, so that none waits for the others' work.
      { test: { name: 'e2e', include: ['tests/e2e/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000, fileParallelism: false } },
    ],
  },
})

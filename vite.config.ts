import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'

/** Headers that isolate a page: that is what gives it shared memory, and so threads. */
export const isolation = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

export default defineConfig({
  root: 'web/app',
  // Relative addresses, so that the page can be put under any path of any static host.
  base: './',
  // The page uses the library as it is published.
  resolve: { alias: { 'lora-lego': fileURLToPath(new URL('./dist/lib/index.js', import.meta.url)) } },
  build: { outDir: '../../dist/app', emptyOutDir: true, assetsInlineLimit: 0 },
  worker: { format: 'es' },
  preview: { headers: isolation },
})

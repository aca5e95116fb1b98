// `npm start`: sets up what is missing, builds, and serves the page with the example adapters.
// PORT chooses another port than 4173.

import { build } from './build.mjs'
import { main, SetupError } from './say.mjs'
import { project } from './toolchain.mjs'

await main(async () => {
  await build()
  const { preview } = await import('vite')
  const port = Number(process.env.PORT || 4173)
  const server = await preview({ configFile: `${project}/vite.config.ts`, preview: { port, strictPort: true, host: process.env.HOST || 'localhost' } }).catch(error => {
    throw new SetupError(`the page cannot be served on port ${port}: ${error.message}; set PORT to another one`)
  })
  console.log(`> the page: ${server.resolvedUrls?.local[0] ?? `http://localhost:${port}/`} (Ctrl-C ends it)`)
})

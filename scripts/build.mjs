// Set-up and build, no job: what `npm start`, `npm test` and `npm run build` share.

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { ensureHeaders, ensureNpmPackages } from './dependencies.mjs'
import { main, run, step } from './say.mjs'
import { findToolchain, project } from './toolchain.mjs'

const variants = ['single', 'threads']
const generated = join(project, 'web/lib/generated')

/** Sets up what is missing and builds what has changed. Returns the toolchain, for further builds. */
export async function build() {
  await ensureNpmPackages()
  const toolchain = await findToolchain()
  console.log(`> Emscripten: ${toolchain.description}`)
  await ensureHeaders(toolchain)

  const emscripten = (await toolchain.run('em-config', ['EMSCRIPTEN_ROOT'], { quiet: true })).trim()
  const env = { LORA_LEGO_EMSCRIPTEN: emscripten }
  const wasm = { ...toolchain, run: (command, args) => toolchain.run(command, args, { cwd: project, quiet: true, env }) }

  await ifChanged('core', ['src', 'bindings', 'tests/core', 'tests/bench', 'tests/CMakeLists.txt', 'CMakeLists.txt', 'CMakePresets.json', 'package.json', 'scripts'], toolchain, async () => {
    for (const variant of variants) await buildWasm(wasm, `wasm-${variant}`)
    await step('generated TypeScript: bindings and registry', () => generate())
  })
  await ifChanged('web', ['web', 'examples', 'package.json', 'package-lock.json', 'tsconfig.json', 'vite.config.ts', 'scripts'], toolchain, async () => {
    await step('library: dist/', buildLibrary)
    await step('page: dist/app/', () => run('node', ['node_modules/vite/bin/vite.js', 'build', '--logLevel', 'warn'], { cwd: project }))
  })
  return wasm
}

async function buildWasm(wasm, preset) {
  await step(`WebAssembly build: ${preset}`, async () => {
    if (!existsSync(join(project, 'build', preset, 'build.ninja'))) await wasm.run('cmake', ['--preset', preset])
    await wasm.run('cmake', ['--build', '--preset', preset, '--parallel', String(cpus().length)])
  })
}

/** Copies the modules next to the library's sources and writes the tables that the core can tell. */
async function generate() {
  await rm(generated, { recursive: true, force: true })
  await mkdir(generated, { recursive: true })
  for (const variant of variants) {
    const from = join(project, `build/wasm-${variant}/bindings`)
    const glue = await readFile(join(from, `core-${variant}.mjs`), 'utf8')
    await writeFile(join(generated, `core-${variant}.mjs`), variant === 'threads' ? withoutSelfReference(glue) : glue)
    await cp(join(from, `core-${variant}.wasm`), join(generated, `core-${variant}.wasm`))
    await cp(join(from, `core-${variant}.d.ts`), join(generated, `core-${variant}.d.mts`))
  }
  await run('node', [join(import.meta.dirname, 'generate-registry.mjs'), generated])
}

/**
 * The threads glue starts its threads as `new Worker(new URL('core-threads.mjs', import.meta.url))`.
 * Bundlers follow that and bundle the module into itself, some without end. The library always says where
 * the file is (mainScriptUrlOrBlob), so the literal goes.
 */
function withoutSelfReference(glue) {
  const pattern = /new Worker\(new URL\("core-threads\.mjs",\s*import\.meta\.url\),/g
  const found = glue.match(pattern)?.length ?? 0
  if (found !== 1) throw new Error(`the threads glue names itself ${found} times, not once: look at withoutSelfReference()`)
  return glue.replace(pattern, 'new Worker(Module["mainScriptUrlOrBlob"],')
}

async function buildLibrary() {
  await rm(join(project, 'dist'), { recursive: true, force: true })
  await run('node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { cwd: project })
  await cp(generated, join(project, 'dist/lib/generated'), { recursive: true, filter: path => !path.endsWith('.ts') || path.endsWith('.d.mts') })
}

/** Runs `work` if a file below `paths`, or the toolchain, differs from the last time it succeeded. */
async function ifChanged(name, paths, toolchain, work) {
  const hash = createHash('sha256').update(toolchain.description)
  for (const path of paths) await addToHash(hash, path)
  const digest = hash.digest('hex')
  const stamp = join(project, 'build', `${name}.stamp`)
  if ((await readFile(stamp, 'utf8').catch(() => '')) === digest) return
  await work()
  // Generated files belong to `web`, which is hashed after this.
  await writeFile(stamp, digest)
}

async function addToHash(hash, path) {
  const full = join(project, path)
  const info = await stat(full).catch(() => undefined)
  if (!info) return
  if (!info.isDirectory()) {
    hash.update(path).update(await readFile(full))
    return
  }
  for (const entry of (await readdir(full)).sort()) await addToHash(hash, join(path, entry))
}

if (process.argv[1] === import.meta.filename) await main(build)

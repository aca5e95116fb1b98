// Set-up and build, no job: what `npm start`, `npm test` and `npm run build` share.

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cmakeBuild } from './cmake.mjs'
import { ensureHeaders, ensureNpmPackages } from './dependencies.mjs'
import { defaultOf, registryOf } from './generate-registry.mjs'
import { main, run, step } from './say.mjs'
import { splitModules } from './split.mjs'
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

  await ifChanged('core', ['src', 'bindings', 'tests/core', 'tests/bench', 'tests/CMakeLists.txt', 'CMakeLists.txt', 'CMakePresets.json', 'package.json', 'scripts'], 'web/lib/generated/registry.ts', toolchain, async () => {
    for (const variant of variants) {
      const preset = `wasm-${variant}`
      await step(`WebAssembly build: ${preset}`, () => cmakeBuild(preset, wasm.run, toolchain.description))
    }
    await step('modules in parts, generated TypeScript', () => generate(wasm))
  })
  await ifChanged('web', ['web', 'examples', 'package.json', 'package-lock.json', 'tsconfig.json', 'vite.config.ts', 'scripts'], 'dist/app/index.html', toolchain, async () => {
    await step('library: dist/', buildLibrary)
    await step('page: dist/app/', buildPage)
  })
  return wasm
}

/** Puts the modules, in their parts, next to the library's sources and writes the tables that the core can tell. */
async function generate(toolchain) {
  await rm(generated, { recursive: true, force: true })
  await mkdir(generated, { recursive: true })
  const tables = JSON.parse(await run('node', [join(project, 'build/wasm-single/bindings/core_tables.cjs')], { quiet: true }))
  for (const variant of variants) {
    const name = `core-${variant}`
    const from = (platform, extension) => join(project, `build/wasm-${variant}/bindings/${platform}`, name + extension)
    for (const [platform, suffix] of [['browser', ''], ['node', '.node']]) {
      const glue = await readFile(from(platform, '.mjs'), 'utf8')
      const code = withDeferredParts(variant === 'threads' ? withoutSelfReference(glue, name) : glue, name)
      // Bundlers take the glue with threads as it is.
      await writeFile(join(generated, `${name}${suffix}.mjs`), platform === 'browser' ? await minified(name, code) : code)
      const types = replaced(await readFile(from('browser', '.d.ts'), 'utf8'), name, /(?<=interface EmbindModule \{\n)/g, '  loadPart(name: string): void;\n')
      await writeFile(join(generated, `${name}${suffix}.d.mts`), `${Object.values(tables.types).join('\n')}\n${types}`)
    }
    const module = await readFile(from('browser', '.wasm'))
    if (!module.equals(await readFile(from('node', '.wasm')))) throw new Error(`${name}.wasm differs between browser and Node: the package carries one for both`)
  }
  const builds = Object.fromEntries(variants.map(variant => [variant, join(project, `build/wasm-${variant}/bindings/node`)]))
  const recipes = tables.methods.map(({ name, rank, options }) => ({
    method: name,
    rank: rank === 'up to units' ? 8 : 0,
    options: options.map(option => ({ name: option.name, value: defaultOf(option) })),
  }))
  await splitModules(toolchain, builds, recipes, generated)
  await writeFile(join(generated, 'registry.ts'), await registryOf(tables))
  const hashes = join(project, 'node_modules/@noble/hashes')
  await mkdir(join(generated, 'noble-hashes'))
  for (const name of ['sha2', '_md', '_u64', 'utils']) {
    for (const extension of ['.js', '.d.ts']) await cp(join(hashes, name + extension), join(generated, 'noble-hashes', name + extension))
  }
  await cp(join(hashes, 'LICENSE'), join(generated, 'noble-hashes/LICENSE'))
}

/**
 * The threads glue starts its threads as `new Worker(new URL("core-threads.mjs", import.meta.url), ...)`.
 * Bundlers follow that and bundle the module into itself, some without end. The library says instead where
 * the file is.
 */
function withoutSelfReference(glue, name) {
  return replaced(glue, name, new RegExp(`new URL\\("${name}\\.mjs",\\s*import\\.meta\\.url\\)`, 'g'), 'Module["pthreadScript"]')
}

/** Gives the module what stands for the functions of its other parts (bindings/deferred.js.in). */
function withDeferredParts(glue, name) {
  return replaced(glue, name, /(?<=\{\s*['"]?a['"]?\s*:\s*wasmImports)/g, ', ...deferredParts')
}

function replaced(source, name, pattern, text) {
  // Emscripten 3.1.69 writes each of them once; another may write something else.
  const found = source.match(pattern)?.length ?? 0
  if (found !== 1) throw new Error(`${name} holds ${pattern} ${found} times, not once: look at where it is replaced`)
  return source.replace(pattern, text)
}

async function minified(name, code) {
  // Not at the top: it may just have been installed.
  const { minifySync } = await import('vite')
  const { errors, ...result } = minifySync(`${name}.mjs`, code, { compress: true, mangle: { toplevel: true } })
  if (errors.length > 0) throw new Error(`the glue of ${name} could not be minified: ${errors[0].message}`)
  return result.code
}

async function buildLibrary() {
  await rm(join(project, 'dist'), { recursive: true, force: true })
  await run('node', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { cwd: project })
  await cp(generated, join(project, 'dist/lib/generated'), { recursive: true, filter: path => !path.endsWith('.ts') || path.endsWith('.d.mts') })
}

async function buildPage() {
  await run('node', ['node_modules/typescript/bin/tsc', '-p', 'web/app'], { cwd: project })
  await run('node', ['node_modules/vite/bin/vite.js', 'build', '--logLevel', 'warn'], { cwd: project })
  await cp(join(project, 'examples'), join(project, 'dist/app/examples'), { recursive: true })
}

/** Runs `work` if a file below `paths`, or the toolchain, differs from the last time it succeeded, or `result` is gone. */
async function ifChanged(name, paths, result, toolchain, work) {
  const hash = createHash('sha256').update(toolchain.description)
  for (const path of paths) await addToHash(hash, path)
  const digest = hash.digest('hex')
  const stamp = join(project, 'build', `${name}.stamp`)
  if (existsSync(join(project, result)) && (await readFile(stamp, 'utf8').catch(() => '')) === digest) return
  await work()
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

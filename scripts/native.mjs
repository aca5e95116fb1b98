// Configures and builds one of the native presets of CMakePresets.json.
// As a program: node scripts/native.mjs PRESET...

import { cmakeBuild } from './cmake.mjs'
import { ensurePrograms } from './debian-packages.mjs'
import { capture, main, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

export async function buildNative(preset) {
  await ensurePrograms({ 'g++': 'g++', cmake: 'cmake', ninja: 'ninja-build' })
  const inProject = (command, args) => run(command, args, { cwd: project, quiet: true })
  await step(`native build: ${preset}`, async () => cmakeBuild(preset, inProject, await capture('c++', ['--version'])))
}

/** core_bench alone, by a preset that is compiled by clang, as WebAssembly is. */
export async function buildBench(preset) {
  await ensurePrograms({ 'clang++': 'clang', cmake: 'cmake', ninja: 'ninja-build' })
  const inProject = (command, args) => run(command, args, { cwd: project, quiet: true })
  await step(`native build: ${preset}`, async () => cmakeBuild(preset, inProject, await capture('clang++', ['--version']), ['core_bench']))
}

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    for (const preset of process.argv.slice(2)) await buildNative(preset)
  })
}

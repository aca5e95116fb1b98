// Configures and builds one of the native presets of CMakePresets.json.
// As a program: node scripts/native.mjs PRESET...

import { join } from 'node:path'
import { existsSync } from 'node:fs'
import { cpus } from 'node:os'
import { ensurePrograms } from './debian-packages.mjs'
import { main, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

export async function buildNative(preset) {
  await ensurePrograms({ 'g++': 'g++', cmake: 'cmake', ninja: 'ninja-build' })
  await step(`native build: ${preset}`, async () => {
    if (!existsSync(join(project, 'build', preset, 'build.ninja'))) {
      await run('cmake', ['--preset', preset], { cwd: project, quiet: true })
    }
    await run('cmake', ['--build', '--preset', preset, '--parallel', String(cpus().length)], { cwd: project, quiet: true })
  })
}

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    for (const preset of process.argv.slice(2)) await buildNative(preset)
  })
}

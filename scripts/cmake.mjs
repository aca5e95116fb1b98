// Configures and builds a preset of CMakePresets.json, with whichever toolchain runs the commands.

import { readFile, rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { project } from './toolchain.mjs'

/**
 * `run` runs a program with its arguments in the project's folder; `toolchain` says which one that is. A
 * build folder of another toolchain, or of a project that has since been moved, is made anew. `targets`: by
 * default all.
 */
export async function cmakeBuild(preset, run, toolchain, targets = []) {
  const folder = join(project, 'build', preset)
  const stamp = join(folder, 'origin')
  const origin = `${project}\n${toolchain}\n`
  if ((await readFile(stamp, 'utf8').catch(() => '')) !== origin) {
    await rm(folder, { recursive: true, force: true })
    await run('cmake', ['--preset', preset])
    await writeFile(stamp, origin)
  }
  await run('cmake', ['--build', '--preset', preset, '--parallel', String(cpus().length), ...targets.flatMap(target => ['--target', target])])
}

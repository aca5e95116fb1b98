// Puts what the build needs, and git does not hold, into place: npm packages, header-only C++ libraries
// and googletest's sources.

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { SetupError, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

/** Where each library lies below a toolchain's /usr, and the oldest version that works. */
const headers = [
  { name: 'Eigen', from: ['usr/include/eigen3/Eigen', 'usr/local/include/eigen3/Eigen', 'opt/homebrew/include/eigen3/Eigen'], debian: 'libeigen3-dev' },
  { name: 'xsimd', from: ['usr/include/xsimd', 'usr/local/include/xsimd', 'opt/homebrew/include/xsimd'], debian: 'libxsimd-dev (13 or newer)', probe: 'arch/xsimd_wasm.hpp' },
  { name: 'nlohmann', from: ['usr/include/nlohmann', 'usr/local/include/nlohmann', 'opt/homebrew/include/nlohmann'], debian: 'nlohmann-json3-dev' },
]
const googletest = ['usr/src/googletest', 'usr/local/src/googletest']

/** Installs the npm packages of the lock file, unless they are there already. */
export async function ensureNpmPackages() {
  const lock = await readFile(join(project, 'package-lock.json'))
  const hash = createHash('sha256').update(lock).digest('hex')
  const stamp = join(project, 'node_modules/.lora-lego-lock')
  if ((await readFile(stamp, 'utf8').catch(() => '')) === hash) return
  await step('npm packages: installing those of package-lock.json', async () => {
    // Whoever runs us with --silent still wants to know why it failed.
    await run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: project, quiet: true })
    await writeFile(stamp, hash)
  })
}

/**
 * Copies headers and googletest into build/deps. They get an include directory of their own: /usr/include
 * as a whole would bring the host's C library into an Emscripten build.
 */
export async function ensureHeaders(toolchain) {
  const target = join(project, 'build/deps')
  const stamp = join(target, 'origin')
  if ((await readFile(stamp, 'utf8').catch(() => '')) === toolchain.description) return
  await step('C++ libraries: Eigen, xsimd, nlohmann-json and googletest into build/deps', async () => {
    await rm(target, { recursive: true, force: true })
    await mkdir(join(target, 'include'), { recursive: true })
    const find = (candidates, probe) => candidates.map(path => join(toolchain.prefix, path)).find(path => existsSync(join(path, probe ?? '')))
    for (const { name, from, debian, probe } of headers) {
      const source = find(from, probe)
      if (!source) throw new SetupError(`the C++ headers of ${name} were not found: install ${debian}, or its equivalent`)
      await cp(source, join(target, 'include', name), { recursive: true, dereference: true })
    }
    const tests = find(googletest, 'CMakeLists.txt')
    if (!tests) throw new SetupError('the sources of googletest were not found: install googletest')
    await cp(tests, join(target, 'googletest'), { recursive: true, dereference: true })
    await writeFile(stamp, toolchain.description)
  })
}

// Installs Debian packages that are missing, where that is possible (Debian, root).

import { existsSync } from 'node:fs'
import { SetupError, capture, run, step } from './say.mjs'

async function isInstalled(name) {
  const status = await capture('dpkg-query', ['-W', '-f=${Status}', name])
  return status?.includes('ok installed') ?? false
}

/** Makes sure that each program is on PATH; `programs` maps its name to the Debian package that has it. */
export async function ensurePrograms(programs) {
  const missing = []
  for (const [program, debianPackage] of Object.entries(programs)) {
    if (!(await capture('sh', ['-c', 'command -v "$1"', 'sh', program]))) missing.push(debianPackage)
  }
  if (missing.length > 0) await ensureDebianPackages(missing)
}

/** Makes sure that each package is installed. Where that is impossible the missing ones are named in one line. */
export async function ensureDebianPackages(names) {
  const missing = []
  for (const name of names) if (!(await isInstalled(name))) missing.push(name)
  if (missing.length === 0) return
  if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) {
    throw new SetupError(`missing: ${missing.join(', ')} (install these packages, or run once as root on Debian 12)`)
  }
  await step(`Debian packages: installing ${missing.join(', ')}`, async () => {
    const env = { DEBIAN_FRONTEND: 'noninteractive' }
    await run('apt-get', ['update', '-q'], { quiet: true, env })
    await run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...missing], { quiet: true, env })
  })
}

// Private root folders with Debian packages in the user's cache directory, and commands that run in them.

import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { run, step } from './say.mjs'
import { ensureDebianPackages } from './debian-packages.mjs'

export const project = resolve(import.meta.dirname, '..')
export const cacheDirectory = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'lora-lego')
const stamp = 'lora-lego-complete'

/** The mirror to use: the user's choice, else the one that this machine uses already, undefined where it is no Debian. */
async function debianMirror() {
  if (process.env.LORA_LEGO_DEBIAN_MIRROR) return process.env.LORA_LEGO_DEBIAN_MIRROR
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '')
  if (!/^ID=debian$/m.test(release)) return undefined
  const parts = await readdir('/etc/apt/sources.list.d').catch(() => [])
  const files = ['/etc/apt/sources.list', ...parts.map(p => join('/etc/apt/sources.list.d', p))]
  for (const file of files) {
    const text = await readFile(file, 'utf8').catch(() => '')
    for (const match of text.matchAll(/^(?:URIs:|deb)\s+(?:\[[^\]]*\]\s+)?(https?:\/\/\S+\/debian)\/?(?:\s|$)/gm)) return match[1]
  }
  return undefined
}

export class DebianRoot {
  #suite
  #packages

  /**
   * @param {string} suite of Debian
   * @param {number} revision raise when the suite or the packages change: an older root folder is then not reused
   * @param {string[]} packages
   */
  constructor({ suite, revision, packages }) {
    this.#suite = suite
    this.#packages = packages
    this.directory = join(cacheDirectory, `${suite}-root-${revision}`)
  }

  get #complete() {
    return existsSync(join(this.directory, stamp))
  }

  /**
   * Makes the root folder if there is none; `title` says what for and what it costs.
   * @returns {Promise<'ready' | 'needs root' | 'needs Debian'>}
   */
  async ensure(title) {
    if (this.#complete) return 'ready'
    const mirror = await debianMirror()
    if (!mirror) return 'needs Debian'
    if (process.getuid?.() !== 0) return 'needs root'
    await ensureDebianPackages(['debootstrap'])
    await step(`${title}: making a private Debian ${this.#suite} root in ${this.directory}`, () => this.#make(mirror))
    return 'ready'
  }

  #partial(pid) {
    return `${this.directory}.partial-${pid}`
  }

  /** Half-made roots whose process was killed. */
  async #removeAbandoned() {
    for (const name of await readdir(cacheDirectory)) {
      const path = join(cacheDirectory, name)
      const pid = Number(name.split('-').at(-1))
      if (path === this.#partial(pid) && !existsSync(`/proc/${pid}`)) await rm(path, { recursive: true, force: true })
    }
  }

  /** A half-made one never gets the final name. */
  async #make(mirror) {
    await mkdir(cacheDirectory, { recursive: true })
    await this.#removeAbandoned()
    const partial = this.#partial(process.pid)
    try {
      // Suites newer than the host's debootstrap have no script of their own there; all since 2007 are links to sid's.
      await run('debootstrap', ['--variant=minbase', this.#suite, partial, mirror, '/usr/share/debootstrap/scripts/sid'], { quiet: true })
      // debootstrap could take the packages too, but leaves out what they need by a virtual name. It does not ask how
      // old the mirror's lists are, so apt does not either: both check who signed them.
      const env = { DEBIAN_FRONTEND: 'noninteractive', ...proxies() }
      const apt = args => runIn(partial, 'apt-get', ['-q', '-o', 'Acquire::Check-Valid-Until=false', ...args], { quiet: true, env })
      await apt(['update'])
      await apt(['install', '-y', '--no-install-recommends', ...this.#packages])
      for (const path of ['var/cache/apt', 'var/lib/apt/lists']) await rm(join(partial, path), { recursive: true, force: true })
      await writeFile(join(partial, stamp), `${this.#packages.join(' ')}\n`)
      // Another clone may have made one meanwhile: the first that is complete is kept.
      if (this.#complete) return
      await rm(this.directory, { recursive: true, force: true })
      await rename(partial, this.directory)
    } finally {
      await rm(partial, { recursive: true, force: true })
    }
  }

  /** Runs a command inside, at the project's own path, with nothing of the host's environment: it names files that are not there. */
  run(command, args, options) {
    return runIn(this.directory, command, args, options)
  }
}

const proxies = () => Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(https?|no)_proxy$/i.test(name)))

/** The mounts live in a mount namespace of the command's own, so nothing is left to unmount however it ends. */
async function runIn(root, command, args, options = {}) {
  const script = `set -e
mkdir -p "$ROOT$PROJECT"
mount --bind "$PROJECT" "$ROOT$PROJECT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
exec chroot "$ROOT" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$PROJECT" "$@"`
  const path = [join(project, 'node_modules/.bin'), '/usr/sbin', '/usr/bin', '/sbin', '/bin'].join(delimiter)
  const env = { ROOT: root, PROJECT: project, PATH: path, HOME: '/root', LC_ALL: 'C.UTF-8', ...options.env }
  const settings = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return run('/usr/bin/env', ['-i', ...settings, 'unshare', '-m', 'sh', '-c', script, 'sh', command, ...args], { ...options, env: undefined, cwd: '/', shown: [command, ...args].join(' ') })
}

// Finds Emscripten, or makes a root folder that holds it, and runs build commands in it.
// Order: (1) emcc on PATH, (2) a root folder of the user's cache directory, (3) a one-line error.

import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { SetupError, capture, run, step } from './say.mjs'
import { ensureDebianPackages } from './debian-packages.mjs'

export const project = resolve(import.meta.dirname, '..')

/** Oldest Emscripten whose `--emit-tsd` and Embind do what bindings/ needs; also the pinned one. */
const oldest = [3, 1, 69]
const emsdkRelease = '3.1.69'
const debianSuite = 'trixie'
const rootPackages = [
  'emscripten', 'cmake', 'ninja-build', 'libxsimd-dev', 'libeigen3-dev', 'nlohmann-json3-dev', 'googletest',
]
/** Raise when rootPackages or debianSuite change: an older root folder is then not reused. */
const rootRevision = 1

export const cacheDirectory = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'lora-lego')
const rootDirectory = join(cacheDirectory, `${debianSuite}-root-${rootRevision}`)
const stamp = 'lora-lego-complete'

function parseVersion(text) {
  const match = /(\d+)\.(\d+)\.(\d+)/.exec(text ?? '')
  return match ? match.slice(1, 4).map(Number) : undefined
}

function atLeast(version, minimum) {
  for (let i = 0; i < minimum.length; i++) if (version[i] !== minimum[i]) return version[i] > minimum[i]
  return true
}

/**
 * @typedef {object} Toolchain
 * @property {string} description one line for the user
 * @property {string} prefix where its /usr lies: headers and googletest's sources are looked up below it
 * @property {(command: string, args: string[], options?: object) => Promise<string>} run
 */

/** @returns {Promise<Toolchain>} */
export async function findToolchain() {
  const onPath = await capture('emcc', ['--version'])
  const version = parseVersion(onPath)
  if (version && atLeast(version, oldest)) {
    return {
      description: `emcc ${version.join('.')} found on PATH`,
      prefix: '/',
      run: (command, args, options) => run(command, args, options),
    }
  }
  const tooOld = version ? `emcc ${version.join('.')} on PATH is older than ${oldest.join('.')}` : ''
  if (!existsSync(join(rootDirectory, stamp))) {
    const mirror = process.env.LORA_LEGO_DEBIAN_MIRROR || (await debianMirror())
    if (process.getuid?.() !== 0 || !mirror) {
      throw new SetupError(
        `${tooOld || 'there is no emcc on PATH'}: install emsdk ${emsdkRelease} and put its emcc on PATH` +
          (mirror ? ', or run this once as root to set up a private one' : ''),
      )
    }
    await makeRoot(mirror)
  }
  return rootToolchain(tooOld)
}

/** The Debian mirror that this machine already uses, or undefined where it is no Debian. */
async function debianMirror() {
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

const partialDirectory = pid => `${rootDirectory}.partial-${pid}`

/** Half-made roots whose process was killed. */
async function removeAbandoned() {
  for (const name of await readdir(cacheDirectory)) {
    const path = join(cacheDirectory, name)
    const pid = Number(name.split('-').at(-1))
    if (path === partialDirectory(pid) && !existsSync(`/proc/${pid}`)) await rm(path, { recursive: true, force: true })
  }
}

/** Debian's Emscripten in a folder of its own; a half-made one never gets the final name. */
async function makeRoot(mirror) {
  await ensureDebianPackages(['debootstrap'])
  await step(`Emscripten: making a private Debian ${debianSuite} root in ${rootDirectory} (about two minutes, 3 GB, once)`, async () => {
    await mkdir(cacheDirectory, { recursive: true })
    await removeAbandoned()
    const partial = partialDirectory(process.pid)
    try {
      await run('debootstrap', ['--variant=minbase', `--include=${rootPackages.join(',')}`, debianSuite, partial, mirror], { quiet: true })
      await rm(join(partial, 'var/cache/apt/archives'), { recursive: true, force: true })
      await writeFile(join(partial, stamp), `${rootPackages.join(' ')}\n`)
      // Another clone may have made one meanwhile: the first that is complete is kept.
      if (existsSync(join(rootDirectory, stamp))) return
      await rm(rootDirectory, { recursive: true, force: true })
      await rename(partial, rootDirectory)
    } finally {
      await rm(partial, { recursive: true, force: true })
    }
  })
}

async function rootToolchain(tooOld) {
  const inside = await runInRoot('emcc', ['--version'], { quiet: true }).catch(error => {
    throw new SetupError(`${error.message} in the root folder ${rootDirectory}: this needs root and the right to mount; or install emsdk ${emsdkRelease} and put its emcc on PATH`)
  })
  const version = parseVersion(inside)
  if (!version || !atLeast(version, oldest)) throw new SetupError(`the root folder ${rootDirectory} holds no usable emcc: remove it and run again`)
  return {
    description: `emcc ${version.join('.')} in the private Debian root ${rootDirectory}${tooOld && ` (${tooOld})`}`,
    prefix: rootDirectory,
    run: runInRoot,
  }
}

/**
 * Runs a command inside the root folder, at the project's own path. The mounts live in a mount
 * namespace of the command's own, so nothing is left to unmount however it ends.
 */
async function runInRoot(command, args, options = {}) {
  const script = `set -e
mkdir -p "$ROOT$PROJECT"
mount --bind "$PROJECT" "$ROOT$PROJECT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
exec chroot "$ROOT" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$PROJECT" "$@"`
  const path = [join(project, 'node_modules/.bin'), '/usr/sbin', '/usr/bin', '/sbin', '/bin'].join(delimiter)
  const env = { ROOT: rootDirectory, PROJECT: project, PATH: path, HOME: '/root', LC_ALL: 'C.UTF-8', ...options.env }
  // Nothing else of the host's environment: it names files that are not there.
  const settings = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return run('/usr/bin/env', ['-i', ...settings, 'unshare', '-m', 'sh', '-c', script, 'sh', command, ...args], { ...options, env: undefined, cwd: '/', shown: [command, ...args].join(' ') })
}

// Finds Emscripten, or makes a root folder that holds it, and runs build commands in it.
// Order: (1) emcc on PATH, (2) a root folder of the user's cache directory, (3) a one-line error.

import { DebianRoot, project } from './debian-root.mjs'
import { SetupError, capture, run } from './say.mjs'

export { project }

/** Oldest Emscripten whose `--emit-tsd` and Embind do what bindings/ needs; also the pinned one. */
const oldest = [3, 1, 69]
const emsdkRelease = '3.1.69'
const root = new DebianRoot({
  suite: 'trixie',
  revision: 1,
  packages: ['emscripten', 'cmake', 'ninja-build', 'libxsimd-dev', 'libeigen3-dev', 'nlohmann-json3-dev', 'googletest'],
})

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
  const state = await root.ensure('Emscripten (about two minutes, 3 GB, once)')
  if (state !== 'ready') {
    throw new SetupError(
      `${tooOld || 'there is no emcc on PATH'}: install emsdk ${emsdkRelease} and put its emcc on PATH` +
        (state === 'needs root' ? ', or run this once as root to set up a private one' : ''),
    )
  }
  return rootToolchain(tooOld)
}

async function rootToolchain(tooOld) {
  const inside = await root.run('emcc', ['--version'], { quiet: true }).catch(error => {
    throw new SetupError(`${error.message} in the root folder ${root.directory}: this needs root and the right to mount; or install emsdk ${emsdkRelease} and put its emcc on PATH`)
  })
  const version = parseVersion(inside)
  if (!version || !atLeast(version, oldest)) throw new SetupError(`the root folder ${root.directory} holds no usable emcc: remove it and run again`)
  return {
    description: `emcc ${version.join('.')} in the private Debian root ${root.directory}${tooOld && ` (${tooOld})`}`,
    prefix: root.directory,
    run: (command, args, options) => root.run(command, args, options),
  }
}

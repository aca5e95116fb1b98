// Splits each WebAssembly module in three, with Binaryen's wasm-split. Every page loads core-*.wasm: it opens, plans and
// merges as far as scripts/ordinary-merges.mjs says. core-*.decompose.wasm factorises matrices, core-*.rest.wasm has all
// else; they are loaded when one of their functions is first called (bindings/deferred.js.in).

import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { methodsOfParts, runOrdinaryMerges } from './ordinary-merges.mjs'
import { SetupError } from './say.mjs'
import { project } from './toolchain.mjs'

// What the modules are compiled to use. With reference types wasm-split would make a second table, which the glue does not know.
const features = ['simd', 'threads', 'bulk-memory', 'sign-ext', 'mutable-globals', 'nontrapping-float-to-int'].map(name => `--enable-${name}`)
const folder = join(project, 'build/split')

const lines = output => output.split('\n').filter(line => line !== '')

// The optimiser's own functions go by their numbers, which mean nothing to another module.
const isUnnamed = name => /^\d+$/.test(name)

// Both variants have them, and only one calls them.
const isForThreads = name => /thread|mutex|condition_variable/i.test(name)

/** Runs Binaryen's programs: gives their output. */
async function findBinaryen(toolchain) {
  const root = (await toolchain.run('em-config', ['BINARYEN_ROOT'], { quiet: true })).trim()
  return (program, ...args) => toolchain.run(join(root, 'bin', program), [...features, ...args], { quiet: true })
}

/** The second half of lines such as 12:name. */
const namesOf = output => lines(output).map(line => line.slice(line.indexOf(':') + 1))

/** Names of a module's functions in their order, as wasm-split spells them. */
const namesIn = async (binaryen, wasm) => namesOf(await binaryen('wasm-opt', wasm, '--print-function-map'))

/** Names of the functions that merges by `recipes` call in `single`, a folder's core-single.mjs and core-single.wasm. */
async function calledNames(binaryen, single, recipes) {
  const [glue, wasm] = ['core-single.mjs', 'core-single.wasm'].map(name => join(folder, name))
  await cp(join(single, 'core-single.mjs'), glue)
  await binaryen('wasm-split', '--instrument', join(single, 'core-single.wasm'), '-o', wasm)
  const { __write_profile: writeProfile, ...exported } = await runOrdinaryMerges(glue, recipes)
  const memory = Object.values(exported).find(value => value instanceof WebAssembly.Memory)
  const size = writeProfile(0, 0)
  const at = memory.grow(Math.ceil(size / 65536)) * 65536
  writeProfile(at, size)
  const profile = join(folder, 'profile')
  await writeFile(profile, new Uint8Array(memory.buffer, at, size))
  const printed = await binaryen('wasm-split', `--print-profile=${profile}`, join(single, 'core-single.wasm'))
  return lines(printed).filter(line => line.startsWith('+ ')).map(line => line.slice(2))
}

/**
 * Splits `wasm` into `rest`, with the functions named in `kept`, and `part`. All are paths. Returns what `rest` now calls the
 * functions that it keeps.
 */
async function takeOut(binaryen, wasm, kept, { namespace, part, rest }) {
  const list = join(folder, 'kept')
  await writeFile(list, kept.join('\n'))
  await binaryen('wasm-split', wasm, `--keep-funcs=@${list}`, `--placeholder-namespace=${namespace}`, '--symbolmap', '-o1', rest, '-o2', part)
  const before = namesOf(await readFile(`${rest}.symbols`, 'utf8'))
  const after = await namesIn(binaryen, rest)
  return new Map(before.map((name, i) => [name, after[i]]))
}

/**
 * `builds`: by variant the folder with its module; functions must have their names. `recipes`: one for each merge method.
 * Writes the parts of each module to `output`. One profile serves both variants: what only the one with threads has, or
 * calls, starts them and waits for them, and is kept.
 */
export async function splitModules(toolchain, builds, recipes, output) {
  await mkdir(folder, { recursive: true })
  const binaryen = await findBinaryen(toolchain)
  const called = {}
  for (const [part, names] of Object.entries(methodsOfParts)) {
    called[part] = await calledNames(binaryen, builds.single, recipes.filter(({ method }) => names.includes(method)))
  }
  const known = new Set(await namesIn(binaryen, join(builds.single, 'core-single.wasm')))
  for (const [variant, from] of Object.entries(builds)) {
    const name = `core-${variant}`
    const whole = join(from, `${name}.wasm`)
    const own = variant === 'single' ? [] : (await namesIn(binaryen, whole)).filter(given => !known.has(given) || isUnnamed(given) || isForThreads(given))
    const first = [...called.first, ...own]
    const wasm = part => join(output, [name, part, 'wasm'].join('.'))
    const both = join(folder, `${name}.wasm`)
    const renamed = await takeOut(binaryen, whole, [...first, ...called.decompose], { namespace: 'rest', part: wasm('rest'), rest: both })
    const inBoth = first.filter(given => renamed.has(given)).map(given => renamed.get(given))
    await takeOut(binaryen, both, inBoth, { namespace: 'decompose', part: wasm('decompose'), rest: join(output, `${name}.wasm`) })
    // Their first call goes through JavaScript, which has no such values.
    const vectors = lines(await binaryen('wasm-dis', join(output, `${name}.wasm`))).filter(line => /\(import "(rest|decompose)".*v128/.test(line))
    if (vectors.length > 0) throw new SetupError(`${name}: ${vectors.length} functions of other parts take or give vectors, and cannot be called before these are loaded: ${vectors[0]}`)
  }
  for (const file of await readdir(output)) if (file.endsWith('.symbols')) await rm(join(output, file))
}

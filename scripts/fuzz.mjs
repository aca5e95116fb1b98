// Builds the fuzz targets of tests/fuzz and runs them, two at a time, from their seeds and what earlier runs found.
// As a program: node scripts/fuzz.mjs [--seconds 60] [--seed N] [TARGET...], by default all and a seed of chance.

import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { cmakeBuild } from './cmake.mjs'
import { ensureDebianPackages, ensurePrograms } from './debian-packages.mjs'
import { SetupError, capture, main, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

const sources = join(project, 'tests/fuzz')
/** What a run keeps: inputs that reach new code, and those that are findings. */
const corpora = join(project, 'build/fuzz-corpus')
const findings = join(project, 'build/fuzz-findings')

const list = async folder => (await readdir(folder).catch(() => [])).sort()

/** Names of all targets: NAME_fuzz.cpp. */
async function allTargets() {
  return (await list(sources)).filter(name => name.endsWith('_fuzz.cpp')).map(name => name.slice(0, -'_fuzz.cpp'.length))
}

/** clang, and libFuzzer, which Debian has in a package of its own. */
async function ensureClang() {
  await ensurePrograms({ 'clang++': 'clang', cmake: 'cmake', ninja: 'ninja-build' })
  const resources = (await capture('clang++', ['-print-resource-dir']))?.trim() ?? ''
  const runtimes = await readdir(join(resources, 'lib'), { recursive: true }).catch(() => [])
  if (runtimes.some(name => name.includes('clang_rt.fuzzer'))) return
  const major = (await capture('clang++', ['-dumpversion']))?.split('.')[0]
  await ensureDebianPackages([`libclang-rt-${major}-dev`])
}

async function buildTargets() {
  await ensureClang()
  const inProject = (command, args) => run(command, args, { cwd: project, quiet: true })
  await step('native build: fuzz', async () => cmakeBuild('fuzz', inProject, await capture('clang++', ['--version'])))
}

/** Whether a target comes through; prints what it did, or what was found and where. */
async function runTarget(target, seconds, seed) {
  const corpus = join(corpora, target), seeds = join(sources, 'seeds', target), found = join(findings, target)
  await mkdir(corpus, { recursive: true })
  await mkdir(found, { recursive: true })
  const folders = (await list(seeds)).length > 0 ? [corpus, seeds] : [corpus]
  const known = new Set(await list(found))
  const options = [
    // 0: libFuzzer takes one of its own.
    `-seed=${seed}`, `-max_total_time=${seconds}`, `-artifact_prefix=${found}/`, `-dict=${join(sources, 'peft.dict')}`,
    // Seconds for one input, where most take less than a millisecond; memory with AddressSanitizer's own.
    '-timeout=10', '-rss_limit_mb=1024',
    // The longest seed is a real header of 7 KB.
    '-max_len=16384',
    // Only what was found, and how many inputs there were.
    '-verbosity=0', '-print_funcs=0', '-print_final_stats=1',
  ]
  try {
    const output = await run(join(project, `build/fuzz/tests/fuzz/${target}_fuzz`), [...options, ...folders], {
      cwd: project,
      quiet: true,
      // What is freed stays away long enough for a small input, without filling the limit.
      env: { ASAN_OPTIONS: 'detect_stack_use_after_return=1:quarantine_size_mb=64', UBSAN_OPTIONS: 'print_stacktrace=1' },
      shown: `${target}_fuzz`,
    })
    console.log(`  ${target}: ${/number_of_executed_units: (\d+)/.exec(output)?.[1] ?? '?'} inputs, no finding`)
    return true
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    const fresh = (await list(found)).filter(name => !known.has(name)).map(name => join(found, name))
    console.log(`  ${target}: ${error.message}\n${fresh.map(path => `  reproduce: build/fuzz/tests/fuzz/${target}_fuzz ${path}\n`).join('')}`)
    return false
  }
}

/**
 * Builds and runs targets, by default all, each for so many seconds. With a seed other than 0 they try the same inputs in
 * the same order each time, as far as they come. Returns how many came through.
 */
export async function fuzz(seconds, names = [], seed = 0) {
  const known = await allTargets()
  for (const name of names) if (!known.includes(name)) throw new SetupError(`there is no fuzz target ${name}, only ${known.join(', ')}`)
  await buildTargets()
  const waiting = names.length > 0 ? [...names] : known
  const totals = { passed: 0, failed: 0 }
  const work = async () => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) totals[(await runTarget(target, seconds, seed)) ? 'passed' : 'failed']++
  }
  await Promise.all([work(), work()])
  return totals
}

if (process.argv[1] === import.meta.filename) {
  await main(async () => {
    const { values, positionals } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, seed: { type: 'string', default: '0' } }, allowPositionals: true })
    // libFuzzer takes 0 for no limit.
    if (!/^[1-9]\d*$/.test(values.seconds)) throw new SetupError('--seconds takes a whole number from 1')
    if (!/^\d+$/.test(values.seed)) throw new SetupError('--seed takes a whole number')
    await step(`fuzz targets, ${values.seconds} s each`, async () => {
      const { passed, failed } = await fuzz(Number(values.seconds), positionals, Number(values.seed))
      console.log(`  ${passed} passed, ${failed} failed`)
      if (failed > 0) process.exitCode = 1
    })
  })
}

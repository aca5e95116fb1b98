// `npm test`: sets up what is missing, builds, and runs every test. Ends with the line "N passed, N failed".

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from './build.mjs'
import { ensurePrograms } from './debian-packages.mjs'
import { fuzz } from './fuzz.mjs'
import { buildNative } from './native.mjs'
import { main, run, step } from './say.mjs'
import { project } from './toolchain.mjs'

/** The core's tests on each of these: natively, under the sanitizers, as WebAssembly. */
const sanitizers = {
  ASAN_OPTIONS: 'allocator_may_return_null=1:detect_stack_use_after_return=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'allocator_may_return_null=1',
}
const nativePresets = ['native-release', 'asan', 'tsan']
const wasmPresets = ['wasm-single', 'wasm-threads']

const totals = { passed: 0, failed: 0 }

/** Runs one suite; `count` reads what it found. A suite that dies before it can say counts as one failure. */
async function suite(title, work, count) {
  await step(title, async () => {
    const died = await work().then(
      () => false,
      error => {
        console.log(`  ${error.message}`)
        return true
      },
    )
    const { passed, failed } = await count().catch(() => ({ passed: 0, failed: 1 }))
    totals.passed += passed
    totals.failed += died && failed === 0 ? 1 : failed
    console.log(`  ${passed} passed, ${died && failed === 0 ? 1 : failed} failed`)
  })
}

/** In `processes` at a time, which share the tests. */
async function core(title, command, args, processes, scratch) {
  const shards = Array.from({ length: processes }, (_, index) => ({ index, report: join(scratch, `${title.replaceAll(/\W/g, '-')}-${index}.json`) }))
  await suite(
    `core tests: ${title}`,
    async () => {
      const runs = shards.map(({ index, report }) =>
        run(command, [...args, '--gtest_brief=1', `--gtest_output=json:${report}`], { cwd: project, env: { ...sanitizers, GTEST_TOTAL_SHARDS: String(shards.length), GTEST_SHARD_INDEX: String(index) } }),
      )
      const died = (await Promise.allSettled(runs)).find(({ status }) => status === 'rejected')
      if (died) throw died.reason
    },
    async () => {
      const counts = await Promise.all(shards.map(async ({ report }) => JSON.parse(await readFile(report, 'utf8'))))
      const sum = name => counts.reduce((total, count) => total + count[name], 0)
      const failed = sum('failures') + sum('errors')
      return { passed: sum('tests') - failed, failed }
    },
  )
}

async function check(title, args) {
  let passed = 0
  await suite(
    title,
    () => run('node', args, { cwd: project }).then(() => (passed = 1)),
    async () => ({ passed, failed: 1 - passed }),
  )
}

/** Each fuzz target counts as one test. */
async function fuzzing(seconds) {
  let found
  await suite(
    `fuzz targets: ${seconds} s each, from tests/fuzz/seeds`,
    // Seeded: a change fails here for what it does, not by chance; npm run fuzz looks further.
    async () => (found = await fuzz(seconds, [], 1)),
    async () => ({ passed: found.passed, failed: found.failed }),
  )
}

async function vitest(scratch) {
  const report = join(scratch, 'vitest.json')
  await suite(
    'library, page and command line tests: Node, Chromium, Firefox',
    () => run('node', ['node_modules/vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json', `--outputFile=${report}`], { cwd: project }),
    async () => {
      const { numPassedTests, numFailedTests } = JSON.parse(await readFile(report, 'utf8'))
      return { passed: numPassedTests, failed: numFailedTests }
    },
  )
}

await main(async () => {
  await build()
  await ensurePrograms({ chromium: 'chromium', 'firefox-esr': 'firefox-esr', parallel: 'parallel' })
  const scratch = await mkdtemp(join(tmpdir(), 'lora-lego-tests-'))
  try {
    await check('types of the tests', ['node_modules/typescript/bin/tsc', '-p', 'tests'])
    await check('generated docs', ['scripts/docs.mjs', '--check'])
    await check('sizes of what browsers load', ['scripts/sizes.mjs', '--check'])
    await check('lint', ['node_modules/eslint/bin/eslint.js', '.'])
    for (const preset of nativePresets) {
      await buildNative(preset)
      await core(preset, `build/${preset}/tests/core_tests`, [], cpus().length, scratch)
    }
    // WebAssembly has no environment that could tell it its share.
    for (const preset of wasmPresets) await core(`${preset} in Node`, 'node', [`build/${preset}/tests/core_tests.cjs`], 1, scratch)
    await fuzzing(60)
    await vitest(scratch)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
  if (totals.failed > 0) process.exitCode = 1
  console.log(`${totals.passed} passed, ${totals.failed} failed`)
})

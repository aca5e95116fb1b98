// `npm run test:interop`: other people's readers on what the library writes, from Debian testing in a root folder of
// their own (about 500 MB): the reference safetensors library, gguf's reader, llama.cpp, ONNX Runtime. Not part of
// `npm test`, which runs llama.cpp and ONNX Runtime as WebAssembly.

import { createHash } from 'node:crypto'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { adapterSets, Minibench } from '../tests/quality/minibench.mjs'
import { baseGguf, modules, readPeftFolder, stacked } from '../tests/runtime/minibench-gguf.mjs'
import { build } from './build.mjs'
import { DebianRoot } from './debian-root.mjs'
import { SetupError, main } from './say.mjs'
import { project } from './toolchain.mjs'

const root = new DebianRoot({
  suite: 'forky',
  revision: 1,
  packages: ['python3-safetensors', 'python3-gguf', 'llama.cpp-tools', 'python3-onnxruntime'],
})
/** Inside the project, which is all that the root folder sees. */
const scratch = join(project, 'build/interop')

const inputs = [
  { task: 'add3', weight: 0.8 },
  { task: 'rotl2', weight: 0.5 },
]
/** As expected.py takes them. */
const inputFolders = inputs.map(({ task, weight }) => ({ folder: adapterSets.plain(task), weight }))
const promptsPerTask = 3
const answerLength = 9
const endOfSequence = 3

/** Rounding of factors to a dtype, relative to the largest entry of a delta. */
const tolerances = { f32: 1e-6, f16: 1e-3, bf16: 1e-2 }
/** Of log probabilities in F32, between runtimes: they differ by 3e-5. */
const runtimeTolerance = 1e-4

async function save(name, content) {
  const path = join(scratch, name)
  await writeFile(path, content)
  return path
}
const saveJson = (name, value) => save(name, JSON.stringify(value))

const weightedInputs = inputs.map(({ task, weight }) => ({ source: adapterSets.plain(task), weight }))

/** Merges the inputs; returns the result and where its files were written. */
async function mergeTo(library, name, recipe) {
  const result = await library.merge(weightedInputs, recipe)
  const paths = {}
  for (const file of result.files) paths[file.name] = await save(`${name}-${file.name}`, new Uint8Array(await file.arrayBuffer()))
  const config = JSON.parse(await readFile(paths['adapter_config.json'], 'utf8'))
  return { ...result, config, tensorFile: paths['adapter_model.safetensors'] }
}

/** What onnxruntime-web generates with the inputs at their weights on the base: the truth for every runtime. */
async function expectedRequests() {
  const bench = await Minibench.open()
  const factors = stacked(await Promise.all(inputs.map(({ task }) => readPeftFolder(adapterSets.plain(task)))), inputs.map(({ weight }) => weight))
  const requests = []
  for (const { task } of inputs) {
    const { prompts } = JSON.parse(await readFile(join(project, `tests/minibench/eval/${task}.test.json`), 'utf8'))
    for (const prompt of prompts.slice(0, promptsPerTask)) {
      const request = { prompt, tokens: [], logProbabilities: [] }
      while (request.tokens.length < answerLength && request.tokens.at(-1) !== endOfSequence) {
        const row = (await bench.logProbabilities([...prompt, ...request.tokens], factors)).at(-1)
        request.logProbabilities.push(row)
        request.tokens.push(row.indexOf(Math.max(...row)))
      }
      requests.push(request)
    }
  }
  return requests
}

/** The inputs merged with `cat`, as a GGUF adapter. */
async function mergedGguf(library) {
  const output = join(scratch, 'cat.gguf')
  await library.merge(weightedInputs, { method: 'cat', dtype: 'f32', format: 'gguf', base: await baseGguf() }, { output })
  return output
}

/** The same as an .onnx_adapter, under the names that the model's graph has. */
async function mergedOnnxAdapter(library) {
  const output = join(scratch, 'cat.onnx_adapter')
  const onnx = { names: ['{module}.lora_A', '{module}.lora_B'], layout: 'peft' }
  await library.merge(weightedInputs, { method: 'cat', dtype: 'f32', format: 'onnx', onnx }, { output })
  return output
}

/** An adapter of modules in kohya's naming, 2 MB of F32, in no order of names. */
function kohyaAdapter() {
  const [rank, side] = [64, 1024]
  let at = 0
  const entry = (name, shape) => {
    const begin = at
    at += 4 * shape.reduce((product, length) => product * length, 1)
    return [name, { dtype: 'F32', shape, data_offsets: [begin, at] }]
  }
  const modules = ['a_2', 'a_10', 'a_1', 'a_1_b'].map(path => `lora_unet_down_blocks_${path}`)
  const header = Object.fromEntries(modules.flatMap(path => [entry(`${path}.lora_up.weight`, [side, rank]), entry(`${path}.lora_down.weight`, [rank, side]), entry(`${path}.alpha`, [])]))
  const text = Buffer.from(JSON.stringify({ __metadata__: { ss_output_name: 'größer "mine"\n', 'modelspec.title': 'x' }, ...header }))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  return new File([size, text, Float32Array.from({ length: at / 4 }, (_, i) => Math.sin(i) + 2)], 'kohya.safetensors')
}

/** A merged adapter in a dtype; `isSum`: whether the method gives the weighted sum itself. */
const safetensorsCheck = (dtype, recipe, isSum) => ({
  title: `safetensors: ${recipe.method} in ${dtype}`,
  script: 'safetensors_check.py',
  async make({ library }) {
    const { tensors, tensorFile, config } = await mergeTo(library, `${recipe.method}-${dtype}`, { ...recipe, dtype })
    const described = {}
    for (const [name, tensor] of tensors) {
      const values = await tensor.data()
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      described[name] = { dtype: tensor.dtype, shape: tensor.shape, sha256: createHash('sha256').update(bytes).digest('hex') }
    }
    const sum = { inputs: inputFolders, alphaOverRank: config.lora_alpha / config.r, tolerance: tolerances[dtype] }
    return [tensorFile, await saveJson(`${recipe.method}-${dtype}.json`, { tensors: described, ...(isSum && sum) })]
  },
})

/** `make` writes the files of a check and returns the arguments of its script in tests/interop. */
const checks = [
  safetensorsCheck('f32', { method: 'cat' }, true),
  safetensorsCheck('f16', { method: 'cat' }, true),
  safetensorsCheck('bf16', { method: 'cat' }, true),
  safetensorsCheck('f32', { method: 'least_interference', rank: 8 }, false),
  {
    title: "safetensors: kohya's hashes",
    script: 'kohya_hashes_check.py',
    async make({ library }) {
      const output = join(scratch, 'kohya.safetensors')
      await library.merge([kohyaAdapter(), kohyaAdapter()], { method: 'cat', dtype: 'f16' }, { output })
      return [output]
    },
  },
  {
    title: "gguf: Python's reader",
    script: 'gguf_check.py',
    async make({ library }) {
      const expected = {
        fields: { 'general.type': 'adapter', 'general.architecture': 'llama', 'adapter.type': 'lora' },
        modules: Object.fromEntries(modules.map(([path, name]) => [name, path])),
        heads: 4,
        inputs: inputFolders,
        tolerance: tolerances.f32,
      }
      return [await mergedGguf(library), await saveJson('gguf.json', expected)]
    },
  },
  {
    title: 'gguf: llama.cpp',
    script: 'llama_check.py',
    async make({ library, requests }) {
      return [await save('base.gguf', await baseGguf()), await mergedGguf(library), await saveJson('llama.json', { requests, tolerance: runtimeTolerance })]
    },
  },
  {
    title: 'onnx_adapter: ONNX Runtime',
    script: 'onnx_adapter_check.py',
    async make({ library, requests }) {
      const expected = { inputs: inputFolders, deltaTolerance: tolerances.f32, requests, tolerance: runtimeTolerance }
      return [await mergedOnnxAdapter(library), join(project, 'tests/minibench/base-lora-inputs.onnx'), await saveJson('onnx_adapter.json', expected)]
    },
  },
]

/** Output of a script of tests/interop, shown as a whole only where it fails. */
function python(script, args) {
  // No .pyc files beside the scripts.
  return root.run('python3', ['-B', join(project, 'tests/interop', script), ...args], { quiet: true })
}

await main(async () => {
  await build()
  const state = await root.ensure("Other people's readers (about a minute, 500 MB, once)")
  if (state !== 'ready') throw new SetupError(`other people's readers are not there: making a root folder for them ${state === 'needs root' ? 'needs root, once' : 'needs Debian'}`)
  await mkdir(scratch, { recursive: true })
  const totals = { passed: 0, failed: 0 }
  try {
    const library = await import(join(project, 'dist/node/index.js'))
    const requests = await expectedRequests()
    for (const { title, script, make } of checks) {
      console.log(`> ${title}`)
      const failure = await make({ library, requests })
        .then(args => python(script, args))
        .then(
          output => output.match(/^ok: .*$/gm).forEach(line => console.log(`  ${line.slice(4)}`)),
          error => error,
        )
      if (failure) console.log(`  ${failure.message}`)
      totals[failure ? 'failed' : 'passed']++
    }
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
  if (totals.failed > 0) process.exitCode = 1
  console.log(`${totals.passed} passed, ${totals.failed} failed`)
})

// The library's suite in Node, and what only Node has: paths in, a folder out.

import { createMerger, merge, MergeError } from 'lora-lego'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { adapter, hexDigest, metadataOf, parse, safetensors } from './fixtures.js'
import { flatName, kohyaHashes, kohyaTensors, pairsOf } from './formats.js'
import { defineSuite } from './suite.js'

const bytes = async (path: string): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await readFile(path))

defineSuite({
  threads: found => found >= 1 && found <= 8,
  example: async name => [await bytes(`examples/${name}/adapter_model.safetensors`), await bytes(`examples/${name}/adapter_config.json`)],
})

describe('in Node', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lora-lego-test-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  const examples = ['examples/add3', 'examples/rotl2/adapter_model.safetensors', pathToFileURL('examples/swapnb')]

  it('takes folders, files and file addresses, and writes a folder', async () => {
    const output = join(folder, 'deep/merged')
    const { files, tensors, report } = await merge(examples, {}, { output })
    expect(files).toEqual([])
    expect(tensors.size).toBe(0)
    expect(report.inputs.map(({ name }) => name)).toEqual(['add3', 'rotl2', 'swapnb'])
    expect((await readdir(output)).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
    expect(await readdir(join(folder, 'deep'))).toEqual(['merged'])
    const written = await bytes(join(output, 'adapter_model.safetensors'))
    expect(parse(written.buffer).size).toBe(56)
    const inMemory = await merge(examples)
    expect(new Uint8Array(await (inMemory.files[0] as File).arrayBuffer())).toEqual(written)
    // What is written can be merged again.
    expect((await merge([output, ...examples], {}, { output: join(folder, 'again') })).report.modules).toHaveLength(28)
  })

  it('writes to a file what memory gets, with hashes that are known last', async () => {
    const flat = new File([safetensors(kohyaTensors(pairsOf(parse((await bytes('examples/add3/adapter_model.safetensors')).buffer)), 2, flatName))], 'flat.safetensors')
    const { report } = await merge([flat, flat], {}, { output: join(folder, 'merged.safetensors'), hashes: true })
    const written = await bytes(join(folder, 'merged.safetensors'))
    expect(metadataOf(written.buffer)).toMatchObject(await kohyaHashes(written.buffer))
    expect(report.outputs[0]?.sha256).toBe(await hexDigest(written))
    expect(new Uint8Array(await ((await merge([flat, flat], {}, { hashes: true })).files[0] as File).arrayBuffer())).toEqual(written)
  })

  it('replaces its own files in a folder that is there, and no others', async () => {
    await writeFile(join(folder, 'notes.txt'), 'mine')
    await writeFile(join(folder, 'adapter_config.json'), 'old')
    await merge(examples, {}, { output: folder })
    expect((await readdir(folder)).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors', 'notes.txt'])
    expect(await readFile(join(folder, 'adapter_config.json'), 'utf8')).toContain('peft_type')
  })

  it('leaves nothing behind when it fails or is cancelled', async () => {
    const bad = adapter([{ bad: NaN }])
    await expect(merge([bad], {}, { output: join(folder, 'out') })).rejects.toMatchObject({ code: 'not_finite' })
    expect(await readdir(folder)).toEqual([])

    const controller = new AbortController()
    const many = Array.from({ length: 40 }, (_, i) => ({ module: `m${i}`, rank: 64, in: 512, out: 512 }))
    const big = adapter(many, { r: 64 })
    setTimeout(() => controller.abort(), 300)
    await expect(merge([big, big, big], { method: 'lego', restarts: 10_000 }, { output: join(folder, 'out'), signal: controller.signal })).rejects.toMatchObject({ name: 'AbortError' })
    expect(await readdir(folder)).toEqual([])
  })

  it('refuses to write over an input, or a file', async () => {
    await mkdir(join(folder, 'in'))
    for (const file of adapter()) await writeFile(join(folder, 'in', file.name), new Uint8Array(await file.arrayBuffer()))
    await expect(merge([join(folder, 'in')], {}, { output: join(folder, 'in') })).rejects.toMatchObject({ code: 'output_is_input' })
    await writeFile(join(folder, 'file'), '')
    await expect(merge([join(folder, 'in')], {}, { output: join(folder, 'file') })).rejects.toMatchObject({ code: 'write_failed' })
    await expect(merge([join(folder, 'in')], {}, { output: join(folder, 'file/below') })).rejects.toMatchObject({ code: 'write_failed' })
    expect((await stat(join(folder, 'in/adapter_model.safetensors'))).size).toBeGreaterThan(0)
  })

  it('says when a path is wrong', async () => {
    await expect(merge([join(folder, 'nowhere')])).rejects.toMatchObject({ code: 'not_found' })
    await expect(merge([folder])).rejects.toMatchObject({ code: 'bad_input' })
    await expect(merge([new URL('https://example.org/adapter')])).rejects.toMatchObject({ code: 'bad_input' })
    await writeFile(join(folder, 'adapter_model.bin'), new Uint8Array([0x80, 2, 0x7d, 0x71, 0, 0x2e, 0, 0]))
    await writeFile(join(folder, 'adapter_config.json'), '{}')
    await expect(merge([folder])).rejects.toMatchObject({ code: 'pickle_file' })
  })

  it('gives the same bytes with 1, 2 and 3 threads', async () => {
    const results: Uint8Array[] = []
    for (const threads of [1, 2, 3]) {
      const merger = createMerger({ threads })
      expect(merger.threads).toBe(threads)
      const { files } = await merger.merge(examples, { rank: 6 })
      results.push(new Uint8Array(await (files[0] as File).arrayBuffer()))
      await merger.close()
    }
    expect(results[1]).toEqual(results[0])
    expect(results[2]).toEqual(results[0])
  })

  it('does not keep a process alive whose merger was never closed', async () => {
    const library = new URL('../../dist/node/index.js', import.meta.url).href
    const script = `const { createMerger } = await import('${library}'); await createMerger({ threads: 2 }).inspect('examples/add3')`
    const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 })
    expect(status).toBe(0)
  })

  it('refuses a number of threads that is none', () => {
    for (const threads of [0, -1, 1.5, 65, NaN]) expect(() => createMerger({ threads })).toThrow(MergeError)
  })
})

// README.md does what it says: its Node example and its commands run as they stand.

import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'

const run = promisify(execFile)
let folder: string
let blocks: { language: string; text: string }[]

beforeAll(async () => {
  // A project of its own, with the package installed and the examples at hand.
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-readme-'))
  await symlink(resolve('examples'), join(folder, 'examples'))
  await run('mkdir', ['-p', join(folder, 'node_modules')])
  await symlink(resolve('.'), join(folder, 'node_modules/lora-lego'))
  await mkdir(join(folder, 'base'))
  // What GGUF adapters must know of the examples' base model.
  await writeFile(join(folder, 'base/config.json'), JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 }))
  const readme = await readFile('README.md', 'utf8')
  blocks = [...readme.matchAll(/```(\w+)\n([^]*?)```/g)].map(([, language = '', text = '']) => ({ language, text }))
})
afterAll(() => rm(folder, { recursive: true }))

it('the Node example runs', async () => {
  const [example] = blocks.filter(({ language }) => language === 'js')
  await writeFile(join(folder, 'example.mjs'), example?.text ?? '')
  const { stdout } = await run(process.execPath, ['example.mjs'], { cwd: folder })
  expect(stdout).toMatch(/^28 modules, 3\d{5} bytes\n[^]*lora_A\.weight \[ 8, 352 \][^]*relative error 0\.\d+/)
})

it('the commands run', { timeout: 120_000 }, async () => {
  const commands = blocks.filter(({ language }) => language === 'sh').flatMap(({ text }) => text.split('\n').filter(line => line.startsWith('lora-lego ')))
  expect(commands.length).toBeGreaterThanOrEqual(4)
  for (const command of commands) {
    const { stdout } = await run('sh', ['-c', command.replace('lora-lego', `${process.execPath} ${resolve('dist/node/cli.js')}`)], { cwd: folder })
    expect(stdout).not.toBe('')
  }
})

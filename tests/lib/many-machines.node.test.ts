// docs/many-machines.md and docs/kubernetes-job.yaml do what they say: their commands run as they stand.

import { execFile } from 'node:child_process'
import { chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { parseAllDocuments } from 'yaml'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hexDigest } from './fixtures.js'

const run = promisify(execFile)
let folder: string
let env: NodeJS.ProcessEnv
let blocks: { language: string; text: string }[]
let whole: string

const sh = (command: string, more: NodeJS.ProcessEnv = {}): Promise<{ stdout: string; stderr: string }> => run('bash', ['-ec', command], { cwd: folder, env: { ...env, ...more } })
/** Digest of what was merged to a folder. */
const merged = async (path: string): Promise<string> => hexDigest(await readFile(join(folder, path, 'adapter_model.safetensors')))
/** The block of a language below a heading. */
const block = (language: string, heading: string, text: string): string => {
  const section = text.split(/^## /m).find(part => part.startsWith(heading)) ?? ''
  const found = new RegExp('```' + language + '\\n([^]*?)```').exec(section)?.[1]
  if (found === undefined) throw new Error(`there is no block of ${language} below ${heading}`)
  return found
}
let page: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lora-lego-machines-'))
  await cp('examples', join(folder, 'examples'), { recursive: true })
  await mkdir(join(folder, 'bin'))
  await mkdir(join(folder, 'base'))
  await writeFile(join(folder, 'base/config.json'), JSON.stringify({ model_type: 'llama', num_attention_heads: 4, num_key_value_heads: 4 }))
  await writeFile(join(folder, 'bin/lora-lego'), `#!/bin/sh\nexec '${process.execPath}' '${resolve('dist/node/cli.js')}' "$@"\n`)
  await chmod(join(folder, 'bin/lora-lego'), 0o755)
  env = { ...process.env, PATH: `${join(folder, 'bin')}:${process.env.PATH}`, HOME: folder }
  page = await readFile('docs/many-machines.md', 'utf8')
  blocks = [...page.matchAll(/```(\w+)\n([^]*?)```/g)].map(([, language = '', text = '']) => ({ language, text }))
  await sh('lora-lego merge examples/* -o whole --rank 8')
  whole = await merged('whole')
})
afterAll(() => rm(folder, { recursive: true }))

describe('docs/many-machines.md', { timeout: 120_000 }, () => {
  it('says no command that is not run here', () => {
    expect(blocks.map(({ language }) => language)).toEqual(['sh', 'sh', 'bash', 'dockerfile', 'jsonl', 'sh'])
  })

  it('by hand', async () => {
    await sh(block('sh', '# Many machines', page))
    // The report has hashes of the outputs.
    expect(JSON.parse(await readFile(join(folder, 'report.json'), 'utf8'))).toMatchObject({ modules: { length: 28 }, outputs: [{ sha256: whole }, {}] })
    expect(await merged('merged')).toBe(whole)
  })

  it('GNU parallel', async () => {
    await sh(block('sh', 'GNU parallel', page))
    expect(await merged('merged-by-parallel')).toBe(whole)
  })

  it('Slurm', async () => {
    const script = block('bash', 'Slurm', page)
    const [, from, to] = /^#SBATCH --array=(\d+)-(\d+)$/m.exec(script) ?? []
    for (let task = Number(from); task <= Number(to); task++) await sh(script, { SLURM_ARRAY_TASK_ID: String(task), SLURM_ARRAY_TASK_COUNT: String(to), SLURM_CPUS_PER_TASK: '2' })
    const wrapped = /--wrap '([^']+)'/.exec(page)?.[1] as string
    await sh(wrapped)
    expect(await merged('merged-by-slurm')).toBe(whole)
  })

  it('a batch', async () => {
    await writeFile(join(folder, 'recipes.jsonl'), block('jsonl', 'Many merges', page))
    expect((await sh(block('sh', 'Many merges', page))).stdout).toMatch(/3 done, 0 failed, 0 done before/)
    expect((await sh(block('sh', 'Many merges', page))).stdout).toMatch(/0 done, 0 failed, 3 done before/)
  })
})

it('docs/kubernetes-job.yaml is an indexed job whose commands run', { timeout: 120_000 }, async () => {
  const text = await readFile('docs/kubernetes-job.yaml', 'utf8')
  const documents = parseAllDocuments(text)
  expect(documents.flatMap(document => ('errors' in document ? document.errors : []))).toEqual([])
  interface Container {
    command: string[]
    args: [string]
    volumeMounts: { name: string; mountPath: string }[]
  }
  interface Manifest {
    apiVersion: string
    kind: string
    metadata: { name: string }
    spec: { completionMode?: string; completions?: number; parallelism?: number; template: { spec: { restartPolicy: string; containers: [Container]; volumes: { name: string; persistentVolumeClaim: { claimName: string } }[] } } }
  }
  const [claim, merge, joining] = documents.map(document => document.toJS() as Manifest) as [Manifest, Manifest, Manifest]
  expect([claim, merge, joining].map(({ apiVersion, kind }) => `${apiVersion} ${kind}`)).toEqual(['v1 PersistentVolumeClaim', 'batch/v1 Job', 'batch/v1 Job'])
  expect(merge.spec).toMatchObject({ completionMode: 'Indexed', completions: 8, parallelism: 8 })
  for (const { spec } of [merge, joining]) {
    const { restartPolicy, containers, volumes } = spec.template.spec
    expect(restartPolicy).toBe('Never')
    expect(containers[0].volumeMounts).toEqual([{ name: volumes[0]?.name, mountPath: '/data' }])
    expect(volumes[0]?.persistentVolumeClaim.claimName).toBe(claim.metadata.name)
  }
  const data = join(folder, 'data')
  await mkdir(data)
  await cp('examples', join(data, 'adapters'), { recursive: true })
  const pod = ({ spec }: Manifest, more: NodeJS.ProcessEnv = {}): Promise<unknown> => {
    const [container] = spec.template.spec.containers
    const [program, ...flags] = container.command as [string, string]
    return run(program, [...flags, container.args[0].replaceAll('/data/', `${data}/`).replaceAll('/data ', `${data} `)], { cwd: '/', env: { ...env, ...more } })
  }
  // The pod that joins may be there first: it waits.
  const joined = pod(joining)
  for (let index = 0; index < 8; index++) await pod(merge, { JOB_COMPLETION_INDEX: String(index) })
  await joined
  expect(await merged('data/merged')).toBe(whole)
})

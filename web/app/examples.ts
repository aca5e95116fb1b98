// The adapters that the page brings along: trained for six small tasks on one small model.

import type { FileGroup } from './files.js'

const tasks = ['sortdesc', 'swapnb', 'rotl2', 'add3', 'interleave', 'revhalf2']

export async function fetchExamples(): Promise<FileGroup[]> {
  return Promise.all(
    tasks.map(async name => {
      const [tensors, config] = await Promise.all(['adapter_model.safetensors', 'adapter_config.json'].map(file => fetchFile(`examples/${name}/`, file)))
      return { name, ...(tensors && { tensors }), ...(config && { config }) }
    }),
  )
}

async function fetchFile(folder: string, name: string): Promise<File> {
  const response = await fetch(folder + name)
  if (!response.ok) throw new Error(`${folder}${name}: ${response.status} ${response.statusText}`)
  return new File([await response.blob()], name)
}

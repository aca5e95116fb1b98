// How the page makes adapters of files that people give.

import { describe, expect, it } from 'vitest'
import { groupFiles } from '../../web/app/files.js'

/** Groups by their files' paths: "name: tensors + config". */
function groups(...paths: string[]): string[] {
  const files = paths.map(path => ({ path, file: new File([], path) }))
  return groupFiles(files).map(({ name, tensors, config }) => `${name}: ${[tensors, config].flatMap(file => file?.name ?? []).join(' + ')}`)
}

describe('a folder of one adapter', () => {
  it.each(['adapter_model.safetensors', 'adapters.safetensors'])('with %s is called after it', file => {
    expect(groups(`x/style/${file}`, 'x/style/adapter_config.json', 'x/style/README.md')).toEqual([`style: x/style/${file} + x/style/adapter_config.json`])
  })
  it('passes over checkpoints, optimizers and pickles', () => {
    expect(groups('a/0000100_adapters.safetensors', 'a/adapters.safetensors', 'a/adapter_config.json')).toEqual(['a: a/adapters.safetensors + a/adapter_config.json'])
    expect(groups('a/optimizer.pt', 'a/adapter_model.bin', 'a/adapter_model.safetensors', 'a/adapter_config.json')).toEqual(['a: a/adapter_model.safetensors + a/adapter_config.json'])
    expect(groups('a/pytorch_lora_weights.safetensors', 'a/optimizer.bin', 'a/scheduler.bin')).toEqual(['a: a/pytorch_lora_weights.safetensors'])
  })
  it('may have checkpoints alone', () => {
    expect(groups('a/0000100_adapters.safetensors', 'a/0000200_adapters.safetensors', 'a/adapter_config.json')).toEqual([
      '0000100_adapters: a/0000100_adapters.safetensors + a/adapter_config.json',
      '0000200_adapters: a/0000200_adapters.safetensors + a/adapter_config.json',
    ])
  })
  it('may have given its only tensor file another name', () => {
    expect(groups('a/mine.safetensors', 'a/adapter_config.json')).toEqual(['mine: a/mine.safetensors + a/adapter_config.json'])
  })
  it('may hold nothing but a pickle, or a config', () => {
    expect(groups('a/adapter_model.bin', 'a/optimizer.pt', 'a/adapter_config.json')).toEqual(['a: a/adapter_model.bin + a/adapter_config.json'])
    expect(groups('a/adapter_config.json')).toEqual(['a: a/adapter_config.json'])
  })
})

describe('a folder of many adapters', () => {
  it('has one in each file, and its config belongs to none of them', () => {
    const names = Array.from({ length: 10 }, (_, i) => `style-${i}`)
    expect(groups(...names.map(name => `loras/${name}.safetensors`), 'loras/adapter_config.json', 'loras/notes.txt')).toEqual(names.map(name => `${name}: loras/${name}.safetensors`))
  })
  it('comes in the order of names, numbers counted', () => {
    expect(groups('l/s-10.safetensors', 'l/s-9.safetensors')).toEqual(['s-9: l/s-9.safetensors', 's-10: l/s-10.safetensors'])
  })
  it('has no adapter in hidden files', () => {
    expect(groups('loras/._a.safetensors', 'loras/a.safetensors')).toEqual(['a: loras/a.safetensors'])
  })
  it('may have folders', () => {
    expect(groups('x/a/adapter_model.safetensors', 'x/a/adapter_config.json', 'x/b.safetensors', 'x/c/adapters.safetensors', 'x/c/adapter_config.json')).toEqual([
      'a: x/a/adapter_model.safetensors + x/a/adapter_config.json',
      'b: x/b.safetensors',
      'c: x/c/adapters.safetensors + x/c/adapter_config.json',
    ])
  })
})

describe('files given one by one', () => {
  it('are all meant, and the config is for the one that uses it', () => {
    expect(groups('style.safetensors', 'adapter_model.safetensors', 'adapter_config.json')).toEqual(['adapter_model: adapter_model.safetensors + adapter_config.json', 'style: style.safetensors'])
  })
  it('may be of kinds that the library refuses', () => {
    expect(groups('old.ckpt', 'old.pt', 'base.gguf')).toEqual(['base: base.gguf', 'old: old.ckpt', 'old: old.pt'])
    expect(groups('notes.txt', 'picture.png')).toEqual([])
  })
})

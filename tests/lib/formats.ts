// Adapters in other formats than PEFT's, made and read by the tests alone; the same in Node and in browsers.

import { dataHash, hexDigest, type TensorSpec, type Values } from './fixtures.js'

const prefix = 'base_model.model.'

/** A PEFT adapter's pairs by module path. */
export function pairsOf(tensors: ReadonlyMap<string, Values>): Map<string, { a: Values; b: Values }> {
  const pairs = new Map<string, { a: Values; b: Values }>()
  for (const [name, a] of tensors) {
    if (!name.endsWith('.lora_A.weight')) continue
    const b = tensors.get(name.replace('.lora_A.', '.lora_B.'))
    if (!b) throw new Error(`${name} has no lora_B`)
    pairs.set(name.slice(prefix.length, -'.lora_A.weight'.length), { a, b })
  }
  return pairs
}

const spec = (name: string, { shape, values }: Values): TensorSpec => ({ name, shape, values: [...values] })

/** The same factors as kohya's trainers write them: names are what `nameOf` makes of the path, alpha = scale * rank. */
export function kohyaTensors(pairs: ReadonlyMap<string, { a: Values; b: Values }>, scale: number, nameOf: (path: string) => string): TensorSpec[] {
  return [...pairs].flatMap(([path, { a, b }]) => [
    spec(`${nameOf(path)}.lora_down.weight`, a),
    spec(`${nameOf(path)}.lora_up.weight`, b),
    { name: `${nameOf(path)}.alpha`, shape: [], values: [scale * (a.shape[0] as number)] },
  ])
}

/** The same as diffusers writes them, in a model's component; it has no place for a scale, which goes into B. */
export function diffusersTensors(pairs: ReadonlyMap<string, { a: Values; b: Values }>, scale: number, component: string): TensorSpec[] {
  return [...pairs].flatMap(([path, { a, b }]) => [spec(`${component}.${path}.lora_A.weight`, a), spec(`${component}.${path}.lora_B.weight`, { ...b, values: b.values.map(value => scale * value) })])
}

/** What sd-scripts' precalculate_safetensors_hashes gives for the tensors of a kohya file, in their order there. */
export async function kohyaHashes(file: ArrayBuffer): Promise<{ sshs_model_hash: string; sshs_legacy_hash: string }> {
  const dataBegin = 8 + Number(new DataView(file).getBigUint64(0, true))
  const { __metadata__: about, ...tensors } = JSON.parse(new TextDecoder().decode(file.slice(8, dataBegin))) as { __metadata__: Record<string, string> }
  const training = Object.fromEntries(Object.entries(about).filter(([key]) => key.startsWith('ss_')))
  let header = new TextEncoder().encode(JSON.stringify({ __metadata__: training, ...tensors }))
  header = new TextEncoder().encode(new TextDecoder().decode(header) + ' '.repeat((8 - (header.length % 8)) % 8))
  const written = await new Blob([new BigUint64Array([BigInt(header.length)]), header, file.slice(dataBegin)]).arrayBuffer()
  return { sshs_model_hash: await dataHash(file), sshs_legacy_hash: (await hexDigest(written.slice(0x100000, 0x110000))).slice(0, 8) }
}

export const flatName = (path: string): string => `lora_unet_${path.replaceAll('.', '_')}`

/** [rows, columns] turned around. */
export function transposed({ shape, values }: Values): Values {
  const [rows, columns] = shape as [number, number]
  return { shape: [columns, rows], values: Float32Array.from(values, (_, at) => values[(at % rows) * columns + Math.floor(at / rows)] as number) }
}

/** scale * B A, [out, in], row by row. */
export function delta(a: Values, b: Values, scale = 1): Float64Array {
  const [rank, columns] = a.shape as [number, number]
  const rows = b.shape[0] as number
  const result = new Float64Array(rows * columns)
  for (let row = 0; row < rows; row++) {
    for (let unit = 0; unit < rank; unit++) {
      const factor = scale * (b.values[row * rank + unit] as number)
      for (let column = 0; column < columns; column++) result[row * columns + column] = (result[row * columns + column] as number) + factor * (a.values[unit * columns + column] as number)
    }
  }
  return result
}

/** What a DoRA adapter makes of a weight: diag(m) (W + scale B A) / |W + scale B A|, norms by rows; [out, in], row by row. */
export function dora(weight: readonly number[], a: Values, b: Values, scale: number, magnitude: ArrayLike<number>): Float64Array {
  const result = delta(a, b, scale).map((value, at) => value + (weight[at] as number))
  const columns = a.shape[1] as number
  for (let row = 0; row < magnitude.length; row++) {
    const values = result.subarray(row * columns, (row + 1) * columns)
    const norm = Math.hypot(...values)
    for (const [at, value] of values.entries()) values[at] = (value * (magnitude[row] as number)) / norm
  }
  return result
}

/** Deltas of a PEFT adapter by module path, every module of one scale. */
export const deltasOf = (tensors: ReadonlyMap<string, Values>, scale = 1): Map<string, Float64Array> => new Map([...pairsOf(tensors)].map(([path, { a, b }]) => [path, delta(a, b, scale)]))

/** The largest difference between two adapters' deltas, each relative to the largest entry of its module. NaN where they have other modules. */
export function distance(found: ReadonlyMap<string, Float64Array>, wanted: ReadonlyMap<string, Float64Array>): number {
  if (found.size !== wanted.size || wanted.size === 0) return NaN
  let largest = 0
  for (const [path, expected] of wanted) {
    const own = found.get(path)
    if (own?.length !== expected.length) return NaN
    const most = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
    const error = own.reduce((max, value, at) => Math.max(max, Math.abs(value - (expected[at] as number))), 0)
    largest = Math.max(largest, error / most)
  }
  return largest
}

// Adapters that no honest tool writes, made from one good adapter: cut, flipped, overlapping, lying. The same in
// Node, in browsers and for the command line.

import { adapterFiles, config, keyA, keyB, pair, rawFile, safetensors } from './fixtures.js'

export interface Malformed {
  readonly title: string
  /** The codes that it may get. */
  readonly codes: readonly string[]
  readonly files: readonly File[]
}

const encode = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text)
const good = safetensors(pair())
const headerSize = Number(new DataView(good.buffer).getBigUint64(0, true))
const headerText = new TextDecoder().decode(good.subarray(8, 8 + headerSize))
const dataBytes = good.length - 8 - headerSize

/** What can be wrong with a container. */
const containerCodes = ['file_truncated', 'header_too_large', 'bad_header', 'trailing_bytes', 'duplicate_tensor', 'tensor_overlap', 'tensor_hole', 'bad_offsets', 'size_mismatch', 'size_overflow', 'unknown_dtype']
/** And with the adapter in it. */
const adapterCodes = ['no_factors', 'unpaired_factor', 'rank_zero', 'rank_mismatch', 'shape_mismatch', 'unsupported_tensors', 'unsupported_dtype', 'duplicate_module']

const broken = (title: string, codes: readonly string[], file: Uint8Array<ArrayBuffer>, settings: Uint8Array<ArrayBuffer> = config()): Malformed => ({ title, codes, files: adapterFiles(file, settings, 'bad') })
/** The good adapter's data under another header. */
const withHeader = (title: string, codes: readonly string[], header: string | Uint8Array<ArrayBuffer>, bytes = dataBytes): Malformed => broken(title, codes, rawFile(header, bytes))
const replaced = (title: string, codes: readonly string[], from: string | RegExp, to: (found: string) => string): Malformed => {
  const header = headerText.replace(from, to)
  if (header === headerText) throw new Error(`${title}: nothing to replace`)
  return withHeader(title, codes, header)
}

function truncations(): Malformed[] {
  const sizes = [...Array.from({ length: 8 + headerSize }, (_, i) => i).filter(size => size < 16 || size % 4 === 0), ...Array.from({ length: 12 }, (_, i) => good.length - 1 - i * 7)]
  return sizes.map(size => broken(`cut after ${size} of ${good.length} bytes`, ['file_truncated'], good.slice(0, size)))
}

function extensions(): Malformed[] {
  return [1, 2, 7, 8, 100].map(count => broken(`${count} bytes too many`, ['trailing_bytes'], new Uint8Array([...good, ...new Uint8Array(count)])))
}

/** Every kind of byte that a header has, changed in one bit: names, types, numbers, brackets, all of which count. */
function flips(): Malformed[] {
  return Array.from({ length: headerSize }, (_, at) => {
    const bit = [0, 1, 4, 5, 7][at % 5] as number
    const file = good.slice()
    file[8 + at] = (file[8 + at] as number) ^ (1 << bit)
    return broken(`bit ${bit} of header byte ${at} flipped`, [...containerCodes, ...adapterCodes], file)
  })
}

function claimedSizes(): Malformed[] {
  const claims = [0n, 1n, 2n, BigInt(headerSize) - 1n, BigInt(headerSize) + 1n, BigInt(good.length), 100_000_000n, 100_000_001n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 9n, 2n ** 64n - 8n, 2n ** 64n - 1n]
  return claims.map(claim => {
    const file = good.slice()
    new DataView(file.buffer).setBigUint64(0, claim, true)
    return broken(`a header that claims ${claim} bytes`, containerCodes, file)
  })
}

function wrongTypes(): Malformed[] {
  const values = ['null', 'true', '-1', '1.5', '1e400', '"4"', '{}', '[]', '[[]]', '[null]', '[-1]', '[0.5]', '["1"]', '[1e30]', '18446744073709551616', '[18446744073709551616]', '[{}]']
  const fields = { dtype: /"dtype":"F32"/, shape: /"shape":\[[^\]]*\]/, data_offsets: /"data_offsets":\[[^\]]*\]/ }
  return Object.entries(fields).flatMap(([field, pattern]) => [
    ...values.map(value => replaced(`${field} is ${value}`, containerCodes, pattern, () => `"${field}":${value}`)),
    replaced(`${field} is missing`, ['bad_header'], new RegExp(`${pattern.source},?`), () => (field === 'data_offsets' ? '"x":1' : '')),
    replaced(`${field} stands twice`, ['bad_header'], pattern, found => `${found},${found}`),
  ])
}

function structures(): Malformed[] {
  const entry = (name: string, shape: string, begin: number | string, end: number | string, dtype = 'F32'): string => `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`
  const two = (first: string, second: string): string => `{${first},${second}}`
  const deep = 20_000
  return [
    withHeader('a header that is a list', ['bad_header'], '[]', 0),
    withHeader('a header that is a number', ['bad_header'], '12', 0),
    withHeader('a header that is a string', ['bad_header'], '"{}"', 0),
    withHeader('an empty header', ['bad_header', 'file_truncated'], '', 0),
    withHeader('spaces in front', ['bad_header'], ` ${headerText}`),
    withHeader('a second document behind', ['bad_header'], `${headerText}{}`),
    withHeader('a NUL behind', ['bad_header'], `${headerText}\0`),
    withHeader('a comma at the end', ['bad_header'], headerText.replace(/\}$/, ',}')),
    withHeader('no tensors', ['no_factors'], '{}', 0),
    withHeader('only metadata', ['no_factors'], '{"__metadata__":{"a":"b"}}', 0),
    withHeader('metadata twice', ['bad_header'], '{"__metadata__":{},"__metadata__":{}}', 0),
    withHeader('metadata that is no object', ['bad_header'], '{"__metadata__":[]}', 0),
    ...['1', 'null', '{}', '[]', 'true'].map(value => withHeader(`a metadata value ${value}`, ['bad_header'], `{"__metadata__":{"a":${value}}}`, 0)),
    withHeader('an entry that is a number', ['bad_header'], '{"x":1}', 0),
    withHeader('an entry that is a list', ['bad_header'], '{"x":[]}', 0),
    withHeader('an entry that is null', ['bad_header'], '{"x":null}', 0),
    withHeader('nesting without end in an unknown field', ['bad_header'], `{"x":{"y":${'['.repeat(deep)}`, 0),
    withHeader('objects without end', ['bad_header'], '{"x":'.repeat(deep), 0),
    withHeader('two tensors in one place', ['tensor_overlap'], two(entry('x', '[2]', 0, 8), entry('y', '[2]', 0, 8)), 8),
    withHeader('tensors that overlap by a byte', ['tensor_overlap'], two(entry('x', '[2]', 0, 8), entry('y', '[1]', 7, 11)), 11),
    withHeader('one tensor inside another', ['tensor_overlap'], two(entry('x', '[4]', 0, 16), entry('y', '[1]', 4, 8)), 16),
    withHeader('a hole at the start', ['tensor_hole'], `{${entry('x', '[1]', 4, 8)}}`, 8),
    withHeader('a hole of one byte', ['tensor_hole'], two(entry('x', '[1]', 0, 4), entry('y', '[1]', 5, 9)), 9),
    withHeader('a hole where an empty tensor stands', ['tensor_hole'], two(entry('x', '[1]', 0, 4), entry('y', '[0]', 8, 8)), 8),
    withHeader('an end before its begin', ['bad_offsets'], `{${entry('x', '[1]', 4, 0)}}`, 4),
    withHeader('one name twice', ['duplicate_tensor'], two(entry('x', '[1]', 0, 4), entry('x', '[1]', 4, 8)), 8),
    withHeader('one name twice, spelt differently', ['duplicate_tensor'], `{${entry('x', '[1]', 0, 4)},"\\u0078":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
    withHeader('an offset of 2^64 - 1', containerCodes, `{${entry('x', '[1]', '18446744073709551611', '18446744073709551615')}}`, 4),
    withHeader('offsets beyond the file', ['file_truncated', 'size_mismatch'], `{${entry('x', '[1000000000000]', 0, 4_000_000_000_000)}}`, 4),
    ...['[4294967296,4294967296]', '[9223372036854775808,2]', '[18446744073709551615]', '[65536,65536,65536,65536]', '[3,6148914691236517206]'].map(shape => withHeader(`a shape ${shape} whose size overflows`, ['size_overflow', 'size_mismatch'], `{${entry('x', shape, 0, 4)}}`, 4)),
    withHeader('nine dimensions', ['bad_header'], `{${entry('x', '[1,1,1,1,1,1,1,1,1]', 0, 4)}}`, 4),
    withHeader('a million dimensions', ['bad_header'], `{${entry('x', `[${Array(1_000_000).fill(1).join()}]`, 0, 4)}}`, 4),
    withHeader('three offsets', ['bad_header'], `{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4),
    withHeader('one offset', ['bad_header'], `{"x":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 4),
    withHeader('half a byte of data', ['size_mismatch'], `{${entry('x', '[1]', 0, 1, 'F4')}}`, 1),
    ...['', 'F17', 'f32', 'F32 ', 'FLOAT', 'F8', '\\u0000F32'].map(dtype => withHeader(`a dtype '${dtype}'`, ['unknown_dtype'], `{${entry('x', '[1]', 0, 4, dtype)}}`, 4)),
    withHeader('a hundred thousand tensors of no size', ['no_factors'], `{${Array.from({ length: 100_000 }, (_, i) => entry(`t${i}`, '[0]', 0, 0)).join()}}`, 0),
  ]
}

function names(): Malformed[] {
  const invalid = (bytes: number[]): Uint8Array<ArrayBuffer> => {
    const at = headerText.indexOf('layer')
    return new Uint8Array([...encode(headerText.slice(0, at)), ...bytes, ...encode(headerText.slice(at))])
  }
  return [
    ...[[0x80], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0xff, 0xfe], [0x00], [0x1f], [0x0a]].map(bytes => withHeader(`a name with the bytes ${bytes.map(byte => byte.toString(16)).join(' ')}`, ['bad_header'], invalid(bytes))),
    ...['\\ud800', '\\udc00\\ud800', '\\u12', '\\x41', '\\'].map(escape => replaced(`a name with ${escape}`, ['bad_header'], 'layer', () => escape)),
    replaced('a name with an escaped NUL', ['unpaired_factor'], 'layer', () => 'la\\u0000yer'),
    replaced('a name of a megabyte', ['unpaired_factor'], 'layer', () => 'x'.repeat(1_000_000)),
    replaced('a name of line ends and quotes', ['unpaired_factor'], 'layer', () => '\\n\\r\\"\\\\\\u001b[31m'),
    replaced('no name', ['unsupported_tensors', 'unpaired_factor'], keyA('layer'), () => ''),
  ]
}

function factors(): Malformed[] {
  const shapes = (title: string, codes: readonly string[], a: number[], b: number[], dtype = 'F32'): Malformed => broken(title, codes, safetensors([{ name: keyA('layer'), shape: a, dtype }, { name: keyB('layer'), shape: b, dtype }]))
  return [
    shapes('A is a scalar', ['shape_mismatch'], [], [5, 2]),
    shapes('A is a vector', ['shape_mismatch'], [2], [5, 2]),
    shapes('B is a vector', ['shape_mismatch'], [2, 6], [5]),
    shapes('A is turned around', ['rank_mismatch'], [6, 2], [5, 2]),
    shapes('B is turned around', ['rank_mismatch'], [2, 6], [2, 5]),
    shapes('A has no columns', ['shape_mismatch'], [2, 0], [5, 2]),
    shapes('B has no rows', ['shape_mismatch'], [2, 6], [0, 2]),
    shapes('no rank', ['rank_zero'], [0, 6], [5, 0]),
    shapes('a kernel and a matrix', ['shape_mismatch'], [2, 6, 3, 3], [5, 2]),
    shapes('a lora_B of 3 x 3', ['shape_mismatch'], [2, 6, 3, 3], [5, 2, 3, 3]),
    shapes('six dimensions', ['shape_mismatch'], [2, 6, 1, 1, 1, 1], [5, 2, 1, 1, 1, 1]),
    ...['I32', 'U8'].map(dtype => shapes(`factors of ${dtype}`, ['unsupported_dtype'], [2, 6], [5, 2], dtype)),
    ...[NaN, Infinity, -Infinity].flatMap(value => [0, 1].map(which => broken(`${value} in factor ${which}`, ['not_finite'], safetensors(pair().map((tensor, i) => (i === which ? { ...tensor, values: [...(tensor.values as number[]).slice(1), value] } : tensor)))))),
    broken('A twice, under two names', ['duplicate_module'], safetensors([...pair(), { name: 'base_model.model.layer.lora_A.default.weight', shape: [2, 6] }])),
    broken('a factor without its module', ['unsupported_tensors'], safetensors([...pair(), { name: 'base_model.model.lora_A.weight', shape: [2, 6] }])),
  ]
}

function configs(): Malformed[] {
  const settings = (title: string, codes: readonly string[], text: string): Malformed => broken(title, codes, good, encode(text))
  const field = (name: string, value: string): string => `{"peft_type":"LORA","r":2,"lora_alpha":2,"${name}":${value}}`
  const wrong: Record<string, string[]> = {
    use_rslora: ['1', '"true"', '[]'],
    fan_in_fan_out: ['0', '"no"', '{}'],
    base_model_name_or_path: ['1', '[]', 'true'],
    rank_pattern: ['[]', '1', '"a"', '{"layer":"2"}', '{"layer":null}', '{"layer":-2}', '{"layer":2.5}', '{"layer":1e99}'],
    alpha_pattern: ['[]', 'true', '{"layer":"2"}', '{"layer":[2]}', '{"layer":1e999}'],
  }
  const patterns = ['(', ')', '[', '[z-a]', '*', 'a{2,1}', 'a{99999999}', '(a{1000}){1000}', '(?=a)', '(?<=a)', '(?i)a', '(a)\\1', '\\', 'x'.repeat(5000)]
  return [
    ...['', ' ', '{', '{"peft_type":"LORA"', '[]', '1', 'null', '"LORA"', '{"peft_type":"LORA"}x', '{"peft_type":"LORA","r":2,"r":2}', `{"peft_type":"LORA","x":${'['.repeat(100)}${']'.repeat(100)}}`, '[{"peft_type":"LORA"}]'].map(text => settings(`a config ${text.slice(0, 30)}`, ['bad_config'], text)),
    ...['"2"', '-1', '2.5', '1e30', '[]', 'true'].map(rank => settings(`r is ${rank}`, ['bad_config'], `{"peft_type":"LORA","r":${rank}}`)),
    ...['"2"', '[]', 'true', '1e999', '{}'].map(alpha => settings(`lora_alpha is ${alpha}`, ['bad_config'], `{"peft_type":"LORA","r":2,"lora_alpha":${alpha}}`)),
    ...Object.entries(wrong).flatMap(([name, values]) => values.map(value => settings(`${name} is ${value}`, ['bad_config'], field(name, value)))),
    ...patterns.map(pattern => settings(`the pattern ${pattern.slice(0, 20)}`, ['bad_pattern'], field('rank_pattern', JSON.stringify({ [pattern]: 2 })))),
    ...['1', 'null', '"IA3"', '"lora"', '""'].map(type => settings(`peft_type is ${type}`, ['bad_config', 'unsupported_adapter'], `{"peft_type":${type},"r":2}`)),
    settings('a config of five megabytes', ['bad_config'], field('note', JSON.stringify('x'.repeat(5_000_000)))),
    settings('a config of a million brackets', ['bad_config'], '['.repeat(1_000_000)),
    settings('rank 0', ['rank_zero'], '{"peft_type":"LORA","r":0}'),
    broken('a config that is not UTF-8', ['bad_config'], good, new Uint8Array([...encode('{"peft_type":"LORA","x":"'), 0xff, ...encode('"}')])),
    broken('a config in UTF-16', ['bad_config'], good, new Uint8Array([0xff, 0xfe, 0x7b, 0, 0x7d, 0])),
  ]
}

/** All of them: more than 300 different files. */
export function malformed(): Malformed[] {
  return [truncations, extensions, flips, claimedSizes, wrongTypes, structures, names, factors, configs].flatMap(make => make())
}

// Adapters that no honest tool writes, made from one good adapter: cut, flipped, overlapping, lying. The same in
// Node, in browsers and for the command line.

import { adapter, adapterFiles, config, fileIn, keyA, keyB, pair, rawFile, safetensors, type TensorSpec } from './fixtures.js'
import { adapterKeys, array, float, gguf, ggufHeaderBytes, ggufPair, text, whole, type GgufSpec, type GgufTensor, type KeyValue } from './gguf.js'

export interface Malformed {
  readonly title: string
  /** The codes that it may get. */
  readonly codes: readonly string[]
  readonly files: readonly File[]
  /** A good adapter of its kind, to merge it with. */
  readonly good: readonly File[]
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

const broken = (title: string, codes: readonly string[], file: Uint8Array<ArrayBuffer>, settings: Uint8Array<ArrayBuffer> = config()): Malformed => ({ title, codes, files: adapterFiles(file, settings, 'bad'), good: adapter() })
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
    ...['1', '"x"', '[1]', '{}'].map(targets => settings(`target_parameters is ${targets}`, ['bad_config'], field('target_parameters', targets))),
    settings('a parameter whose ranks are no multiple', ['rank_mismatch'], '{"peft_type":"LORA","r":3,"lora_alpha":2,"target_parameters":["x"]}'),
    settings('a parameter with more experts than in the other adapter', ['shape_mismatch', 'no_common_module'], '{"peft_type":"LORA","r":1,"lora_alpha":2,"target_parameters":["x"]}'),
    settings('rank 0', ['rank_zero'], '{"peft_type":"LORA","r":0}'),
    broken('a config that is not UTF-8', ['bad_config'], good, new Uint8Array([...encode('{"peft_type":"LORA","x":"'), 0xff, ...encode('"}')])),
    broken('a config in UTF-16', ['bad_config'], good, new Uint8Array([0xff, 0xfe, 0x7b, 0, 0x7d, 0])),
  ]
}

/** PEFT's, and of the container that most formats share: more than 300 different files. */
export function malformed(): Malformed[] {
  return [truncations, extensions, flips, claimedSizes, wrongTypes, structures, names, factors, configs].flatMap(make => make())
}

/** GGUF's: of the container, and of what it says of the adapter. */
const ggufCodes = ['file_truncated', 'header_too_large', 'bad_header', 'unknown_format', 'duplicate_tensor', 'tensor_overlap', 'tensor_hole', 'bad_offsets', 'size_mismatch', 'size_overflow', 'unknown_dtype']

const goodGguf: GgufSpec = { keys: adapterKeys, tensors: [...ggufPair('blk.0.ffn_up'), ...ggufPair('blk.1.ffn_up')] }
const ggufBytes = gguf(goodGguf)
const ggufHeader = ggufHeaderBytes(goodGguf)
/** What both kinds of files below are merged with. */
const goodFor = { gguf: [fileIn('good', 'adapter.gguf', ggufBytes)], kohya: [fileIn('good', 'lora.safetensors', safetensors(kohyaModule('lora_unet_a')))] }

const brokenGguf = (title: string, codes: readonly string[], file: Uint8Array<ArrayBuffer>): Malformed => ({ title: `GGUF: ${title}`, codes, files: [fileIn('bad', 'adapter.gguf', file)], good: goodFor.gguf })
const otherGguf = (title: string, codes: readonly string[], spec: Partial<GgufSpec>): Malformed => brokenGguf(title, codes, gguf({ ...goodGguf, ...spec }))

function ggufContainers(): Malformed[] {
  const [a, b, ...others] = goodGguf.tensors as [GgufTensor, GgufTensor, ...GgufTensor[]]
  const first = (title: string, codes: readonly string[], fields: Partial<GgufTensor>): Malformed => otherGguf(title, codes, { tensors: [{ ...a, ...fields }, b, ...others] })
  const second = (title: string, codes: readonly string[], fields: Partial<GgufTensor>): Malformed => otherGguf(title, codes, { tensors: [a, { ...b, ...fields }, ...others] })
  const withKey = (title: string, codes: readonly string[], ...keys: KeyValue[]): Malformed => otherGguf(title, codes, { keys: [...adapterKeys, ...keys] })
  const huge = [2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]
  /** A length in place of the first one of `text`. */
  const claiming = (text: string, claim: bigint): Uint8Array<ArrayBuffer> => {
    const file = ggufBytes.slice()
    const at = new TextDecoder('latin1').decode(file).indexOf(text)
    if (at < 8) throw new Error(`the file has no ${text}`)
    new DataView(file.buffer).setBigUint64(at - 8, claim, true)
    return file
  }
  return [
    // In front of the data; what comes behind are bytes of the last tensor, and then padding that may be missing.
    ...Array.from({ length: Math.ceil(ggufHeader / 16) }, (_, i) => brokenGguf(`cut after ${16 * i} of ${ggufBytes.length} bytes`, ['file_truncated'], ggufBytes.slice(0, 16 * i))),
    ...[1, 2, 3, 4, 5, ggufHeader, ggufHeader + 1, ggufBytes.length - 32].map(size => brokenGguf(`cut after ${size} bytes`, ['file_truncated'], ggufBytes.slice(0, size))),
    ...['GGUE', 'ggml', 'FUGG', '\0\0\0\0'].map(magic => otherGguf(`the magic ${JSON.stringify(magic)}`, containerCodes, { magic })),
    ...[0, 1, 4, 0x03000000, 0x02000000, 0xffffffff].map(version => otherGguf(`version ${version}`, ['unknown_format'], { version })),
    ...huge.map(count => otherGguf(`${count} tensors`, ['file_truncated'], { tensorCount: count })),
    ...huge.map(count => otherGguf(`${count} keys`, ['file_truncated'], { keyCount: count })),
    otherGguf('one tensor more than there is', ggufCodes, { tensorCount: 5n }),
    otherGguf('one key more than there is', ggufCodes, { keyCount: 5n }),
    otherGguf('one key less than there is', ggufCodes, { keyCount: 3n }),
    otherGguf('no tensors', ['no_factors'], { tensors: [] }),
    ...[...huge, 0n, 1n].flatMap(claim => [
      brokenGguf(`a key of ${claim} bytes`, ggufCodes, claiming('adapter.type', claim)),
      brokenGguf(`a value of ${claim} bytes`, ggufCodes, claiming('lora', claim)),
      brokenGguf(`a name of ${claim} bytes`, ggufCodes, claiming(a.name, claim)),
    ]),
    ...huge.flatMap(count => [4, 8].map(type => withKey(`an array of ${count} of type ${type}`, ['file_truncated'], array('more', type, count)))),
    ...[9, 13, 0xffffffff].map(type => withKey(`an array of type ${type}`, ['bad_header'], array('more', type, 1n, new Uint8Array(8)))),
    ...[13, 255, 0xffffffff].map(type => withKey(`a value of type ${type}`, ['bad_header'], { key: 'more', type, value: new Uint8Array(8) })),
    withKey('a boolean that is 2', ['bad_header'], { key: 'more', type: 7, value: Uint8Array.of(2) }),
    withKey('one key twice', ['bad_header'], text('adapter.type', 'lora')),
    ...['', 'a\nb', 'a\0b', 'ü', 'k'.repeat(65_536)].map(key => withKey(`a key ${JSON.stringify(key.slice(0, 8))}`, ['bad_header'], text(key, ''))),
    withKey('a value that is not UTF-8', ['bad_header'], { key: 'more', type: 8, value: new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0, 0xff]) }),
    withKey('a value with NUL', ['bad_header'], text('more', 'a\0b')),
    ...[0, 1, 4, 12, 24, 33].map(alignment => withKey(`an alignment of ${alignment}`, ['bad_header'], whole('general.alignment', alignment))),
    withKey('an alignment that is a text', ['bad_header'], text('general.alignment', '32')),
    withKey('another alignment than that of the offsets', ggufCodes, whole('general.alignment', 64)),
    withKey('an alignment of 2^31', ggufCodes, whole('general.alignment', 2 ** 31)),
    ...[1n, 4n, 31n, 33n].map(offset => second(`the offset ${offset}`, ['bad_offsets'], { offset })),
    second('two tensors in one place', ['tensor_overlap'], { offset: 0n }),
    second('a tensor inside another', ['tensor_overlap'], { offset: 32n }),
    second('a hole in front of a tensor', ['tensor_hole'], { offset: 96n }),
    first('a hole at the start', ['tensor_hole'], { offset: 32n }),
    ...[2n ** 63n, 2n ** 64n - 32n].map(offset => second(`the offset ${offset}`, ggufCodes, { offset })),
    ...[4, 5, 31, 32, 33, 42, 255, 0xffffffff].map(type => first(`a tensor of ggml type ${type}`, ['unknown_dtype'], { type })),
    ...[2, 8].map(type => first(`rows that are no whole blocks of type ${type}`, ['size_mismatch'], { type })),
    ...[24, 26].map(type => otherGguf(`factors of type ${type}`, ['unsupported_dtype', ...ggufCodes], { tensors: goodGguf.tensors.map(tensor => ({ ...tensor, type })) })),
    first('a side of 0', ['bad_header'], { sides: [6, 0] }),
    first('five dimensions', ['bad_header'], { sides: [6, 2, 1, 1, 1] }),
    ...[[2n ** 63n, 2n], [2n ** 32n, 2n ** 32n], [2n ** 64n - 1n]].map(sides => first(`sides of ${sides.join(' and ')}`, ['size_overflow', 'size_mismatch'], { sides })),
    first('a size beyond the file', ['file_truncated', ...ggufCodes], { sides: [6, 1_000_000] }),
    ...['', 'x'.repeat(65), 'a\0b'].map(name => first(`a tensor's name ${JSON.stringify(name.slice(0, 8))}`, ['bad_header'], { name })),
    first('one name twice', ['duplicate_tensor'], { name: b.name }),
  ]
}

function ggufAdapters(): Malformed[] {
  const [a, b, ...others] = goodGguf.tensors as [GgufTensor, GgufTensor, ...GgufTensor[]]
  const kind = (title: string, codes: readonly string[], key: string, replacement?: KeyValue): Malformed => otherGguf(title, codes, { keys: [...adapterKeys.filter(entry => entry.key !== key), ...(replacement ? [replacement] : [])] })
  const stack = (title: string, codes: readonly string[], ...sides: number[][]): Malformed =>
    otherGguf(`experts: ${title}`, codes, {
      tensors: [...goodGguf.tensors, ...sides.map((own, i) => ({ name: `blk.0.ffn_up_exps.weight.lora_${'ab'[i] ?? ''}`, sides: own, values: Array<number>(own.reduce((product, side) => product * side)).fill(1) }))],
    })
  const valued = (tensor: GgufTensor, value: number): GgufTensor => ({ ...tensor, values: [...(tensor.values as number[]).slice(1), value] })
  return [
    kind('a model', ['unsupported_adapter'], 'general.type', text('general.type', 'model')),
    kind('no type', ['unsupported_adapter'], 'general.type'),
    kind('no type of adapter', ['unsupported_adapter'], 'adapter.type'),
    kind('a type of adapter that is a number', ['unsupported_adapter'], 'adapter.type', whole('adapter.type', 1)),
    kind('no architecture', ['bad_header'], 'general.architecture'),
    kind('another architecture', ['mixed_dialects'], 'general.architecture', text('general.architecture', 'qwen2')),
    ...[NaN, Infinity, -Infinity].map(alpha => kind(`an alpha of ${alpha}`, ['bad_alpha'], 'adapter.lora.alpha', float('adapter.lora.alpha', alpha))),
    otherGguf('an activated LoRA', ['unsupported_adapter'], { keys: [...adapterKeys, array('adapter.alora.invocation_tokens', 4, 1n, new Uint8Array(4))] }),
    otherGguf('A without B', ['unpaired_factor'], { tensors: [a, ...others] }),
    otherGguf('B without A', ['unpaired_factor'], { tensors: [b, ...others] }),
    otherGguf('a tensor that is no factor', ['unsupported_tensors'], { tensors: [...goodGguf.tensors, { name: 'blk.0.attn_norm.weight', sides: [1], values: [1] }] }),
    stack('A without B', ['unpaired_factor'], [6, 2, 3]),
    stack('a matrix as B', ['shape_mismatch'], [6, 2, 3], [2, 5]),
    stack('other numbers of experts', ['shape_mismatch'], [6, 2, 3], [2, 5, 4]),
    stack('other ranks', ['rank_mismatch'], [6, 2, 3], [3, 5, 3]),
    stack('more experts than any model has', ['shape_mismatch'], [1, 1, 5000], [1, 1, 5000]),
    stack('four dimensions', ['shape_mismatch'], [6, 2, 3, 1], [2, 5, 3, 1]),
    otherGguf('other ranks', ['rank_mismatch'], { tensors: [a, { ...b, sides: [5, 2] }, ...others] }),
    otherGguf('a vector', ['shape_mismatch'], { tensors: [{ ...a, sides: [12] }, b, ...others] }),
    otherGguf('another width than the other adapter', ['shape_mismatch'], { tensors: [...ggufPair('blk.0.ffn_up', { in: 7 }), ...others] }),
    ...[NaN, Infinity].flatMap(value => [otherGguf(`${value} in A`, ['not_finite'], { tensors: [valued(a, value), b, ...others] }), otherGguf(`${value} in B`, ['not_finite'], { tensors: [a, valued(b, value), ...others] })]),
  ]
}

/** Both factors and alpha of a module as kohya's trainers write them. */
function kohyaModule(name: string): TensorSpec[] {
  return [
    ...pair().map((tensor, i) => ({ ...tensor, name: `${name}.${i === 0 ? 'lora_down' : 'lora_up'}.weight` })),
    { name: `${name}.alpha`, shape: [], values: [1] },
  ]
}

function kohyaFiles(): Malformed[] {
  const name = 'lora_unet_a'
  const [down, up, alpha] = kohyaModule(name) as [TensorSpec, TensorSpec, TensorSpec]
  const file = (title: string, codes: readonly string[], ...tensors: TensorSpec[]): Malformed => ({ title: `kohya: ${title}`, codes, files: [fileIn('bad', 'lora.safetensors', safetensors(tensors))], good: goodFor.kohya })
  const matrix = (suffix: string, rows: number, columns: number): TensorSpec => ({ name: `${name}.${suffix}`, shape: [rows, columns], values: Array.from({ length: rows * columns }, (_, i) => Math.sin(i)) })
  const hada = [matrix('hada_w1_a', 5, 2), matrix('hada_w1_b', 2, 6), matrix('hada_w2_a', 5, 2), matrix('hada_w2_b', 2, 6)]
  const lokr = [matrix('lokr_w1', 1, 2), matrix('lokr_w2', 5, 3)]
  return [
    ...[0, -0, NaN, Infinity, -Infinity].map(value => file(`an alpha of ${Object.is(value, -0) ? '-0' : value}`, ['bad_alpha'], down, up, { ...alpha, values: [value] })),
    ...[[2], [1, 2], [0], [2, 2]].map(shape => file(`an alpha of shape [${shape.join()}]`, ['shape_mismatch'], down, up, { ...alpha, shape, values: [] })),
    ...['I32', 'U8'].map(dtype => file(`an alpha of ${dtype}`, ['unsupported_dtype'], down, up, { name: alpha.name, shape: [], dtype })),
    file('an alpha without its module', ['unsupported_tensors'], down, up, { ...alpha, name: 'lora_unet_b.alpha' }),
    file('only an alpha', ['no_factors'], alpha),
    file('no up', ['unpaired_factor'], down, alpha),
    file('no down', ['unpaired_factor'], up, alpha),
    file('other ranks', ['rank_mismatch'], down, { ...up, shape: [2, 5] }, alpha),
    file('a kernel and a matrix', ['shape_mismatch'], { ...down, shape: [2, 6, 1, 1] }, up, alpha),
    file('LoRA and LoHa in one module', ['unpaired_factor'], down, up, ...hada),
    file('LoRA and LoKr in one module', ['unpaired_factor'], down, up, ...lokr),
    file('LoHa and LoKr in one module', ['unpaired_factor'], ...hada, ...lokr),
    file('LoRA and a full difference in one module', ['unpaired_factor', 'shape_mismatch'], down, up, matrix('diff', 5, 6), ...hada),
    ...hada.map((_, left) => file(`LoHa without ${hada[left]?.name.split('.')[1]}`, ['unpaired_factor'], ...hada.filter((_, i) => i !== left))),
    ...lokr.map((_, left) => file(`LoKr without ${lokr[left]?.name.split('.')[1]}`, ['unpaired_factor'], ...lokr.filter((_, i) => i !== left))),
    file('LoHa of other shapes', ['shape_mismatch', 'rank_mismatch'], ...hada.slice(0, 3), matrix('hada_w2_b', 2, 7)),
    file('LoHa of other ranks', ['shape_mismatch', 'rank_mismatch'], ...hada.slice(0, 3), matrix('hada_w2_b', 3, 6)),
    file('DoRA', ['unsupported_tensors'], down, up, alpha, matrix('dora_scale', 5, 1)),
    file('a difference of a bias', ['unsupported_tensors'], down, up, alpha, { name: `${name}.diff_b`, shape: [5], values: [1, 2, 3, 4, 5] }),
    file('a scalar', ['unsupported_tensors'], down, up, alpha, { name: `${name}.scalar`, shape: [], values: [2] }),
    file('a factor of OFT', ['unsupported_tensors'], down, up, alpha, { name: `${name}.oft_blocks`, shape: [1], values: [1] }),
    file('a name with a dot', ['unsupported_tensors'], down, up, alpha, { ...down, name: 'lora_unet_b.c.lora_down.weight' }),
    file('names of PEFT beside it', ['ambiguous_dialect'], down, up, alpha, ...pair()),
    file('NaN in a factor', ['not_finite'], { ...down, values: [...(down.values as number[]).slice(1), NaN] }, up, alpha),
  ]
}

/** Malformed adapters of the other formats. */
export function malformedFormats(): Malformed[] {
  return [ggufContainers, ggufAdapters, kohyaFiles].flatMap(make => make())
}

/**
 * A good GGUF adapter with each byte of its header changed in one bit. GGUF has no checksum: some of these say something
 * else that is as good, and are merged.
 */
export function flippedGguf(): Malformed[] {
  const codes = [...ggufCodes, ...containerCodes, ...adapterCodes, 'unsupported_adapter', 'mixed_dialects', 'bad_alpha', 'no_common_module']
  return Array.from({ length: ggufHeader }, (_, at) => {
    const bit = [0, 1, 4, 5, 7][at % 5] as number
    const file = ggufBytes.slice()
    file[at] = (file[at] as number) ^ (1 << bit)
    return brokenGguf(`bit ${bit} of header byte ${at} flipped`, codes, file)
  })
}

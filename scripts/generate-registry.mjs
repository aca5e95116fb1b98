// Writes what the core tells of itself (bindings/tables.cpp) as TypeScript, so that types, help texts and docs cannot
// drift from C++.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { methodsOfParts } from './ordinary-merges.mjs'

const quote = text => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
const camel = name => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())
/** Each of some values once. */
const distinct = values => [...new Map(values.map(value => [JSON.stringify(value), value])).values()]
const typeOf = option => (option.type === 'choice' ? option.choices.map(quote).join(' | ') : 'number')
/** What an option is when nobody says, as text. */
export const defaultOf = option => (option.type === 'choice' ? option.choices[0] : String(option.standard))
const boundsOf = option => (option.type === 'choice' ? '' : ` From ${option.minimum} to ${option.maximum}.`)

/** The source text of registry.ts. */
export async function registryOf({ codes, methods, formats, extras }) {
  const { version } = JSON.parse(await readFile(join(import.meta.dirname, '../package.json'), 'utf8'))
  /** Type of a field of formats that has one of a few texts. */
  const choicesOf = field => [...new Set(formats.map(format => format[field]))].map(quote).join(' | ')
  const names = methods.flatMap(method => [method.name, ...method.aliases])

  /** One entry for each option, whichever methods have it: they agree about its type. */
  const options = new Map()
  for (const method of methods) {
    for (const option of method.options) options.set(option.name, [...(options.get(option.name) ?? []), { ...option, method: method.name }])
  }
  for (const [name, entries] of options) {
    if (new Set(entries.map(typeOf)).size > 1) throw new Error(`the option ${name} has more than one type`)
  }

  /** A doc comment with a line for each of the option's meanings. */
  function optionComment(entries) {
    const meanings = new Map()
    for (const option of entries) {
      const text = `${option.sentence}${boundsOf(option)} Default: ${defaultOf(option)}.`
      meanings.set(text, [...(meanings.get(text) ?? []), option.method])
    }
    return [...meanings].map(([text, users]) => `  /** ${users.join(', ')}: ${text} */`).join('\n')
  }

  return `// Written by scripts/generate-registry.mjs from the core's own tables.

/** Version of the package. */
export const version = ${quote(version)}

/** Codes of errors that come from the core. */
export type CoreErrorCode =
${codes.map(code => `  /** ${code.sentence} */\n  | ${quote(code.name)}`).join('\n')}

/** Every code of the core with what it means. */
export const coreErrorCodes: Readonly<Record<CoreErrorCode, string>> = {
${codes.map(code => `  ${code.name}: ${quote(code.sentence)},`).join('\n')}
}

/** What few merges need of the core (scripts/split.mjs). */
export type CorePart = 'decompose' | 'rest'

/** Parts that merges with a method need. One that is not here may need all. */
export const partsOfMethods: Readonly<Record<string, readonly CorePart[]>> = { ${Object.entries(methodsOfParts).flatMap(([part, users]) => users.map(name => `${name}: [${part === 'first' ? '' : quote(part)}]`)).join(', ')} }

/** Names of the file formats that adapters are read and written in. */
export type FormatName = ${formats.map(({ name }) => quote(name)).join(' | ')}

/** One file format. */
export interface FormatInfo {
  readonly name: FormatName
  readonly sentence: string
  /** What a written tensor file is called where the caller does not say. */
  readonly tensorFile: string
  /** The config beside it; empty where there is none, and the result is a single file. */
  readonly configFile: string
  /** False: it is only written. */
  readonly isRead: boolean
  /** What its tensors lie in. */
  readonly container: ${choicesOf('container')}
  /** Where it can say that a module's scale is not 1. */
  readonly scales: ${choicesOf('scales')}
  /** Whether a module's alpha is a tensor beside its factors. */
  readonly hasAlphas: boolean
  /** Whether factors may be kernels of convolutions. */
  readonly hasConvolutions: boolean
  /** Whether it can hold the factors of an embedding. */
  readonly hasEmbeddings: boolean
  /** Whether it can hold the factors of all experts of a mixture in one pair of tensors. */
  readonly hasStacks: boolean
}

/** What formats call their files. */
export const formatFiles: readonly Pick<FormatInfo, 'tensorFile' | 'configFile'>[] = ${JSON.stringify(distinct(formats.map(({ tensorFile, configFile }) => ({ tensorFile, configFile }))))}

/** Every file format. */
export const formats: readonly FormatInfo[] = ${JSON.stringify(formats, null, 2)}

/** Kinds of tensors that are no LoRA factors. */
export type ExtraKind = ${extras.map(({ name }) => quote(name)).join(' | ')}

/** What can be done with them. */
export type Policy = ${[...new Set(extras.flatMap(({ policies }) => policies))].map(quote).join(' | ')}

/** Every kind, and what can be done with it. */
export const extraKinds: readonly { readonly name: ExtraKind; readonly sentence: string; readonly policies: readonly Policy[] }[] = ${JSON.stringify(extras, null, 2)}

/** Names of the merge methods. */
export type MethodName = ${names.map(quote).join(' | ')}

/** Options that only some methods take. */
export interface MethodOptions {
${[...options.values()].map(entries => `${optionComment(entries)}\n  ${camel(entries[0].name)}?: ${typeOf(entries[0])}`).join('\n')}
}

/** What one option takes. */
export interface OptionInfo {
  /** The option's name in a recipe. */
  readonly name: keyof MethodOptions
  /** Its name in the core and, with dashes, on the command line. */
  readonly coreName: string
  readonly type: 'integer' | 'number' | 'choice'
  readonly choices: readonly string[]
  readonly minimum: number
  readonly maximum: number
  readonly default: string
  readonly sentence: string
}

/** One merge method. */
export interface MethodInfo {
  readonly name: MethodName
  /** Other names for it. */
  readonly aliases: readonly MethodName[]
  /** What weights mean: docs/methods.md. */
  readonly family: 'exact sum' | 'consensus' | 'mean' | 'factors'
  readonly sentence: string
  readonly source: string
  /** Ranks of the result: as asked, up to the adapters' ranks together or the module's shorter side; or fixed. */
  readonly rank: 'up to units' | 'up to sides' | 'all units' | 'equal'
  /** Whether it takes a rank at all. */
  readonly takesRank: boolean
  /** Whether ranks can be chosen from the data. */
  readonly choosesRank: boolean
  readonly takesNegativeWeights: boolean
  /** Whether even an adapter alone comes back changed, by design. */
  readonly reshapes: boolean
  /** The most adapters that it takes; 0: any number. */
  readonly mostAdapters: number
  readonly options: readonly OptionInfo[]
}

/** The default merge method. */
export const defaultMethod: MethodName = ${quote(methods[0].name)}

/** Names of options in the core, where a recipe has another. */
export const coreNames: Readonly<Record<string, string>> = ${JSON.stringify(Object.fromEntries([...options.keys()].filter(name => camel(name) !== name).map(name => [camel(name), name])))}

/** Every merge method, the default one first. */
export const methods: readonly MethodInfo[] = ${JSON.stringify(
    methods.map(method => ({
      ...method,
      takesRank: method.rank.startsWith('up to'),
      options: method.options.map(option => {
        const { name, type, choices, minimum, maximum, sentence } = option
        return { name: camel(name), coreName: name, type, choices, minimum, maximum, default: defaultOf(option), sentence }
      }),
    })),
    null,
    2,
  )}
`
}

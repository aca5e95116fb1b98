// Asks the built core for its error codes and methods and writes them as TypeScript, so that types, help
// texts and docs cannot drift from C++. Usage: node generate-registry.mjs DIRECTORY

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const directory = process.argv[2]
const { default: createCore } = await import(pathToFileURL(join(directory, 'core-single.node.mjs')))
const core = await createCore()
const { version } = JSON.parse(await readFile(join(import.meta.dirname, '../package.json'), 'utf8'))

const quote = text => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
const camel = name => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())
const typeOf = option => (option.type === 'choice' ? option.choices.map(quote).join(' | ') : 'number')
const defaultOf = option => (option.type === 'choice' ? option.choices[0] : String(option.standard))
const boundsOf = option => (option.type === 'choice' ? '' : ` From ${option.minimum} to ${option.maximum}.`)

const codes = core.errorCodes()
const methods = core.methodTable()
const options = new Map(methods.flatMap(method => method.options.map(option => [option.name, { ...option, method: method.name }])))

await writeFile(
  join(directory, 'registry.ts'),
  `// Written by scripts/generate-registry.mjs from the core's own tables.

/** Version of the package. */
export const version = ${quote(version)}

/** Codes of errors that come from the core. */
export type CoreErrorCode =
${codes.map(code => `  /** ${code.sentence} */\n  | ${quote(code.name)}`).join('\n')}

/** Every code of the core with what it means. */
export const coreErrorCodes: Readonly<Record<CoreErrorCode, string>> = {
${codes.map(code => `  ${code.name}: ${quote(code.sentence)},`).join('\n')}
}

/** Names of the merge methods. */
export type MethodName = ${methods.map(method => quote(method.name)).join(' | ')}

/** Options that only some methods take. */
export interface MethodOptions {
${[...options.values()].map(option => `  /** ${option.method}: ${option.sentence}${boundsOf(option)} Default: ${defaultOf(option)}. */\n  ${camel(option.name)}?: ${typeOf(option)}`).join('\n')}
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
  /** 'exact sum': weights as they are; 'mean': weights are relative. */
  readonly family: string
  readonly sentence: string
  readonly source: string
  readonly takesRank: boolean
  readonly takesNegativeWeights: boolean
  readonly options: readonly OptionInfo[]
}

/** Every merge method, the default one first. */
export const methods: readonly MethodInfo[] = ${JSON.stringify(
    methods.map(method => ({
      ...method,
      options: method.options.map(option => {
        const { name, type, choices, minimum, maximum, sentence } = option
        return { name: camel(name), coreName: name, type, choices, minimum, maximum, default: defaultOf(option), sentence }
      }),
    })),
    null,
    2,
  )}
`,
)

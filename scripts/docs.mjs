// Writes what docs/ and README.md say twice from the library's own tables and docs/quality.md; with --check, compares instead.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createGenerator } from 'ts-json-schema-generator'
import { main, SetupError } from './say.mjs'
import { project } from './toolchain.mjs'

const generated = 'Written by `npm run docs`'
const { errorCodes, methods } = await import(join(project, 'dist/node/index.js'))

const families = {
  'exact sum': 'exact sum: weights as they are',
  consensus: 'consensus: weights as they are, what adapters share counts once',
  mean: 'mean: weights are relative',
  factors: "factors: PEFT's weights, with cross terms between adapters",
}
const ranks = {
  'up to units': 'as asked for, at most the sum of the adapters’ ranks; by default the largest rank among them',
  'up to sides': 'as asked for, at most the shorter side of a module; by default the largest rank among the adapters',
  'all units': 'the sum of the adapters’ ranks',
  equal: 'that of the adapters, which must be equal',
}

function optionText(option) {
  const values = option.type === 'choice' ? option.choices.map(choice => `\`${choice}\``).join(', ') : `${option.minimum} to ${option.maximum}`
  return `- \`${option.name}\` (\`--${option.coreName.replaceAll('_', '-')}\`): ${values}; default \`${option.default}\`. ${option.sentence}\n`
}

const methodTable = `## Every method

| method | weights | ranks from the data | what it does |
| --- | --- | --- | --- |
${methods.map(({ name, family, choosesRank, sentence }) => `| [${name}](#${name}) | ${family} | ${choosesRank ? 'yes' : 'no'} | ${sentence} |`).join('\n')}

${methods
  .map(
    ({ name, aliases, family, sentence, source, rank, takesNegativeWeights, reshapes, mostAdapters, options }) => `## ${name}

${sentence}

${aliases.length > 0 ? `- also called: ${aliases.map(alias => `\`${alias}\``).join(', ')}\n` : ''}- family: ${families[family]}
- rank: ${ranks[rank]}
- negative weights: ${takesNegativeWeights ? 'taken' : 'refused'}
${mostAdapters > 0 ? `- adapters: at most ${mostAdapters}\n` : ''}${reshapes ? '- one adapter alone comes back changed, by design\n' : ''}- source: ${source}
${options.map(optionText).join('')}`,
  )
  .join('\n')}`

const errorsPage = `# Errors

${generated} from the list that C++ and TypeScript share (src/base/codes.def, web/lib/error.ts).

Every refusal is a \`MergeError\` with one of these codes, a message that says what to do, and, where they make
sense, \`file\`, \`tensor\` and \`offset\`. The command line prints \`lora-lego: CODE: MESSAGE\` and ends with 1.

| code | meaning |
| --- | --- |
${Object.entries(errorCodes)
  .map(([code, sentence]) => `| \`${code}\` | ${sentence} |`)
  .join('\n')}
`

/** docs/methods.md has words of its own in front; the table is written behind its marker. */
async function methodsPage(path) {
  const marker = `<!-- ${generated} from src/merge/registry.cpp: from here on. -->\n`
  const text = await readFile(path, 'utf8')
  if (!text.includes(marker)) throw new SetupError(`docs/methods.md has no line ${marker}`)
  return `${text.slice(0, text.indexOf(marker))}${marker}\n${methodTable}`
}

/** JSON schema of a report, from the library's own types. */
function reportSchema() {
  const schema = createGenerator({ path: join(project, 'web/lib/result.ts'), type: 'MergeReport', tsconfig: join(project, 'tsconfig.json'), skipTypeCheck: true, topRef: true }).createSchema('MergeReport')
  return `${JSON.stringify({ title: 'lora-lego merge report, schema version 1', ...schema }, null, 2)}\n`
}

function typeText(node) {
  if (node.$ref) return `[${node.$ref.split('/').at(-1)}](#${node.$ref.split('/').at(-1).toLowerCase()})`
  if (node.const !== undefined) return JSON.stringify(node.const)
  if (node.enum) return node.enum.map(value => `\`${value}\``).join(' or ')
  if (Array.isArray(node.type)) return node.type.join(' or ')
  if (node.type === 'array') return `list of ${typeText(node.items)}`
  return node.type ?? 'anything'
}

function reportPage(schema) {
  const { definitions } = JSON.parse(schema)
  const rows = (node, prefix) =>
    Object.entries(node.properties ?? {}).flatMap(([name, field]) => {
      const optional = node.required?.includes(name) ? '' : ' (may be absent)'
      const inner = field.type === 'array' ? field.items : field
      const row = `| \`${prefix}${name}\` | ${typeText(field)}${optional} | ${(field.description ?? '').replaceAll(/\s+/g, ' ').replaceAll('|', '\\|')} |`
      return [row, ...rows(inner, `${prefix}${name}${field.type === 'array' ? '[]' : ''}.`)]
    })
  const names = ['MergeReport', ...Object.keys(definitions).filter(name => name !== 'MergeReport' && definitions[name].properties && name !== 'MethodOptions')]
  const sections = names.map(name => `## ${name}\n\n${definitions[name].description ?? ''}\n\n| field | type | meaning |\n| --- | --- | --- |\n${rows(definitions[name], '').join('\n')}\n`)
  return `# Report

${generated} from the library's types (web/lib/result.ts). The same as a JSON schema: [report.schema.json](report.schema.json).

\`merge()\` returns it, \`lora-lego merge --report FILE\` writes it. Everything about quality is computed from the
Gram matrices that the merge needs anyway. D* is the exact weighted sum of the adapters, X the result; norms are
Frobenius norms. \`schemaVersion\` is raised when a field is removed or changes its meaning; new fields do not raise it.

${sections.join('\n')}`
}

/** README.md with some rows of docs/quality.md: six adapters at the default scale. */
async function readme() {
  const shown = { 'least_interference': '`least_interference`', 'tsv_m': '`tsv_m`', 'dense_ties': '`dense_ties`', 'lego': '`lego`', 'svd, weights 1': '`svd`', 'peft_ties': '`peft_ties`' }
  const measured = (await readFile(join(project, 'docs/quality.md'), 'utf8')).match(/<!-- default:start -->\n([^]*?)\n<!-- default:end -->/)[1]
  const rows = measured.split('\n').map(line => line.slice(2, -2).split(' | '))
  const [plain, gated] = ['plain, 6', 'gated, 6'].map(name => rows[0].indexOf(name))
  const lines = Object.entries(shown).map(([label, text]) => {
    const row = rows.find(([name]) => name === label)
    if (!row) throw new SetupError(`docs/quality.md has no row ${label}`)
    return `| ${text} | ${row[plain]} | ${row[gated]} |`
  })
  const table = ['| | ordinary adapters | adapters trained to leave other inputs alone |', '| --- | --- | --- |', ...lines].join('\n')
  return (await readFile(join(project, 'README.md'), 'utf8')).replace(/(<!-- quality:start -->\n)[^]*?(<!-- quality:end -->)/, (_, before, after) => `${before}${table}\n${after}`)
}

await main(async () => {
  const schema = reportSchema()
  const pages = {
    'README.md': await readme(),
    'docs/methods.md': await methodsPage(join(project, 'docs/methods.md')),
    'docs/errors.md': errorsPage,
    'docs/report.schema.json': schema,
    'docs/report.md': reportPage(schema),
  }
  for (const [name, page] of Object.entries(pages)) {
    const path = join(project, name)
    if (!process.argv.includes('--check')) await writeFile(path, page)
    else if ((await readFile(path, 'utf8').catch(() => '')) !== page) throw new SetupError(`${name} is not what the code says: run 'npm run docs'`)
  }
})

// Writes what docs/ and README.md say twice from the library's own tables and docs/quality.md; with --check, compares instead.

import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createGenerator } from 'ts-json-schema-generator'
import { main, SetupError } from './say.mjs'
import { project } from './toolchain.mjs'

const generated = 'Written by `npm run docs`'
const { errorCodes, formats, methods } = await import(join(project, 'dist/node/index.js'))

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

/** Names of the core's tests and titles of the library's, as far as docs/formats.md refers to them. */
async function knownTests() {
  const tests = []
  for (const folder of ['core', 'lib', 'e2e']) {
    for (const file of await readdir(join(project, 'tests', folder))) {
      const text = await readFile(join(project, 'tests', folder, file), 'utf8')
      if (folder === 'core') {
        for (const [, kind, suite, name] of text.matchAll(/^(TEST|TEST_P|TEST_F)\((\w+), (\w+)\)/gm)) tests.push({ suite, name, isForEach: kind === 'TEST_P' })
        continue
      }
      const suites = [...text.matchAll(/^ *describe\('([^']*)'/gm)].map(([, title]) => title)
      for (const [, title] of text.matchAll(/^ *it(?:\.each\(.*\))?\('([^']*)'/gm)) {
        const pattern = new RegExp(`^${title.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&').replace('%s', '(\\w+)')}$`)
        tests.push({ suites, text, pattern })
      }
    }
  }
  /** `Suite.Name`, `Suite.Name/format` or `suite > title`. */
  return reference => {
    const [suite, title] = reference.split(' > ')
    const [, core, name, format] = reference.match(/^(\w+)\.(\w+)(?:\/(\w+))?$/) ?? []
    return tests.some(test => {
      if (test.name) return test.suite === core && test.name === name && test.isForEach === (format !== undefined) && (!format || formats.some(known => known.name === format && known.isRead))
      const match = test.suites.includes(suite) && test.pattern.exec(title)
      return match && (!match[1] || new RegExp(`'${match[1]}'|\\b${match[1]}:`).test(test.text))
    })
  }
}

/** What the words of a cell rest on. */
const cell = (text, ...tests) => ({ text, tests })
const inEvery = (name, format) => `EveryDialect.${name}/${format}`
const yes = (...tests) => cell('yes', ...tests)
const no = (...tests) => cell('no', ...tests)
const convolutions = format => yes(`convolutions > are read and written as they are: ${format}`)
const noLycoris = format => no(inEvery('HasLycorisKeysWhereProgramsWriteThem', format))
const lycoris = format => yes(`LyCORIS > comes out as pairs of the same delta: ${format}`, inEvery('HasLycorisKeysWhereProgramsWriteThem', format))
const onlyItself = format => cell('written from files of its own only', `names > of others are not written to: ${format}`)
const fused = format => cell('fused modules, written from their parts, have the ranks of all', 'Fused.PartsStandSideBySide', `names > of parts are put together to fused ones: ${format}`)
const stacks = format => yes(`Experts.AreWrittenAsTheyWereRead/${format}`, `Experts.AreMergedOneByOne/${format}`)
const noResiduals = cell('OFT is refused, norms and biases unless a policy says otherwise', 'Lycoris.WhatIsNoSumOfUnitsIsListed', 'Policies.SayWhatBecomesOfWhatIsNoFactor')
const withBase = (format, ...tests) => cell('with the base model', ...tests, inEvery('MergesDoraOnlyWhereItsMeaningIsCertain', format))

/** What the table of dialects does not say, or not alone: each cell with the tests that show it. Cells without tests are errors. */
const formatCells = {
  peft: {
    told: '`base_model.model.*.lora_A.weight`',
    scale: ['Peft.ScaleFollowsConfigAndPatterns'],
    convolution: yes('Peft.ResolvesLinearConvolutionAndEmbedding', 'convolutions > are read and written as they are: peft'),
    embedding: yes('Session.KeepsConvolutionsAndEmbeddings'),
    lycoris: noLycoris('peft'),
    experts: stacks('peft'),
    dora: withBase('peft', 'Dora.IsMergedExactlyWithTheBaseModelsWeights', 'Dora.ComesThroughAConversionAsItIs'),
    limits: [
      cell('biases and fully trained modules are refused unless a policy says otherwise', 'Peft.ListsWhatItCannotCarry', 'Policies.ConfigsOfPeftSayWhatIsKept', 'Policies.BiasesOfFactorsGoThroughTheirModulesScale'),
      cell('experts as one parameter are not converted', 'PeftParameters.StayAmongThemselves'),
    ],
  },
  kohya: {
    told: '`lora_unet_*.lora_down.weight` and the like, no dots before the ending',
    scale: ['EveryDialect.IsReadAsTheDeltasThatItsSpecificationGives/kohya', 'Dialects.AlphasThatGiveNoScaleAreRefused'],
    convolution: convolutions('kohya'),
    lycoris: lycoris('kohya'),
    limits: [noResiduals, fused('kohya')],
  },
  diffusers: {
    told: '`unet.`, `transformer.`, `text_encoder.` and the like in front',
    scale: ['Dialects.DiffusersOwnConfigGivesScales'],
    convolution: convolutions('diffusers'),
    lycoris: lycoris('diffusers'),
    dora: withBase('diffusers', 'Dora.OfConvolutionsAndDiffusersIsMerged'),
    limits: [cell('old and middle names are read as current ones', 'Dialects.OldNamesOfDiffusersAreThoseOfToday')],
  },
  comfy: {
    told: '`diffusion_model.`, `text_encoders.`, `double_blocks.` and the like in front',
    scale: ['EveryDialect.IsReadAsTheDeltasThatItsSpecificationGives/comfy'],
    convolution: convolutions('comfy'),
    lycoris: lycoris('comfy'),
    limits: [fused('comfy')],
  },
  xlabs: {
    told: '`*.processor.qkv_lora1.down.weight`',
    convolution: no('convolutions > are refused where a format has none: xlabs'),
    lycoris: noLycoris('xlabs'),
    limits: [onlyItself('xlabs'), cell('read as diffusers’ modules', 'names > of XLabs come out split as diffusers has them, exactly')],
  },
  control_lora: {
    told: '`input_blocks.*.down` and the like',
    convolution: convolutions('control_lora'),
    lycoris: noLycoris('control_lora'),
    limits: [onlyItself('control_lora'), cell('merged with its own kind only', 'MixedDialects.WhatCannotBeTheSameModelIsRefused')],
  },
  mlx: {
    told: '`*.lora_a`, `*.lora_b`',
    scale: ['MixedDialects.ConvertingThereAndBackChangesNothing'],
    convolution: no('convolutions > are not written where a format has none: mlx'),
    embedding: yes('embeddings > go from PEFT to MLX, which has both factors the other way round, and back'),
    lycoris: noLycoris('mlx'),
    experts: stacks('mlx'),
    limits: [cell('one rank, smaller ones filled up with zeros', 'ranks that differ > are filled up with zeros in MLX, whose config has one')],
  },
  gguf: {
    told: 'its metadata',
    scale: ['Gguf.ItsAlphaIsDividedByTheRankOfEachModule', 'Gguf.RowsOfQAndKGoIntoTheOrderOfLlamaCppAndBack'],
    convolution: no('convolutions > are not written where a format has none: gguf'),
    embedding: yes('Gguf.EmbeddingsKeepTheirDelta'),
    lycoris: noLycoris('gguf'),
    experts: stacks('gguf'),
    written: ['llama.cpp in Chromium > does with our merged adapter what it does with the inputs at their weights'],
    limits: [
      cell('from and to other formats only with the base model', 'Gguf.WhatIsNotKnownIsAskedFor'),
      cell('names that llama.cpp can load', 'Gguf.WritesNothingThatWouldNotLoad', 'GgmlNames.AreRefusedWhereUncertain'),
    ],
  },
  onnx: {
    read: ['formats that are only written > are refused as inputs: onnx'],
    told: cell('not read', 'formats that are only written > are refused as inputs: onnx'),
    written: ['OnnxAdapter.HoldsTheFactorsUnderTheGraphsNames'],
    scale: ['OnnxAdapter.HoldsTheFactorsUnderTheGraphsNames'],
    linear: ['OnnxAdapter.HoldsTheFactorsUnderTheGraphsNames'],
    convolution: no('convolutions > are not written where a format has none: onnx'),
    embedding: no('embeddings > are not written to: onnx'),
    lycoris: no('formats that are only written > are refused as inputs: onnx'),
    dora: no('formats that are only written > are refused as inputs: onnx'),
    limits: [cell('below 2 GB', 'OnnxAdapter.WritesBelowTwoGigabytes')],
  },
}

function scaleText({ scales, hasAlphas, configFile, container, isRead }) {
  if (scales === 'config') return 'config, one for all modules'
  if (scales === 'each module') return hasAlphas ? 'an alpha beside the factors' : configFile === '' ? 'config in the metadata' : 'config'
  return container === 'gguf' ? 'one alpha; written as none, scales are in B' : isRead ? 'none: it is 1, others go into B' : 'none: in B'
}

/** docs/formats.md has words of its own around its tables. */
async function formatsPage(path) {
  const isTest = await knownTests()
  const rows = formats.map(format => {
    const { name, tensorFile, configFile, hasConvolutions, hasEmbeddings, hasStacks, isRead } = format
    const own = formatCells[name]
    if (!own) throw new SetupError(`scripts/docs.mjs has no row for the format ${name}`)
    const generic = test => [inEvery(test, name)]
    const experts = own.experts ?? no('Stacks.AreWrittenOnlyWhereAFormatHasThem')
    const embeddings = own.embedding ?? no(inEvery('HasKeysForEmbeddingsOnlyAsPeft', name))
    for (const [field, { text }] of [[hasConvolutions, own.convolution], [hasEmbeddings, embeddings], [hasStacks, experts]]) {
      if (field !== (text === 'yes')) throw new SetupError(`scripts/docs.mjs says something else about ${name} than src/adapter/dialect.cpp`)
    }
    const cells = {
      read: cell(isRead ? 'yes' : 'no', ...(own.read ?? generic('IsReadAsTheDeltasThatItsSpecificationGives'))),
      'told by': typeof own.told === 'string' ? cell(own.told, inEvery('IsToldFromTheOthersByItsNames', name)) : own.told,
      written: cell('yes', ...(own.written ?? []), ...(isRead ? generic('IsWrittenAsItWasRead') : [])),
      scale: cell(scaleText(format), ...(own.scale ?? generic('IsReadAsTheDeltasThatItsSpecificationGives'))),
      linear: cell('yes', ...(own.linear ?? generic('HoldsAMergeOfItsOwn'))),
      convolutions: own.convolution,
      embeddings,
      'stacked experts': experts,
      LyCORIS: own.lycoris,
      DoRA: own.dora ?? no(inEvery('MergesDoraOnlyWhereItsMeaningIsCertain', name)),
      limits: { text: own.limits.map(({ text }) => text).join('; '), tests: own.limits.flatMap(({ tests }) => tests) },
    }
    for (const [column, { tests }] of Object.entries(cells)) {
      if (tests.length === 0) throw new SetupError(`docs/formats.md: no test shows what it says about ${name}, ${column}`)
      for (const test of tests) if (!isTest(test)) throw new SetupError(`docs/formats.md: ${name}, ${column}: there is no test '${test}'`)
    }
    for (const { tests } of own.limits) if (tests.length === 0) throw new SetupError(`docs/formats.md: no test shows a limit of ${name}`)
    return { name, files: [tensorFile, configFile].filter(file => file !== '').map(file => `\`${file}\``).join(', '), cells }
  })
  const table = (head, line) => [`| ${head.join(' | ')} |`, `|${' --- |'.repeat(head.length)}`, ...rows.map(row => `| ${line(row).join(' | ')} |`)].join('\n')
  const first = table(['format', 'written as', 'read', 'written', 'told by', 'where a scale stands'], ({ name, files, cells }) => [`\`${name}\``, files, ...['read', 'written', 'told by', 'scale'].map(column => cells[column].text)])
  const kinds = ['linear', 'convolutions', 'embeddings', 'stacked experts', 'LyCORIS', 'DoRA', 'limits']
  const second = table(['format', ...kinds], ({ name, cells }) => [`\`${name}\``, ...kinds.map(kind => cells[kind].text)])
  const shown = rows.map(({ name, cells }) => `- \`${name}\`: ${Object.entries(cells).map(([column, { tests }]) => `${column}: ${tests.map(test => `\`${test}\``).join(', ')}`).join('; ')}`)
  const text = await readFile(path, 'utf8')
  const parts = { table: `${first}\n\n${second}`, tests: shown.join('\n') }
  return Object.entries(parts).reduce((page, [part, written]) => {
    const pattern = new RegExp(`(<!-- ${part}:start[^\\n]*-->\\n)[^]*?(<!-- ${part}:end -->)`)
    if (!pattern.test(page)) throw new SetupError(`docs/formats.md has no place for its ${part}`)
    return page.replace(pattern, (_, before, after) => `${before}${written}\n${after}`)
  }, text)
}

/** JSON schema of a report, from the library's own types. */
function reportSchema() {
  const schema = createGenerator({ path: join(project, 'web/lib/report.ts'), type: 'MergeReport', tsconfig: join(project, 'tsconfig.json'), skipTypeCheck: true, topRef: true }).createSchema('MergeReport')
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

${generated} from the library's types (web/lib/report.ts). The same as a JSON schema: [report.schema.json](report.schema.json).

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
    'docs/formats.md': await formatsPage(join(project, 'docs/formats.md')),
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

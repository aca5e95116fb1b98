// Writes docs/methods.md and docs/errors.md from the library's own tables; with --check, compares instead.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { main, SetupError } from './say.mjs'
import { project } from './toolchain.mjs'

const { errorCodes, methods } = await import(join(project, 'dist/node/index.js'))

const methodsPage = `# Methods

Written by \`npm run docs\` from the core's table of methods (src/merge/registry.cpp).

Two families understand weights differently. *Exact sums* take them as they are: 0.5 + 0.5 of an adapter is
the adapter, 1 - 1 is nothing. *Means* take |weight| as relative: an adapter, or copies of it however
weighted, give the adapter; a negative weight subtracts. \`scale\` multiplies the result of any method.

${methods
  .map(
    ({ name, family, sentence, source, takesRank, takesNegativeWeights, options }) => `## ${name}

${sentence}

- family: ${family}
- rank: ${takesRank ? 'as asked for; by default the largest rank among the inputs' : 'the sum of the inputs’ ranks'}
- negative weights: ${takesNegativeWeights ? 'taken' : 'refused'}
- source: ${source}
${options
  .map(option => {
    const values = option.type === 'choice' ? option.choices.map(choice => `\`${choice}\``).join(', ') : `${option.minimum} to ${option.maximum}`
    return `- \`${option.name}\` (\`--${option.coreName.replaceAll('_', '-')}\`): ${values}; default \`${option.default}\`. ${option.sentence}\n`
  })
  .join('')}`,
  )
  .join('\n')}`

const errorsPage = `# Errors

Written by \`npm run docs\` from the list that C++ and TypeScript share (src/base/codes.def, web/lib/error.ts).

Every refusal is a \`MergeError\` with one of these codes, a message that says what to do, and, where they make
sense, \`file\`, \`tensor\` and \`offset\`. The command line prints \`lora-lego: CODE: MESSAGE\` and ends with 1.

| code | meaning |
| --- | --- |
${Object.entries(errorCodes)
  .map(([code, sentence]) => `| \`${code}\` | ${sentence} |`)
  .join('\n')}
`

await main(async () => {
  for (const [name, page] of Object.entries({ 'methods.md': methodsPage, 'errors.md': errorsPage })) {
    const path = join(project, 'docs', name)
    if (!process.argv.includes('--check')) await writeFile(path, page)
    else if ((await readFile(path, 'utf8').catch(() => '')) !== page) throw new SetupError(`docs/${name} is not what the code says: run 'npm run docs'`)
  }
})

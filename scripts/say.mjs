// What every script prints: one line per step with the time it took, one line when it fails.

import { spawn } from 'node:child_process'

/** A failure whose message is the whole story: printed as one line, without a stack. */
export class SetupError extends Error {}

/** Runs `work`, printing what is being done and how long it took. */
export async function step(title, work) {
  const start = performance.now()
  process.stdout.write(`> ${title}\n`)
  const result = await work()
  process.stdout.write(`  done in ${((performance.now() - start) / 1000).toFixed(1)} s\n`)
  return result
}

/** Runs a script's main function; a failure ends the process with one clear line. */
export async function main(work) {
  try {
    await work()
  } catch (error) {
    const text = error instanceof SetupError ? error.message : (error?.stack ?? String(error))
    process.stderr.write(`lora-lego: ${text}\n`)
    process.exit(1)
  }
}

/**
 * Runs a program to its end. With `quiet` its output is kept and shown only if it fails.
 * Rejects with SetupError, which names it as `shown`, when it cannot be started or does not end with status 0.
 */
export function run(command, args, { cwd, env, quiet = false, shown = [command, ...args].join(' ') } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: env ? { ...process.env, ...env } : process.env,
      stdio: ['ignore', quiet ? 'pipe' : 'inherit', quiet ? 'pipe' : 'inherit'],
    })
    const chunks = []
    if (quiet) {
      child.stdout.on('data', c => chunks.push(c))
      child.stderr.on('data', c => chunks.push(c))
    }
    child.on('error', error => reject(new SetupError(`cannot run '${command}': ${error.message}`)))
    child.on('close', (code, signal) => {
      const output = Buffer.concat(chunks).toString()
      if (code === 0) return resolve(output)
      if (output) process.stderr.write(output)
      reject(new SetupError(`'${shown}' ended with ${signal ?? `status ${code}`}`))
    })
  })
}

/** Standard output of a program, or undefined when it is missing or fails. */
export async function capture(command, args) {
  return new Promise(resolve => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    const chunks = []
    child.stdout.on('data', c => chunks.push(c))
    child.on('error', () => resolve(undefined))
    child.on('close', code => resolve(code === 0 ? Buffer.concat(chunks).toString() : undefined))
  })
}

// A progress bar on stderr, where that is a terminal.

import { SingleBar } from 'cli-progress'
import type { Progress } from './index.js'

export interface ProgressBar {
  update: (progress: Progress) => void
  /** Removes the bar; may be called twice. */
  end: () => void
}

export function progressBar(): ProgressBar {
  if (!process.stderr.isTTY) return { update: () => undefined, end: () => undefined }
  const bar = new SingleBar({ stream: process.stderr, format: 'merging {bar} {percentage} % | {done} of {modules} modules | {eta_formatted} left', hideCursor: true, clearOnComplete: true, barsize: 30 })
  let running = false
  return {
    update({ fraction, modulesDone, modules }) {
      const payload = { done: modulesDone, modules }
      if (!running) bar.start(1000, 0, payload)
      running = true
      bar.update(Math.round(fraction * 1000), payload)
    },
    end() {
      if (running) bar.stop()
      running = false
    },
  }
}

// Worker script of the build with threads: needs shared memory.

import { serveBrowser } from './browser-worker.js'
import createCore from './generated/core-threads.mjs'
import { threadSettings } from './threads.js'

serveBrowser(threads => createCore(threadSettings(threads, new URL('./generated/core-threads.mjs', import.meta.url))))

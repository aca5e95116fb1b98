// Worker script of the build with threads.

import createCore from '../lib/generated/core-threads.node.mjs'
import { threadSettings } from '../lib/threads.js'
import { serveNode } from './node-worker.js'

serveNode(threads => createCore(threadSettings(threads, new URL('../lib/generated/core-threads.node.mjs', import.meta.url))))

// Worker script of the build without threads.

import createCore from '../lib/generated/core-single.node.mjs'
import { serveNode } from './node-worker.js'

serveNode(() => createCore())

// Worker script of the build with threads.

import createCore from '../lib/generated/core-threads.node.mjs'
import { threadSettings } from '../lib/threads.js'
import { serveNode } from './node-worker.js'

const generated = (name: string): URL => new URL(`../lib/generated/${name}`, import.meta.url)
const parts = { decompose: generated('core-threads.decompose.wasm').href, rest: generated('core-threads.rest.wasm').href }

serveNode(threads => createCore(threadSettings(threads, generated('core-threads.node.mjs'), parts)))

// Worker script of the build without threads: works on any page.

import { serveBrowser } from './browser-worker.js'
import createCore from './generated/core-single.mjs'

serveBrowser(() => createCore())

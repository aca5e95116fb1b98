// lora-lego for browsers: merge LoRA adapters on the user's own machine.

import { defineApi } from './api.js'
import { browser } from './browser.js'

const api = defineApi(browser)

/** Keeps a worker warm for many calls. Close it when done. */
export const createMerger = api.createMerger
/** What an adapter holds. See Merger.inspect. */
export const inspect = api.inspect
/** How adapters stand to each other, and how they are best merged. See Merger.compare. */
export const compare = api.compare
/** What a merge would do. See Merger.plan. */
export const plan = api.plan
/** Merges adapters. See Merger.merge. */
export const merge = api.merge
/** Writes an adapter in another format. See Merger.convert. */
export const convert = api.convert
/** Puts the parts of one merge together. See Merger.join. */
export const join = api.join

export { extraKinds, formats, methods, version } from './generated/registry.js'
export type { CompareOptions, Conversion, ExtraKind, FormatInfo, FormatName, Inspection, JoinOptions, MergeOptions, MergePlan, Merger, MergerOptions, MethodInfo, MethodName, MethodOptions, OnnxLayout, Output, Policies, Progress, RankRule, Recipe, Shard } from './api.js'
export type { Advice, Reason } from './advice.js'
export { worstModules } from './worst-modules.js'
export type { Comparison, ModuleComparison, Relations } from './comparison.js'
export { MergeError } from './error.js'
export { errorCodes } from './error-codes.js'
export type { MergeErrorCode } from './error-codes.js'
export type { AdapterSource, MergeInput, Source, WeightedInput } from './input.js'
export type { InputReport, MergeReport, ModuleReport } from './report.js'
export type { MergedTensor, MergeResult } from './result.js'

// lora-lego for Node: the same verbs; paths as inputs, and a folder as output.

import { defineApi } from '../lib/api.js'
import { node } from './platform.js'

const api = defineApi(node)

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

export { extraKinds, formats, methods, version } from '../lib/generated/registry.js'
export type { CompareOptions, Conversion, ExtraKind, FormatInfo, FormatName, Inspection, JoinOptions, MergeOptions, MergePlan, Merger, MergerOptions, MethodInfo, MethodName, MethodOptions, OnnxLayout, Policies, Progress, RankRule, Recipe, Shard } from '../lib/api.js'
export type { Advice, Reason } from '../lib/advice.js'
export { worstModules } from '../lib/worst-modules.js'
export type { Comparison, ModuleComparison, Relations } from '../lib/comparison.js'
export { MergeError } from '../lib/error.js'
export { errorCodes } from '../lib/error-codes.js'
export type { MergeErrorCode } from '../lib/error-codes.js'
export type { AdapterSource, MergeInput, Source, WeightedInput } from '../lib/input.js'
export type { InputReport, MergeReport, ModuleReport } from '../lib/report.js'
export type { MergedTensor, MergeResult } from '../lib/result.js'

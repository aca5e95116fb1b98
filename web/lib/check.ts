// Whether plain data from a file have the form that they should have.

export type Check = (value: unknown) => boolean

export const isNumber: Check = value => typeof value === 'number'
export const isText: Check = value => typeof value === 'string'
export const isFlag: Check = value => typeof value === 'boolean'
/** Infinity is null in JSON. */
export const isNumberOrNull: Check = value => value === null || isNumber(value)
/** A size, a place or a number of things. */
export const isCount: Check = value => Number.isSafeInteger(value) && (value as number) >= 0
export const listOf =
  (check: Check): Check =>
  value =>
    Array.isArray(value) && value.every(check)
export const optional =
  (check: Check): Check =>
  value =>
    value === undefined || check(value)
/** An object with at least these fields. */
export const fields =
  (checks: Readonly<Record<string, Check>>): Check =>
  value =>
    typeof value === 'object' && value !== null && !Array.isArray(value) && Object.entries(checks).every(([name, check]) => check((value as Record<string, unknown>)[name]))
/** An object whose every field is of one kind. */
export const recordOf =
  (check: Check): Check =>
  value =>
    typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every(check)

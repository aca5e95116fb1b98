// Where adapters are in each other's way.

import type { Comparison, ModuleComparison } from './comparison.js'

/** The modules where the adapters are most in each other's way, at most `count`, the worst first; none where they are not. */
export function worstModules({ modules }: Comparison, count = 5): ModuleComparison[] {
  return modules
    .filter(({ interference }) => interference > 0)
    .sort((x, y) => y.interference - x.interference)
    .slice(0, count)
}

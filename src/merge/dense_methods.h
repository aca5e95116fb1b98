// TIES, DARE and pruning on the deltas' own entries, as tools that hold dense weights do them, without ever
// holding a whole delta: row by row, then factored to the asked rank. A hundred times the work of the core
// space.
#pragma once

#include "merge/method.h"

namespace lego {

// The rank may be anything up to min(in, out): the merged delta has no low rank of its own.

/// Options density, sign, convention.
Status mergeDenseTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                      const MergedRows&);
/// Option density.
Status mergeDenseDareLinear(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                            const MergedRows&);
/// Options density, sign, convention.
Status mergeDenseDareTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                          const MergedRows&);
/// Option density.
Status mergeDenseMagnitudePrune(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                                const MergedRows&);

}  // namespace lego

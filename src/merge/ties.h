// TIES (arXiv 2306.01708) in the core space: trim each delta, elect a sign for each entry, average what has
// it.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Options density, sign, convention.
Result<Matrix> mergeTies(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

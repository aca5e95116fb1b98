// Magnitude pruning in the core space: the weighted sum of each delta's largest entries.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Option density.
Result<Matrix> mergeMagnitudePrune(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

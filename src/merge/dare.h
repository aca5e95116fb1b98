// DARE (arXiv 2311.03099) in the core space: drop entries at random and scale up those that stay.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// The weighted sum of what stays. Options density, seeded by the module's seed.
Result<Matrix> mergeDareLinear(const CoreDeltas&, const MethodRequest&, const Context&);

/// With TIES' election of signs. Options density, sign, convention.
Result<Matrix> mergeDareTies(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

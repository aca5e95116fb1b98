// The common frame of the element-wise methods in the core space.
#pragma once

#include "merge/core_space.h"
#include "merge/elementwise.h"

namespace lego {

/// Thins each delta's core out, then joins them entry by entry. The seed is the module's.
Matrix thinAndJoin(const CoreDeltas& core, const Thinning& thinning, const Joining& joining, uint64_t seed);

}  // namespace lego

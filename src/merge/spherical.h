// Interpolation on the sphere of deltas: directions are averaged along great circles, norms apart.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Spherical linear interpolation of two deltas (Shoemake 1985; mergekit `slerp`), at |w_2| / (|w_1| +
/// |w_2|). Deltas that point almost the same way (or opposite) are interpolated linearly. Where only one
/// adapter has the module, its delta.
Result<Matrix> mergeSlerp(const CoreDeltas&, const MethodRequest&, const Context&);

/// The weighted Karcher (Riemannian) mean of the directions of any number of deltas, with the weighted mean
/// of their norms (mergekit `karcher`, here with weights and until it settles). A delta of zero has no
/// direction, and counts in the norm.
Result<Matrix> mergeKarcher(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

// TSV-M (Task Singular Vectors, arXiv 2412.00081): the adapters' singular vectors, made orthogonal to each
// other.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Replaces the stacked left singular vectors of all deltas, and the right ones, by the nearest orthonormal
/// ones (polar factor), and adds the triples up, values times w_i. Directions that adapters share count once.
/// The published form keeps 1 / N of a full matrix's triples so that N tasks fit into the space: LoRA has few
/// enough, and all are kept.
Result<Matrix> mergeTsvM(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

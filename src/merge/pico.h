// PICO: output directions that several adapters share are damped before a merge, which would count them once
// for each adapter, and the result gets the adapters' mean norm back. Source: methods.md section 6.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Weighted mean of the adapters' Frobenius norms, weights |w_i|.
double meanDeltaNorm(const CoreDeltas& core);

/// Direction q of the stacked B's, with share e_q of their energy, is multiplied by 1 / (1 + (N - 1) e_q) in
/// every delta.
void dampSharedOutputs(CoreDeltas& core);

/// Scales a merged delta to this Frobenius norm, unless it is zero.
void restoreNorm(Matrix& merged, double norm);

}  // namespace lego

// Concatenation: the exact weighted sum of the deltas, at the sum of the ranks.
#pragma once

#include "merge/method.h"

namespace lego {

/// Every unit is kept, multiplied by its adapter's weight: sqrt(|w_i|) on both halves, the sign on b.
/// The merged delta is sum of w_i D_i. Takes no rank: k = P.
Result<MergedFactors> mergeCat(const UnitPool& pool, const MethodRequest& request, const Context& context);

}  // namespace lego

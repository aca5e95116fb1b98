// The least-interference merge: RegMean's closed form with each adapter's own row space in place of
// activations. Needs no data and no base model.
#pragma once

#include "merge/method.h"

namespace lego {

/// With D_i adapter i's delta, S_i = D_i^T D_i / |D_i|^2 an estimate of the covariance of the inputs that it
/// was trained on, and D the weighted mean of all D_i, minimises over T
///   sum of w_i |(T - D_i) S_i^(1/2)|^2 + eps t |T - D|^2,  t = mean eigenvalue of sum of w_i S_i,
/// and returns the best rank-k approximation of T in that norm. Weights must not be negative.
/// Option eps: how strongly T is held to the mean where the adapters say nothing.
Result<MergedFactors> mergeLeastInterference(const UnitPool&, const MethodRequest&, const Context&);

}  // namespace lego

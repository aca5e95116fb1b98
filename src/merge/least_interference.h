// The least-interference merge: RegMean's closed form with each adapter's own row space in place of
// activations. Needs no data and no base model.
#pragma once

#include "merge/method.h"

namespace lego {

/// With D_i adapter i's delta, S_i an estimate of the covariance of the inputs that it was trained on, and D
/// the weighted mean of all D_i, minimises over T
///   sum of w_i |(T - D_i) S_i^(1/2)|^2 + eps t |T - D|^2,  t = mean eigenvalue of sum of w_i S_i,
/// and returns the best rank-k approximation of T in that norm. S_i is the sum of D_i^T D_i / |D_i|^2 over
/// the modules that read the same input (UnitPool::inputs), or over this one alone. Weights must not be
/// negative. Option eps: how strongly T is held to the mean where the adapters say nothing. Source:
/// methods.md section 8.
Result<MergedFactors> mergeLeastInterference(const UnitPool&, const MethodRequest&, const Context&);

/// Squared singular values of T in that norm.
Result<std::vector<double>> leastInterferenceEnergies(const UnitPool&, const MethodRequest&, const Context&);

/// The group that a module makes up alone.
InputGroup groupOfOne(const UnitPool& pool);

}  // namespace lego

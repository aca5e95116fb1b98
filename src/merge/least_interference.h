// The least-interference merge: RegMean's closed form with each adapter's own row space in place of
// activations. Needs no data and no base model.
#pragma once

#include "merge/method.h"

namespace lego {

/// With D_i adapter i's delta, S_i an estimate of the covariance of the inputs that it was trained on, and D
/// what the result is to be where the adapters say nothing, minimises over T
///   sum of w_i |(T - D_i) S_i^(1/2)|^2 + eps t |T - D|^2,  t = mean eigenvalue of sum of w_i S_i,
/// and returns the best rank-k approximation of T in that norm. Weights are relative and not negative.
///
/// - S_i is the sum of D_i^T D_i over the modules that read the same input, and of c D_i D_i^T over those
///   that write it (UnitPool::inputs), or that of this module alone. Option covariance: as it is, so that an
///   adapter has more say where it changes more (raw), or each term divided by its trace (unit).
/// - D, option prior: the sum of u_i D_i, with weights u of which the largest is 1, where adapters that are
///   alike share the weight of the heaviest: u_i max_j(u_j c_ij) / sum_j(u_j c_ij), c the squared cosines, so
///   that copies count once (fitted); or the weighted mean.
/// - Option eps: how strongly T is held to D.
///
/// Source: docs/numerics.md; methods.md section 8 is covariance unit, prior mean, eps 0.1.
Result<MergedFactors> mergeLeastInterference(const UnitPool&, const MethodRequest&, const Context&);

/// Squared singular values of T in that norm, divided by t: what a rank does to an input of mean strength, so
/// that modules can be compared.
Result<std::vector<double>> leastInterferenceEnergies(const UnitPool&, const MethodRequest&, const Context&);

/// How strongly each adapter's delta in a module tells of its inputs: D_i^T D_i is the sum over its units u
/// and v of a_u within(u, v) a_v^T. `unitCovariance`: every trace is 1. Of an adapter of zeros all is zero.
std::vector<Matrix> withinDeltas(const UnitPool& pool, bool unitCovariance);

}  // namespace lego

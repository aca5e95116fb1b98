// The exact weighted sum, cut to rank k.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// The best rank-k approximation of D* = sum of w_i D_i (Eckart and Young), exactly, at the cost of the pool:
/// the eigenvectors of a P x P matrix. Factors are balanced, |a_q| = |b_q|. Option pico.
Result<MergedFactors> mergeSvd(const UnitPool&, const MethodRequest&, const Context&);

/// The same without options: what a decomposition of one adapter is made of, too.
Result<MergedFactors> sumOfRank(const UnitPool& pool, uint32_t rank);

/// Squared singular values of D*.
Result<std::vector<double>> sumEnergies(const UnitPool&, const MethodRequest&, const Context&);

}  // namespace lego

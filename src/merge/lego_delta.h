// LEGO in delta space: units are clustered by what they do, their rank-1 matrices, not by how they are
// stored.
#pragma once

#include "merge/method.h"

namespace lego {

/// Kernel k-means on G_A o G_B, the Gram matrix of the rank-1 matrices b_u a_u^T: exact, and free of the
/// gauge (a, b) ~ (c a, b / c). Each cluster gives the best rank-1 approximation of its members' weighted
/// sum, mean, or sum with the members' mean norm. Options:
/// - restarts: as in LEGO;
/// - metric: `product` clusters the matrices, `cosine` their directions;
/// - representative: `sum` (weights as they are), `mean` (weights relative), `norm` (the sum's direction, the
///   members' mean Frobenius norm).
/// Source: methods.md section 1.3; conventions of tests/golden.
Result<MergedFactors> mergeLegoDelta(const UnitPool&, const MethodRequest&, const Context&);

/// What each further cluster explains (kmeans.h, wardGains).
Result<std::vector<double>> legoDeltaEnergies(const UnitPool&, const MethodRequest&, const Context&);

}  // namespace lego

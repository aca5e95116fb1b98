// Pruning by unit norm: the heaviest units of the pool, untouched.
#pragma once

#include "merge/method.h"

namespace lego {

/// The given units as they are, each multiplied by its adapter's weight, half in each factor.
MergedFactors keepUnits(const UnitPool& pool, std::span<const size_t> units);

/// Keeps the k units with the largest |w| |a_u| |b_u|, the norm of what a unit adds to the weighted sum, in
/// the order of the pool; ties go to the first.
Result<MergedFactors> mergePrune(const UnitPool&, const MethodRequest&, const Context&);

/// Squared norms of the units, descending.
Result<std::vector<double>> pruneEnergies(const UnitPool&, const MethodRequest&, const Context&);

}  // namespace lego

// The heaviest singular triples of a matrix that is too large to hold: it is seen a few rows at a time.
#pragma once

#include <cstdint>
#include <functional>

#include "base/context.h"
#include "linalg/factorise.h"

namespace lego {

namespace panel_svd {
/// Random vectors beside those that are wanted, and the most steps.
inline constexpr size_t kOversampling = 8, kSteps = 12;
}  // namespace panel_svd

/// A matrix of which every pass makes the rows anew, the same ones each time.
struct RowPanels {
  size_t rows = 0, columns = 0;
  /// Calls `use` with consecutive groups of rows, from the first to the last.
  std::function<Status(const std::function<void(size_t first, const Matrix& panel)>& use)> pass;
};

/// At most `rank` triples. A matrix of so few rows that the iteration's vectors would take more room is held
/// as a whole, and done exactly (truncatedSvd). All others by block Krylov iteration on M^T M with full
/// reorthogonalisation (Musco and Musco 2015): one pass a step and one at the end, from seeded random
/// vectors. Stops when a step adds less than 1e-9 to the energy that the triples hold, so what is lost to the
/// best approximation is of that order; at the latest after twelve steps, or when the whole space is spanned,
/// as in small matrices: then it is exact. Values of at most `noise` are no directions. Errors:
/// no_convergence, cancelled, those of `pass`.
Result<Singular> panelSvd(const RowPanels& panels, size_t rank, double noise, uint64_t seed,
                          const Context& context);

}  // namespace lego

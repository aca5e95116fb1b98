// Norms of the rows of a weight that a product of low rank is added to: what DoRA's magnitudes are relative
// to.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"
#include "tensor/dtype.h"

namespace lego {

/// scale_r summed over r: delta = sum of scale_r b_r a_r^T.
struct LowRankDelta {
  const float* a = nullptr;  ///< rows of `in` floats, `strideA` floats apart
  size_t strideA = 0;
  const float* b = nullptr;  ///< rows of `out` floats, `strideB` floats apart
  size_t strideB = 0;
  std::span<const double> scales;  ///< one for each rank
};

/// Euclidean norms of the rows of W + delta: `norms` has one for each of the `out` rows of W, which is
/// row-major, of `dtype`, any alignment, `in` columns. Entries are summed in binary32, rank after rank, their
/// squares in binary64 in four lanes; the same bits on every target. Errors: none; what is not finite gives a
/// norm that is not.
void rowNorms(DType dtype, const std::byte* weight, size_t in, const LowRankDelta& delta,
              std::span<double> norms);

}  // namespace lego

// Gram matrices of units: the one pass over model-sized data that every method needs.
#pragma once

#include <cstddef>

#include "base/context.h"
#include "base/result.h"
#include "linalg/matrix.h"

namespace lego {

/// How products are summed. Both give the same bits on every target and for every position of a row.
enum class GramPrecision {
  /// Products and sums over 256 columns in binary32, in four lanes; these block sums in binary64.
  /// Relative error of an entry about 1e-7 of the product of the two norms.
  Single,
  /// Products (exact) and sums in binary64, in two lanes. Half the speed. For factorisations, which see
  /// the square of the condition number.
  Double,
};

/// G[i][j] = sum over c of rows[i * stride + c] * rows[j * stride + c]: count x count, symmetric.
/// Many rows are shared among the context's threads. Returns the matrix, or out_of_memory.
Result<Matrix> gram(const float* rows, size_t count, size_t length, size_t stride, GramPrecision precision,
                    const Context& context);
Result<Matrix> gramRef(const float* rows, size_t count, size_t length, size_t stride, GramPrecision precision,
                       const Context& context);

}  // namespace lego

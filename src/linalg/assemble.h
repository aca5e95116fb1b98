// The second pass over model-sized data: merged rows as weighted sums of units.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "linalg/matrix.h"

namespace lego {

/// One summand of an output row.
struct Term {
  uint32_t unit;
  float coefficient;
};

/// target[q] = sum over terms[q], in their order, of coefficient * unit row, in binary32.
/// `units`: rows `stride` floats apart, `length` of each used; `target`: terms.size() rows, same stride.
/// A row without terms becomes zero. One term of coefficient 1 copies its unit exactly.
void assemble(const float* units, size_t stride, size_t length, std::span<const std::span<const Term>> terms,
              float* target);
void assembleRef(const float* units, size_t stride, size_t length,
                 std::span<const std::span<const Term>> terms, float* target);

/// Rows of `target` by `kernel` as sums of units that are stored as multiples: coefficients (rows x n) on
/// units whose rows in `units` are `row`, each multiplied by `fold`.
void assembleFolded(decltype(&assemble) kernel, const float* units, size_t stride, size_t length,
                    const Matrix& coefficients, std::span<const uint32_t> row, std::span<const double> fold,
                    float* target);

}  // namespace lego

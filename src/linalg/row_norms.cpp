#include "linalg/row_norms.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/convert.h"

namespace lego {
namespace {

// Columns that are worked on at a time: of 16 rows of A, these stay in the first cache while W's rows pass.
constexpr size_t kColumns = 256;

double sumOfSquares(const float* values, size_t count) {
  std::array<double, 4> lanes{};
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (size_t l = 0; l < 4; ++l) lanes[l] += double{values[i + l]} * values[i + l];
  }
  for (; i < count; ++i) lanes[i % 4] += double{values[i]} * values[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace

void rowNorms(DType dtype, const std::byte* weight, size_t in, const LowRankDelta& delta,
              std::span<double> norms) {
  const size_t bytes = bitsOf(dtype) / 8;
  std::array<float, kColumns> row;
  std::ranges::fill(norms, 0.0);
  for (size_t begin = 0; begin < in; begin += kColumns) {
    const size_t count = std::min(kColumns, in - begin);
    for (size_t o = 0; o < norms.size(); ++o) {
      toFloat(dtype, weight + (o * in + begin) * bytes, count, row.data());
      for (size_t r = 0; r < delta.scales.size(); ++r) {
        const auto factor = static_cast<float>(delta.scales[r] * delta.b[r * delta.strideB + o]);
        const float* a = delta.a + r * delta.strideA + begin;
        for (size_t c = 0; c < count; ++c) row[c] += factor * a[c];
      }
      norms[o] += sumOfSquares(row.data(), count);
    }
  }
  for (double& norm : norms) norm = std::sqrt(norm);
}

}  // namespace lego

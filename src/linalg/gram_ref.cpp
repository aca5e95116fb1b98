#include <algorithm>

#include "linalg/gram.h"
#include "linalg/gram_panels.h"

namespace lego {
namespace {

template <typename T>
double dotRef(const float* a, const float* b, size_t length) {
  constexpr size_t kColumns = gram_panels::kColumns<T>, kLanes = gram_panels::kLanes<T>;
  double total = 0;
  for (size_t panel = 0; panel < length; panel += kColumns) {
    T lanes[kLanes] = {};
    const size_t n = std::min(kColumns, length - panel);
    for (size_t c = 0; c < n; ++c)
      lanes[c % kLanes] += static_cast<T>(a[panel + c]) * static_cast<T>(b[panel + c]);
    total += gram_panels::sumLanes(lanes);
  }
  return total;
}

}  // namespace

Result<Matrix> gramRef(const float* rows, size_t count, size_t length, size_t stride, GramPrecision precision,
                       const Context&) {
  Matrix result(count, count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      const float *a = rows + i * stride, *b = rows + j * stride;
      result(i, j) = result(j, i) =
          precision == GramPrecision::Single ? dotRef<float>(a, b, length) : dotRef<double>(a, b, length);
    }
  }
  return result;
}

}  // namespace lego

#include "linalg/gram.h"

#include <algorithm>

#include "base/buffer.h"
#include "linalg/gram_panels.h"
#include "tensor/simd.h"

namespace lego {
namespace {

// A 4 x 2 tile of accumulators: with the six operands it fills 14 of WebAssembly's (and SSE's) 16
// registers; 4 x 4 spills and ran at half the speed (docs/numerics.md).
constexpr size_t kTileRows = 4, kTileColumns = 2;

template <typename T>
using Batch = std::conditional_t<sizeof(T) == 4, simd::F32x4, simd::F64x2>;

// A panel's rows lie 16 bytes further apart than they are long, so that they do not alias in the L1 cache.
template <typename T>
constexpr size_t kPanelStride = gram_panels::kColumns<T> + gram_panels::kLanes<T>;

/// Copies `length` columns of each row into the panel, widened to T, zero-filled to whole registers and to
/// a multiple of four rows. Zeros add nothing to a sum.
template <typename T>
void packPanel(const float* rows, size_t count, size_t length, size_t stride, T* panel) {
  const size_t lanes = gram_panels::kLanes<T>;
  const size_t padded = (length + lanes - 1) / lanes * lanes;
  for (size_t i = 0; i < count; ++i) {
    T* target = panel + i * kPanelStride<T>;
    for (size_t c = 0; c < length; ++c) target[c] = static_cast<T>(rows[i * stride + c]);
    std::fill(target + length, target + padded, T{0});
  }
  const size_t paddedCount = (count + kTileRows - 1) / kTileRows * kTileRows;
  for (size_t i = count; i < paddedCount; ++i) std::fill_n(panel + i * kPanelStride<T>, padded, T{0});
}

/// sums[4 * 2]: the dot products over one panel of four rows at `a` with two rows at `b`.
template <typename T>
LEGO_KERNEL void gramTile(const T* a, const T* b, size_t columns, double* sums) {
  using V = Batch<T>;
  constexpr size_t s = kPanelStride<T>;
  V s00(T{0}), s01(T{0}), s10(T{0}), s11(T{0}), s20(T{0}), s21(T{0}), s30(T{0}), s31(T{0});
  for (size_t c = 0; c < columns; c += V::size) {
    const V b0 = V::load_aligned(b + c), b1 = V::load_aligned(b + s + c);
    const V a0 = V::load_aligned(a + c), a1 = V::load_aligned(a + s + c);
    const V a2 = V::load_aligned(a + 2 * s + c), a3 = V::load_aligned(a + 3 * s + c);
    s00 = s00 + a0 * b0;
    s01 = s01 + a0 * b1;
    s10 = s10 + a1 * b0;
    s11 = s11 + a1 * b1;
    s20 = s20 + a2 * b0;
    s21 = s21 + a2 * b1;
    s30 = s30 + a3 * b0;
    s31 = s31 + a3 * b1;
  }
  const V tile[] = {s00, s01, s10, s11, s20, s21, s30, s31};
  for (size_t t = 0; t < kTileRows * kTileColumns; ++t) {
    alignas(16) T lanes[V::size];
    tile[t].store_aligned(lanes);
    sums[t] = gram_panels::sumLanes(lanes);
  }
}

template <typename T>
Status accumulate(const float* rows, size_t count, size_t length, size_t stride, Matrix& result) {
  constexpr size_t kColumns = gram_panels::kColumns<T>;
  const size_t paddedCount = (count + kTileRows - 1) / kTileRows * kTileRows;
  Buffer<T> panel;
  if (Status got = panel.reserve(paddedCount * kPanelStride<T>); !got) return got;
  for (size_t at = 0; at < length; at += kColumns) {
    const size_t n = std::min(kColumns, length - at);
    packPanel<T>(rows + at, count, n, stride, panel.data());
    // Only tiles that touch the lower triangle.
    for (size_t i = 0; i < count; i += kTileRows) {
      for (size_t j = 0; j < std::min(i + kTileRows, count); j += kTileColumns) {
        double sums[kTileRows * kTileColumns];
        gramTile<T>(panel.data() + i * kPanelStride<T>, panel.data() + j * kPanelStride<T>, n, sums);
        for (size_t t = 0; t < kTileRows * kTileColumns; ++t) {
          const size_t row = i + t / kTileColumns, column = j + t % kTileColumns;
          if (row < count && column <= row) result(row, column) += sums[t];
        }
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < i; ++j) result(j, i) = result(i, j);
  }
  return {};
}

}  // namespace

Result<Matrix> gram(const float* rows, size_t count, size_t length, size_t stride, GramPrecision precision) {
  Matrix result(count, count);
  if (count == 0) return result;  // `rows` may then point at nothing, from where no panel can be reached
  const Status done = precision == GramPrecision::Single
                          ? accumulate<float>(rows, count, length, stride, result)
                          : accumulate<double>(rows, count, length, stride, result);
  if (!done) return done.error();
  return result;
}

}  // namespace lego

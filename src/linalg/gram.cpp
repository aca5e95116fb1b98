#include "linalg/gram.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/buffer.h"
#include "linalg/gram_panels.h"
#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F32x4, simd::F64x2;

// A 4 x 2 tile of accumulators: with the six operands it fills 14 of WebAssembly's (and SSE's) 16
// registers; 4 x 4 spills and ran at half the speed (docs/numerics.md). The triangle of four rows with
// themselves has ten accumulators and four operands, and computes nothing twice.
constexpr size_t kTileRows = 4, kTileColumns = 2;

// Rows whose tiles are computed together against two others: 16 rows of a panel are 16 KB, half of the
// smallest L1 cache, so that what lies beyond is read once for all of them.
constexpr size_t kGroupRows = 16;

template <typename T>
using Batch = std::conditional_t<sizeof(T) == 4, F32x4, F64x2>;

// A panel's rows lie 16 bytes further apart than they are long, so that they do not alias in the L1 cache.
template <typename T>
constexpr size_t kPanelStride = gram_panels::kColumns<T> + gram_panels::kLanes<T>;

/// Adds up the lanes of x and of y as gram_panels::sumLanes does.
F64x2 sumLanes(F32x4 x, F32x4 y) {
  const F32x4 low = xsimd::zip_lo(x, y), high = xsimd::zip_hi(x, y);
  return (simd::widenLow(low) + simd::widenHigh(low)) + (simd::widenLow(high) + simd::widenHigh(high));
}
F64x2 sumLanes(F64x2 x, F64x2 y) { return xsimd::zip_lo(x, y) + xsimd::zip_hi(x, y); }

/// target[0] and target[1] grow by the sums of x and of y.
template <typename V>
void addSums(double* target, V x, V y) {
  (F64x2::load_unaligned(target) + sumLanes(x, y)).store_unaligned(target);
}
template <typename V>
void addSum(double* target, V x) {
  *target += sumLanes(x, x).get(0);
}

/// sums[r * stride + c] grows by the dot product over one panel of row r at `a` with row c at `b`: four rows
/// with two.
template <typename T>
LEGO_KERNEL void gramTile(const T* a, const T* b, size_t columns, double* sums, size_t stride) {
  using V = Batch<T>;
  constexpr size_t s = kPanelStride<T>;
  V s00(T{0}), s01(T{0}), s10(T{0}), s11(T{0}), s20(T{0}), s21(T{0}), s30(T{0}), s31(T{0});
  // Moving pointers: WebAssembly's loads then take the constant distances of rows as their offsets.
  for (const T* end = a + columns; a != end; a += V::size, b += V::size) {
    const V b0 = V::load_aligned(b), b1 = V::load_aligned(b + s);
    const V a0 = V::load_aligned(a), a1 = V::load_aligned(a + s);
    const V a2 = V::load_aligned(a + 2 * s), a3 = V::load_aligned(a + 3 * s);
    s00 = s00 + a0 * b0;
    s01 = s01 + a0 * b1;
    s10 = s10 + a1 * b0;
    s11 = s11 + a1 * b1;
    s20 = s20 + a2 * b0;
    s21 = s21 + a2 * b1;
    s30 = s30 + a3 * b0;
    s31 = s31 + a3 * b1;
  }
  addSums(sums, s00, s01);
  addSums(sums + stride, s10, s11);
  addSums(sums + 2 * stride, s20, s21);
  addSums(sums + 3 * stride, s30, s31);
}

template <typename V>
V loadAs(const V*, const float* source);
template <>
F32x4 loadAs(const F32x4*, const float* source) {
  return F32x4::load_unaligned(source);
}
template <>
F64x2 loadAs(const F64x2*, const float* source) {
  return F64x2(static_cast<double>(source[0]), static_cast<double>(source[1]));
}

/// Four rows with themselves, and on the way copied into the panel, widened to T. `columns` is a multiple of
/// the lanes. Of sums[r * stride + c] only c <= r grow.
template <typename T>
LEGO_KERNEL void gramTriangle(const float* rows, size_t rowStride, T* panel, size_t columns, double* sums,
                              size_t stride) {
  using V = Batch<T>;
  constexpr size_t s = kPanelStride<T>;
  V s00(T{0}), s10(T{0}), s11(T{0}), s20(T{0}), s21(T{0}), s22(T{0}), s30(T{0}), s31(T{0}), s32(T{0}),
      s33(T{0});
  const V* const type = nullptr;
  for (size_t c = 0; c < columns; c += V::size, panel += V::size) {
    const V a0 = loadAs(type, rows + c), a1 = loadAs(type, rows + rowStride + c);
    const V a2 = loadAs(type, rows + 2 * rowStride + c), a3 = loadAs(type, rows + 3 * rowStride + c);
    a0.store_aligned(panel);
    a1.store_aligned(panel + s);
    a2.store_aligned(panel + 2 * s);
    a3.store_aligned(panel + 3 * s);
    s00 = s00 + a0 * a0;
    s10 = s10 + a1 * a0;
    s11 = s11 + a1 * a1;
    s20 = s20 + a2 * a0;
    s21 = s21 + a2 * a1;
    s22 = s22 + a2 * a2;
    s30 = s30 + a3 * a0;
    s31 = s31 + a3 * a1;
    s32 = s32 + a3 * a2;
    s33 = s33 + a3 * a3;
  }
  addSum(sums, s00);
  addSums(sums + stride, s10, s11);
  addSums(sums + 2 * stride, s20, s21);
  addSum(sums + 2 * stride + 2, s22);
  addSums(sums + 3 * stride, s30, s31);
  addSums(sums + 3 * stride + 2, s32, s33);
}

/// Four rows copied into the panel, widened to T. `columns` is a multiple of the lanes.
template <typename T>
LEGO_KERNEL void packTile(const float* rows, size_t rowStride, T* panel, size_t columns) {
  using V = Batch<T>;
  const V* const type = nullptr;
  for (size_t r = 0; r < kTileRows; ++r) {
    for (size_t c = 0; c < columns; c += V::size)
      loadAs(type, rows + r * rowStride + c).store_aligned(panel + r * kPanelStride<T> + c);
  }
}

/// Rows of the result, begin being a multiple of kGroupRows.
struct Range {
  size_t begin, end;
};

/// One panel's sums, added to the lower triangle of the result: `length` columns of the rows of a range with
/// themselves and with those before them.
template <typename T>
class PanelSums {
 public:
  /// `panel`: room for the rows below range.end, `edge`: for four rows of the result.
  PanelSums(Range range, size_t stride, T* panel, float* padded, double* edge, Matrix& result)
      : begin_(range.begin),
        count_(range.end),
        stride_(stride),
        panel_(panel),
        padded_(padded),
        edge_(edge),
        result_(result) {}

  void add(const float* rows, size_t length) {
    const size_t lanes = gram_panels::kLanes<T>;
    columns_ = (length + lanes - 1) / lanes * lanes;
    for (size_t i = 0; i < begin_; i += kTileRows) {
      const auto [source, stride] = wholeRegisters(rows, length, i);
      packTile<T>(source, stride, panelRow(i), columns_);
    }
    for (size_t group = begin_; group < count_; group += kGroupRows) {
      const size_t end = std::min(group + kGroupRows, count_);
      for (size_t i = group; i < end; i += kTileRows) {
        triangle(rows, length, i);
        for (size_t j = group; j < i; j += kTileColumns) tile(i, j);
      }
      for (size_t j = 0; j < group; j += kTileColumns) {
        for (size_t i = group; i < end; i += kTileRows) tile(i, j);
      }
    }
    finishEdge();
  }

 private:
  T* panelRow(size_t i) { return panel_ + i * kPanelStride<T>; }
  bool isEdge(size_t i) const { return i + kTileRows > count_; }
  /// Where the sums of four rows from i on are added: where there are fewer, in four rows of their own.
  double* target(size_t i) { return isEdge(i) ? edge_ : result_.row(i).data(); }
  size_t targetStride(size_t i) const { return isEdge(i) ? edgeStride() : result_.columns(); }
  size_t edgeStride() const { return (count_ + kTileRows - 1) / kTileRows * kTileRows; }

  void tile(size_t i, size_t j) {
    gramTile<T>(panelRow(i), panelRow(j), columns_, target(i) + j, targetStride(i));
  }

  /// Four rows from i on, as whole registers of them.
  struct Rows {
    const float* source;
    size_t stride;
  };
  Rows wholeRegisters(const float* rows, size_t length, size_t i) {
    const float* source = rows + i * stride_;
    if (!isEdge(i) && columns_ == length) return {source, stride_};
    // Zeros up to whole registers and four rows: they add nothing to a sum.
    const size_t own = std::min(kTileRows, count_ - i);
    std::fill_n(padded_, kTileRows * columns_, 0.0f);
    for (size_t r = 0; r < own; ++r) std::copy_n(source + r * stride_, length, padded_ + r * columns_);
    return {padded_, columns_};
  }

  void triangle(const float* rows, size_t length, size_t i) {
    const auto [source, stride] = wholeRegisters(rows, length, i);
    gramTriangle<T>(source, stride, panelRow(i), columns_, target(i) + i, targetStride(i));
  }

  void finishEdge() {
    const size_t first = count_ / kTileRows * kTileRows, stride = edgeStride();
    for (size_t i = first; i < count_; ++i) {
      double* edge = edge_ + (i - first) * stride;
      for (size_t j = 0; j <= i; ++j) result_(i, j) += edge[j];
    }
    if (first < count_) std::fill_n(edge_, kTileRows * stride, 0.0);
  }

  size_t begin_, count_, stride_, columns_ = 0;
  T* panel_;
  float* padded_;
  double* edge_;
  Matrix& result_;
};

/// Rows `range` of the lower triangle.
template <typename T>
Status accumulate(const float* rows, Range range, size_t length, size_t stride, Matrix& result) {
  constexpr size_t kColumns = gram_panels::kColumns<T>;
  const size_t paddedCount = (range.end + kTileRows - 1) / kTileRows * kTileRows;
  Buffer<T> panel;
  Buffer<float> padded;
  Buffer<double> edge;
  if (Status got = panel.reserve(paddedCount * kPanelStride<T>); !got) return got;
  if (Status got = padded.reserve(kTileRows * kColumns); !got) return got;
  if (Status got = edge.reserve(kTileRows * paddedCount); !got) return got;
  std::fill_n(edge.data(), kTileRows * paddedCount, 0.0);
  PanelSums<T> sums(range, stride, panel.data(), padded.data(), edge.data(), result);
  for (size_t at = 0; at < length; at += kColumns) sums.add(rows + at, std::min(kColumns, length - at));
  return {};
}

/// Ranges of about equal areas of the triangle.
std::vector<Range> rangesOf(size_t count, size_t parts) {
  std::vector<Range> ranges;
  for (size_t p = 1, begin = 0; p <= parts; ++p) {
    const double share = static_cast<double>(p) / static_cast<double>(parts);
    const auto rows = static_cast<size_t>(static_cast<double>(count) * std::sqrt(share));
    const size_t end = p == parts ? count : rows / kGroupRows * kGroupRows;
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

template <typename T>
Status accumulateAll(const float* rows, size_t count, size_t length, size_t stride, Matrix& result,
                     const Context& context) {
  const auto ranges = rangesOf(count, context.threads() > 1 ? gram_panels::partsOf(count) : 1);
  std::vector<Status> done(ranges.size());
  context.share(ranges.size(),
                [&](size_t i) { done[i] = accumulate<T>(rows, ranges[i], length, stride, result); });
  for (const Status& status : done) {
    if (!status) return status;
  }
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < i; ++j) result(j, i) = result(i, j);
  }
  return {};
}

}  // namespace

Result<Matrix> gram(const float* rows, size_t count, size_t length, size_t stride, GramPrecision precision,
                    const Context& context) {
  Matrix result(count, count);
  if (count == 0) return result;  // `rows` may then point at nothing, from where no panel can be reached
  const Status done = precision == GramPrecision::Single
                          ? accumulateAll<float>(rows, count, length, stride, result, context)
                          : accumulateAll<double>(rows, count, length, stride, result, context);
  if (!done) return done.error();
  return result;
}

}  // namespace lego

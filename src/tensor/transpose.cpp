#include "tensor/transpose.h"

#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F32x4;

/// Four whole rows of `columns` (a multiple of 4) become four columns.
LEGO_KERNEL void transposeFourRows(const float* source, size_t columns, size_t sourceStride, float* target,
                                   size_t targetStride) {
  for (size_t c = 0; c < columns; c += 4) {
    const auto r0 = F32x4::load_unaligned(source + c);
    const auto r1 = F32x4::load_unaligned(source + sourceStride + c);
    const auto r2 = F32x4::load_unaligned(source + 2 * sourceStride + c);
    const auto r3 = F32x4::load_unaligned(source + 3 * sourceStride + c);
    // Interleaving rows 0 with 2 and 1 with 3, then the results, gives whole columns.
    const auto even0 = xsimd::zip_lo(r0, r2), even1 = xsimd::zip_hi(r0, r2);
    const auto odd0 = xsimd::zip_lo(r1, r3), odd1 = xsimd::zip_hi(r1, r3);
    float* out = target + c * targetStride;
    xsimd::zip_lo(even0, odd0).store_unaligned(out);
    xsimd::zip_hi(even0, odd0).store_unaligned(out + targetStride);
    xsimd::zip_lo(even1, odd1).store_unaligned(out + 2 * targetStride);
    xsimd::zip_hi(even1, odd1).store_unaligned(out + 3 * targetStride);
  }
}

}  // namespace

void transpose(const float* source, size_t rows, size_t columns, size_t sourceStride, float* target,
               size_t targetStride) {
  const size_t wholeRows = rows & ~size_t{3}, wholeColumns = columns & ~size_t{3};
  for (size_t r = 0; r < wholeRows; r += 4)
    transposeFourRows(source + r * sourceStride, wholeColumns, sourceStride, target + r, targetStride);
  transposeRef(source + wholeColumns, wholeRows, columns - wholeColumns, sourceStride,
               target + wholeColumns * targetStride, targetStride);
  transposeRef(source + wholeRows * sourceStride, rows - wholeRows, columns, sourceStride, target + wholeRows,
               targetStride);
}

void transposeRef(const float* source, size_t rows, size_t columns, size_t sourceStride, float* target,
                  size_t targetStride) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) target[c * targetStride + r] = source[r * sourceStride + c];
  }
}

}  // namespace lego

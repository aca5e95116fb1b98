// Rows of factor elements to and from binary32. `convert` has the fast kernels, `*Ref` the readable truth;
// both give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace lego {

/// Converts `count` elements of `dtype` (little-endian, any alignment) to binary32.
/// F16, BF16, F32 and Q8_0 are exact; F64 rounds to nearest even, and to infinity beyond binary32.
/// Of Q8_0 `count` must be a multiple of 32, here and below. `toFloat` returns maxMagnitudeBits(target,
/// count).
uint32_t toFloat(DType dtype, const std::byte* source, size_t count, float* target);
void toFloatRef(DType dtype, const std::byte* source, size_t count, float* target);

/// Converts binary32 to `dtype` (little-endian, any alignment), rounding to nearest even. Q8_0 is ggml's
/// quantize_row_q8_0_ref, to the bit: scale d = max |x| / 127 of 32 values, each the nearest multiple of d,
/// ties away from zero; d itself is stored as binary16. 32 values of which one is NaN or infinite become NaN.
void fromFloat(DType dtype, const float* source, size_t count, std::byte* target);
/// Each value is multiplied by `factor` first; returns the maxMagnitudeBits of the products.
uint32_t fromFloat(DType dtype, const float* source, size_t count, float factor, std::byte* target);
void fromFloatRef(DType dtype, const float* source, size_t count, std::byte* target);

/// Smallest magnitude, as binary32 bits, that becomes infinite when it is rounded to the dtype.
uint32_t overflowBits(DType dtype);

/// Bits of the largest |x|, as an unsigned number: 0 for no elements, 0x7F800000 or more exactly when an
/// element is infinite or NaN. Integer comparison orders non-negative binary32 values.
uint32_t maxMagnitudeBits(const float* values, size_t count);
uint32_t maxMagnitudeBitsRef(const float* values, size_t count);

}  // namespace lego

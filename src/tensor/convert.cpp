#include "tensor/convert.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/simd.h"

namespace lego {
namespace {

using namespace simd;

// Elements per kernel call: long enough to hide the call, short enough for V8 to swap in optimised code.
// A multiple of every dtype's block of elements.
constexpr size_t kBlock = 1024;

F32x4 asFloat(U32x4 bits) { return xsimd::bitwise_cast<float>(bits); }
U32x4 asBits(F32x4 values) { return xsimd::bitwise_cast<uint32_t>(values); }

/// Eight 16-bit elements at `source`, of any alignment, as the upper halves of two vectors of 32-bit ones.
struct Widened {
  U32x4 low, high;
};
Widened loadUpper(const std::byte* source) {
  const auto bytes = U8x16::load_unaligned(reinterpret_cast<const uint8_t*>(source));
  const auto elements = xsimd::bitwise_cast<uint16_t>(bytes);
  const U16x8 zero(uint16_t{0});
  return {xsimd::bitwise_cast<uint32_t>(xsimd::zip_lo(zero, elements)),
          xsimd::bitwise_cast<uint32_t>(xsimd::zip_hi(zero, elements))};
}

/// Stores the lower 16 bits of eight 32-bit elements at `target`, of any alignment.
void storeLower(U32x4 low, U32x4 high, std::byte* target) {
  // No portable narrowing exists for 32 to 16 bits: join pairs by shifting within 64-bit lanes is no
  // faster than storing through a small array, which compilers turn into shuffles.
  alignas(16) uint32_t wide[8];
  low.store_aligned(wide);
  high.store_aligned(wide + 4);
  uint16_t narrow[8];
  for (int i = 0; i < 8; ++i) narrow[i] = static_cast<uint16_t>(wide[i]);
  std::memcpy(target, narrow, sizeof narrow);
}

/// binary16 in the upper half of each element to binary32 (method of Maratyszcza's FP16 library, MIT): the
/// half's exponent and mantissa are put into place and rescaled by a multiplication; subnormals go through
/// the magic number 0.5, whose last mantissa bit weighs 2^-24.
F32x4 halfBitsToFloat(U32x4 w) {
  const U32x4 sign = w & U32x4(0x80000000u);
  const U32x4 twice = w + w;
  const F32x4 normal = asFloat((twice >> 4) + U32x4(0xE0u << 23)) * F32x4(0x1p-112f);
  const F32x4 subnormal = asFloat((twice >> 17) | U32x4(126u << 23)) - F32x4(0.5f);
  const auto isSubnormal = twice < U32x4(1u << 27);
  return asFloat(sign | xsimd::select(isSubnormal, asBits(subnormal), asBits(normal)));
}

/// binary32 to binary16 in the lower half of each element (same source): the two multiplications overflow
/// what rounds to infinity; adding a power of two chosen by the exponent rounds at the right bit.
U32x4 floatToHalfBits(F32x4 values) {
  const U32x4 w = asBits(values);
  const U32x4 twice = w + w;
  const U32x4 sign = w & U32x4(0x80000000u);
  const U32x4 bias = xsimd::max(twice & U32x4(0xFF000000u), U32x4(0x71000000u));
  F32x4 base = (asFloat(w & U32x4(0x7FFFFFFFu)) * F32x4(0x1p+112f)) * F32x4(0x1p-110f);
  base = asFloat((bias >> 1) + U32x4(0x07800000u)) + base;
  const U32x4 bits = asBits(base);
  const U32x4 rounded = ((bits >> 13) & U32x4(0x7C00u)) + (bits & U32x4(0x0FFFu));
  return (sign >> 16) | xsimd::select(twice > U32x4(0xFF000000u), U32x4(0x7E00u), rounded);
}

/// Round to nearest even as floatToBfloat does, in the lower half of each element.
U32x4 floatToBfloatBits(F32x4 values) {
  const U32x4 w = asBits(values);
  const U32x4 rounded = (w + U32x4(0x7FFFu) + ((w >> 16) & U32x4(1u))) >> 16;
  const auto isNan = (w & U32x4(0x7FFFFFFFu)) > U32x4(0x7F800000u);
  return xsimd::select(isNan, (w >> 16) | U32x4(0x40u), rounded);
}

LEGO_KERNEL void halfBlock(const std::byte* source, size_t count, float* target) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const Widened w = loadUpper(source + 2 * i);
    halfBitsToFloat(w.low).store_unaligned(target + i);
    halfBitsToFloat(w.high).store_unaligned(target + i + 4);
  }
  toFloatRef(DType::F16, source + 2 * i, count - i, target + i);
}

LEGO_KERNEL void bfloatBlock(const std::byte* source, size_t count, float* target) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const Widened w = loadUpper(source + 2 * i);
    asFloat(w.low).store_unaligned(target + i);
    asFloat(w.high).store_unaligned(target + i + 4);
  }
  toFloatRef(DType::BF16, source + 2 * i, count - i, target + i);
}

LEGO_KERNEL void toHalfBlock(const float* source, size_t count, std::byte* target) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    storeLower(floatToHalfBits(F32x4::load_unaligned(source + i)),
               floatToHalfBits(F32x4::load_unaligned(source + i + 4)), target + 2 * i);
  }
  fromFloatRef(DType::F16, source + i, count - i, target + 2 * i);
}

LEGO_KERNEL void toBfloatBlock(const float* source, size_t count, std::byte* target) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    storeLower(floatToBfloatBits(F32x4::load_unaligned(source + i)),
               floatToBfloatBits(F32x4::load_unaligned(source + i + 4)), target + 2 * i);
  }
  fromFloatRef(DType::BF16, source + i, count - i, target + 2 * i);
}

LEGO_KERNEL uint32_t maxMagnitudeBlock(const float* values, size_t count) {
  const U32x4 mask(0x7FFFFFFFu);
  U32x4 largest(0u);
  size_t i = 0;
  for (; i + 4 <= count; i += 4)
    largest = xsimd::max(largest, asBits(F32x4::load_unaligned(values + i)) & mask);
  alignas(16) uint32_t lanes[4];
  largest.store_aligned(lanes);
  return std::max({lanes[0], lanes[1], lanes[2], lanes[3], maxMagnitudeBitsRef(values + i, count - i)});
}

/// memcpy reaches a seventh of this on some processors, whose string instructions are slow to start.
LEGO_KERNEL void copyBlock(const std::byte* source, size_t count, float* target) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) std::memcpy(target + i, source + 4 * i, 64);
  std::memcpy(target + i, source + 4 * i, 4 * (count - i));
}

}  // namespace

void toFloat(DType dtype, const std::byte* source, size_t count, float* target) {
  const auto step = static_cast<size_t>(*bytesOf(dtype, kBlock));
  for (size_t at = 0; at < count; at += kBlock, source += step) {
    const size_t n = std::min(kBlock, count - at);
    switch (dtype) {
      case DType::F32: copyBlock(source, n, target + at); break;
      case DType::F16: halfBlock(source, n, target + at); break;
      case DType::BF16: bfloatBlock(source, n, target + at); break;
      default: toFloatRef(dtype, source, n, target + at); break;  // rare in adapters
    }
  }
}

void fromFloat(DType dtype, const float* source, size_t count, std::byte* target) {
  if (dtype == DType::F32) {
    if (count != 0) std::memcpy(target, source, count * sizeof(float));
    return;
  }
  const auto step = static_cast<size_t>(*bytesOf(dtype, kBlock));
  for (size_t at = 0; at < count; at += kBlock, target += step) {
    const size_t n = std::min(kBlock, count - at);
    switch (dtype) {
      case DType::F16: toHalfBlock(source + at, n, target); break;
      case DType::BF16: toBfloatBlock(source + at, n, target); break;
      default: fromFloatRef(dtype, source + at, n, target); break;
    }
  }
}

uint32_t maxMagnitudeBits(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t at = 0; at < count; at += kBlock) {
    largest = std::max(largest, maxMagnitudeBlock(values + at, std::min(kBlock, count - at)));
  }
  return largest;
}

uint32_t overflowBits(DType dtype) {
  switch (dtype) {
    case DType::F16: return 0x477FF000u;   // 65520
    case DType::BF16: return 0x7F7F8000u;  // half-way between the largest bfloat16 and 2^128
    case DType::Q8_0: return 0x4AFDF020u;  // 127 x 65520: the scale, a binary16, becomes infinite
    default: return 0x7F800000u;
  }
}

}  // namespace lego

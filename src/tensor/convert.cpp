#include "tensor/convert.h"

#include <algorithm>
#include <cstring>

#include "tensor/formats.h"

namespace lego {
namespace {

using namespace formats;

// Elements per kernel call: long enough to hide the call, short enough for V8 to swap in optimised code.
// A multiple of every dtype's block of elements.
constexpr size_t kBlock = 1024;

/// Returns the largest magnitude's bits, compared before they are widened: that is half the work, or less.
template <typename Format>
LEGO_KERNEL uint32_t widenBlock(DType dtype, const std::byte* source, size_t count, float* target) {
  using Magnitudes = typename Format::Magnitudes;
  constexpr size_t n = Format::kElements;
  Magnitudes largest(typename Magnitudes::value_type{0});
  size_t i = 0;
  for (; i + n <= count; i += n) {
    const U32x4 elements = load(source + i * sizeof(typename Format::Element));
    largest = simd::larger(largest, Format::magnitudes(elements));
    F32x4 values[n / 4];
    Format::widen(elements, values);
    for (size_t v = 0; v < n / 4; ++v) values[v].store_unaligned(target + i + 4 * v);
  }
  const uint32_t bits = Format::magnitudeBits(largestOf(largest));
  if (bits >= kInfinity) i = 0;
  toFloatRef(dtype, source + i * sizeof(typename Format::Element), count - i, target + i);
  return std::max(bits, maxMagnitudeBitsRef(target + i, count - i));
}

LEGO_KERNEL uint32_t doubleBlock(const std::byte* source, size_t count, float* target) {
  size_t i = 0;
  I32x4 largest(0);
  for (; i + 4 <= count; i += 4) {
    const auto pair = [&](size_t at) { return xsimd::bitwise_cast<double>(load(source + 8 * at)); };
    const F32x4 values = simd::narrow(pair(i), pair(i + 2));
    largest = simd::larger(largest, Single::magnitudes(asBits(values)));
    values.store_unaligned(target + i);
  }
  toFloatRef(DType::F64, source + 8 * i, count - i, target + i);
  return std::max(largestOf(largest), maxMagnitudeBitsRef(target + i, count - i));
}

/// Elements multiplied by `factor` and rounded; returns the largest magnitude's bits before rounding.
template <typename Format>
LEGO_KERNEL uint32_t narrowBlock(DType dtype, const float* source, size_t count, float factor,
                                 std::byte* target) {
  constexpr size_t n = Format::kElements;
  I32x4 largest(0);
  size_t i = 0;
  for (; i + n <= count; i += n) {
    F32x4 values[n / 4];
    for (size_t v = 0; v < n / 4; ++v) {
      values[v] = F32x4::load_unaligned(source + i + 4 * v) * F32x4(factor);
      largest = simd::larger(largest, Single::magnitudes(asBits(values[v])));
    }
    store(Format::narrow(values), target + i * sizeof(typename Format::Element));
  }
  uint32_t bits = largestOf(largest);
  if (bits >= overflowBits(dtype)) i = 0;
  for (; i < count; ++i) {
    const float value = source[i] * factor;
    fromFloatRef(dtype, &value, 1, target + i * sizeof(typename Format::Element));
    bits = std::max(bits, maxMagnitudeBitsRef(&value, 1));
  }
  return bits;
}

LEGO_KERNEL uint32_t scaleBlock(const float* source, size_t count, float factor, float* target) {
  return narrowBlock<Single>(DType::F32, source, count, factor, reinterpret_cast<std::byte*>(target));
}

LEGO_KERNEL uint32_t maxMagnitudeBlock(const float* values, size_t count) {
  I32x4 largest(0);
  size_t i = 0;
  for (; i + 4 <= count; i += 4)
    largest = simd::larger(largest, Single::magnitudes(asBits(F32x4::load_unaligned(values + i))));
  return std::max(largestOf(largest), maxMagnitudeBitsRef(values + i, count - i));
}

}  // namespace

uint32_t toFloat(DType dtype, const std::byte* source, size_t count, float* target) {
  const auto step = static_cast<size_t>(*bytesOf(dtype, kBlock));
  uint32_t largest = 0;
  for (size_t at = 0; at < count; at += kBlock, source += step) {
    const size_t n = std::min(kBlock, count - at);
    const auto convert = [&]() -> uint32_t {
      switch (dtype) {
        case DType::F32: return widenBlock<Single>(dtype, source, n, target + at);
        case DType::F16: return widenBlock<Half>(dtype, source, n, target + at);
        case DType::BF16: return widenBlock<Bfloat>(dtype, source, n, target + at);
        case DType::F64: return doubleBlock(source, n, target + at);
        case DType::F8E4M3: return widenBlock<Float8<DType::F8E4M3>>(dtype, source, n, target + at);
        case DType::F8E5M2: return widenBlock<Float8<DType::F8E5M2>>(dtype, source, n, target + at);
        default:  // rare in adapters
          toFloatRef(dtype, source, n, target + at);
          return maxMagnitudeBlock(target + at, n);
      }
    };
    largest = std::max(largest, convert());
  }
  return largest;
}

uint32_t fromFloat(DType dtype, const float* source, size_t count, float factor, std::byte* target) {
  const auto step = static_cast<size_t>(*bytesOf(dtype, kBlock));
  uint32_t largest = 0;
  for (size_t at = 0; at < count; at += kBlock, target += step) {
    const size_t n = std::min(kBlock, count - at);
    const auto convert = [&]() -> uint32_t {
      switch (dtype) {
        case DType::F32: return narrowBlock<Single>(dtype, source + at, n, factor, target);
        case DType::F16: return narrowBlock<Half>(dtype, source + at, n, factor, target);
        case DType::BF16: return narrowBlock<Bfloat>(dtype, source + at, n, factor, target);
        default: {  // rare in results
          float scaled[kBlock];
          const uint32_t own = scaleBlock(source + at, n, factor, scaled);
          fromFloatRef(dtype, scaled, n, target);
          return own;
        }
      }
    };
    largest = std::max(largest, convert());
  }
  return largest;
}

void fromFloat(DType dtype, const float* source, size_t count, std::byte* target) {
  // Multiplied by 1 each value stays what it is, -0 and NaN included.
  (void)fromFloat(dtype, source, count, 1.0f, target);
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

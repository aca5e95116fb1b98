// How elements of a dtype become binary32 and come back, four at a time: what the kernels of convert.cpp and
// unpack.cpp are made of. A register holds 16 bytes of elements as they are stored. Only these two include
// it.
#pragma once

#include <algorithm>
#include <bit>
#include <type_traits>

#include "tensor/dtype.h"
#include "tensor/simd.h"

namespace lego::formats {

using simd::F32x4, simd::F64x2, simd::I16x8, simd::I32x4, simd::U16x8, simd::U32x4, simd::U8x16;

inline F32x4 asFloat(U32x4 bits) { return xsimd::bitwise_cast<float>(bits); }
inline U32x4 asBits(F32x4 values) { return xsimd::bitwise_cast<uint32_t>(values); }
inline U32x4 load(const std::byte* source) {
  return xsimd::bitwise_cast<uint32_t>(U8x16::load_unaligned(reinterpret_cast<const uint8_t*>(source)));
}
inline void store(U32x4 elements, std::byte* target) {
  xsimd::bitwise_cast<uint8_t>(elements).store_unaligned(reinterpret_cast<uint8_t*>(target));
}

inline constexpr uint32_t kMagnitude = 0x7FFFFFFFu, kInfinity = 0x7F800000u;

/// binary16 in the upper half of each element to binary32 (method of Maratyszcza's FP16 library, MIT): the
/// half's exponent and mantissa are put into place and rescaled by a multiplication; subnormals go through
/// the magic number 0.5, whose last mantissa bit weighs 2^-24.
inline F32x4 halfBitsToFloat(U32x4 w) {
  const U32x4 magnitude = w & U32x4(kMagnitude);
  const F32x4 normal = asFloat((magnitude >> 3) + U32x4(0xE0u << 23)) * F32x4(0x1p-112f);
  const F32x4 subnormal = asFloat((magnitude >> 16) | U32x4(126u << 23)) - F32x4(0.5f);
  constexpr uint32_t kLastSubnormal = (1u << 26) - 1;
  return asFloat((w ^ magnitude) |
                 simd::whereGreater(magnitude, U32x4(kLastSubnormal), asBits(normal), asBits(subnormal)));
}

/// binary32 to binary16 in the lower half of each element (same source): the two multiplications overflow
/// what rounds to infinity; adding a power of two chosen by the exponent rounds at the right bit.
inline U32x4 floatToHalfBits(F32x4 values) {
  const U32x4 w = asBits(values);
  const U32x4 magnitude = w & U32x4(kMagnitude);
  const auto exponent = xsimd::bitwise_cast<int32_t>(magnitude & U32x4(kInfinity));
  const auto atLeast = simd::larger(exponent, I32x4(113 << 23));
  F32x4 base = (asFloat(magnitude) * F32x4(0x1p+112f)) * F32x4(0x1p-110f);
  base = asFloat(xsimd::bitwise_cast<uint32_t>(atLeast) + U32x4(15u << 23)) + base;
  const U32x4 bits = asBits(base);
  const U32x4 rounded = ((bits >> 13) & U32x4(0x7C00u)) + (bits & U32x4(0x0FFFu));
  return ((w ^ magnitude) >> 16) | simd::whereGreater(magnitude, U32x4(kInfinity), U32x4(0x7E00u), rounded);
}

/// Round to nearest even as floatToBfloat does, in the upper half of each element; the lower is not zero.
inline U32x4 floatToBfloatBits(F32x4 values) {
  const U32x4 w = asBits(values);
  const U32x4 rounded = w + U32x4(0x7FFFu) + ((w >> 16) & U32x4(1u));
  return simd::whereGreater(w & U32x4(kMagnitude), U32x4(kInfinity), w | U32x4(0x400000u), rounded);
}

/// The largest of some magnitudes.
template <typename Magnitudes>
auto largestOf(Magnitudes magnitudes) {
  alignas(16) typename Magnitudes::value_type lanes[Magnitudes::size];
  magnitudes.store_aligned(lanes);
  using Element = std::make_unsigned_t<typename Magnitudes::value_type>;
  return static_cast<Element>(*std::max_element(std::begin(lanes), std::end(lanes)));
}

// Each format has, beside its element:
// - kElements, those in 16 bytes;
// - Magnitudes, the elements of a register without their signs, which are ordered as the numbers are (what is
//   not finite comes last), and magnitudeBits(), one of them as maxMagnitudeBits tells it;
// - widen(): 16 bytes to their elements in order;
// - split(): four elements to each of kElements / 4 ... of a register in which four rows have traded places:
//   lane r holds the elements of row r, out[e] is to hold element e of all four rows;
// - join(), where it can be written: the way back of split; narrow(), that of widen.

struct Single {
  using Element = uint32_t;
  static constexpr size_t kElements = 4;
  using Magnitudes = I32x4;
  static Magnitudes magnitudes(U32x4 elements) {
    return xsimd::bitwise_cast<int32_t>(elements & U32x4(kMagnitude));
  }
  static uint32_t magnitudeBits(Element magnitude) { return magnitude; }
  static void widen(U32x4 elements, F32x4* out) { out[0] = asFloat(elements); }
  static void split(U32x4 elements, F32x4* out) { out[0] = asFloat(elements); }
  static U32x4 narrow(const F32x4* in) { return asBits(in[0]); }
  static U32x4 join(const F32x4* in) { return asBits(in[0]); }
};

/// What the two 16-bit formats share.
struct Upper16 {
  using Element = uint16_t;
  static constexpr size_t kElements = 8;
  using Magnitudes = I16x8;
  static Magnitudes magnitudes(U32x4 elements) {
    return xsimd::bitwise_cast<int16_t>(elements & U32x4(0x7FFF7FFFu));
  }
  /// Elements 0 to 3 or 4 to 7 in the upper halves of vectors of 32-bit ones.
  static U32x4 upper(U32x4 elements, bool last) {
    const auto e = xsimd::bitwise_cast<uint16_t>(elements);
    const U16x8 zero(uint16_t{0});
    return xsimd::bitwise_cast<uint32_t>(last ? xsimd::zip_hi(zero, e) : xsimd::zip_lo(zero, e));
  }
};

struct Bfloat : Upper16 {
  static uint32_t magnitudeBits(Element magnitude) { return uint32_t{magnitude} << 16; }
  static void widen(U32x4 elements, F32x4* out) {
    out[0] = asFloat(upper(elements, false));
    out[1] = asFloat(upper(elements, true));
  }
  static void split(U32x4 elements, F32x4* out) {
    out[0] = asFloat(elements << 16);
    out[1] = asFloat(elements & U32x4(0xFFFF0000u));
  }
  static U32x4 narrow(const F32x4* in) {
    return simd::upperHalves(floatToBfloatBits(in[0]), floatToBfloatBits(in[1]));
  }
  static U32x4 join(const F32x4* in) {
    return (floatToBfloatBits(in[0]) >> 16) | (floatToBfloatBits(in[1]) & U32x4(0xFFFF0000u));
  }
};

struct Half : Upper16 {
  static uint32_t magnitudeBits(Element magnitude) { return std::bit_cast<uint32_t>(halfToFloat(magnitude)); }
  static void widen(U32x4 elements, F32x4* out) {
    out[0] = halfBitsToFloat(upper(elements, false));
    out[1] = halfBitsToFloat(upper(elements, true));
  }
  static void split(U32x4 elements, F32x4* out) {
    out[0] = halfBitsToFloat(elements << 16);
    out[1] = halfBitsToFloat(elements & U32x4(0xFFFF0000u));
  }
  static U32x4 narrow(const F32x4* in) {
    return simd::lowerHalves(floatToHalfBits(in[0]), floatToHalfBits(in[1]));
  }
  static U32x4 join(const F32x4* in) { return floatToHalfBits(in[0]) | (floatToHalfBits(in[1]) << 16); }
};

/// The two kinds of 8-bit floats that training frameworks write. Both are put into the upper bits of a
/// binary16: E5M2 is one already; E4M3's narrower exponent has a bias that is 8 less.
template <DType dtype>
struct Float8 {
  static_assert(dtype == DType::F8E5M2 || dtype == DType::F8E4M3);
  using Element = uint8_t;
  static constexpr size_t kElements = 16;
  using Magnitudes = U8x16;
  static Magnitudes magnitudes(U32x4 elements) {
    return xsimd::bitwise_cast<uint8_t>(elements & U32x4(0x7F7F7F7Fu));
  }
  static uint32_t magnitudeBits(Element magnitude) {
    return std::bit_cast<uint32_t>(float8ToFloat(dtype, magnitude));
  }
  /// Of elements in the uppermost byte.
  static F32x4 toFloat(U32x4 w) {
    const U32x4 magnitude = w & U32x4(0x7F000000u), sign = w & U32x4(0x80000000u);
    constexpr bool isE5 = dtype == DType::F8E5M2;
    const F32x4 value = isE5 ? halfBitsToFloat(w) : halfBitsToFloat(sign | (magnitude >> 1)) * F32x4(256.0f);
    return asFloat(simd::whereGreater(magnitude, U32x4(isE5 ? 0x7C000000u : 0x7E000000u),
                                      sign | U32x4(0x7FC00000u), asBits(value)));
  }
  static void widen(U32x4 elements, F32x4* out) {
    const auto e = xsimd::bitwise_cast<uint8_t>(elements);
    const U8x16 zero(uint8_t{0});
    const auto low = xsimd::bitwise_cast<uint32_t>(xsimd::zip_lo(zero, e));
    const auto high = xsimd::bitwise_cast<uint32_t>(xsimd::zip_hi(zero, e));
    for (size_t i = 0; i < 4; ++i) out[i] = toFloat(Upper16::upper(i < 2 ? low : high, i % 2 == 1));
  }
  static void split(U32x4 elements, F32x4* out) {
    out[0] = toFloat(elements << 24);
    out[1] = toFloat((elements << 16) & U32x4(0xFF000000u));
    out[2] = toFloat((elements << 8) & U32x4(0xFF000000u));
    out[3] = toFloat(elements & U32x4(0xFF000000u));
  }
};

}  // namespace lego::formats

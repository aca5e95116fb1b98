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

/// binary32 to binary16 in the lower half of each element (after Maratyszcza's FP16 library, MIT): adding a
/// power of two chosen by the exponent rounds at the right bit. The other number's exponent is made larger by
/// two, so that the sum's has the right one in its last five bits.
inline U32x4 floatToHalfBits(F32x4 values) {
  const U32x4 w = asBits(values);
  const U32x4 magnitude = w & U32x4(kMagnitude);
  const auto exponent = xsimd::bitwise_cast<int32_t>(magnitude & U32x4(kInfinity));
  const auto atLeast = xsimd::bitwise_cast<uint32_t>(simd::larger(exponent, I32x4(113 << 23)));
  const U32x4 bits = asBits(asFloat(atLeast + U32x4(15u << 23)) + asFloat(magnitude + U32x4(2u << 23)));
  const U32x4 rounded = ((bits >> 13) & U32x4(0x7C00u)) + (bits & U32x4(0x0FFFu));
  return ((w ^ magnitude) >> 16) | rounded;
}

/// Round to nearest even as floatToBfloat does, in the upper half of each element; the lower is not zero.
inline U32x4 floatToBfloatBits(F32x4 values) {
  const U32x4 w = asBits(values);
  return w + U32x4(0x7FFFu) + ((w >> 16) & U32x4(1u));
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
// - widen(): 16 bytes to their elements in order, of which those that are not finite may come out wrong: the
//   magnitudes tell that there are any, and the kernels' callers do them again;
// - split(): four elements to each of kElements / 4 ... of a register in which four rows have traded places:
//   lane r holds the elements of row r, out[e] is to hold element e of all four rows;
// - join(), where it can be written: the way back of split; narrow(), that of widen; wrong where there is a
//   magnitude of overflowBits or more.

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

  /// Puts a magnitude's exponent and mantissa into their places in a binary32, by a multiplication.
  static constexpr int16_t kIntoPlace = 1 << 13;
  /// What the exponent lacks then, from a bias of 15 to one of 127.
  static constexpr int32_t kBias = 112 << 23;
  /// The values of magnitudes in their places, their exponents set right, with signs. A subnormal magnitude m
  /// stands for 2^-14 m / 2^10 and has become 2^-15 (1 + m / 2^10), from which twice that less 2^-14 makes it
  /// again, exactly. Of any other this makes what is not smaller, so the smaller of both is right.
  static F32x4 valueOf(I32x4 magnitude, U32x4 sign) {
    const auto value = xsimd::bitwise_cast<float>(magnitude);
    const auto subnormal = xsimd::bitwise_cast<int32_t>(value + value - F32x4(0x1p-14f));
    return asFloat(xsimd::bitwise_cast<uint32_t>(simd::smaller(magnitude, subnormal)) | sign);
  }
  static U32x4 signs(U32x4 elements, Magnitudes magnitude) {
    return elements ^ xsimd::bitwise_cast<uint32_t>(magnitude);
  }
  static void widen(U32x4 elements, F32x4* out) {
    const Magnitudes magnitude = magnitudes(elements);
    const U32x4 sign = signs(elements, magnitude);
    // Beside each magnitude a number whose product is the bias.
    const Magnitudes beside(static_cast<int16_t>(kBias / INT16_MIN));
    const auto factors = simd::pairs(kIntoPlace, INT16_MIN);
    out[0] = valueOf(simd::productSums(xsimd::zip_lo(magnitude, beside), factors), upper(sign, false));
    out[1] = valueOf(simd::productSums(xsimd::zip_hi(magnitude, beside), factors), upper(sign, true));
  }
  static void split(U32x4 elements, F32x4* out) {
    const Magnitudes magnitude = magnitudes(elements);
    const U32x4 sign = signs(elements, magnitude);
    const I32x4 even = simd::productSums(magnitude, simd::pairs(kIntoPlace, 0));
    const I32x4 odd = simd::productSums(magnitude, simd::pairs(0, kIntoPlace));
    out[0] = valueOf(even + I32x4(kBias), sign << 16);
    out[1] = valueOf(odd + I32x4(kBias), sign & U32x4(0x80000000u));
  }
  static U32x4 narrow(const F32x4* in) {
    return simd::lowerHalves(floatToHalfBits(in[0]), floatToHalfBits(in[1]));
  }
  static U32x4 join(const F32x4* in) { return floatToHalfBits(in[0]) | (floatToHalfBits(in[1]) << 16); }
};

/// The two kinds of 8-bit floats that training frameworks write. Each is a bfloat16 with fewer bits: shifted
/// into place, its exponent lacks a constant. What that makes wrong, subnormals and zero, is put right from a
/// table.
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

  static constexpr bool kIsE5 = dtype == DType::F8E5M2;
  static constexpr int kMantissaBits = kIsE5 ? 2 : 3;
  /// To the exponent, from a bias of 15 or 7 to one of 127.
  static constexpr uint32_t kBias = (kIsE5 ? 127 - 15 : 127 - 7) << 7;

  /// What the upper, or lower, byte of the bfloat16 of each magnitude below 16 lacks.
  struct Corrections {
    alignas(16) uint8_t upper[16] = {}, lower[16] = {};
  };
  static constexpr Corrections kCorrections = [] {
    Corrections corrections;
    for (uint32_t m = 0; m < 1u << kMantissaBits; ++m) {
      const float value = static_cast<float>(m) * (kIsE5 ? 0x1p-16f : 0x1p-9f);
      const uint32_t bits = std::bit_cast<uint32_t>(value) >> 16;
      const uint32_t shifted = (m << (7 - kMantissaBits)) + kBias;
      corrections.upper[m] = static_cast<uint8_t>((bits >> 8) - (shifted >> 8));
      corrections.lower[m] = static_cast<uint8_t>(bits - shifted);
    }
    return corrections;
  }();

  /// The bytes of each element's bfloat16.
  struct Bytes {
    U8x16 upper, lower;
  };
  static Bytes toBfloat(U32x4 elements) {
    const U8x16 magnitude = magnitudes(elements);
    const auto sign = xsimd::bitwise_cast<uint8_t>(elements & U32x4(0x80808080u));
    const U8x16 lower = simd::shifted<7 - kMantissaBits>(magnitude) +
                        simd::lookUp(U8x16::load_aligned(kCorrections.lower), magnitude);
    const U8x16 upper = simd::shifted<-1 - kMantissaBits>(magnitude) + U8x16(uint8_t{kBias >> 8}) +
                        simd::lookUp(U8x16::load_aligned(kCorrections.upper), magnitude);
    return {upper | sign, lower};
  }
  static void widen(U32x4 elements, F32x4* out) {
    const auto [upper, lower] = toBfloat(elements);
    Bfloat::widen(xsimd::bitwise_cast<uint32_t>(xsimd::zip_lo(lower, upper)), out);
    Bfloat::widen(xsimd::bitwise_cast<uint32_t>(xsimd::zip_hi(lower, upper)), out + 2);
  }
  static void split(U32x4 elements, F32x4* out) {
    const auto bytes = toBfloat(elements);
    const auto upper = xsimd::bitwise_cast<uint32_t>(bytes.upper);
    const auto lower = xsimd::bitwise_cast<uint32_t>(bytes.lower);
    const U32x4 odd(0xFF00FF00u), even(0x00FF00FFu);
    const U32x4 elements02 = ((upper & even) << 8) | (lower & even);
    const U32x4 elements13 = (upper & odd) | ((lower >> 8) & even);
    F32x4 pairs[2];
    Bfloat::split(elements02, pairs);
    out[0] = pairs[0];
    out[2] = pairs[1];
    Bfloat::split(elements13, pairs);
    out[1] = pairs[0];
    out[3] = pairs[1];
  }
};

}  // namespace lego::formats

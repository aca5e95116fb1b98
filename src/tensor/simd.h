// The one SIMD shape that all kernels use: 128 bits, on every target, so that the order of summation
// does not depend on the machine. Only kernel .cpp files include this.
#pragma once

#include <bit>
#include <cstdint>
#include <xsimd/xsimd.hpp>

namespace lego::simd {

using F32x4 = xsimd::make_sized_batch_t<float, 4>;
using F64x2 = xsimd::make_sized_batch_t<double, 2>;
using U32x4 = xsimd::make_sized_batch_t<uint32_t, 4>;
using I32x4 = xsimd::make_sized_batch_t<int32_t, 4>;
using I16x8 = xsimd::make_sized_batch_t<int16_t, 8>;
using U16x8 = xsimd::make_sized_batch_t<uint16_t, 8>;
using U8x16 = xsimd::make_sized_batch_t<uint8_t, 16>;

// Without these the aliases are void: the target has no 128-bit registers.
static_assert(F32x4::size == 4 && F64x2::size == 2 && U32x4::size == 4 && U16x8::size == 8 &&
              U8x16::size == 16);

// What xsimd has no portable name for, or takes several instructions for in WebAssembly. Vector extensions of
// the compiler: GCC and clang know them on every target, WebAssembly included.
namespace detail {
using Float4 [[gnu::vector_size(16)]] = float;
using Float2 [[gnu::vector_size(8)]] = float;
using Double2 [[gnu::vector_size(16)]] = double;
using Short8 [[gnu::vector_size(16)]] = uint16_t;
using SignedShort8 [[gnu::vector_size(16)]] = int16_t;
using Int4 [[gnu::vector_size(16)]] = int32_t;
using Byte16 [[gnu::vector_size(16)]] = uint8_t;
}  // namespace detail

/// Elements 0 and 1, or 2 and 3, in binary64.
inline F64x2 widenLow(F32x4 values) {
  const auto v = std::bit_cast<detail::Float4>(values.data);
  const detail::Float2 low = __builtin_shufflevector(v, v, 0, 1);
  return F64x2(std::bit_cast<F64x2::register_type>(__builtin_convertvector(low, detail::Double2)));
}
inline F64x2 widenHigh(F32x4 values) {
  const auto v = std::bit_cast<detail::Float4>(values.data);
  const detail::Float2 high = __builtin_shufflevector(v, v, 2, 3);
  return F64x2(std::bit_cast<F64x2::register_type>(__builtin_convertvector(high, detail::Double2)));
}

/// The larger of each two elements.
template <typename Batch>
Batch larger(Batch a, Batch b) {
  using Vector [[gnu::vector_size(16)]] = typename Batch::value_type;
  const auto x = std::bit_cast<Vector>(a.data), y = std::bit_cast<Vector>(b.data);
  const Vector result = x > y ? x : y;
  return Batch(std::bit_cast<typename Batch::register_type>(result));
}

/// The smaller of each two elements.
template <typename Batch>
Batch smaller(Batch a, Batch b) {
  using Vector [[gnu::vector_size(16)]] = typename Batch::value_type;
  const auto x = std::bit_cast<Vector>(a.data), y = std::bit_cast<Vector>(b.data);
  const Vector result = x < y ? x : y;
  return Batch(std::bit_cast<typename Batch::register_type>(result));
}

/// Two numbers in turn.
inline I16x8 pairs(int16_t even, int16_t odd) {
  const detail::SignedShort8 both = {even, odd, even, odd, even, odd, even, odd};
  return I16x8(std::bit_cast<I16x8::register_type>(both));
}

/// a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1] for i from 0 to 3, which is to fit.
inline I32x4 productSums(I16x8 a, I16x8 b) {
#if defined(__wasm_simd128__)
  return I32x4(wasm_i32x4_dot_i16x8(a.data, b.data));
#elif defined(__SSE2__)
  return I32x4(_mm_madd_epi16(a.data, b.data));
#else
  using detail::Int4;
  const auto x = std::bit_cast<Int4>(a.data), y = std::bit_cast<Int4>(b.data);
  // The lower half of each element, and the upper one, with their signs.
  const Int4 sums = ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
  return I32x4(std::bit_cast<I32x4::register_type>(sums));
#endif
}

/// Bytes shifted to the left or right, zeros coming in.
template <int count>
U8x16 shifted(U8x16 bytes) {
  const auto b = std::bit_cast<detail::Byte16>(bytes.data);
  const detail::Byte16 result = count > 0 ? b << (count & 7) : b >> (-count & 7);
  return U8x16(std::bit_cast<U8x16::register_type>(result));
}

/// table[index] for each byte, 0 where the index is 16 or more; it is below 128.
inline U8x16 lookUp(U8x16 table, U8x16 index) {
#if defined(__wasm_simd128__)
  return U8x16(wasm_i8x16_swizzle(table.data, index.data));
#elif defined(__SSSE3__)
  // Where the highest bit is set, the instruction gives 0; otherwise it takes the lowest four.
  return U8x16(_mm_shuffle_epi8(table.data, _mm_adds_epu8(index.data, _mm_set1_epi8(0x70))));
#elif defined(__aarch64__)
  return U8x16(vqtbl1q_u8(table.data, index.data));
#else
  alignas(16) uint8_t entries[16], bytes[16];
  table.store_aligned(entries);
  index.store_aligned(bytes);
  for (uint8_t& byte : bytes) byte = byte < 16 ? entries[byte] : 0;
  return U8x16::load_aligned(bytes);
#endif
}

/// Two pairs of binary64 as four of binary32, rounded to nearest even.
inline F32x4 narrow(F64x2 low, F64x2 high) {
#if defined(__wasm_simd128__)
  // From the vectors below the compiler makes four conversions of one element each.
  const auto a = wasm_f32x4_demote_f64x2_zero(low.data), b = wasm_f32x4_demote_f64x2_zero(high.data);
  return F32x4(wasm_i64x2_shuffle(a, b, 0, 2));
#else
  const auto a = __builtin_convertvector(std::bit_cast<detail::Double2>(low.data), detail::Float2);
  const auto b = __builtin_convertvector(std::bit_cast<detail::Double2>(high.data), detail::Float2);
  const detail::Float4 joined = __builtin_shufflevector(a, b, 0, 1, 2, 3);
  return F32x4(std::bit_cast<F32x4::register_type>(joined));
#endif
}

/// The lower, or upper, 16 bits of the elements of two vectors, as eight 16-bit ones.
inline U32x4 lowerHalves(U32x4 a, U32x4 b) {
  const auto x = std::bit_cast<detail::Short8>(a.data), y = std::bit_cast<detail::Short8>(b.data);
  const detail::Short8 halves = __builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
  return U32x4(std::bit_cast<U32x4::register_type>(halves));
}
inline U32x4 upperHalves(U32x4 a, U32x4 b) {
  const auto x = std::bit_cast<detail::Short8>(a.data), y = std::bit_cast<detail::Short8>(b.data);
  const detail::Short8 halves = __builtin_shufflevector(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
  return U32x4(std::bit_cast<U32x4::register_type>(halves));
}

}  // namespace lego::simd

// V8 replaces a function's baseline code by optimised code only when the function is called again: a
// kernel that is inlined into one long-running caller stays slow (28 against 7 GMAC/s were measured).
// So kernels are functions of their own that work on one block per call.
#define LEGO_KERNEL [[gnu::noinline]]

// The one SIMD shape that all kernels use: 128 bits, on every target, so that the order of summation
// does not depend on the machine. Only kernel .cpp files include this.
#pragma once

#include <cstdint>
#include <xsimd/xsimd.hpp>

namespace lego::simd {

using F32x4 = xsimd::make_sized_batch_t<float, 4>;
using F64x2 = xsimd::make_sized_batch_t<double, 2>;
using U32x4 = xsimd::make_sized_batch_t<uint32_t, 4>;
using U16x8 = xsimd::make_sized_batch_t<uint16_t, 8>;
using U8x16 = xsimd::make_sized_batch_t<uint8_t, 16>;

// Without these the aliases are void: the target has no 128-bit registers.
static_assert(F32x4::size == 4 && F64x2::size == 2 && U32x4::size == 4 && U16x8::size == 8 &&
              U8x16::size == 16);

}  // namespace lego::simd

// V8 replaces a function's baseline code by optimised code only when the function is called again: a
// kernel that is inlined into one long-running caller stays slow (28 against 7 GMAC/s were measured).
// So kernels are functions of their own that work on one block per call.
#define LEGO_KERNEL [[gnu::noinline]]

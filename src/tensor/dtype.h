// Element types of safetensors files, and the exact conversions of single values.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lego {

/// Every dtype of the format (safetensors `Dtype`, in its enum order). Factors are read from those for which
/// isFactorDtype() holds; results are written as F16, BF16, F32 or F64.
enum class DType : uint8_t {
  Bool,
  F4,
  F6E2M3,
  F6E3M2,
  U8,
  I8,
  F8E5M2,
  F8E4M3,
  F8E8M0,
  F8E4M3FNUZ,
  F8E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

/// Bits of one element.
unsigned bitsOf(DType dtype);
/// The name in a file's header ("BF16").
std::string_view nameOf(DType dtype);
std::optional<DType> dtypeOf(std::string_view name);

/// F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ: weights of 8 bits, each of them exact in F16.
bool isFloat8(DType dtype);
/// F16, BF16, F32, F64 and those of 8 bits.
bool isFactorDtype(DType dtype);

/// One of the formats of 8 bits to binary32: exact for every value; NaN stays NaN. E4M3 has exponent bias 7,
/// no infinity, and NaN where all other bits are set; E5M2 is as IEEE 754 would have it, with bias 15. FNUZ
/// have bias 8 and 16, no infinity and no -0: its bits are NaN. Sources: arXiv 2209.05433, arXiv 2206.02915.
float float8ToFloat(DType dtype, uint8_t bits);

/// IEEE 754 binary16 to binary32: exact for every value; NaN stays NaN.
float halfToFloat(uint16_t half);
/// Rounds to nearest, ties to even; above 65519.996 gives infinity; NaN stays NaN.
uint16_t floatToHalf(float value);

/// bfloat16 is the upper half of a binary32.
inline float bfloatToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
/// Rounds to nearest, ties to even; NaN stays NaN (quiet).
uint16_t floatToBfloat(float value);

}  // namespace lego

// Element types of safetensors and GGUF files, and the exact conversions of single values.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace lego {

/// Every dtype of safetensors (`Dtype`, in its enum order), then those that only GGUF has (`ggml_type`):
/// blocks of elements that share a scale. Factors are read from those for which isFactorDtype() holds; of the
/// others a header's names and shapes are of use. Results are written as Q8_0, F16, BF16, F32 or F64.
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
  Q8_0,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_1,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  Q8_K,
  IQ2_XXS,
  IQ2_XS,
  IQ3_XXS,
  IQ1_S,
  IQ4_NL,
  IQ3_S,
  IQ2_S,
  IQ4_XS,
  IQ1_M,
  TQ1_0,
  TQ2_0,
  MXFP4,
  NVFP4,
  Q1_0,
};
inline constexpr size_t kDTypes = static_cast<size_t>(DType::Q1_0) + 1;

/// Bits of one element; 0 where elements are stored in blocks and have no size of their own (use bytesOf).
unsigned bitsOf(DType dtype);
/// Elements that are stored together: 1, or as many as share a scale. A row holds whole blocks only.
unsigned blockOf(DType dtype);
/// Bytes of `elements` elements. Nothing where they are no whole blocks, no whole bytes, or do not fit 64
/// bits.
std::optional<uint64_t> bytesOf(DType dtype, uint64_t elements);
/// Bytes of a row-major tensor: as above, and every row (the last dimension) must hold whole blocks.
std::optional<uint64_t> bytesOf(DType dtype, std::span<const uint64_t> shape);

/// The name in a safetensors header ("BF16"), or that of ggml's type ("Q4_K").
std::string_view nameOf(DType dtype);
/// The dtype that a safetensors header means. Knows none of GGUF's own.
std::optional<DType> dtypeOf(std::string_view name);

/// F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ: weights of 8 bits, each of them exact in F16.
bool isFloat8(DType dtype);
/// F16, BF16, F32, F64, those of 8 bits, and Q8_0.
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

#include "tensor/dtype.h"

#include <iterator>

#include "base/checked.h"

namespace lego {
namespace {

struct Entry {
  std::string_view name;
  uint16_t elements;  // of one block
  uint16_t bits;      // of one block
};

// Sizes of blocks: the structs of ggml/src/ggml-common.h, e.g. Q8_0 = a binary16 and 32 bytes.
constexpr Entry kEntries[] = {
    {"BOOL", 1, 8},
    {"F4", 1, 4},
    {"F6_E2M3", 1, 6},
    {"F6_E3M2", 1, 6},
    {"U8", 1, 8},
    {"I8", 1, 8},
    {"F8_E5M2", 1, 8},
    {"F8_E4M3", 1, 8},
    {"F8_E8M0", 1, 8},
    {"F8_E4M3FNUZ", 1, 8},
    {"F8_E5M2FNUZ", 1, 8},
    {"I16", 1, 16},
    {"U16", 1, 16},
    {"F16", 1, 16},
    {"BF16", 1, 16},
    {"I32", 1, 32},
    {"U32", 1, 32},
    {"F32", 1, 32},
    {"C64", 1, 64},
    {"F64", 1, 64},
    {"I64", 1, 64},
    {"U64", 1, 64},
    {"Q8_0", 32, 8 * 34},
    {"Q4_0", 32, 8 * 18},
    {"Q4_1", 32, 8 * 20},
    {"Q5_0", 32, 8 * 22},
    {"Q5_1", 32, 8 * 24},
    {"Q8_1", 32, 8 * 36},
    {"Q2_K", 256, 8 * 84},
    {"Q3_K", 256, 8 * 110},
    {"Q4_K", 256, 8 * 144},
    {"Q5_K", 256, 8 * 176},
    {"Q6_K", 256, 8 * 210},
    {"Q8_K", 256, 8 * 292},
    {"IQ2_XXS", 256, 8 * 66},
    {"IQ2_XS", 256, 8 * 74},
    {"IQ3_XXS", 256, 8 * 98},
    {"IQ1_S", 256, 8 * 50},
    {"IQ4_NL", 32, 8 * 18},
    {"IQ3_S", 256, 8 * 110},
    {"IQ2_S", 256, 8 * 82},
    {"IQ4_XS", 256, 8 * 136},
    {"IQ1_M", 256, 8 * 56},
    {"TQ1_0", 256, 8 * 54},
    {"TQ2_0", 256, 8 * 66},
    {"MXFP4", 32, 8 * 17},
    {"NVFP4", 64, 8 * 36},
    {"Q1_0", 128, 8 * 18},
};
static_assert(std::size(kEntries) == kDTypes);

const Entry& entryOf(DType dtype) { return kEntries[static_cast<size_t>(dtype)]; }

}  // namespace

unsigned bitsOf(DType dtype) { return entryOf(dtype).elements == 1 ? entryOf(dtype).bits : 0; }

unsigned blockOf(DType dtype) { return entryOf(dtype).elements; }

std::optional<uint64_t> bytesOf(DType dtype, uint64_t elements) {
  const Entry& entry = entryOf(dtype);
  if (elements % entry.elements != 0) return std::nullopt;
  if (entry.bits % 8 == 0) return checkedMultiply(elements / entry.elements, entry.bits / 8);
  const auto bits = checkedMultiply(elements, entry.bits);
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

std::optional<uint64_t> bytesOf(DType dtype, std::span<const uint64_t> shape) {
  if ((shape.empty() ? 1 : shape.back()) % blockOf(dtype) != 0) return std::nullopt;
  std::optional<uint64_t> elements = 1;
  for (const uint64_t side : shape) elements = elements ? checkedMultiply(*elements, side) : elements;
  return elements ? bytesOf(dtype, *elements) : elements;
}

std::string_view nameOf(DType dtype) { return entryOf(dtype).name; }

std::optional<DType> dtypeOf(std::string_view name) {
  for (size_t i = 0; i <= static_cast<size_t>(DType::U64); ++i) {
    if (kEntries[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

bool isFloat8(DType dtype) {
  return dtype == DType::F8E4M3 || dtype == DType::F8E5M2 || dtype == DType::F8E4M3FNUZ ||
         dtype == DType::F8E5M2FNUZ;
}

bool isFactorDtype(DType dtype) {
  return dtype == DType::F16 || dtype == DType::BF16 || dtype == DType::F32 || dtype == DType::F64 ||
         dtype == DType::Q8_0 || isFloat8(dtype);
}

float float8ToFloat(DType dtype, uint8_t bits) {
  const bool isFnuz = dtype == DType::F8E4M3FNUZ || dtype == DType::F8E5M2FNUZ;
  const bool isE5 = dtype == DType::F8E5M2 || dtype == DType::F8E5M2FNUZ;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t magnitude = bits & 0x7F;
  if (isFnuz ? bits == 0x80 : magnitude > (isE5 ? 0x7Cu : 0x7Eu))
    return std::bit_cast<float>(sign | 0x7FC00000u);
  if (dtype == DType::F8E5M2 && magnitude == 0x7C) return std::bit_cast<float>(sign | 0x7F800000u);
  const uint32_t mantissaBits = isE5 ? 2 : 3, bias = (isE5 ? 15 : 7) + (isFnuz ? 1 : 0);
  const uint32_t exponent = magnitude >> mantissaBits, mantissa = magnitude & ((1u << mantissaBits) - 1);
  if (exponent != 0)
    return std::bit_cast<float>(sign | (exponent + 127 - bias) << 23 | mantissa << (23 - mantissaBits));
  // Subnormal: mantissa x 2^(1 - bias - mantissaBits).
  const float step = std::bit_cast<float>((127 + 1 - bias - mantissaBits) << 23);
  const float value = static_cast<float>(mantissa) * step;
  return sign ? -value : value;
}

float halfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 127 - 15) << 23) | (mantissa << 13));
  // Subnormal: mantissa x 2^-24, exact in binary32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

uint16_t floatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00;  // quiet NaN
  // 65520 lies half-way between the largest half and 2^16: from there on the rounded value is infinity.
  if (magnitude >= 0x477FF000u) return sign | 0x7C00;

  const uint32_t exponent = magnitude >> 23;
  // A half counts in steps of 2^(exponent - 127 - 10), but never finer than 2^-24. 13 = 23 - 10 mantissa
  // bits are lost, and one more for each step below the normal range, which starts at exponent 113.
  const uint32_t lost = exponent >= 113 ? 13 : 13 + (113 - exponent);
  if (lost > 25) return sign;  // below a quarter of the smallest subnormal
  const uint32_t significand = exponent == 0 ? magnitude : (magnitude & 0x7FFFFFu) | 0x800000u;
  uint32_t result = significand >> lost;
  const uint32_t rest = significand & ((1u << lost) - 1);
  const uint32_t halfway = 1u << (lost - 1);
  if (rest > halfway || (rest == halfway && (result & 1))) ++result;
  // Normal values: replace the implicit bit, which `result` still carries, by the exponent. A carry out of
  // the mantissa moves on into the exponent by itself.
  if (exponent >= 113) result += (exponent - 113) << 10;
  return static_cast<uint16_t>(sign | result);
}

uint16_t floatToBfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  // Adding 0x7FFF, and one more where the kept part is odd, carries exactly when rounding goes up.
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace lego

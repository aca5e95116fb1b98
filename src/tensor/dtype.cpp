#include "tensor/dtype.h"

#include <iterator>

namespace lego {
namespace {

struct Entry {
  std::string_view name;
  unsigned bits;
};

constexpr Entry kEntries[] = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
};
static_assert(std::size(kEntries) == static_cast<size_t>(DType::U64) + 1);

}  // namespace

unsigned bitsOf(DType dtype) { return kEntries[static_cast<size_t>(dtype)].bits; }

std::string_view nameOf(DType dtype) { return kEntries[static_cast<size_t>(dtype)].name; }

std::optional<DType> dtypeOf(std::string_view name) {
  for (size_t i = 0; i < std::size(kEntries); ++i) {
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
         isFloat8(dtype);
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

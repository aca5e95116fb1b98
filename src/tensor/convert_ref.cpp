#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "tensor/convert.h"

namespace lego {
namespace {

template <typename T>
T readElement(const std::byte* source, size_t index) {
  T value;
  std::memcpy(&value, source + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void writeElement(T value, std::byte* target, size_t index) {
  std::memcpy(target + index * sizeof(T), &value, sizeof(T));
}

constexpr size_t kGroup = 32;                              // elements of a Q8_0 block
constexpr size_t kGroupBytes = sizeof(uint16_t) + kGroup;  // the scale as binary16, then signed bytes

/// Rounds |x| < 2^23 to the nearest integer, ties away from zero, as C's roundf does. What is cut off is
/// exact in binary32.
int roundAway(float x) {
  const int whole = static_cast<int>(x);
  const float rest = x - static_cast<float>(whole);
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

void groupToFloat(const std::byte* source, float* target) {
  const float scale = halfToFloat(readElement<uint16_t>(source, 0));
  for (size_t i = 0; i < kGroup; ++i)
    target[i] = static_cast<float>(readElement<int8_t>(source + sizeof(uint16_t), i)) * scale;
}

void groupFromFloat(const float* source, std::byte* target) {
  const uint32_t largestBits = maxMagnitudeBitsRef(source, kGroup);
  const float largest = std::bit_cast<float>(largestBits);
  const float scale = largest / 127.0f;
  float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  // Such a scale is zero as binary16, and ggml's conversion of infinity to a byte is undefined.
  if (inverse > std::numeric_limits<float>::max()) inverse = 0;
  const bool finite = largestBits < 0x7F800000u;
  writeElement(finite ? floatToHalf(scale) : uint16_t{0x7E00}, target, 0);
  for (size_t i = 0; i < kGroup; ++i) {
    const int nearest = finite ? roundAway(source[i] * inverse) : 0;
    writeElement(static_cast<int8_t>(nearest), target + sizeof(uint16_t), i);
  }
}

}  // namespace

void toFloatRef(DType dtype, const std::byte* source, size_t count, float* target) {
  if (dtype == DType::Q8_0) {
    for (size_t i = 0; i + kGroup <= count; i += kGroup)
      groupToFloat(source + i / kGroup * kGroupBytes, target + i);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    switch (dtype) {
      case DType::F16: target[i] = halfToFloat(readElement<uint16_t>(source, i)); break;
      case DType::BF16: target[i] = bfloatToFloat(readElement<uint16_t>(source, i)); break;
      case DType::F64: target[i] = static_cast<float>(readElement<double>(source, i)); break;
      case DType::F32: target[i] = readElement<float>(source, i); break;
      default: target[i] = float8ToFloat(dtype, readElement<uint8_t>(source, i)); break;
    }
  }
}

void fromFloatRef(DType dtype, const float* source, size_t count, std::byte* target) {
  if (dtype == DType::Q8_0) {
    for (size_t i = 0; i + kGroup <= count; i += kGroup)
      groupFromFloat(source + i, target + i / kGroup * kGroupBytes);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    switch (dtype) {
      case DType::F16: writeElement(floatToHalf(source[i]), target, i); break;
      case DType::BF16: writeElement(floatToBfloat(source[i]), target, i); break;
      case DType::F64: writeElement(static_cast<double>(source[i]), target, i); break;
      default: writeElement(source[i], target, i); break;
    }
  }
}

uint32_t maxMagnitudeBitsRef(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7FFFFFFFu);
  return largest;
}

}  // namespace lego

#include <algorithm>
#include <bit>
#include <cstring>

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

}  // namespace

void toFloatRef(DType dtype, const std::byte* source, size_t count, float* target) {
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

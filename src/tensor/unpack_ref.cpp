#include <algorithm>

#include "tensor/convert.h"
#include "tensor/unpack.h"

namespace lego {

void unpackRowsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  const size_t rowBytes = matrix.columns * (bitsOf(matrix.dtype) / 8);
  for (size_t u = 0; u < matrix.rows; ++u) {
    toFloatRef(matrix.dtype, matrix.data + u * rowBytes, matrix.columns, units + u * stride);
    magnitude[u] = maxMagnitudeBitsRef(units + u * stride, matrix.columns);
  }
}

void unpackColumnsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  const size_t bytes = bitsOf(matrix.dtype) / 8;
  for (size_t u = 0; u < matrix.columns; ++u) {
    for (size_t row = 0; row < matrix.rows; ++row) {
      toFloatRef(matrix.dtype, matrix.data + (row * matrix.columns + u) * bytes, 1, units + u * stride + row);
    }
    magnitude[u] = maxMagnitudeBitsRef(units + u * stride, matrix.rows);
  }
}

uint32_t packRowsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target) {
  const size_t bytes = bitsOf(dtype) / 8;
  uint32_t largest = 0;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) {
      const float value = units[r * stride + c] * factors[r];
      largest = std::max(largest, maxMagnitudeBitsRef(&value, 1));
      fromFloatRef(dtype, &value, 1, target + (r * columns + c) * bytes);
    }
  }
  return largest;
}

uint32_t packColumnsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                        std::span<const float> factors, std::byte* target) {
  const size_t bytes = bitsOf(dtype) / 8;
  uint32_t largest = 0;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) {
      const float value = units[r * stride + c] * factors[r];
      largest = std::max(largest, maxMagnitudeBitsRef(&value, 1));
      fromFloatRef(dtype, &value, 1, target + (c * rows + r) * bytes);
    }
  }
  return largest;
}

}  // namespace lego

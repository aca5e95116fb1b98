#include <vector>

#include "tensor/convert.h"
#include "tensor/unpack.h"

namespace lego {
namespace {

std::vector<float> valuesOf(const MatrixView& matrix) {
  std::vector<float> values(matrix.rows * matrix.columns);
  toFloatRef(matrix.dtype, matrix.data, values.size(), values.data());
  return values;
}

}  // namespace

void unpackRowsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  const std::vector<float> values = valuesOf(matrix);
  for (size_t u = 0; u < matrix.rows; ++u) {
    for (size_t column = 0; column < matrix.columns; ++column)
      units[u * stride + column] = values[u * matrix.columns + column];
    magnitude[u] = maxMagnitudeBitsRef(units + u * stride, matrix.columns);
  }
}

void unpackColumnsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  const std::vector<float> values = valuesOf(matrix);
  for (size_t u = 0; u < matrix.columns; ++u) {
    for (size_t row = 0; row < matrix.rows; ++row) units[u * stride + row] = values[row * matrix.columns + u];
    magnitude[u] = maxMagnitudeBitsRef(units + u * stride, matrix.rows);
  }
}

uint32_t packRowsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target) {
  std::vector<float> values(rows * columns);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) values[r * columns + c] = units[r * stride + c] * factors[r];
  }
  fromFloatRef(dtype, values.data(), values.size(), target);
  return maxMagnitudeBitsRef(values.data(), values.size());
}

uint32_t packColumnsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                        std::span<const float> factors, std::byte* target) {
  std::vector<float> values(rows * columns);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) values[c * rows + r] = units[r * stride + c] * factors[r];
  }
  fromFloatRef(dtype, values.data(), values.size(), target);
  return maxMagnitudeBitsRef(values.data(), values.size());
}

}  // namespace lego

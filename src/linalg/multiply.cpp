#include "linalg/multiply.h"

#include <algorithm>

#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F64x2;

// Eight columns of two rows: eight accumulators, four operands and two factors fit 16 registers.
constexpr size_t kTileColumns = 8;

/// Columns [0, 8) of two output rows.
LEGO_KERNEL void multiplyTile(const double* left0, const double* left1, size_t inner, const double* right,
                              size_t stride, double* out0, double* out1) {
  F64x2 s0[4], s1[4];
  for (size_t l = 0; l < inner; ++l) {
    const double* row = right + l * stride;
    const F64x2 x0(left0[l]), x1(left1[l]);
    for (size_t v = 0; v < 4; ++v) {
      const F64x2 y = F64x2::load_unaligned(row + 2 * v);
      // Starting with the product itself keeps the sign of a lone -0.
      s0[v] = l == 0 ? x0 * y : s0[v] + x0 * y;
      s1[v] = l == 0 ? x1 * y : s1[v] + x1 * y;
    }
  }
  for (size_t v = 0; v < 4; ++v) {
    s0[v].store_unaligned(out0 + 2 * v);
    s1[v].store_unaligned(out1 + 2 * v);
  }
}

double dot(const Matrix& left, size_t i, const Matrix& right, size_t j) {
  double sum = left(i, 0) * right(0, j);
  for (size_t l = 1; l < left.columns(); ++l) sum += left(i, l) * right(l, j);
  return sum;
}

}  // namespace

Matrix transposed(const Matrix& matrix) {
  Matrix result(matrix.columns(), matrix.rows());
  for (size_t i = 0; i < matrix.rows(); ++i) {
    for (size_t j = 0; j < matrix.columns(); ++j) result(j, i) = matrix(i, j);
  }
  return result;
}

Matrix firstRows(const Matrix& matrix, size_t count) {
  Matrix result(count, matrix.columns());
  std::copy_n(matrix.data(), count * matrix.columns(), result.data());
  return result;
}

Matrix multiply(const Matrix& left, const Matrix& right) {
  const size_t n = left.rows(), inner = left.columns(), p = right.columns();
  Matrix result(n, p);
  if (inner == 0) return result;
  const size_t wholeRows = n & ~size_t{1}, wholeColumns = p / kTileColumns * kTileColumns;
  // Column tiles outside: one tile of `right` stays in the L1 cache while all rows pass by.
  for (size_t j = 0; j < wholeColumns; j += kTileColumns) {
    for (size_t i = 0; i < wholeRows; i += 2)
      multiplyTile(left.row(i).data(), left.row(i + 1).data(), inner, right.data() + j, p,
                   result.row(i).data() + j, result.row(i + 1).data() + j);
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i < wholeRows ? wholeColumns : 0; j < p; ++j) result(i, j) = dot(left, i, right, j);
  }
  return result;
}

Matrix multiplyRef(const Matrix& left, const Matrix& right) {
  Matrix result(left.rows(), right.columns());
  if (left.columns() == 0) return result;
  for (size_t i = 0; i < left.rows(); ++i) {
    for (size_t j = 0; j < right.columns(); ++j) result(i, j) = dot(left, i, right, j);
  }
  return result;
}

Matrix multiplyTransposed(const Matrix& left, const Matrix& right) {
  return multiply(left, transposed(right));
}

Matrix sandwich(const Matrix& left, const Matrix& middle, const Matrix& right) {
  return multiplyTransposed(multiply(left, middle), right);
}

Matrix gramOfColumns(const Matrix& matrix) {
  // The product of two elements does not depend on their order, nor does the order of the sum on the side.
  return multiply(transposed(matrix), matrix);
}

}  // namespace lego

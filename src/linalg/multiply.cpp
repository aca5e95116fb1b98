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

/// `vectors` pairs of subtractProducts' columns.
template <size_t vectors>
LEGO_KERNEL void subtractTile(double* target, const double* factors, size_t count, const double* rows,
                              size_t stride) {
  F64x2 values[vectors];
  for (size_t v = 0; v < vectors; ++v) values[v] = F64x2::load_unaligned(target + 2 * v);
  for (size_t e = 0; e < count; ++e, rows += stride) {
    const F64x2 factor(factors[e]);
    for (size_t v = 0; v < vectors; ++v) values[v] = values[v] - factor * F64x2::load_unaligned(rows + 2 * v);
  }
  for (size_t v = 0; v < vectors; ++v) values[v].store_unaligned(target + 2 * v);
}

double dot(const Matrix& left, size_t i, const Matrix& right, size_t j) {
  double sum = left(i, 0) * right(0, j);
  for (size_t l = 1; l < left.columns(); ++l) sum += left(i, l) * right(l, j);
  return sum;
}

/// `isLower`: what lies above the diagonal is not asked for.
Matrix product(const Matrix& left, const Matrix& right, bool isLower) {
  const size_t n = left.rows(), inner = left.columns(), p = right.columns();
  Matrix result(n, p);
  if (inner == 0) return result;
  const size_t wholeRows = n & ~size_t{1}, wholeColumns = p / kTileColumns * kTileColumns;
  // Column tiles outside: one tile of `right` stays in the L1 cache while all rows pass by.
  for (size_t j = 0; j < wholeColumns; j += kTileColumns) {
    for (size_t i = isLower ? j : 0; i < wholeRows; i += 2)
      multiplyTile(left.row(i).data(), left.row(i + 1).data(), inner, right.data() + j, p,
                   result.row(i).data() + j, result.row(i + 1).data() + j);
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i < wholeRows ? wholeColumns : 0; j < p; ++j) result(i, j) = dot(left, i, right, j);
  }
  return result;
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

Matrix multiply(const Matrix& left, const Matrix& right) { return product(left, right, false); }

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

Matrix multiplySymmetric(const Matrix& left, const Matrix& right) {
  Matrix result = product(left, right, true);
  for (size_t i = 0; i < result.rows(); ++i) {
    for (size_t j = 0; j < i; ++j) result(j, i) = result(i, j);
  }
  return result;
}

Matrix gramOfColumns(const Matrix& matrix) { return multiplySymmetric(transposed(matrix), matrix); }

void subtractProducts(std::span<double> target, std::span<const double> factors, const double* rows,
                      size_t stride) {
  constexpr size_t kVectors = 8;
  size_t j = 0;
  for (; j + 2 * kVectors <= target.size(); j += 2 * kVectors)
    subtractTile<kVectors>(target.data() + j, factors.data(), factors.size(), rows + j, stride);
  for (; j + 2 <= target.size(); j += 2)
    subtractTile<1>(target.data() + j, factors.data(), factors.size(), rows + j, stride);
  if (j < target.size()) subtractProductsRef(target.subspan(j), factors, rows + j, stride);
}

void subtractProductsRef(std::span<double> target, std::span<const double> factors, const double* rows,
                         size_t stride) {
  for (size_t e = 0; e < factors.size(); ++e) {
    for (size_t j = 0; j < target.size(); ++j) target[j] -= factors[e] * rows[e * stride + j];
  }
}

}  // namespace lego

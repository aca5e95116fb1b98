// Products of small matrices of doubles. Every element is summed in the order of the inner index, starting
// with the first product, so that all forms and targets give the same bits.
#pragma once

#include <span>

#include "linalg/matrix.h"

namespace lego {

Matrix transposed(const Matrix& matrix);
Matrix firstRows(const Matrix& matrix, size_t count);

/// left (n x m) * right (m x p)
Matrix multiply(const Matrix& left, const Matrix& right);
Matrix multiplyRef(const Matrix& left, const Matrix& right);

/// left (n x m) * right^T, right p x m
Matrix multiplyTransposed(const Matrix& left, const Matrix& right);

/// left (n x m) * middle (m x m) * right^T, right p x m
Matrix sandwich(const Matrix& left, const Matrix& middle, const Matrix& right);

/// left (n x m) * right (m x n) where that is symmetric: half of it is computed.
Matrix multiplySymmetric(const Matrix& left, const Matrix& right);

/// matrix^T * matrix
Matrix gramOfColumns(const Matrix& matrix);

/// target[j] -= factors[e] * rows[e * stride + j] for all j, one e after the other.
void subtractProducts(std::span<double> target, std::span<const double> factors, const double* rows,
                      size_t stride);
void subtractProductsRef(std::span<double> target, std::span<const double> factors, const double* rows,
                         size_t stride);

}  // namespace lego

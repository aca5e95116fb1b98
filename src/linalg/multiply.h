// Products of small matrices of doubles. Every element is summed in the order of the inner index, starting
// with the first product, so that all forms and targets give the same bits.
#pragma once

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

/// matrix^T * matrix, symmetric to the last bit
Matrix gramOfColumns(const Matrix& matrix);

}  // namespace lego

// Factorisations of small matrices. Eigen stays inside the .cpp.
#pragma once

#include <vector>

#include "base/result.h"
#include "linalg/matrix.h"

namespace lego {

/// symmetric = vectors * diag(values) * vectors^T; values ascending, vectors in columns.
struct SymmetricEigen {
  std::vector<double> values;
  Matrix vectors;
};
/// Reads the lower triangle. Fails with no_convergence (not seen on finite input).
Result<SymmetricEigen> symmetricEigen(const Matrix& symmetric);

}  // namespace lego

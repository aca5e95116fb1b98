// Factorisations of small matrices. Eigen stays inside the .cpp.
#pragma once

#include <span>
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

/// The heaviest singular triples of a matrix.
struct Singular {
  std::vector<double> values;  ///< descending
  Matrix left, right;          ///< one orthonormal vector a row; left x matrix x right^T = diag(values)
};
/// At most `rank` triples; values of at most `noise` are no directions. Works on the smaller of M^T M and
/// M M^T: right (or left) vectors are its eigenvectors, the others M (or M^T) times them, so an error in a
/// direction shows only squared. Fails with no_convergence.
Result<Singular> truncatedSvd(const Matrix& matrix, size_t rank, double noise);

/// Half of a Gram matrix G of n units that span m dimensions: coordinates of the units in an orthonormal
/// basis, and the basis as sums of units.
struct GramRoot {
  Matrix root;         ///< m x n: root^T root = G; column u holds unit u's coordinates
  Matrix inverse;      ///< m x n: basis vector d is the sum over units u of inverse(d, u) times unit u
  double largest = 0;  ///< at least the largest singular value of the units, at most sqrt(n) times it

  size_t size() const { return inverse.rows(); }
};

/// The basis of principal directions, the heaviest first. Directions below the rounding of the Gram matrix
/// are left out. Fails with no_convergence.
Result<GramRoot> principalRoot(const Matrix& gram);

/// Any orthonormal basis, at a tenth of the cost: pivoted Cholesky. Directions below rounding are left out.
GramRoot triangularRoot(const Matrix& gram);

/// Share of a quantity's size that rounding of sums over n units, and of the solvers, may reach.
double roundingShare(size_t n);

}  // namespace lego

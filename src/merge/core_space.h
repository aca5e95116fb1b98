// The lossless core space: orthonormal bases of all rows of A and of all columns of B, in which every delta
// of a module is a small matrix (Core Space, arXiv 2509.17786). Methods work there at the cost of the rank.
#pragma once

#include <span>

#include "merge/method.h"

namespace lego {

/// Half of the space, from a Gram matrix G of P units that span m dimensions.
struct CoreBasis {
  Matrix root;         ///< m x P, the units in the basis: root^T root = G; heaviest direction first
  Matrix inverse;      ///< m x P: basis vector d is the sum over units u of inverse(d, u) times unit u
  double largest = 0;  ///< largest singular value of the units

  size_t size() const { return root.rows(); }
};

struct CoreSpace {
  CoreBasis a, b;
};

/// Directions below the rounding of the Gram matrices are left out. Fails with no_convergence.
Result<CoreSpace> coreSpace(const UnitPool& pool);

/// The delta sum over units u of weight[u] b_u a_u^T, as a matrix of b.size() x a.size().
Matrix coreSum(const CoreSpace& space, std::span<const double> weights);

/// The k heaviest singular triples of a matrix, at most its rank.
struct Singular {
  std::vector<double> values;  ///< descending, all above `noise`
  Matrix left, right;          ///< one orthonormal vector a row
};
/// Values of at most `noise` are no directions. Fails with no_convergence.
Result<Singular> truncatedSvd(const Matrix& matrix, uint32_t rank, double noise);

/// Rounding noise of a sum of deltas whose largest weight is `heaviest`, in its singular values.
double coreNoise(const CoreSpace& space, double heaviest);

/// The factors whose rows q are left(q)^T and right(q) in the core space, as coefficients on the units.
/// Each pair of rows is balanced, |a_q| = |b_q|, and has the sign that makes the leading coefficient of a_q
/// positive. Rows from left.rows() to `rank` are zero.
MergedFactors fromCore(const CoreSpace& space, const Matrix& left, const Matrix& right, uint32_t rank);

}  // namespace lego

// How the adapters of one module stand to each other, before any merge; computed from the Grams alone.
#pragma once

#include <vector>

#include "merge/method.h"

namespace lego {

/// Of the deltas D_i of the pool's N adapters.
struct Relation {
  std::vector<double> norm;  ///< N, Frobenius norms
  Matrix inner;              ///< N x N, <D_i, D_j>
  Matrix cosine;             ///< N x N, between D_i and D_j; 0 where one is zero, 1 on the diagonal
  /// Of what units of different adapters have in common, <b_u a_u^T, b_v a_v^T> summed by magnitude, the
  /// share that opposes: 0 where all pull together, 0.5 where they know nothing of each other, 1 where all
  /// cancel. A negative weight turns an adapter around. 0 for a single adapter.
  double conflict = 0;
};

/// O(P^2).
Relation relate(const UnitPool& pool);

/// Where adapters act, whatever they do there: 1 for the same directions with the same energies, 0 for none
/// in common. Two adapters that share inputs get in each other's way unless they also agree; methods that
/// keep inputs apart (merge/least_interference.h) have nothing to do where none are shared.
struct SharedSpaces {
  Matrix input;   ///< N x N, cosine between D_i^T D_i and D_j^T D_j
  Matrix output;  ///< N x N, cosine between D_i D_i^T and D_j D_j^T
};

/// O(N^2 r^3) for N adapters of rank r.
SharedSpaces sharedSpaces(const UnitPool& pool);

/// The symmetric matrix with its rows and columns in another order: result(i, j) = matrix(order[i],
/// order[j]).
Matrix reordered(const Matrix& matrix, std::span<const size_t> order);

}  // namespace lego

// How good one module's merge is, computed from the Grams alone.
#pragma once

#include <vector>

#include "merge/method.h"

namespace lego {

/// Inner products of the merged rows, with each other and with the pool's units.
struct MergedGrams {
  Matrix ownA, ownB;    ///< k x k
  Matrix withA, withB;  ///< k x P
};

/// Of merged factors that are given as coefficients, with all factors folded in. LEGO's coefficients are
/// sparse: the time is proportional to those that are not zero.
MergedGrams gramsOf(const UnitPool& pool, const MergedFactors& merged);

struct Quality {
  double norm = 0;        ///< |X|, Frobenius norm of the merged delta
  double targetNorm = 0;  ///< |D*|, D* = scale * sum of w_i D_i with the weights as given
  double error = 0;       ///< |X - D*|
  double inner = 0;       ///< <X, D*>

  /// Of each adapter of the pool: |D_i|, |X - D_i|, and the cosine between X and D_i (0 where one is zero).
  std::vector<double> inputNorm, inputError, inputCosine;
  /// N x N: cosine between D_i and D_j; 0 where one is zero, 1 on the diagonal.
  Matrix pairCosine;
  /// Of what units of different adapters have in common, <b_u a_u^T, b_v a_v^T> summed by magnitude, the
  /// share that opposes: 0 where all pull together, 0.5 where they know nothing of each other, 1 where all
  /// cancel. A negative weight turns an adapter around. 0 for a single adapter.
  double conflict = 0;

  /// |X - D*| / |D*|; infinity where D* is zero and X is not, 0 where both are.
  double relativeError() const;
  /// Cosine of the angle between X and D*; 0 where one of them is zero.
  double cosine() const;
  /// Share of D*'s energy that X keeps at the scale that suits it best: the squared cosine.
  double retainedEnergy() const { return cosine() * cosine(); }
};

/// O(k^2 + k P + P^2).
Quality measure(const UnitPool& pool, const MergedGrams& grams, double scale);

}  // namespace lego

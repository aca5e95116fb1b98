// How good one module's merge is, computed from the Grams alone.
#pragma once

#include <vector>

#include "merge/relation.h"

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

  Relation relation;
  /// Of each adapter of the pool: |X - D_i|, and the cosine between X and D_i (0 where one is zero).
  std::vector<double> inputError, inputCosine;

  /// |X - D*| / |D*|; infinity where D* is zero and X is not, 0 where both are.
  double relativeError() const;
  /// Cosine of the angle between X and D*; 0 where one of them is zero.
  double cosine() const;
  /// Share of D*'s energy that X keeps at the scale that suits it best: the squared cosine.
  double retainedEnergy() const { return cosine() * cosine(); }
};

/// As if all deltas were multiplied by `factor`.
void rescale(Quality& quality, double factor);

/// O(k^2 + k P + P^2).
Quality measure(const UnitPool& pool, const MergedGrams& grams, double scale);

}  // namespace lego

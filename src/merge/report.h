// How good one module's merge is, computed from the Grams alone.
#pragma once

#include "merge/method.h"

namespace lego {

struct Quality {
  double norm = 0;        ///< |X|, Frobenius norm of the merged delta
  double targetNorm = 0;  ///< |D*|, D* = scale * sum of w_i D_i with the weights as given
  double error = 0;       ///< |X - D*|
  double inner = 0;       ///< <X, D*>

  /// |X - D*| / |D*|; infinity where D* is zero and X is not, 0 where both are.
  double relativeError() const;
  /// Cosine of the angle between X and D*; 0 where one of them is zero.
  double cosine() const;
};

/// `merged` with all factors folded in. Takes O(P + k) steps per non-zero coefficient, and O(P^2).
Quality measure(const UnitPool& pool, const MergedFactors& merged, double scale);

}  // namespace lego

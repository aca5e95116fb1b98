#include "merge/rescale.h"

#include <cmath>

namespace lego {

void rescale(MergedFactors& merged, double factor) {
  if (factor == 1) return;
  const double half = std::sqrt(std::abs(factor));
  for (size_t q = 0; q < merged.a.rows(); ++q) {
    for (double& coefficient : merged.a.row(q)) coefficient *= half;
    for (double& coefficient : merged.b.row(q)) coefficient *= factor < 0 ? -half : half;
  }
  for (double& target : merged.targetMagnitude) target *= half;
}

}  // namespace lego

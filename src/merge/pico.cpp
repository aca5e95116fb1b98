#include "merge/pico.h"

#include <cmath>
#include <numeric>

namespace lego {
namespace {

double squaredNorm(const Matrix& matrix) {
  const std::span values(matrix.data(), matrix.rows() * matrix.columns());
  return std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
}

}  // namespace

double meanDeltaNorm(const CoreDeltas& core) {
  double sum = 0, weights = 0;
  for (size_t i = 0; i < core.deltas.size(); ++i) {
    sum += std::abs(core.weights[i]) * std::sqrt(squaredNorm(core.deltas[i]));
    weights += std::abs(core.weights[i]);
  }
  return sum / weights;
}

void dampSharedOutputs(CoreDeltas& core) {
  const Matrix& root = core.space.b.root;
  const double total = squaredNorm(root), others = static_cast<double>(core.deltas.size()) - 1;
  for (size_t q = 0; q < root.rows(); ++q) {
    double energy = 0;
    for (const double value : root.row(q)) energy += value * value;
    const double factor = 1 / (1 + others * energy / total);
    for (Matrix& delta : core.deltas) {
      for (double& value : delta.row(q)) value *= factor;
    }
  }
}

void restoreNorm(Matrix& merged, double norm) {
  const double own = std::sqrt(squaredNorm(merged));
  if (own == 0) return;
  for (size_t i = 0; i < merged.rows(); ++i) {
    for (double& value : merged.row(i)) value *= norm / own;
  }
}

}  // namespace lego

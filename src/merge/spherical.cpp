#include "merge/spherical.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "merge/angle.h"

namespace lego {
namespace {

// Above this cosine the sine of the angle is too small to divide by; mergekit's value.
constexpr double kParallel = 0.9995;

std::span<const double> valuesOf(const Matrix& matrix) {
  return {matrix.data(), matrix.rows() * matrix.columns()};
}

/// <D_i, D_j>
Matrix innerProducts(const std::vector<Matrix>& deltas) {
  Matrix inner(deltas.size(), deltas.size());
  for (size_t i = 0; i < deltas.size(); ++i) {
    for (size_t j = 0; j <= i; ++j) {
      const auto x = valuesOf(deltas[i]), y = valuesOf(deltas[j]);
      inner(i, j) = inner(j, i) = std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
    }
  }
  return inner;
}

}  // namespace

Result<Matrix> mergeSlerp(const CoreDeltas& core, const MethodRequest&, const Context&) {
  if (core.deltas.size() == 1) return core.deltas[0];
  const Matrix inner = innerProducts(core.deltas);
  const double w0 = std::abs(core.weights[0]), w1 = std::abs(core.weights[1]), t = w1 / (w0 + w1);
  const double norms = std::sqrt(inner(0, 0) * inner(1, 1));
  const double cosine = norms > 0 ? inner(0, 1) / norms : 1;
  if (std::abs(cosine) > kParallel) return combination(core, std::vector{1 - t, t});
  const double angle = arcCosine(cosine);
  return combination(core, std::vector{sine((1 - t) * angle) / sine(angle), sine(t * angle) / sine(angle)});
}

Result<Matrix> mergeKarcher(const CoreDeltas& core, const MethodRequest&, const Context& context) {
  const size_t n = core.deltas.size();
  const Matrix inner = innerProducts(core.deltas);
  // Everything stays in the span of the directions u_i = D_i / |D_i|: the mean is kept as coefficients on
  // them.
  std::vector<double> length(n), share(n);
  double total = 0, meanNorm = 0, weights = 0;
  for (size_t i = 0; i < n; ++i) {
    length[i] = std::sqrt(inner(i, i));
    weights += std::abs(core.weights[i]);
    meanNorm += std::abs(core.weights[i]) * length[i];
    share[i] = length[i] > 0 ? std::abs(core.weights[i]) : 0;
    total += share[i];
  }
  meanNorm /= weights;
  const Matrix nothing(core.space.b.size(), core.space.a.size());
  if (total == 0) return nothing;
  const auto cosine = [&](size_t i, size_t j) { return inner(i, j) / (length[i] * length[j]); };
  std::vector<double> mean(n);
  for (size_t i = 0; i < n; ++i) mean[i] = share[i] / total;

  const auto normalise = [&] {
    double squared = 0;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n && share[i] > 0; ++j)
        squared += share[j] > 0 ? mean[i] * mean[j] * cosine(i, j) : 0;
    }
    const double norm = std::sqrt(std::max(0.0, squared));
    // Opposite directions have no mean.
    if (norm < kNearZero) return false;
    for (double& x : mean) x /= norm;
    return true;
  };
  if (!normalise()) return nothing;

  // Fixed-point iteration: the mean moves along the weighted mean of the logarithms of all directions.
  constexpr int kIterations = 100;
  constexpr double kSettled = 1e-12;
  for (int iteration = 0; iteration < kIterations && !context.cancelled(); ++iteration) {
    std::vector<double> tangent(n);
    double step = 0;
    for (size_t i = 0; i < n; ++i) {
      if (share[i] == 0) continue;
      double c = 0;  // <mean, u_i>
      for (size_t j = 0; j < n; ++j) c += share[j] > 0 ? mean[j] * cosine(i, j) : 0;
      c = std::clamp(c, -1.0, 1.0);
      const double angle = arcCosine(c), factor = angle > 1e-9 ? angle / sine(angle) : 1;
      tangent[i] += share[i] / total * factor;
      for (size_t j = 0; j < n; ++j) tangent[j] -= share[i] / total * factor * c * mean[j];
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n && share[i] > 0; ++j)
        step += share[j] > 0 ? tangent[i] * tangent[j] * cosine(i, j) : 0;
    }
    step = std::sqrt(std::max(0.0, step));
    if (step < kSettled) break;
    for (size_t i = 0; i < n; ++i) mean[i] = cosineOf(step) * mean[i] + sine(step) / step * tangent[i];
    if (!normalise()) break;
  }
  for (size_t i = 0; i < n; ++i) mean[i] = share[i] > 0 ? mean[i] * meanNorm / length[i] : 0;
  return combination(core, mean);
}

}  // namespace lego

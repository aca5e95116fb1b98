#include "merge/svd.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/factorise.h"

namespace lego {
namespace {

/// Half of a Gram matrix: `root` (m x n) has root^T root = G; `inverse` (m x n) maps the units to m
/// orthonormal rows.
struct Half {
  Matrix root, inverse;
  double largest = 0;  ///< largest singular value of the units
};

Result<Half> halve(const Matrix& gram) {
  const auto eigen = symmetricEigen(gram);
  if (!eigen) return eigen.error();
  const size_t n = gram.rows();
  const double top = std::max(0.0, eigen->values.back());
  // Rounding of the sums and of the solver reaches a few units in the last place per row.
  const double noise = 4 * static_cast<double>(n) * std::numeric_limits<double>::epsilon() * top;
  size_t first = 0;
  while (first < n && eigen->values[first] <= noise) ++first;
  Half half{Matrix(n - first, n), Matrix(n - first, n), std::sqrt(top)};
  for (size_t d = 0; d < n - first; ++d) {
    // Largest direction first.
    const size_t column = n - 1 - d;
    const double value = std::sqrt(eigen->values[column]);
    for (size_t u = 0; u < n; ++u) {
      half.root(d, u) = value * eigen->vectors(u, column);
      half.inverse(d, u) = eigen->vectors(u, column) / value;
    }
  }
  return half;
}

}  // namespace

Result<MergedFactors> mergeSvd(const UnitPool& pool, const MethodRequest& request, const Context&) {
  const size_t n = pool.size();
  const auto a = halve(pool.gramA), b = halve(pool.gramB);
  if (!a) return a.error();
  if (!b) return b.error();

  Matrix core(b->root.rows(), a->root.rows());
  double heaviest = 0;
  for (size_t u = 0; u < n; ++u) {
    const double weight = pool.weights[pool.owner[u]];
    heaviest = std::max(heaviest, std::abs(weight));
    for (size_t i = 0; i < core.rows(); ++i) {
      for (size_t j = 0; j < core.columns(); ++j) core(i, j) += b->root(i, u) * weight * a->root(j, u);
    }
  }
  Matrix squared(core.columns(), core.columns());
  for (size_t i = 0; i < core.rows(); ++i) {
    const auto row = core.row(i);
    for (size_t j = 0; j < row.size(); ++j) {
      for (size_t l = 0; l <= j; ++l) squared(j, l) += row[j] * row[l];
    }
  }
  const auto eigen = symmetricEigen(squared);
  if (!eigen) return eigen.error();

  MergedFactors merged{Matrix(request.rank, n), Matrix(request.rank, n), {}, {}, {}};
  // What cancels leaves rounding noise of the summands' size: that is no direction of D*.
  const double noise = 4 * static_cast<double>(n) * std::numeric_limits<double>::epsilon() * heaviest *
                       a->largest * b->largest;
  for (size_t q = 0; q < std::min<size_t>(request.rank, core.columns()); ++q) {
    const size_t column = core.columns() - 1 - q;
    std::vector<double> left(core.rows());  // M v = s u
    double squaredNorm = 0;
    for (size_t i = 0; i < core.rows(); ++i) {
      for (size_t j = 0; j < core.columns(); ++j) left[i] += core(i, j) * eigen->vectors(j, column);
      squaredNorm += left[i] * left[i];
    }
    const double value = std::sqrt(squaredNorm);
    if (value <= noise) break;
    const double root = std::sqrt(value);
    for (size_t j = 0; j < core.columns(); ++j) {
      for (size_t u = 0; u < n; ++u) merged.a(q, u) += root * eigen->vectors(j, column) * a->inverse(j, u);
    }
    for (size_t i = 0; i < core.rows(); ++i) {
      for (size_t u = 0; u < n; ++u) merged.b(q, u) += left[i] / root * b->inverse(i, u);
    }
    const auto row = merged.a.row(q);
    const auto leading = std::ranges::max_element(row, {}, [](double x) { return std::abs(x); });
    if (*leading >= 0) continue;
    for (double& x : merged.a.row(q)) x = -x;
    for (double& x : merged.b.row(q)) x = -x;
  }
  return merged;
}

}  // namespace lego

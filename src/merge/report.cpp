#include "merge/report.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lego {
namespace {

/// A coefficient that is not zero. LEGO has P of them in all, not k P.
struct Entry {
  size_t unit;
  double value;
};
using Rows = std::vector<std::vector<Entry>>;

Rows entriesOf(const Matrix& coefficients) {
  Rows rows(coefficients.rows());
  for (size_t q = 0; q < coefficients.rows(); ++q) {
    const auto row = coefficients.row(q);
    for (size_t u = 0; u < row.size(); ++u) {
      if (row[u] != 0) rows[q].push_back({u, row[u]});
    }
  }
  return rows;
}

/// Inner products of the merged rows with all units: coefficients (k x P) times gram (P x P).
Matrix project(const Rows& rows, const Matrix& gram) {
  Matrix result(rows.size(), gram.columns());
  for (size_t q = 0; q < rows.size(); ++q) {
    const auto target = result.row(q);
    for (const Entry& entry : rows[q]) {
      const auto row = gram.row(entry.unit);
      for (size_t v = 0; v < row.size(); ++v) target[v] += entry.value * row[v];
    }
  }
  return result;
}

double innerProduct(std::span<const double> projected, const std::vector<Entry>& row) {
  double sum = 0;
  for (const Entry& entry : row) sum += projected[entry.unit] * entry.value;
  return sum;
}

}  // namespace

double Quality::relativeError() const {
  if (targetNorm > 0) return error / targetNorm;
  return norm > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

double Quality::cosine() const { return norm > 0 && targetNorm > 0 ? inner / (norm * targetNorm) : 0.0; }

Quality measure(const UnitPool& pool, const MergedFactors& merged, double scale) {
  const size_t n = pool.size(), k = merged.a.rows();
  const Rows rowsA = entriesOf(merged.a), rowsB = entriesOf(merged.b);
  const Matrix a = project(rowsA, pool.gramA), b = project(rowsB, pool.gramB);
  const auto weight = [&](size_t u) { return scale * pool.weights[pool.owner[u]]; };

  // <b a^T, b' a'^T> = <a, a'> <b, b'>, summed over the units of both sides.
  double own = 0, cross = 0, target = 0;
  for (size_t q = 0; q < k; ++q) {
    for (size_t p = 0; p <= q; ++p) {
      const double product = innerProduct(a.row(q), rowsA[p]) * innerProduct(b.row(q), rowsB[p]);
      own += p == q ? product : 2 * product;
    }
    for (size_t u = 0; u < n; ++u) cross += weight(u) * a(q, u) * b(q, u);
  }
  for (size_t u = 0; u < n; ++u) {
    for (size_t v = 0; v < n; ++v) target += weight(u) * weight(v) * pool.gramA(u, v) * pool.gramB(u, v);
  }
  Quality quality;
  quality.norm = std::sqrt(std::max(0.0, own));
  quality.targetNorm = std::sqrt(std::max(0.0, target));
  quality.error = std::sqrt(std::max(0.0, own - 2 * cross + target));
  quality.inner = cross;
  return quality;
}

}  // namespace lego

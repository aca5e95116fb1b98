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

/// Inner products of the merged rows with all units: coefficients (k x n) times gram (n x n).
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

Matrix ownGram(const Rows& rows, const Matrix& projected) {
  Matrix result(rows.size(), rows.size());
  for (size_t q = 0; q < rows.size(); ++q) {
    for (size_t p = 0; p <= q; ++p) {
      double sum = 0;
      for (const Entry& entry : rows[p]) sum += projected(q, entry.unit) * entry.value;
      result(q, p) = result(p, q) = sum;
    }
  }
  return result;
}

double root(double squared) { return std::sqrt(std::max(0.0, squared)); }

double cosineOf(double inner, double x, double y) { return x > 0 && y > 0 ? inner / (x * y) : 0.0; }

}  // namespace

MergedGrams gramsOf(const UnitPool& pool, const MergedFactors& merged) {
  const Matrix& gramA = pool.inputs ? pool.inputs->gramA : pool.gramA;
  const Rows rowsA = entriesOf(merged.a), rowsB = entriesOf(merged.b);
  Matrix a = project(rowsA, gramA), b = project(rowsB, pool.gramB);
  MergedGrams grams{ownGram(rowsA, a), ownGram(rowsB, b), {}, {}};
  if (pool.inputs) {
    grams.withA = Matrix(a.rows(), pool.size());
    for (size_t q = 0; q < a.rows(); ++q)
      std::ranges::copy(a.row(q).subspan(pool.firstInGroup, pool.size()), grams.withA.row(q).begin());
  } else {
    grams.withA = std::move(a);
  }
  grams.withB = std::move(b);
  return grams;
}

double Quality::relativeError() const {
  if (targetNorm > 0) return error / targetNorm;
  return norm > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

double Quality::cosine() const { return cosineOf(inner, norm, targetNorm); }

void rescale(Quality& quality, double factor) {
  for (double* norm : {&quality.norm, &quality.targetNorm, &quality.error}) *norm *= std::abs(factor);
  for (double& norm : quality.relation.norm) norm *= std::abs(factor);
  for (double& error : quality.inputError) error *= std::abs(factor);
  quality.inner *= factor * factor;
  Matrix& inner = quality.relation.inner;
  for (size_t i = 0; i < inner.rows(); ++i) {
    for (double& value : inner.row(i)) value *= factor * factor;
  }
}

Quality measure(const UnitPool& pool, const MergedGrams& grams, double scale) {
  const size_t k = grams.ownA.rows(), n = pool.adapters();
  const auto first = pool.firstUnits();
  // <b a^T, b' a'^T> = <a, a'> <b, b'>, summed over the units of both sides.
  double own = 0;
  for (size_t q = 0; q < k; ++q) {
    for (size_t p = 0; p < k; ++p) own += grams.ownA(q, p) * grams.ownB(q, p);
  }
  std::vector<double> cross(n);  // <X, D_i>
  for (size_t i = 0; i < n; ++i) {
    for (size_t q = 0; q < k; ++q) {
      for (size_t u = first[i]; u < first[i + 1]; ++u) cross[i] += grams.withA(q, u) * grams.withB(q, u);
    }
  }
  Quality quality;
  quality.relation = relate(pool);
  const Matrix& inner = quality.relation.inner;
  quality.norm = root(own);
  double target = 0;
  for (size_t i = 0; i < n; ++i) {
    quality.inner += scale * pool.weights[i] * cross[i];
    for (size_t j = 0; j < n; ++j) target += scale * pool.weights[i] * scale * pool.weights[j] * inner(i, j);
  }
  quality.targetNorm = root(target);
  quality.error = root(own - 2 * quality.inner + target);
  for (size_t i = 0; i < n; ++i) {
    quality.inputError.push_back(root(own - 2 * cross[i] + inner(i, i)));
    quality.inputCosine.push_back(cosineOf(cross[i], quality.norm, quality.relation.norm[i]));
  }
  return quality;
}

}  // namespace lego

#include "merge/relation.h"

#include <algorithm>
#include <cmath>

#include "linalg/multiply.h"

namespace lego {
namespace {

/// Part of a Gram matrix, times `factor`.
Matrix block(const Matrix& gram, double factor, const std::vector<size_t>& first, size_t i, size_t j) {
  Matrix result(first[i + 1] - first[i], first[j + 1] - first[j]);
  for (size_t u = 0; u < result.rows(); ++u) {
    for (size_t v = 0; v < result.columns(); ++v) result(u, v) = factor * gram(first[i] + u, first[j] + v);
  }
  return result;
}

/// What makes the largest entry 1, so that fourth powers stay in range.
double normalising(const Matrix& gram) {
  double largest = 0;
  for (size_t u = 0; u < gram.rows(); ++u) largest = std::max(largest, gram(u, u));
  return largest > 0 ? 1 / largest : 0;
}

/// |L_i L_j^T|^2 of L_i = sum of x_u y_u^T over an adapter's units: tr(X_ii Y_ij X_jj Y_ij^T), from the Gram
/// matrices X of the x and Y of the y. That is also <L_i^T L_i, L_j^T L_j>. Up to a common factor.
Matrix sharedEnergy(const Matrix& outer, const Matrix& inner, const std::vector<size_t>& first) {
  const size_t n = first.size() - 1;
  const double outerFactor = normalising(outer), innerFactor = normalising(inner);
  Matrix result(n, n);
  for (size_t i = 0; i < n; ++i) {
    const Matrix own = block(outer, outerFactor, first, i, i);
    for (size_t j = 0; j <= i; ++j) {
      const Matrix cross = block(inner, innerFactor, first, i, j);
      const Matrix left = multiply(own, cross);
      const Matrix right = multiply(cross, block(outer, outerFactor, first, j, j));
      double sum = 0;
      for (size_t u = 0; u < left.rows(); ++u) {
        for (size_t v = 0; v < left.columns(); ++v) sum += left(u, v) * right(u, v);
      }
      result(i, j) = result(j, i) = sum;
    }
  }
  return result;
}

/// Divides by the roots of the diagonal.
Matrix cosines(const Matrix& inner) {
  const size_t n = inner.rows();
  Matrix result(n, n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double product = std::sqrt(std::max(0.0, inner(i, i))) * std::sqrt(std::max(0.0, inner(j, j)));
      result(i, j) = i == j ? 1 : product > 0 ? inner(i, j) / product : 0;
    }
  }
  return result;
}

}  // namespace

Relation relate(const UnitPool& pool) {
  const auto first = pool.firstUnits();
  const size_t n = pool.adapters();
  Relation relation{{}, Matrix(n, n), {}, 0};
  double opposing = 0, together = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = 0, magnitude = 0;
      for (size_t u = first[i]; u < first[i + 1]; ++u) {
        const auto a = pool.gramA.row(u), b = pool.gramB.row(u);
        for (size_t v = first[j]; v < first[j + 1]; ++v) {
          const double product = a[v] * b[v];
          sum += product;
          magnitude += std::abs(product);
        }
      }
      relation.inner(i, j) = relation.inner(j, i) = sum;
      if (i == j) continue;
      const double agreeing = pool.weights[i] * pool.weights[j] < 0 ? -sum : sum;
      together += magnitude;
      opposing += (magnitude - agreeing) / 2;
    }
    relation.norm.push_back(std::sqrt(std::max(0.0, relation.inner(i, i))));
  }
  relation.cosine = cosines(relation.inner);
  relation.conflict = together > 0 ? opposing / together : 0;
  return relation;
}

SharedSpaces sharedSpaces(const UnitPool& pool) {
  const auto first = pool.firstUnits();
  return {cosines(sharedEnergy(pool.gramB, pool.gramA, first)),
          cosines(sharedEnergy(pool.gramA, pool.gramB, first))};
}

Matrix reordered(const Matrix& matrix, std::span<const size_t> order) {
  Matrix result(order.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    for (size_t j = 0; j < order.size(); ++j) result(i, j) = matrix(order[i], order[j]);
  }
  return result;
}

}  // namespace lego

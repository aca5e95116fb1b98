#include "merge/core_space.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/factorise.h"

namespace lego {
namespace {

/// Rounding of sums over P units and of the eigenvalue solver reaches a few units in the last place per unit.
double rounding(size_t units) {
  return 4 * static_cast<double>(units) * std::numeric_limits<double>::epsilon();
}

Result<CoreBasis> basisOf(const Matrix& gram) {
  const auto eigen = symmetricEigen(gram);
  if (!eigen) return eigen.error();
  const size_t n = gram.rows();
  const double top = std::max(0.0, eigen->values.back());
  const double noise = rounding(n) * top;
  size_t first = 0;
  while (first < n && eigen->values[first] <= noise) ++first;
  CoreBasis basis{Matrix(n - first, n), Matrix(n - first, n), std::sqrt(top)};
  for (size_t d = 0; d < n - first; ++d) {
    const size_t column = n - 1 - d;
    const double value = std::sqrt(eigen->values[column]);
    for (size_t u = 0; u < n; ++u) {
      basis.root(d, u) = value * eigen->vectors(u, column);
      basis.inverse(d, u) = eigen->vectors(u, column) / value;
    }
  }
  return basis;
}

double norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

Result<CoreSpace> coreSpace(const UnitPool& pool) {
  auto a = basisOf(pool.gramA);
  if (!a) return a.error();
  auto b = basisOf(pool.gramB);
  if (!b) return b.error();
  return CoreSpace{std::move(*a), std::move(*b)};
}

Matrix coreSum(const CoreSpace& space, std::span<const double> weights) {
  Matrix core(space.b.size(), space.a.size());
  for (size_t u = 0; u < weights.size(); ++u) {
    for (size_t i = 0; i < core.rows(); ++i) {
      const double left = space.b.root(i, u) * weights[u];
      for (size_t j = 0; j < core.columns(); ++j) core(i, j) += left * space.a.root(j, u);
    }
  }
  return core;
}

Result<Singular> truncatedSvd(const Matrix& matrix, uint32_t rank, double noise) {
  Matrix squared(matrix.columns(), matrix.columns());
  for (size_t i = 0; i < matrix.rows(); ++i) {
    const auto row = matrix.row(i);
    for (size_t j = 0; j < row.size(); ++j) {
      for (size_t l = 0; l <= j; ++l) squared(j, l) += row[j] * row[l];
    }
  }
  const auto eigen = symmetricEigen(squared);
  if (!eigen) return eigen.error();

  std::vector<std::vector<double>> lefts;
  Singular result;
  for (size_t q = 0; q < std::min<size_t>(rank, matrix.columns()); ++q) {
    const size_t column = matrix.columns() - 1 - q;
    std::vector<double> left(matrix.rows());  // M v = s u
    for (size_t i = 0; i < matrix.rows(); ++i) {
      for (size_t j = 0; j < matrix.columns(); ++j) left[i] += matrix(i, j) * eigen->vectors(j, column);
    }
    const double value = norm(left);
    if (value <= noise) break;
    for (double& x : left) x /= value;
    result.values.push_back(value);
    lefts.push_back(std::move(left));
  }
  result.left = Matrix(result.values.size(), matrix.rows());
  result.right = Matrix(result.values.size(), matrix.columns());
  for (size_t q = 0; q < result.values.size(); ++q) {
    std::ranges::copy(lefts[q], result.left.row(q).begin());
    for (size_t j = 0; j < matrix.columns(); ++j)
      result.right(q, j) = eigen->vectors(j, matrix.columns() - 1 - q);
  }
  return result;
}

double coreNoise(const CoreSpace& space, double heaviest) {
  return rounding(space.a.root.columns()) * heaviest * space.a.largest * space.b.largest;
}

MergedFactors fromCore(const CoreSpace& space, const Matrix& left, const Matrix& right, uint32_t rank) {
  const size_t n = space.a.root.columns();
  MergedFactors merged{Matrix(rank, n), Matrix(rank, n), {}, {}, {}};
  for (size_t q = 0; q < left.rows(); ++q) {
    const double normA = norm(right.row(q)), normB = norm(left.row(q));
    if (normA == 0 || normB == 0) continue;
    const double factorA = std::sqrt(normB / normA), factorB = std::sqrt(normA / normB);
    for (size_t j = 0; j < right.columns(); ++j) {
      const double value = factorA * right(q, j);
      for (size_t u = 0; u < n; ++u) merged.a(q, u) += value * space.a.inverse(j, u);
    }
    for (size_t i = 0; i < left.columns(); ++i) {
      const double value = factorB * left(q, i);
      for (size_t u = 0; u < n; ++u) merged.b(q, u) += value * space.b.inverse(i, u);
    }
    const auto row = merged.a.row(q);
    if (*std::ranges::max_element(row, {}, [](double x) { return std::abs(x); }) >= 0) continue;
    for (double& x : merged.a.row(q)) x = -x;
    for (double& x : merged.b.row(q)) x = -x;
  }
  return merged;
}

}  // namespace lego

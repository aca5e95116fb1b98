#include "linalg/factorise.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "linalg/multiply.h"

namespace lego {
namespace {

using Dense = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

double norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

double roundingShare(size_t n) { return 4 * static_cast<double>(n) * std::numeric_limits<double>::epsilon(); }

Result<SymmetricEigen> symmetricEigen(const Matrix& symmetric) {
  if (symmetric.rows() == 0) return SymmetricEigen{};
  const auto n = static_cast<Eigen::Index>(symmetric.rows());
  const Eigen::SelfAdjointEigenSolver<Dense> solver(Eigen::Map<const Dense>(symmetric.data(), n, n));
  if (solver.info() != Eigen::Success)
    return Error{Code::noConvergence, "the eigenvalues of a Gram matrix did not converge", {}, {}, {}};
  SymmetricEigen result{{solver.eigenvalues().data(), solver.eigenvalues().data() + n},
                        Matrix(symmetric.rows(), symmetric.rows())};
  Eigen::Map<Dense>(result.vectors.data(), n, n) = solver.eigenvectors();
  return result;
}

Result<Singular> truncatedSvd(const Matrix& matrix, size_t rank, double noise) {
  const bool wide = matrix.columns() > matrix.rows();
  const Matrix across = transposed(matrix);
  // M^T M where M is tall, M M^T where it is wide.
  const auto eigen = symmetricEigen(gramOfColumns(wide ? across : matrix));
  if (!eigen) return eigen.error();
  const size_t n = eigen->values.size();
  Matrix own(std::min(rank, n), n);
  for (size_t q = 0; q < own.rows(); ++q) {
    for (size_t j = 0; j < n; ++j) own(q, j) = eigen->vectors(j, n - 1 - q);
  }
  Matrix image = multiply(own, wide ? matrix : across);  // rows M v (or M^T u)
  Singular result;
  for (size_t q = 0; q < own.rows(); ++q) {
    const double value = norm(image.row(q));
    if (value <= noise) break;
    for (double& x : image.row(q)) x /= value;
    result.values.push_back(value);
  }
  result.left = firstRows(wide ? std::move(own) : std::move(image), result.values.size());
  result.right = firstRows(wide ? std::move(image) : std::move(own), result.values.size());
  return result;
}

Result<GramRoot> principalRoot(const Matrix& gram) {
  const auto eigen = symmetricEigen(gram);
  if (!eigen) return eigen.error();
  const size_t n = gram.rows();
  const double top = n == 0 ? 0.0 : std::max(0.0, eigen->values.back());
  const double noise = roundingShare(n) * top;
  size_t first = 0;
  while (first < n && eigen->values[first] <= noise) ++first;
  GramRoot result{Matrix(n - first, n), Matrix(n - first, n), std::sqrt(top)};
  for (size_t d = 0; d < n - first; ++d) {
    const size_t column = n - 1 - d;
    const double value = std::sqrt(eigen->values[column]);
    for (size_t u = 0; u < n; ++u) {
      result.root(d, u) = value * eigen->vectors(u, column);
      result.inverse(d, u) = eigen->vectors(u, column) / value;
    }
  }
  return result;
}

GramRoot triangularRoot(const Matrix& gram) {
  const size_t n = gram.rows();
  std::vector<double> left(n);  // what of each unit is outside the basis so far, squared
  for (size_t u = 0; u < n; ++u) left[u] = gram(u, u);
  const double top = n == 0 ? 0.0 : *std::ranges::max_element(left);
  const double noise = roundingShare(n) * top;
  Matrix root(n, n);
  std::vector<size_t> pivots;
  while (pivots.size() < n) {
    const size_t d = pivots.size();
    const auto pivot = static_cast<size_t>(std::ranges::max_element(left) - left.begin());
    if (left[pivot] <= noise) break;
    // Row d: the inner products of the units with what is new of the pivot.
    const auto row = root.row(d);
    std::ranges::copy(gram.row(pivot), row.begin());
    for (size_t e = 0; e < d; ++e) {
      const double share = root(e, pivot);
      const auto earlier = root.row(e);
      for (size_t u = 0; u < n; ++u) row[u] -= share * earlier[u];
    }
    const double scale = 1 / std::sqrt(row[pivot]);
    for (size_t u = 0; u < n; ++u) {
      row[u] *= scale;
      left[u] -= row[u] * row[u];
    }
    // Exactly triangular: a pivot has nothing outside the basis that it belongs to.
    for (const size_t earlier : pivots) row[earlier] = 0;
    left[pivot] = -std::numeric_limits<double>::infinity();
    pivots.push_back(pivot);
  }
  const size_t m = pivots.size();
  double trace = 0;  // at least the largest eigenvalue
  for (size_t u = 0; u < n; ++u) trace += std::max(0.0, gram(u, u));
  GramRoot result{firstRows(std::move(root), m), Matrix(m, n), std::sqrt(trace)};
  // Forward substitution: vector d = (pivot d - sum over e < d of root(e, pivot d) vector e) / root(d, pivot
  // d).
  for (size_t d = 0; d < m; ++d) {
    const auto row = result.inverse.row(d);
    row[pivots[d]] = 1;
    for (size_t e = 0; e < d; ++e) {
      const double share = result.root(e, pivots[d]);
      const auto earlier = result.inverse.row(e);
      for (size_t p = 0; p <= e; ++p) row[pivots[p]] -= share * earlier[pivots[p]];
    }
    for (size_t p = 0; p <= d; ++p) row[pivots[p]] /= result.root(d, pivots[d]);
  }
  return result;
}

}  // namespace lego

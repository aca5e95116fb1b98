#include "linalg/factorise.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
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

/// Column j becomes column order[j].
void unorder(Matrix& matrix, std::span<const size_t> order) {
  std::vector<double> ordered;
  for (size_t i = 0; i < matrix.rows(); ++i) {
    const auto row = matrix.row(i);
    ordered.assign(row.begin(), row.end());
    for (size_t j = 0; j < order.size(); ++j) row[order[j]] = ordered[j];
  }
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
  double trace = 0;             // at least the largest eigenvalue
  for (size_t u = 0; u < n; ++u) {
    left[u] = gram(u, u);
    trace += std::max(0.0, left[u]);
  }
  const double top = n == 0 ? 0.0 : *std::ranges::max_element(left);
  const double noise = roundingShare(n) * top;
  // Columns are those of order[0], order[1], ..., the pivots first: what a row has is then to the right of
  // the diagonal, or in its inverse to the left.
  std::vector<size_t> order(n), place(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::iota(place.begin(), place.end(), size_t{0});
  Matrix root(n, n);
  std::vector<double> shares;
  const auto columnAbove = [&](size_t d) {
    shares.clear();
    for (size_t e = 0; e < d; ++e) shares.push_back(root(e, d));
  };
  size_t m = 0;
  for (; m < n; ++m) {
    const auto pivot = static_cast<size_t>(std::ranges::max_element(left) - left.begin());
    if (left[pivot] <= noise) break;
    const size_t from = place[pivot];
    for (size_t e = 0; e < m; ++e) std::swap(root(e, m), root(e, from));
    std::swap(order[m], order[from]);
    std::swap(place[order[m]], place[order[from]]);
    // The inner products of the units with what is new of the pivot.
    const auto row = root.row(m).subspan(m);
    for (size_t j = 0; j < row.size(); ++j) row[j] = gram(pivot, order[m + j]);
    columnAbove(m);
    subtractProducts(row, shares, root.data() + m, n);
    const double scale = 1 / std::sqrt(row[0]);
    for (size_t j = 0; j < row.size(); ++j) {
      row[j] *= scale;
      left[order[m + j]] -= row[j] * row[j];
    }
    left[pivot] = -std::numeric_limits<double>::infinity();
  }
  root = firstRows(root, m);
  Matrix inverse(m, n);
  // Forward substitution: vector d = (pivot d - sum over e < d of root(e, d) vector e) / root(d, d). Of
  // vector e what is to the right of e is zero: a block of columns needs only vectors that begin in it or
  // before.
  constexpr size_t kBlock = 32;
  for (size_t d = 0; d < m; ++d) {
    const auto row = inverse.row(d).first(d + 1);
    row[d] = 1;
    columnAbove(d);
    for (size_t first = 0; first < d; first += kBlock)
      subtractProducts(row.subspan(first, std::min(kBlock, d - first)), std::span(shares).subspan(first),
                       &inverse(first, first), n);
    for (double& x : row) x /= root(d, d);
  }
  unorder(root, order);
  unorder(inverse, order);
  return {std::move(root), std::move(inverse), std::sqrt(trace)};
}

}  // namespace lego

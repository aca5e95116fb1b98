#include "linalg/panel_svd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"
#include "linalg/multiply.h"

namespace lego {
namespace {

using panel_svd::kOversampling, panel_svd::kSteps;

constexpr double kSettled = 1e-9;

double dot(std::span<const double> x, std::span<const double> y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

/// Appends to `basis` what the rows of `block` add to its span, orthonormal. Returns how many rows that are.
size_t extend(std::vector<std::vector<double>>& basis, const Matrix& block) {
  const size_t before = basis.size();
  for (size_t i = 0; i < block.rows(); ++i) {
    std::vector<double> row(block.row(i).begin(), block.row(i).end());
    const double length = std::sqrt(dot(row, row));
    // Twice is enough (Parlett): the second time removes what rounding left of the first.
    for (int round = 0; round < 2; ++round) {
      for (const auto& other : basis) {
        const double share = dot(row, other);
        for (size_t c = 0; c < row.size(); ++c) row[c] -= share * other[c];
      }
    }
    const double left = std::sqrt(dot(row, row));
    if (left <= 1e-10 * length || left == 0) continue;
    for (double& x : row) x /= left;
    basis.push_back(std::move(row));
  }
  return basis.size() - before;
}

Matrix rowsOf(const std::vector<std::vector<double>>& basis, size_t first, size_t end, size_t columns) {
  Matrix result(end - first, columns);
  for (size_t i = first; i < end; ++i) std::ranges::copy(basis[i], result.row(i - first).begin());
  return result;
}

Result<Singular> svdOfAllRows(const RowPanels& panels, size_t rank, double noise, const Context& context) {
  Matrix whole(panels.rows, panels.columns);
  Status passed = panels.pass([&](size_t first, const Matrix& panel) {
    std::copy_n(panel.data(), panel.rows() * panel.columns(), whole.row(first).data());
  });
  if (!passed) return passed.error();
  if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
  return truncatedSvd(whole, rank, noise);
}

}  // namespace

Result<Singular> panelSvd(const RowPanels& panels, size_t rank, double noise, uint64_t seed,
                          const Context& context) {
  const size_t columns = panels.columns;
  const size_t k = std::min({rank, panels.rows, columns});
  const size_t width = std::min({k + kOversampling, panels.rows, columns});
  if (panels.rows <= kSteps * width) return svdOfAllRows(panels, rank, noise, context);
  Random random(seed);
  Matrix block(width, columns);
  for (size_t i = 0; i < width; ++i) {
    for (double& x : block.row(i)) x = 2 * random.uniform() - 1;
  }
  std::vector<std::vector<double>> basis, images;  // v, and M^T M v
  extend(basis, block);
  SymmetricEigen ritz;
  double held = 0;
  for (size_t step = 0; step < kSteps; ++step) {
    const size_t first = images.size();
    const Matrix newest = rowsOf(basis, first, basis.size(), columns), across = transposed(newest);
    Matrix image(newest.rows(), columns);
    Status passed = panels.pass([&](size_t, const Matrix& panel) {
      const Matrix part = multiply(transposed(multiply(panel, across)), panel);
      for (size_t i = 0; i < image.rows(); ++i) {
        const auto target = image.row(i);
        const auto source = part.row(i);
        for (size_t c = 0; c < columns; ++c) target[c] += source[c];
      }
    });
    if (!passed) return passed.error();
    if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
    for (size_t i = 0; i < image.rows(); ++i) images.emplace_back(image.row(i).begin(), image.row(i).end());

    // Rayleigh-Ritz: M^T M restricted to the basis.
    const size_t n = images.size();
    Matrix projected(n, n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j <= i; ++j) projected(i, j) = projected(j, i) = dot(basis[j], images[i]);
    }
    auto eigen = symmetricEigen(projected);
    if (!eigen) return eigen.error();
    ritz = std::move(*eigen);
    double energy = 0;
    for (size_t q = 0; q < std::min(k, n); ++q) energy += std::max(0.0, ritz.values[n - 1 - q]);
    const bool settled = step > 0 && energy - held <= kSettled * energy;
    held = energy;
    if (settled || n >= columns || extend(basis, image) == 0) break;
  }

  const size_t n = images.size();
  Matrix right(std::min(k, n), columns);
  for (size_t q = 0; q < right.rows(); ++q) {
    for (size_t i = 0; i < n; ++i) {
      const double share = ritz.vectors(i, n - 1 - q);
      const auto target = right.row(q);
      for (size_t c = 0; c < columns; ++c) target[c] += share * basis[i][c];
    }
  }
  Matrix left(right.rows(), panels.rows);
  const Matrix across = transposed(right);
  Status passed = panels.pass([&](size_t first, const Matrix& panel) {
    const Matrix part = multiply(panel, across);
    for (size_t r = 0; r < part.rows(); ++r) {
      for (size_t q = 0; q < left.rows(); ++q) left(q, first + r) = part(r, q);
    }
  });
  if (!passed) return passed.error();
  Singular result;
  for (size_t q = 0; q < left.rows(); ++q) {
    const double value = std::sqrt(dot(left.row(q), left.row(q)));
    if (value <= noise) break;
    for (double& x : left.row(q)) x /= value;
    result.values.push_back(value);
  }
  result.left = firstRows(std::move(left), result.values.size());
  result.right = firstRows(std::move(right), result.values.size());
  return result;
}

}  // namespace lego

#include "merge/svd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "linalg/multiply.h"

namespace lego {
namespace {

Result<Matrix> sumInCore(const CoreDeltas& core, const MethodRequest&, const Context&) {
  return combination(core, core.weights);
}

/// D* seen from its row space: with an orthonormal basis of all a_u, whose coordinates of the units are the
/// columns of `basis.root`, D*^T D* = root W G_B W root^T.
struct RowSpace {
  GramRoot basis;
  SymmetricEigen eigen;  // of D*^T D*, ascending
};
Result<RowSpace> rowSpace(const UnitPool& pool) {
  const size_t n = pool.size();
  Matrix middle(n, n);
  for (size_t u = 0; u < n; ++u) {
    for (size_t v = 0; v < n; ++v) middle(u, v) = pool.weightOf(u) * pool.weightOf(v) * pool.gramB(u, v);
  }
  GramRoot basis = triangularRoot(pool.gramA);
  auto eigen = symmetricEigen(sandwich(basis.root, middle, basis.root));
  if (!eigen) return eigen.error();
  return RowSpace{std::move(basis), std::move(*eigen)};
}

}  // namespace

Result<MergedFactors> mergeSvd(const UnitPool& pool, const MethodRequest& request, const Context& context) {
  return request.options.isOn("pico") ? mergeInCore(sumInCore, pool, request, context)
                                      : sumOfRank(pool, request.rank);
}

Result<MergedFactors> sumOfRank(const UnitPool& pool, uint32_t rank) {
  const auto space = rowSpace(pool);
  if (!space) return space.error();
  const size_t n = pool.size(), m = space->basis.size(), k = std::min<size_t>(rank, m);
  Matrix right(rank, m);  // v_q in the basis, the heaviest first
  for (size_t q = 0; q < k; ++q) {
    for (size_t d = 0; d < m; ++d) right(q, d) = space->eigen.vectors(d, m - 1 - q);
  }
  MergedFactors merged{Matrix(rank, n), Matrix(rank, n), {}, {}, {}, {}};
  if (m == 0) return merged;
  // D* is projected onto the v_q, exactly: an error in them shows only squared.
  merged.a = multiply(right, space->basis.inverse);
  merged.b = multiply(right, space->basis.root);
  double heaviest = 0;
  for (size_t u = 0; u < n; ++u) {
    heaviest = std::max(heaviest, std::abs(pool.weightOf(u)));
    for (size_t q = 0; q < k; ++q) merged.b(q, u) *= pool.weightOf(u);
  }
  double traceB = 0;
  for (size_t u = 0; u < n; ++u) traceB += pool.gramB(u, u);
  // What cancels leaves rounding noise of the summands' size: that is no direction of D*.
  const double noise = roundingShare(n) * heaviest * space->basis.largest * std::sqrt(traceB);
  const Matrix image = multiply(merged.b, pool.gramB);
  for (size_t q = 0; q < rank; ++q) {
    const auto rowA = merged.a.row(q), rowB = merged.b.row(q);
    const double energy = std::inner_product(rowB.begin(), rowB.end(), image.row(q).begin(), 0.0);
    const double value = std::sqrt(std::max(0.0, energy)), root = std::sqrt(value);  // |D* v_q|
    for (double& x : rowA) x = value > noise ? x * root : 0;
    for (double& x : rowB) x = value > noise ? x / root : 0;
  }
  fixSigns(merged);
  return merged;
}

Result<std::vector<double>> sumEnergies(const UnitPool& pool, const MethodRequest&, const Context&) {
  const auto space = rowSpace(pool);
  if (!space) return space.error();
  std::vector<double> energies(space->eigen.values.rbegin(), space->eigen.values.rend());
  for (double& energy : energies) energy = std::max(0.0, energy);
  return energies;
}

}  // namespace lego

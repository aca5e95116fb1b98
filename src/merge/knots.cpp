#include "merge/knots.h"

#include <algorithm>
#include <cmath>

#include "linalg/factorise.h"
#include "linalg/multiply.h"
#include "linalg/panel_svd.h"
#include "merge/entry_stream.h"

namespace lego {
namespace {

/// U of the stacked deltas: coordinates of each b_u in it (m x P), and its vectors as sums of the b_u.
struct OutputBasis {
  Matrix coordinates, inverse;
};
Result<OutputBasis> outputBasis(const UnitPool& pool) {
  const GramRoot root = triangularRoot(pool.gramB);
  // [D_1 ... D_N] [D_1 ... D_N]^T = sum of B_i A_i A_i^T B_i^T: only units of one adapter meet.
  Matrix within(pool.size(), pool.size());
  for (size_t u = 0; u < pool.size(); ++u) {
    for (size_t v = 0; v < pool.size(); ++v)
      within(u, v) = pool.owner[u] == pool.owner[v] ? pool.gramA(u, v) : 0;
  }
  const auto eigen = symmetricEigen(sandwich(root.root, within, root.root));
  if (!eigen) return eigen.error();
  const size_t n = eigen->values.size();
  const double noise = n == 0 ? 0 : roundingShare(pool.size()) * std::max(0.0, eigen->values.back());
  size_t first = 0;
  while (first < n && eigen->values[first] <= noise) ++first;
  Matrix vectors(n - first, n);
  for (size_t d = 0; d < vectors.rows(); ++d) {
    for (size_t i = 0; i < n; ++i) vectors(d, i) = eigen->vectors(i, n - 1 - d);
  }
  return OutputBasis{multiply(vectors, root.root), multiply(vectors, root.inverse)};
}

Status merge(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
             const Context& context, const MergedRows& merged, Thinning::Kind kind) {
  const auto basis = outputBasis(pool);
  if (!basis) return basis.error();
  const size_t m = basis->coordinates.rows();
  const auto first = pool.firstUnits();
  // E_i: row d is the sum over i's units u of coordinates(d, u) a_u.
  TaskMatrices tasks{pool.adapters(), m, pool.in, units.strideA,
                     [&](size_t task, size_t row, size_t number, float* out) {
                       Matrix coefficients(number, pool.size());
                       for (size_t r = 0; r < number; ++r) {
                         for (size_t u = first[task]; u < first[task + 1]; ++u)
                           coefficients(r, u) = basis->coordinates(row + r, u);
                       }
                       assembleFolded(units.assemble, units.a, units.strideA, pool.in, coefficients,
                                      units.row, units.foldA, out);
                     }};
  auto stream = EntryStream::open(std::move(tasks), thinningOf(kind, request.options),
                                  joiningOf(request.options), pool.weights, request.seed, context);
  if (!stream) return stream.error();
  double size = 0;
  for (size_t u = 0; u < pool.size(); ++u)
    size += std::abs(pool.weightOf(u)) * std::sqrt(pool.gramA(u, u) * pool.gramB(u, u));
  const RowPanels panels{m, pool.in, [&](const auto& use) { return stream->pass(use, context); }};
  const double noise = std::numeric_limits<float>::epsilon() * size;
  const auto singular = panelSvd(panels, request.rank, noise, request.seed, context);
  if (!singular) return singular.error();

  // The merged delta is U left^T diag(values) right.
  const size_t found = singular->values.size();
  Matrix left(request.rank, pool.size());
  const Matrix onUnits = m > 0 ? multiply(singular->left, basis->inverse) : Matrix();
  for (size_t q = 0; q < request.rank; ++q) {
    float* a = merged.a + q * units.strideA;
    std::fill_n(a, pool.in, 0.0f);
    if (q >= found) continue;
    const auto right = singular->right.row(q);
    const double leading = *std::ranges::max_element(right, {}, [](double x) { return std::abs(x); });
    const double root = std::copysign(std::sqrt(singular->values[q]), leading);
    for (size_t c = 0; c < pool.in; ++c) a[c] = static_cast<float>(root * right[c]);
    for (size_t u = 0; u < pool.size(); ++u) left(q, u) = root * onUnits(q, u);
  }
  assembleFolded(units.assemble, units.b, units.strideB, pool.out, left, units.row, units.foldB, merged.b);
  return {};
}

}  // namespace

Status mergeKnotsTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                      const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Magnitude);
}

Status mergeKnotsDareTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                          const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Random);
}

}  // namespace lego

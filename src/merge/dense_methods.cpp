#include "merge/dense_methods.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/panel_svd.h"
#include "merge/entry_stream.h"

namespace lego {
namespace {

/// Rows of D_i: row o is the sum over its units u of b_u[o] a_u.
TaskMatrices deltaRows(const UnitPool& pool, const UnitRows& units) {
  return {pool.adapters(), pool.out, pool.in, units.strideA,
          [&pool, &units, first = pool.firstUnits()](size_t task, size_t row, size_t number, float* out) {
            std::vector<std::vector<Term>> terms(number);
            for (size_t u = first[task]; u < first[task + 1]; ++u) {
              const float* column = units.b + units.row[u] * units.strideB;
              const double fold = units.foldA[u] * units.foldB[u];
              for (size_t r = 0; r < number; ++r)
                terms[r].push_back({units.row[u], static_cast<float>(fold * column[row + r])});
            }
            const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
            units.assemble(units.a, units.strideA, pool.in, views, out);
          }};
}

/// The triples as balanced factors, the leading entry of each row of A positive.
void writeFactors(const Singular& singular, const UnitPool& pool, const UnitRows& units, uint32_t rank,
                  const MergedRows& merged) {
  for (size_t q = 0; q < rank; ++q) {
    float *a = merged.a + q * units.strideA, *b = merged.b + q * units.strideB;
    if (q >= singular.values.size()) {
      std::fill_n(a, pool.in, 0.0f);
      std::fill_n(b, pool.out, 0.0f);
      continue;
    }
    const auto right = singular.right.row(q), left = singular.left.row(q);
    const double leading = *std::ranges::max_element(right, {}, [](double x) { return std::abs(x); });
    const double root = std::copysign(std::sqrt(singular.values[q]), leading);
    for (size_t c = 0; c < pool.in; ++c) a[c] = static_cast<float>(root * right[c]);
    for (size_t o = 0; o < pool.out; ++o) b[o] = static_cast<float>(root * left[o]);
  }
}

Status merge(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
             const Context& context, const MergedRows& merged, Thinning::Kind kind, const Joining& joining) {
  auto stream = EntryStream::open(deltaRows(pool, units), thinningOf(kind, request.options), joining,
                                  pool.weights, request.seed, context);
  if (!stream) return stream.error();
  double size = 0;  // of the summands, for what counts as nothing
  for (size_t u = 0; u < pool.size(); ++u)
    size += std::abs(pool.weightOf(u)) * std::sqrt(pool.gramA(u, u) * pool.gramB(u, u));
  const RowPanels panels{pool.out, pool.in, [&](const auto& use) { return stream->pass(use, context); }};
  // Entries are binary32 sums.
  const double noise = std::numeric_limits<float>::epsilon() * size;
  const auto singular = panelSvd(panels, request.rank, noise, request.seed, context);
  if (!singular) return singular.error();
  writeFactors(*singular, pool, units, request.rank, merged);
  return {};
}

}  // namespace

Status mergeDenseTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                      const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Magnitude, joiningOf(request.options));
}

Status mergeDenseDareLinear(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                            const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Random, {});
}

Status mergeDenseDareTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                          const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Random, joiningOf(request.options));
}

Status mergeDenseMagnitudePrune(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                                const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, Thinning::Kind::Magnitude, {});
}

}  // namespace lego

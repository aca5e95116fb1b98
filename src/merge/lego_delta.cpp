#include "merge/lego_delta.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/limits.h"
#include "linalg/factorise.h"
#include "linalg/multiply.h"
#include "merge/core_space.h"

namespace lego {
namespace {

/// The units' rank-1 matrices, a negative weight turning one around, as points.
struct DeltaUnits {
  Matrix gram;  // P x P
  std::vector<double> weights;
};
DeltaUnits deltaUnits(const UnitPool& pool, bool cosine) {
  const size_t n = pool.size();
  DeltaUnits units{Matrix(n, n), {}};
  std::vector<double> factor(n);
  for (size_t u = 0; u < n; ++u) {
    const double norm = std::sqrt(pool.gramA(u, u) * pool.gramB(u, u));
    units.weights.push_back(std::abs(pool.weightOf(u)));
    factor[u] = std::copysign(cosine ? (norm > 0 ? 1 / norm : 0) : 1, pool.weightOf(u));
  }
  for (size_t u = 0; u < n; ++u) {
    for (size_t v = 0; v < n; ++v)
      units.gram(u, v) = factor[u] * factor[v] * pool.gramA(u, v) * pool.gramB(u, v);
  }
  return units;
}

/// Best rank-1 approximation of sum over members of weight b a^T, as coefficients on them.
struct RankOne {
  std::vector<double> a, b;  // of a unit vector, and of what the sum makes of it
  double value = 0;          // its norm
};
Result<RankOne> bestRankOne(const UnitPool& pool, std::span<const size_t> members) {
  const size_t n = members.size();
  Matrix gramA(n, n), middle(n, n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const size_t u = members[i], v = members[j];
      gramA(i, j) = pool.gramA(u, v);
      middle(i, j) = pool.weightOf(u) * pool.weightOf(v) * pool.gramB(u, v);
    }
  }
  const GramRoot basis = triangularRoot(gramA);
  RankOne result{std::vector<double>(n), std::vector<double>(n), 0};
  if (basis.size() == 0) return result;
  const auto eigen = symmetricEigen(sandwich(basis.root, middle, basis.root));
  if (!eigen) return eigen.error();
  const size_t top = basis.size() - 1;
  for (size_t i = 0; i < n; ++i) {
    for (size_t d = 0; d < basis.size(); ++d) {
      result.a[i] += eigen->vectors(d, top) * basis.inverse(d, i);
      result.b[i] += eigen->vectors(d, top) * basis.root(d, i);
    }
  }
  double energy = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) energy += result.b[i] * result.b[j] * middle(i, j);
  }
  result.value = std::sqrt(std::max(0.0, energy));
  for (size_t i = 0; i < n; ++i) result.b[i] *= pool.weightOf(members[i]);
  return result;
}

}  // namespace

Result<MergedFactors> mergeLegoDelta(const UnitPool& pool, const MethodRequest& request,
                                     const Context& context) {
  const size_t n = pool.size();
  const uint32_t k = request.rank;
  const DeltaUnits units = deltaUnits(pool, request.options.choice("metric") == "cosine");
  const Points points{units.gram, units.weights, false};
  const SearchOptions search{static_cast<uint32_t>(request.options.number("restarts")), request.seed};
  Clustering clustering = request.start.empty() ? cluster(points, k, search, context)
                                                : lloyd(points, request.start, limits::kLloydIterations);
  std::vector<std::vector<size_t>> members(k);
  for (size_t u = 0; u < n; ++u) members[clustering.label[u]].push_back(u);

  const std::string& representative = request.options.choice("representative");
  MergedFactors merged{Matrix(k, n), Matrix(k, n), {}, {}, {}, {}};
  for (uint32_t q = 0; q < k; ++q) {
    if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
    const auto top = bestRankOne(pool, members[q]);
    if (!top) return top.error();
    double weights = 0, norms = 0;
    for (const size_t u : members[q]) {
      weights += std::abs(pool.weightOf(u));
      norms += std::abs(pool.weightOf(u)) * std::sqrt(pool.gramA(u, u) * pool.gramB(u, u));
    }
    merged.centroidNorm.push_back(top->value / weights);
    // Members that cancel leave rounding noise, whose direction means nothing.
    if (norms == 0 || top->value < kNearZero * norms) {
      if (norms > 0) merged.nearZero.push_back(q);
      continue;
    }
    const double norm = representative == "sum"    ? top->value
                        : representative == "mean" ? top->value / weights
                                                   : norms / weights;
    for (size_t i = 0; i < members[q].size(); ++i) {
      merged.a(q, members[q][i]) = std::sqrt(norm) * top->a[i];
      merged.b(q, members[q][i]) = std::sqrt(norm) / top->value * top->b[i];
    }
  }
  fixSigns(merged);
  merged.clustering = std::move(clustering);
  return merged;
}

Result<std::vector<double>> legoDeltaEnergies(const UnitPool& pool, const MethodRequest& request,
                                              const Context&) {
  const DeltaUnits units = deltaUnits(pool, request.options.choice("metric") == "cosine");
  return wardGains({units.gram, units.weights, false});
}

}  // namespace lego

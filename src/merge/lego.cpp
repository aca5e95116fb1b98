#include "merge/lego.h"

#include <algorithm>
#include <cmath>

#include "base/limits.h"
#include "merge/rescale.h"

namespace lego {
namespace {

/// Sum of |w_i| r_i over sum of |w_i|: what "the rank of one adapter" means where ranks differ.
double meanRank(const UnitPool& pool) {
  double ranks = 0, weights = 0;
  for (size_t i = 0; i < pool.ranks.size(); ++i) {
    ranks += std::abs(pool.weights[i]) * pool.ranks[i];
    weights += std::abs(pool.weights[i]);
  }
  return ranks / weights;
}

}  // namespace

LegoUnits legoUnits(const UnitPool& pool, bool balanced) {
  const size_t n = pool.size();
  LegoUnits units{Matrix(n, n), {}, {}, {}, {}, balanced};
  for (size_t u = 0; u < n; ++u) {
    const double weight = pool.weights[pool.owner[u]];
    double factorA = 1, factorB = 1;
    if (balanced) {
      const double normA = std::sqrt(pool.gramA(u, u)), normB = std::sqrt(pool.gramB(u, u));
      factorA = normA > 0 ? std::sqrt(normB / normA) : 0;
      factorB = normB > 0 ? std::sqrt(normA / normB) : 0;
    }
    units.weights.push_back(std::abs(weight));
    units.factorA.push_back(factorA);
    units.factorB.push_back(weight < 0 ? -factorB : factorB);
    units.magnitude.push_back(std::max(factorA * pool.maxA[u], factorB * pool.maxB[u]));
  }
  for (size_t u = 0; u < n; ++u) {
    for (size_t v = 0; v < n; ++v) {
      units.gram(u, v) = units.factorA[u] * units.factorA[v] * pool.gramA(u, v) +
                         units.factorB[u] * units.factorB[v] * pool.gramB(u, v);
    }
  }
  return units;
}

MergedFactors legoCentroids(const UnitPool& pool, const LegoUnits& units, const Options& options,
                            Clustering clustering, uint32_t k) {
  const size_t n = pool.size();
  struct Cluster {
    size_t members = 0;
    double weight = 0, norms = 0, magnitudes = 0;  // sums over members, weighted
    double energy = 0;                             // squared norm of the weighted sum
  };
  std::vector<Cluster> clusters(k);
  for (size_t u = 0; u < n; ++u) {
    Cluster& cluster = clusters[clustering.label[u]];
    ++cluster.members;
    cluster.weight += units.weights[u];
    cluster.norms += units.weights[u] * std::sqrt(std::max(0.0, units.gram(u, u)));
    cluster.magnitudes += units.weights[u] * units.magnitude[u];
    for (size_t v = 0; v < n; ++v) {
      if (clustering.label[v] != clustering.label[u]) continue;
      cluster.energy +=
          units.weights[u] * units.weights[v] * clustering.sign[u] * clustering.sign[v] * units.gram(u, v);
    }
  }

  const std::string& reweight = options.choice("parameter_reweight");
  MergedFactors merged{Matrix(k, n), Matrix(k, n), {}, {}, {}, {}};
  std::vector<double> factor(k, 1);
  if (reweight == "linf") merged.targetMagnitude.assign(k, 0);
  for (uint32_t q = 0; q < k; ++q) {
    const Cluster& cluster = clusters[q];
    const double meanNorm = cluster.norms / cluster.weight,
                 norm = std::sqrt(std::max(0.0, cluster.energy)) / cluster.weight;
    merged.centroidNorm.push_back(norm);
    // A lone member is its own centroid: nothing to reweight, not even by rounding.
    if (cluster.members < 2 || meanNorm == 0) continue;
    if (norm < kNearZero * meanNorm) {
      merged.nearZero.push_back(q);
    } else if (reweight == "l2") {
      factor[q] = meanNorm / norm;
    } else if (reweight == "linf") {
      merged.targetMagnitude[q] = cluster.magnitudes / cluster.weight;
    }
  }
  for (size_t u = 0; u < n; ++u) {
    const uint32_t q = clustering.label[u];
    const double share = factor[q] * clustering.sign[u] * units.weights[u] / clusters[q].weight;
    merged.a(q, u) = share * units.factorA[u];
    merged.b(q, u) = share * units.factorB[u];
  }
  if (options.choice("output_reweight") == "on") rescale(merged, std::sqrt(meanRank(pool) / k));
  merged.clustering = std::move(clustering);
  return merged;
}

Result<std::vector<double>> legoEnergies(const UnitPool& pool, const MethodRequest& request, const Context&) {
  return wardGains(legoUnits(pool, request.options.choice("gauge") == "balanced").points());
}

Result<MergedFactors> mergeLego(const UnitPool& pool, const MethodRequest& request, const Context& context) {
  const LegoUnits units = legoUnits(pool, request.options.choice("gauge") == "balanced");
  const SearchOptions search{static_cast<uint32_t>(request.options.number("restarts")), request.seed};
  auto clustering = request.start.empty() ? cluster(units.points(), request.rank, search, context)
                                          : lloyd(units.points(), request.start, limits::kLloydIterations);
  return legoCentroids(pool, units, request.options, std::move(clustering), request.rank);
}

}  // namespace lego

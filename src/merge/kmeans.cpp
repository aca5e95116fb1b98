#include "merge/kmeans.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "base/limits.h"
#include "base/order.h"
#include "base/random.h"
#include "merge/partition.h"

namespace lego {
namespace {

// Swaps tried per restart. Once a start has been refined, a swap finds more than another start and costs an
// eighth of it; the number falls with n so that the search stays a fixed, small share of a merge
// (docs/numerics.md has the measurements).
uint32_t swapsPerRestart(size_t n) { return static_cast<uint32_t>(std::clamp<size_t>(512 / n, 2, 32)); }

/// k-means++ (Arthur, Vassilvitskii 2007), greedy: of several units drawn with probability proportional to
/// weight times squared distance, the one that lowers the inertia most becomes the next centroid.
void seedPartition(const Points& points, uint32_t k, Random& random, Partition& partition) {
  const size_t n = points.weights.size();
  const int candidates = 2 + std::bit_width(k) / 2;
  std::vector<double> nearest(n, std::numeric_limits<double>::infinity()), trial(n), best(n), until(n);
  std::vector<bool> isCentroid(n, false);
  // until[u]: the shares of u and all before it. A unit is drawn with a probability proportional to its own.
  const auto draw = [&] {
    const double at = random.uniform() * until.back();
    const auto drawn = static_cast<size_t>(std::ranges::upper_bound(until, at) - until.begin());
    if (drawn < n) return drawn;
    // Nothing has a share where all units left are copies of centroids: the first of them will do.
    return static_cast<size_t>(std::ranges::find(isCentroid, false) - isCentroid.begin());
  };
  for (uint32_t q = 0; q < k; ++q) {
    double sum = 0;
    for (size_t u = 0; u < n; ++u) until[u] = sum += points.weights[u] * (q == 0 ? 1 : nearest[u]);
    size_t chosen = 0;
    double bestInertia = std::numeric_limits<double>::infinity();
    for (int c = 0; c < (q == 0 ? 1 : candidates); ++c) {
      const size_t candidate = draw();
      double inertia = 0;
      for (size_t u = 0; u < n; ++u) {
        trial[u] = std::min(nearest[u], unitDistance(points, u, candidate));
        inertia += points.weights[u] * trial[u];
      }
      if (inertia < bestInertia) bestInertia = inertia, chosen = candidate, best.swap(trial);
    }
    isCentroid[chosen] = true;
    for (size_t u = 0; u < n; ++u) {
      const bool nearer = best[u] < nearest[u] || u == chosen;
      if (!nearer) continue;
      partition.label[u] = q;
      partition.sign[u] = points.signless && points.gram(u, chosen) < 0 ? -1 : 1;
    }
    nearest.swap(best);
    nearest[chosen] = 0;
  }
  partition.rebuild();
}

/// Empties cluster p into its neighbours and starts it anew from unit u.
void swapCentroid(Partition& partition, uint32_t p, size_t u) {
  for (size_t v = 0; v < partition.label.size(); ++v) {
    if (partition.label[v] != p || v == u) continue;
    const uint32_t other = partition.bestOther(v);
    if (other != p) partition.move(v, other);
  }
  if (partition.label[u] != p) {
    partition.move(u, p);
  }
}

}  // namespace

double inertiaOf(const Points& points, std::span<const uint32_t> label, std::span<const int8_t> sign,
                 uint32_t k) {
  Partition partition(points, k);
  partition.label.assign(label.begin(), label.end());
  partition.sign.assign(sign.begin(), sign.end());
  partition.rebuild();
  return std::max(0.0, totalNorm(points) - partition.explained());
}

Clustering lloyd(const Points& points, std::span<const uint32_t> start, uint32_t maximum) {
  const size_t n = points.weights.size();
  const auto k = static_cast<uint32_t>(start.size());
  Partition partition(points, k);
  std::vector<double> distance(n);
  uint32_t iterations = 0;
  while (iterations < maximum) {
    const bool first = iterations == 0;
    const std::vector<uint32_t> previous = partition.label;
    std::vector<uint32_t> label(n);
    std::vector<uint32_t> members(k, 0);
    for (size_t u = 0; u < n; ++u) {
      double nearest = std::numeric_limits<double>::infinity();
      for (uint32_t q = 0; q < k; ++q) {
        // The first centroids are units, not the means of clusters.
        const double d = first ? unitDistance(points, u, start[q]) : partition.distance(u, q);
        if (d < nearest) nearest = d, label[u] = q;
      }
      distance[u] = nearest;
      ++members[label[u]];
    }
    for (uint32_t q = 0; q < k; ++q) {
      if (members[q] > 0) continue;
      size_t farthest = n;
      for (size_t u = 0; u < n; ++u) {
        if (members[label[u]] > 1 && (farthest == n || distance[u] > distance[farthest])) farthest = u;
      }
      --members[label[farthest]];
      label[farthest] = q;
      members[q] = 1;
      distance[farthest] = 0;
    }
    for (size_t u = 0; points.signless && u < n; ++u) {
      const double inner = first ? points.gram(u, start[label[u]]) : partition.sum(u, label[u]);
      partition.sign[u] = inner < 0 ? -1 : 1;
    }
    ++iterations;
    const bool settled = !first && label == previous;
    partition.label = std::move(label);
    partition.rebuild();
    if (settled) break;
  }
  Clustering result{partition.label, partition.sign, 0, iterations};
  result.inertia = std::max(0.0, totalNorm(points) - partition.explained());
  return result;
}

Clustering cluster(const Points& points, uint32_t k, const SearchOptions& options, const Context& context) {
  const size_t n = points.weights.size();
  // Work on the units in an order of their own, so that the order in which adapters are given is forgotten.
  const auto order = orderOf(n, [&](size_t u, size_t v) {
    const double x = points.weights[u] * points.gram(u, u), y = points.weights[v] * points.gram(v, v);
    return x != y ? x > y : points.weights[u] > points.weights[v];
  });
  Matrix gram(n, n);
  std::vector<double> weights(n);
  for (size_t i = 0; i < n; ++i) {
    weights[i] = points.weights[order[i]];
    const auto row = points.gram.row(order[i]);
    for (size_t j = 0; j < n; ++j) gram(i, j) = row[order[j]];
  }
  const Points sorted{gram, weights, points.signless};

  const uint32_t swaps = options.restarts * swapsPerRestart(n);
  const double leastGain = kLeastGain * totalNorm(sorted);
  Random random(options.seed);
  std::optional<Partition> best;
  double bestExplained = 0;
  for (uint32_t restart = 0; restart < options.restarts && !(best && context.cancelled()); ++restart) {
    Partition trial(sorted, k);
    seedPartition(sorted, k, random, trial);
    trial.moveUnits(leastGain);
    const double explained = trial.explained();
    if (!best || explained > bestExplained + leastGain)
      best.emplace(std::move(trial)), bestExplained = explained;
  }
  for (uint32_t swap = 0; swap < swaps && k > 1 && k < n && !context.cancelled(); ++swap) {
    Partition trial = *best;
    // Drawn one after the other: the order in which arguments are evaluated is the compiler's choice.
    const auto emptied = static_cast<uint32_t>(random.below(k));
    const auto unit = static_cast<size_t>(random.below(n));
    swapCentroid(trial, emptied, unit);
    trial.moveUnits(leastGain);
    const double explained = trial.explained();
    if (explained > bestExplained + leastGain) best.emplace(std::move(trial)), bestExplained = explained;
  }

  // Back to the caller's order of units; clusters numbered by their first unit.
  Clustering result;
  result.label.resize(n);
  result.sign.resize(n);
  for (size_t i = 0; i < n; ++i) {
    result.label[order[i]] = best->label[i];
    result.sign[order[i]] = best->sign[i];
  }
  std::vector<uint32_t> number(k, UINT32_MAX);
  std::vector<int8_t> flip(k, 1);
  uint32_t next = 0;
  for (size_t u = 0; u < n; ++u) {
    const uint32_t q = result.label[u];
    // A signless cluster as a whole may be flipped: its first unit keeps its sign.
    if (number[q] == UINT32_MAX) number[q] = next++, flip[q] = result.sign[u];
    result.label[u] = number[q];
    result.sign[u] = static_cast<int8_t>(result.sign[u] * flip[q]);
  }
  result.inertia = inertiaOf(points, result.label, result.sign, k);
  return result;
}

}  // namespace lego

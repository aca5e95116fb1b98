#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "base/order.h"
#include "merge/kmeans.h"

namespace lego {
namespace {

/// Clusters as sums of their members: S_pq = <sum over p of w x, sum over q of w x>.
class Agglomeration {
 public:
  explicit Agglomeration(const Points& points) : signless_(points.signless), sums_(points.gram) {
    const size_t n = points.weights.size();
    for (size_t p = 0; p < n; ++p) {
      for (size_t q = 0; q < n; ++q) sums_(p, q) *= points.weights[p] * points.weights[q];
    }
    weight_.assign(points.weights.begin(), points.weights.end());
    alive_.assign(n, true);
  }

  /// What the inertia grows by if p and q become one cluster; never negative.
  double cost(size_t p, size_t q) const {
    const double x = sums_(p, p) / (weight_[p] * weight_[p]), y = sums_(q, q) / (weight_[q] * weight_[q]);
    const double inner = (signless_ ? std::abs(sums_(p, q)) : sums_(p, q)) / (weight_[p] * weight_[q]);
    return std::max(0.0, weight_[p] * weight_[q] / (weight_[p] + weight_[q]) * (x - 2 * inner + y));
  }

  /// Adds q to p.
  void join(size_t p, size_t q) {
    const double sign = signless_ && sums_(p, q) < 0 ? -1 : 1;
    const double own = sums_(p, p) + 2 * sign * sums_(p, q) + sums_(q, q);
    for (size_t r = 0; r < weight_.size(); ++r) {
      sums_(p, r) += sign * sums_(q, r);
      sums_(r, p) = sums_(p, r);
    }
    sums_(p, p) = own;
    weight_[p] += weight_[q];
    alive_[q] = false;
  }

  bool alive(size_t p) const { return alive_[p]; }
  /// Part of the total squared norm that the centroid of cluster p explains.
  double explained(size_t p) const { return sums_(p, p) / weight_[p]; }

 private:
  bool signless_;
  Matrix sums_;
  std::vector<double> weight_;
  std::vector<bool> alive_;
};

}  // namespace

std::vector<double> wardGains(const Points& points) {
  const size_t n = points.weights.size();
  if (n == 0) return {};
  Agglomeration clusters(points);
  std::vector<double> costs;
  std::vector<size_t> chain;
  while (costs.size() + 1 < n) {
    if (chain.empty()) {
      size_t first = 0;
      while (!clusters.alive(first)) ++first;
      chain.push_back(first);
    }
    // The nearest neighbour of the chain's end; the one before it where that is as near.
    const size_t end = chain.back();
    size_t nearest = chain.size() > 1 ? chain[chain.size() - 2] : n;
    double least = nearest < n ? clusters.cost(end, nearest) : std::numeric_limits<double>::infinity();
    for (size_t q = 0; q < n; ++q) {
      if (q == end || !clusters.alive(q)) continue;
      const double cost = clusters.cost(end, q);
      if (nearest == n || cost < least) nearest = q, least = cost;
    }
    if (chain.size() > 1 && nearest == chain[chain.size() - 2]) {
      clusters.join(nearest, end);
      costs.push_back(least);
      chain.resize(chain.size() - 2);
    } else {
      chain.push_back(nearest);
    }
  }
  size_t last = 0;
  while (!clusters.alive(last)) ++last;
  sortDescending(costs);
  costs.insert(costs.begin(), std::max(0.0, clusters.explained(last)));
  return costs;
}

}  // namespace lego

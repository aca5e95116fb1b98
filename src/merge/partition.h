// An assignment of units to clusters that knows what each move gains: what the search of kmeans.cpp is made
// of. Only that includes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "base/limits.h"
#include "merge/kmeans.h"
#include "tensor/simd.h"

namespace lego {

// A move must gain more than this share of the total weighted norm, so that rounding cannot make two
// moves undo each other for ever.
inline constexpr double kLeastGain = 1e-13;

inline double totalNorm(const Points& points) {
  double total = 0;
  for (size_t u = 0; u < points.weights.size(); ++u) total += points.weights[u] * points.gram(u, u);
  return total;
}

/// Squared distance of two units, up to sign where signs do not count. Never negative.
inline double unitDistance(const Points& points, size_t u, size_t v) {
  const double inner = points.signless ? std::abs(points.gram(u, v)) : points.gram(u, v);
  return std::max(0.0, points.gram(u, u) - 2 * inner + points.gram(v, v));
}

/// An assignment together with the sums that make moves cheap: S, T and W of kmeans.h.
class Partition {
 public:
  Partition(const Points& points, uint32_t k)
      : label(points.weights.size()),
        sign(points.weights.size(), 1),
        points_(points),
        n_(points.weights.size()),
        k_(k),
        sums_(n_ * k),
        energy_(k),
        weight_(k),
        explained_(k),
        gain_(k),
        excluded_(2 * k - 1, 0.0),
        members_(k) {
    excluded_[k - 1] = -std::numeric_limits<double>::infinity();
  }

  std::vector<uint32_t> label;
  std::vector<int8_t> sign;

  uint32_t members(uint32_t q) const { return members_[q]; }

  /// Recomputes the sums from label and sign: O(n^2).
  void rebuild() {
    std::ranges::fill(sums_, 0.0);
    std::ranges::fill(energy_, 0.0);
    std::ranges::fill(weight_, 0.0);
    std::ranges::fill(members_, 0u);
    for (size_t v = 0; v < n_; ++v) {
      addToSums(v, label[v], points_.weights[v] * sign[v]);
      weight_[label[v]] += points_.weights[v];
      ++members_[label[v]];
    }
    for (size_t v = 0; v < n_; ++v) energy_[label[v]] += points_.weights[v] * sign[v] * sum(v, label[v]);
    for (uint32_t q = 0; q < k_; ++q) settle(q);
  }

  /// S_uq
  double sum(size_t u, uint32_t q) const { return sums_[u * k_ + q]; }

  /// |x_u - c_q|^2, for the nearer of x_u and -x_u where signs do not count.
  double distance(size_t u, uint32_t q) const {
    const double s = points_.signless ? std::abs(sum(u, q)) : sum(u, q);
    return points_.gram(u, u) - 2 * s / weight_[q] + energy_[q] / (weight_[q] * weight_[q]);
  }

  /// Sum over clusters of T_q / W_q: inertia is the total weighted norm minus this.
  double explained() const { return std::accumulate(explained_.begin(), explained_.end(), 0.0); }

  void remove(size_t u) {
    const uint32_t p = label[u];
    const double w = points_.weights[u] * sign[u];
    leave(u);
    addToSums(u, p, -w);
    settle(p);
  }

  void insert(size_t u, uint32_t q) {
    addToSums(u, q, join(u, q));
    settle(q);
  }

  /// remove(u) and insert(u, q) in one pass over the sums, for a q that is not u's cluster.
  void move(size_t u, uint32_t q) {
    const uint32_t p = label[u];
    const double left = points_.weights[u] * sign[u];
    leave(u);
    const double joined = join(u, q);
    const double* row = points_.gram.row(u).data();
    for (size_t v = 0; v < n_; ++v) {
      double* s = &sums_[v * k_];
      s[p] += -left * row[v];
      s[q] += joined * row[v];
    }
    settle(p);
    settle(q);
  }

  /// What T_p / W_p loses if u leaves its cluster p, which keeps other members.
  double leaveLoss(size_t u) const {
    const uint32_t p = label[u];
    const double w = points_.weights[u] * sign[u];
    const double rest = energy_[p] - 2 * w * sum(u, p) + w * w * points_.gram(u, u);
    return explained_[p] - rest / (weight_[p] - points_.weights[u]);
  }

  /// The cluster whose T_q / W_q gains most if u joins it, u's own left out. Ties: lowest. k >= 2. u's own
  /// where no gain is a number.
  uint32_t bestOther(size_t u) { return clusterOf(bestGain(u)); }

  /// Moves single units while that lowers the inertia (Hartigan's method): every result is also a fixed
  /// point of Lloyd's algorithm, but not the other way round.
  void moveUnits(double leastGain) {
    if (k_ < 2) return;
    // Units seen since the last change: when these are all, none has anything to gain.
    size_t settled = 0;
    for (uint32_t pass = 0; pass < limits::kLloydIterations; ++pass) {
      for (size_t u = 0; u < n_; ++u) {
        bool changed = points_.signless && turn(u);
        if (members_[label[u]] >= 2) {
          const double gain = bestGain(u);
          if (gain - leaveLoss(u) > leastGain) move(u, clusterOf(gain)), changed = true;
        }
        settled = changed ? 0 : settled + 1;
        if (settled == n_) return;
      }
    }
  }

 private:
  /// gain_: what each T_q / W_q would gain if u joined, -infinity for u's own cluster; returns the largest,
  /// which is one of them.
  double bestGain(size_t u) {
    const double w = points_.weights[u], own = w * w * points_.gram(u, u);
    // Whatever is stored to gain_ cannot change these, which a compiler does not know of members.
    const bool signless = points_.signless;
    const uint32_t k = k_;
    const double *s = &sums_[u * k], *energy = energy_.data(), *weight = weight_.data();
    const double *explained = explained_.data(), *excluded = &excluded_[k - 1 - label[u]];
    double* gain = gain_.data();
    // Of the clusters from q on, as many as load() gives.
    const auto gains = [&](uint32_t q, const auto& load) {
      using std::abs;
      auto inner = load(s + q);
      using V = decltype(inner);
      if (signless) inner = abs(inner);
      return (load(energy + q) + V(2 * w) * inner + V(own)) / (load(weight + q) + V(w)) -
             load(explained + q) + load(excluded + q);
    };
    constexpr double kNone = -std::numeric_limits<double>::infinity();
    simd::F64x2 most(kNone);
    double last = kNone;
    uint32_t q = 0;
    for (; q + 2 <= k; q += 2) {
      const auto both = gains(q, [](const double* values) { return simd::F64x2::load_unaligned(values); });
      both.store_unaligned(gain + q);
      most = simd::larger(both, most);
    }
    if (q < k) last = gain[q] = gains(q, [](const double* value) { return *value; });
    // Where products have overflowed, no gain may be a number, not even that one.
    gain[label[u]] = kNone;
    return std::max({most.get(0), most.get(1), last});
  }

  /// Where bestGain() found its maximum. Comes second, where it is wanted at all: few units move, and a
  /// search that ends at an unforeseeable place costs as much as all gains.
  uint32_t clusterOf(double gain) const {
    return static_cast<uint32_t>(std::ranges::find(gain_, gain) - gain_.begin());
  }

  /// Takes u out of its cluster's energy and weight.
  void leave(size_t u) {
    const uint32_t p = label[u];
    const double w = points_.weights[u] * sign[u];
    energy_[p] += -2 * w * sum(u, p) + w * w * points_.gram(u, u);
    weight_[p] -= points_.weights[u];
    --members_[p];
  }

  /// Adds u to q's energy and weight; returns what its inner products count in q's sums.
  double join(size_t u, uint32_t q) {
    sign[u] = points_.signless && sum(u, q) < 0 ? -1 : 1;
    const double w = points_.weights[u] * sign[u];
    energy_[q] += 2 * w * sum(u, q) + w * w * points_.gram(u, u);
    weight_[q] += points_.weights[u];
    ++members_[q];
    label[u] = q;
    return w;
  }

  /// Flips u where the other members of its cluster point the other way.
  bool turn(size_t u) {
    const uint32_t p = label[u];
    const double others = sum(u, p) - points_.weights[u] * sign[u] * points_.gram(u, u);
    if (members_[p] < 2 || others * sign[u] >= 0) return false;
    remove(u);
    insert(u, p);
    return true;
  }

  void settle(uint32_t q) { explained_[q] = members_[q] > 0 ? energy_[q] / weight_[q] : 0.0; }

  void addToSums(size_t v, uint32_t q, double factor) {
    const double* row = points_.gram.row(v).data();
    for (size_t u = 0; u < n_; ++u) sums_[u * k_ + q] += factor * row[u];
  }

  const Points& points_;
  size_t n_;
  uint32_t k_;
  std::vector<double> sums_;                         // n x k
  std::vector<double> energy_, weight_, explained_;  // T_q, W_q, T_q / W_q
  std::vector<double> gain_;                         // of one unit, with each q
  std::vector<double> excluded_;  // from k - 1 - p on: 0 for each q but p, for which it is -infinity
  std::vector<uint32_t> members_;
};

}  // namespace lego

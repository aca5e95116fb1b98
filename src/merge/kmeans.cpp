#include "merge/kmeans.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <type_traits>

#include "base/limits.h"
#include "base/order.h"
#include "base/random.h"
#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F64x2;

// A move must gain more than this share of the total weighted norm, so that rounding cannot make two
// moves undo each other for ever.
constexpr double kLeastGain = 1e-13;

// Swaps tried per restart. Once a start has been refined, a swap finds more than another start and costs an
// eighth of it; the number falls with n so that the search stays a fixed, small share of a merge
// (docs/numerics.md has the measurements).
uint32_t swapsPerRestart(size_t n) { return static_cast<uint32_t>(std::clamp<size_t>(512 / n, 2, 32)); }

double totalNorm(const Points& points) {
  double total = 0;
  for (size_t u = 0; u < points.weights.size(); ++u) total += points.weights[u] * points.gram(u, u);
  return total;
}

/// Squared distance of two units, up to sign where signs do not count. Never negative.
double unitDistance(const Points& points, size_t u, size_t v) {
  const double inner = points.signless ? std::abs(points.gram(u, v)) : points.gram(u, v);
  return std::max(0.0, points.gram(u, u) - 2 * inner + points.gram(v, v));
}

/// An assignment together with the sums that make moves cheap: S, T and W of the header.
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
        members_(k) {}

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

  struct Choice {
    uint32_t cluster;
    double gain;  ///< what T_q / W_q gains
  };
  /// The cluster whose T_q / W_q gains most if u joins it, u's own left out. Ties: lowest. k >= 2.
  Choice bestOther(size_t u) {
    computeGains(u);
    gain_[label[u]] = -std::numeric_limits<double>::infinity();
    // Two at a time, and only then where: a search that remembers the place guesses wrong at each new
    // maximum.
    F64x2 most(-std::numeric_limits<double>::infinity());
    for (uint32_t q = 0; q + 2 <= k_; q += 2) most = simd::larger(F64x2::load_unaligned(&gain_[q]), most);
    const double best = std::max({most.get(0), most.get(1), gain_[k_ - 1]});
    return {static_cast<uint32_t>(std::ranges::find(gain_, best) - gain_.begin()), best};
  }

  /// Moves single units while that lowers the inertia (Hartigan's method): every result is also a fixed
  /// point of Lloyd's algorithm, but not the other way round.
  void moveUnits(double leastGain) {
    if (k_ < 2) return;
    for (uint32_t pass = 0; pass < limits::kLloydIterations; ++pass) {
      bool moved = false;
      for (size_t u = 0; u < n_; ++u) {
        if (points_.signless) moved |= turn(u);
        if (members_[label[u]] < 2) continue;
        const Choice other = bestOther(u);
        if (other.gain - leaveLoss(u) <= leastGain) continue;
        move(u, other.cluster);
        moved = true;
      }
      if (!moved) return;
    }
  }

 private:
  /// gain_: what each T_q / W_q would gain if u joined.
  void computeGains(size_t u) {
    const double w = points_.weights[u], own = w * w * points_.gram(u, u);
    const double* s = &sums_[u * k_];
    const auto gains = [&](const auto& inner, const auto& energy, const auto& weight, const auto& explained) {
      using V = std::decay_t<decltype(inner)>;
      return (energy + V(2 * w) * inner + V(own)) / (weight + V(w)) - explained;
    };
    const auto strength = [&](const auto& inner) {
      using std::abs;
      return points_.signless ? abs(inner) : inner;
    };
    uint32_t q = 0;
    for (; q + 2 <= k_; q += 2) {
      const auto pair = [q](const double* values) { return F64x2::load_unaligned(values + q); };
      gains(strength(pair(s)), pair(energy_.data()), pair(weight_.data()), pair(explained_.data()))
          .store_unaligned(&gain_[q]);
    }
    for (; q < k_; ++q) gain_[q] = gains(strength(s[q]), energy_[q], weight_[q], explained_[q]);
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
  std::vector<uint32_t> members_;
};

/// k-means++ (Arthur, Vassilvitskii 2007), greedy: of several units drawn with probability proportional to
/// weight times squared distance, the one that lowers the inertia most becomes the next centroid.
void seedPartition(const Points& points, uint32_t k, Random& random, Partition& partition) {
  const size_t n = points.weights.size();
  const int candidates = 2 + std::bit_width(k) / 2;
  std::vector<double> nearest(n, std::numeric_limits<double>::infinity()), trial(n), best(n);
  std::vector<bool> isCentroid(n, false);
  const auto draw = [&](const auto& share) {
    double total = 0;
    for (size_t u = 0; u < n; ++u) total += share(u);
    double left = random.uniform() * total;
    std::optional<size_t> last;
    for (size_t u = 0; u < n; ++u) {
      if (isCentroid[u] || share(u) <= 0) continue;
      last = u;
      left -= share(u);
      if (left < 0) break;
    }
    // Nothing has a share where all units left are copies of centroids: the first of them will do.
    if (!last) last = static_cast<size_t>(std::ranges::find(isCentroid, false) - isCentroid.begin());
    return *last;
  };
  for (uint32_t q = 0; q < k; ++q) {
    size_t chosen = 0;
    double bestInertia = std::numeric_limits<double>::infinity();
    for (int c = 0; c < (q == 0 ? 1 : candidates); ++c) {
      const size_t candidate = q == 0 ? draw([&](size_t u) { return points.weights[u]; })
                                      : draw([&](size_t u) { return points.weights[u] * nearest[u]; });
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
    const uint32_t other = partition.bestOther(v).cluster;
    partition.move(v, other);
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

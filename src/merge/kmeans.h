// k-means of units, given only their Gram matrix: exact, and independent of how wide the model is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/context.h"
#include "linalg/matrix.h"

namespace lego {

/// What is clustered. Squared distances follow from inner products: with weights w, signs s and
/// W_q = sum of w over cluster q, the centroid is c_q = sum of w_v s_v x_v / W_q, and
///   |x_u -+ c_q|^2 = G_uu -+ 2 S_uq / W_q + T_q / W_q^2,  S_uq = sum_v w_v s_v G_uv,  T_q = sum_u w_u s_u
///   S_uq.
struct Points {
  const Matrix& gram;               ///< n x n, symmetric
  std::span<const double> weights;  ///< n, positive
  /// Whether x and -x are the same point: the distance is the smaller of |x - c|^2 and |x + c|^2, and the
  /// centroid is the mean of the members after flipping those that point away from the previous one.
  bool signless = false;
};

struct Clustering {
  std::vector<uint32_t> label;  ///< n, below k; every cluster has a member
  std::vector<int8_t> sign;     ///< n: +1, or -1 where a signless unit is flipped
  double inertia = 0;           ///< sum of w_u times the squared distance to the unit's centroid
  uint32_t iterations = 0;      ///< assignment steps of Lloyd's algorithm, the last one included
};

/// Lloyd's algorithm from the given first centroids (indices of units).
///
/// Assigns each unit to the nearest centroid (ties: lowest cluster); repairs empty clusters in ascending
/// order (each takes the unit farthest from its own centroid among clusters with more than one member,
/// ties: lowest unit); recomputes centroids; stops when the repaired assignment does not change, or after
/// `maximum` assignment steps.
Clustering lloyd(const Points& points, std::span<const uint32_t> start, uint32_t maximum);

struct SearchOptions {
  uint32_t restarts = 2;  ///< independent starts, at least 1; each also pays for some swaps
  uint64_t seed = 0;
};

/// The best clustering found: several greedy k-means++ starts, each refined by moving single units
/// (Hartigan), the best then improved by random swaps of centroids (docs/numerics.md, "Clustering").
/// Clusters are numbered by their lowest unit. The order of the units makes no difference to which
/// clustering is found, except between units of equal norm and weight. k in [1, n].
/// Stops early, with the best so far, once `context` is cancelled.
Clustering cluster(const Points& points, uint32_t k, const SearchOptions& options, const Context& context);

/// What each further cluster explains, by Ward's agglomeration (nearest-neighbour chains, O(n^2)): element 0
/// is the part of the total weighted squared norm that one cluster's centroid explains, element q the part of
/// the inertia that q + 1 clusters explain more than q. From element 1 on descending; all add up to the
/// total.
std::vector<double> wardGains(const Points& points);

/// Inertia of a given assignment, from scratch.
double inertiaOf(const Points& points, std::span<const uint32_t> label, std::span<const int8_t> sign,
                 uint32_t k);

}  // namespace lego

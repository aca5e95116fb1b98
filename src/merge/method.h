// The seam between the two passes over model-sized data: a method turns small Gram matrices into
// coefficients. It sees no weights of the model, does no I/O and starts no threads.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/result.h"
#include "linalg/gram.h"
#include "linalg/matrix.h"
#include "merge/kmeans.h"
#include "merge/options.h"

namespace lego {

/// The pooled units of one module. Unit u is the pair (a_u, b_u): a row of an adapter's A with its column
/// of B, both multiplied by sqrt(|s_i|), and b by the sign of s_i, so that the adapter's delta is the sum
/// of its b_u a_u^T. User weights are not folded in: what they mean is the method's business.
struct UnitPool {
  size_t in = 0;                   ///< length of each a_u
  size_t out = 0;                  ///< length of each b_u
  Matrix gramA;                    ///< P x P, <a_u, a_v>
  Matrix gramB;                    ///< P x P, <b_u, b_v>
  std::vector<double> maxA, maxB;  ///< P, largest |entry| of a_u and of b_u
  std::vector<uint32_t> owner;     ///< P, index into weights; ascending
  std::vector<double> weights;     ///< user weight of each adapter that has the module; none is zero
  std::vector<uint32_t> ranks;     ///< units of each adapter

  size_t size() const { return owner.size(); }
};

/// What a method decides.
struct MergedFactors {
  Matrix a;  ///< k x P: row q of A* is the sum over u of a(q, u) a_u
  Matrix b;  ///< k x P: column q of B* is the sum over u of b(q, u) b_u
  /// Where given (k values), rows q of A* and B*^T are then multiplied so that the largest |entry| of the
  /// joint row becomes targetMagnitude[q]: that norm of a sum is not in the Grams. Rows whose target is 0,
  /// and near-zero ones (kNearZero), stay as they are.
  std::vector<double> targetMagnitude;
  std::optional<Clustering> clustering;
  std::vector<uint32_t> nearZero;  ///< rows whose members cancelled, left as they are
};

/// A centroid whose norm is below this share of its members' mean norm is the remainder of members that
/// cancel: of n unrelated members about 1 / sqrt(n) is left, so even a thousand stay above it. It is not
/// reweighted (that would blow up rounding noise) and is reported.
inline constexpr double kNearZero = 0x1p-10;

/// What a method is asked for in one module.
struct MethodRequest {
  uint32_t rank = 0;                ///< rows wanted, 1 to P; `cat` gets P
  uint64_t seed = 0;                ///< of this module
  std::span<const uint32_t> start;  ///< Recipe::start; empty, or `rank` distinct units
  const Options& options;
};

using Method = Result<MergedFactors> (*)(const UnitPool&, const MethodRequest&, const Context&);

}  // namespace lego

// The seam between the two passes over model-sized data: what a method is given and what it decides. Most
// methods turn small Gram matrices into coefficients; they see no weights of the model, do no I/O and start
// no threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/result.h"
#include "linalg/assemble.h"
#include "linalg/factorise.h"
#include "linalg/gram.h"
#include "merge/kmeans.h"
#include "merge/options.h"

namespace lego {

/// The covariance of a group's inputs, with some weights of its adapters, in an orthonormal basis of what the
/// group's a_u span.
struct InputMetric {
  std::vector<double> weights;  ///< of each of the group's deltas
  GramRoot basis;
  double trace = 0;  ///< of the covariance; where it is zero, there is no more
  Matrix inverse;    ///< transposed inverse of R, where R^T R is the covariance with all eigenvalues raised
};

/// What the units of all modules that read one input, or write it, say about it together. Its units are those
/// of the modules one after the other, adapter by adapter within each; of modules that write it, a_u and b_u
/// have changed places.
struct InputGroup {
  Matrix gramA;                    ///< G x G, <a_u, a_v>
  std::vector<size_t> firstUnits;  ///< of each delta, and, last, G
  std::vector<Matrix> within;      ///< of each delta: weighted <b_u, b_v>
  /// As the last module that was merged has made it: others of the group mostly have the same weights.
  std::shared_ptr<const InputMetric> metric;
};

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

  /// Where a method uses shared inputs: the group that the module belongs to, where in it the module's units
  /// begin, and whose each of its deltas is (index into weights, or kNobody: of an adapter that lacks this
  /// module). Coefficients of A are then on the group's units.
  InputGroup* inputs = nullptr;
  size_t firstInGroup = 0;
  std::vector<uint32_t> groupOwner;
  static constexpr uint32_t kNobody = UINT32_MAX;

  size_t size() const { return owner.size(); }
  size_t adapters() const { return weights.size(); }
  /// First unit of each adapter, and, last, P.
  std::vector<size_t> firstUnits() const;
  /// Weight of a unit's adapter.
  double weightOf(size_t unit) const { return weights[owner[unit]]; }
};

/// What a method decides.
struct MergedFactors {
  Matrix a;  ///< k x P (k x G with a group): row q of A* is the sum over u of a(q, u) a_u
  Matrix b;  ///< k x P: column q of B* is the sum over u of b(q, u) b_u
  /// Where given (k values), rows q of A* and B*^T are then multiplied so that the largest |entry| of the
  /// joint row becomes targetMagnitude[q]: that norm of a sum is not in the Grams. Rows whose target is 0,
  /// and near-zero ones (kNearZero), stay as they are.
  std::vector<double> targetMagnitude;
  std::optional<Clustering> clustering;
  std::vector<double> centroidNorm;  ///< LEGO, k values: Euclidean norm of each centroid before reweighting
  std::vector<uint32_t> nearZero;    ///< rows whose members cancelled, left as they are
};

/// A centroid whose norm is below this share of its members' mean norm is the remainder of members that
/// cancel: of n unrelated members about 1 / sqrt(n) is left, so even a thousand stay above it. It is not
/// reweighted (that would blow up rounding noise) and is reported.
inline constexpr double kNearZero = 0x1p-10;

/// What a method is asked for in one module.
struct MethodRequest {
  uint32_t rank = 0;                ///< rows wanted; `cat` and the peft family get what they will give
  uint64_t seed = 0;                ///< of this module
  std::span<const uint32_t> start;  ///< Recipe::start; empty, or `rank` distinct units
  const Options& options;
};

/// A method on units.
using UnitMethod = Result<MergedFactors> (*)(const UnitPool&, const MethodRequest&, const Context&);

/// A method's own measure of what each further rank is worth in a module: energies, descending, for rank
/// control (job/rank_rule.h). Costs about as much as the method itself.
using RankEnergies = Result<std::vector<double>> (*)(const UnitPool&, const MethodRequest&, const Context&);

/// The unit rows themselves, as stored in the files: for methods that need single entries.
struct UnitRows {
  const float* a = nullptr;  ///< row u at a + row[u] * strideA, `in` floats
  const float* b = nullptr;  ///< row u at b + row[u] * strideB, `out` floats
  size_t strideA = 0, strideB = 0;
  std::vector<uint32_t> row;           ///< P
  std::vector<double> foldA, foldB;    ///< P: a_u = foldA[u] * stored row, likewise b_u
  decltype(&lego::assemble) assemble;  ///< the kernel to combine rows with
};

/// Where a method on entries writes its result: row q of A* at a + q * strideA, column q of B* at
/// b + q * strideB (strides of UnitRows).
struct MergedRows {
  float* a = nullptr;
  float* b = nullptr;
};

/// A method on single entries of factors or deltas. Writes `request.rank` rows of each half.
using EntryMethod = Status (*)(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                               const MergedRows&);

}  // namespace lego

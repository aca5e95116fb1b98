// What TIES, DARE and their kin do to single entries: thin each adapter's matrix out, elect a sign for each
// entry, join what agrees. The same for cores, factors and dense deltas.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "merge/options.h"

namespace lego {

/// Which entries of an adapter's matrix survive, and what becomes of them.
struct Thinning {
  enum class Kind : uint8_t {
    None,
    Magnitude,     ///< the largest int(density n) by |x| (TIES, arXiv 2306.01708)
    Random,        ///< each with probability density, divided by it (DARE, arXiv 2311.03099)
    RankedRandom,  ///< as Random, with a probability that rises along each row from density - spread for the
                   ///< smallest |x| to density + spread for the largest (DELLA, arXiv 2406.11617)
    Band,          ///< without the largest int(gamma n), then the largest left, int(density n) in all
                   ///< (Breadcrumbs, arXiv 2312.06795)
  };
  Kind kind = Kind::None;
  double density = 1;
  double spread = 0;  ///< RankedRandom
  double gamma = 0;   ///< Band
};

/// The entries that a cut by magnitude keeps: those above the threshold and, in order, the first `ties` of
/// those that equal it.
class MagnitudeCut {
 public:
  MagnitudeCut(double threshold, uint64_t ties) : threshold_(threshold), ties_(ties) {}

  /// Whether the next entry with this |x| stays; to be asked once for each, in order.
  bool keeps(double magnitude) {
    if (magnitude != threshold_) return magnitude > threshold_;
    if (ties_ == 0) return false;
    --ties_;
    return true;
  }

 private:
  double threshold_;
  uint64_t ties_;
};

/// How many of n entries a density keeps: int(density n), as the reference implementations count.
uint64_t keptCount(double density, uint64_t n);

/// The cut that keeps the `count` largest of `values` by magnitude.
MagnitudeCut cutForLargest(std::span<const double> values, uint64_t count);

/// Thins out `values`, row-major with rows of `rowLength`, in place. `random`: of this adapter.
void thinOut(const Thinning& thinning, std::span<double> values, size_t rowLength, Random random);

/// How the adapters' entries become one.
struct Joining {
  enum class Rule : uint8_t {
    Sum,      ///< sum of w_i x_i
    Peft,     ///< sign elected on sgn(w_i) x_i; sum of w_i x_i over those that have it / how many they are
    Mergekit  ///< sign elected on w_i x_i; sum of w_i x_i over those that have it / sum of their |w_i|
  };
  Rule rule = Rule::Sum;
  bool frequency = false;  ///< elect the sign that more adapters have, not the sign of the sum
};

/// result[e] from tasks[i][e]. An elected sign of zero counts as +; entries that are zero never agree.
void joinEntries(const Joining& joining, std::span<const std::span<const double>> tasks,
                 std::span<const double> weights, std::span<double> result);

/// The generator of one adapter's mask: a stream of its own, so that adapters are thinned independently.
Random maskRandom(uint64_t moduleSeed, size_t adapter);

/// What a method's options `density`, `epsilon`, `gamma` say, for a kind of thinning.
Thinning thinningOf(Thinning::Kind kind, const Options& options);
/// What a method's options `sign` and `convention` say.
Joining joiningOf(const Options& options);

}  // namespace lego

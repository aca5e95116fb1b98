// Random adapters for property tests: shapes, ranks and dtypes of every kind, and what they must come to.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/fixtures.h"

namespace lego::testing {

inline constexpr DType kDtypes[] = {DType::F64, DType::F32, DType::F16, DType::BF16};

/// What rounding a factor to the dtype may cost, relative to the delta; inside everything is binary32.
inline double roundingOf(DType dtype) {
  return dtype == DType::BF16 ? 2e-2 : dtype == DType::F16 ? 3e-3 : 3e-6;
}

struct Sample {
  Random random;
  DType dtype;
  uint64_t rank, in, out;
  double alpha;
  Pair pair;  // as the file holds it

  Sample(uint64_t seed) : random(seed) {
    dtype = kDtypes[random.below(4)];
    rank = 1 + random.below(64);
    in = 1 + random.below(150);
    out = 1 + random.below(150);
    alpha = static_cast<double>(1 + random.below(32));
    pair = rounded(randomPair(random, rank, in, out), dtype);
  }
  double scale() const { return alpha / static_cast<double>(rank); }
  std::vector<double> exact() const { return delta(pair, scale()); }
  TestAdapter adapter(const std::string& name = "a") const { return makeAdapter(name, {pair}, dtype, alpha); }
  std::string text() const {
    return std::string(nameOf(dtype)) + " rank " + std::to_string(rank) + ", " + std::to_string(out) + " x " +
           std::to_string(in);
  }
};
inline constexpr uint64_t kSamples = 40;

inline Recipe recipeFor(const std::string& method, uint32_t rank = 0) {
  Recipe recipe;
  recipe.method = method;
  recipe.rank = rank;
  return recipe;
}

inline std::vector<double> mergedDelta(const std::vector<TestAdapter>& adapters, const Recipe& recipe) {
  return delta(pairOf(must(mergeAll(adapters, recipe))), 1);
}

/// Two or three adapters of one module, of different ranks, alphas and dtypes, and their weighted sum.
struct Sum {
  std::vector<TestAdapter> adapters;
  std::vector<double> weights, exact;
  uint64_t units = 0, in = 0, out = 0;

  Sum(uint64_t seed) {
    Random random(seed ^ 0xABCDEF);
    in = 1 + random.below(120), out = 1 + random.below(120);
    exact.assign(in * out, 0.0);
    for (uint64_t i = 0, n = 2 + random.below(2); i < n; ++i) {
      const DType dtype = kDtypes[random.below(4)];
      const Pair pair = rounded(randomPair(random, 1 + random.below(30), in, out), dtype);
      const double alpha = static_cast<double>(1 + random.below(32)), weight = 3 * random.uniform() - 1.5;
      adapters.push_back(makeAdapter("a" + std::to_string(i), {pair}, dtype, alpha));
      weights.push_back(weight);
      units += pair.rank;
      const auto part = delta(pair, weight * alpha / static_cast<double>(pair.rank));
      for (size_t c = 0; c < part.size(); ++c) exact[c] += part[c];
    }
  }
};

inline std::vector<double> times(std::vector<double> values, double factor) {
  for (double& value : values) value *= factor;
  return values;
}

/// A copy whose ranks are permuted, and, in the balanced gauge, sign-flipped and rescaled in both factors
/// by powers of two, which every dtype holds exactly.
inline Pair shuffled(Random& random, const Pair& pair, bool gauge) {
  std::vector<uint64_t> order(pair.rank);
  std::iota(order.begin(), order.end(), uint64_t{0});
  for (uint64_t i = pair.rank; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  Pair copy = pair;
  for (uint64_t r = 0; r < pair.rank; ++r) {
    const float sign = gauge && random.below(2) ? -1.0f : 1.0f;
    const float factor = gauge ? sign * std::ldexp(1.0f, static_cast<int>(random.below(5)) - 2) : 1.0f;
    for (uint64_t i = 0; i < pair.in; ++i) copy.a[r * pair.in + i] = factor * pair.a[order[r] * pair.in + i];
    for (uint64_t o = 0; o < pair.out; ++o)
      copy.b[o * pair.rank + r] = pair.b[o * pair.rank + order[r]] / factor;
  }
  return copy;
}

}  // namespace lego::testing

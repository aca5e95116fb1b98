// Least interference against its definition on dense matrices, and what it promises.

#include <gtest/gtest.h>

#include <Eigen/Cholesky>
#include <Eigen/LU>
#include <algorithm>
#include <cmath>

#include "core/dense.h"
#include "core/samples.h"

namespace lego::testing {
namespace {

/// Least interference as it is defined, on dense matrices.
struct Interference {
  std::vector<double> weights;
  std::vector<Dense> deltas, covariances;
  double eps = 1;

  Dense sumOfCovariances() const {
    Dense sum = weights[0] * covariances[0];
    for (size_t i = 1; i < deltas.size(); ++i) sum += weights[i] * covariances[i];
    return sum;
  }
  double pull() const {
    const Dense sum = sumOfCovariances();
    Eigen::FullPivLU<Dense> factors(sum);
    factors.setThreshold(1e-9);
    return eps * sum.trace() / static_cast<double>(factors.rank());
  }
  /// The sum of the adapters, in which copies count once.
  Dense prior() const {
    const double top = std::ranges::max(weights);
    Dense sum = Dense::Zero(deltas[0].rows(), deltas[0].cols());
    for (size_t i = 0; i < deltas.size(); ++i) {
      double alike = 0, heaviest = 0;
      for (size_t j = 0; j < deltas.size(); ++j) {
        const double cosine = deltas[i].cwiseProduct(deltas[j]).sum() / (deltas[i].norm() * deltas[j].norm());
        alike += weights[j] / top * cosine * cosine;
        heaviest = std::max(heaviest, weights[j] / top * cosine * cosine);
      }
      sum += weights[i] / top * heaviest / alike * deltas[i];
    }
    return sum;
  }
  /// What is minimised, for any candidate; `held` and `towards` are pull() and prior().
  double cost(const Dense& t, double held, const Dense& towards) const {
    double cost = held * (t - towards).squaredNorm();
    for (size_t i = 0; i < deltas.size(); ++i) {
      const Dense difference = t - deltas[i];
      cost += weights[i] * (difference * covariances[i]).cwiseProduct(difference).sum();
    }
    return cost;
  }
  /// The minimum at full rank.
  Dense solution() const {
    const auto size = deltas[0].cols();
    const Dense h = sumOfCovariances() + pull() * Dense::Identity(size, size);
    Dense right = pull() * prior();
    for (size_t i = 0; i < deltas.size(); ++i) right += weights[i] * deltas[i] * covariances[i];
    return h.ldlt().solve(right.transpose()).transpose();
  }
};

TEST(LeastInterference, NoNeighbourOfTheSameRankIsBetter) {
  Random random(31);
  const std::vector<Pair> pairs = {randomPair(random, 3, 20, 14), randomPair(random, 5, 20, 14)};
  std::vector<TestAdapter> adapters;
  Interference interference{{1, 0.6}, {}, {}};
  for (const Pair& pair : pairs) {
    adapters.push_back(makeAdapter("a", {pair}, DType::F32, static_cast<double>(pair.rank)));
    interference.deltas.push_back(denseOf(pair));
    interference.covariances.push_back(interference.deltas.back().transpose() * interference.deltas.back());
  }
  const double held = interference.pull();
  const Dense towards = interference.prior();
  for (uint32_t rank : {2u, 5u, 8u}) {
    Recipe recipe = recipeFor("least_interference", rank);
    recipe.weights = interference.weights;
    const Pair merged = pairOf(must(mergeAll(adapters, recipe)));
    const double best = interference.cost(denseOf(merged), held, towards);
    for (int trial = 0; trial < 1000; ++trial) {
      const double step = std::pow(10.0, -1 - trial % 4);
      Pair other = merged;
      for (float& x : other.a) x += static_cast<float>(step) * randomFloat(random);
      for (float& x : other.b) x += static_cast<float>(step) * randomFloat(random);
      // Binary32 factors leave the minimum by 1e-7; a cost is flat there to the square of that.
      ASSERT_GE(interference.cost(denseOf(other), held, towards), best * (1 - 1e-9))
          << "rank " << rank << " step " << step;
    }
  }
}

/// One feed-forward block: gate and up read one input, and what they write makes down's.
TEST(LeastInterference, LearnsFromModulesThatReadOrWriteTheSameInput) {
  Random random(32);
  const std::vector<double> weights = {1, 0.7, 1.3};
  std::vector<TestAdapter> adapters;
  std::vector<Dense> gate, up, down;
  for (uint64_t i = 0; i < weights.size(); ++i) {
    const std::vector<Pair> pairs = {randomPair(random, 2 + i, 18, 40, "mlp.gate_proj"),
                                     randomPair(random, 2 + i, 18, 40, "mlp.up_proj"),
                                     randomPair(random, 2 + i, 40, 18, "mlp.down_proj")};
    adapters.push_back(makeAdapter("a" + std::to_string(i), pairs, DType::F32, static_cast<double>(2 + i)));
    gate.push_back(denseOf(pairs[0]));
    up.push_back(denseOf(pairs[1]));
    down.push_back(denseOf(pairs[2]));
  }
  Recipe recipe = recipeFor("least_interference", 9);
  recipe.weights = weights;
  recipe.dtype = "f32";
  std::vector<Dense> readers, writers;
  for (size_t i = 0; i < weights.size(); ++i) {
    readers.push_back(gate[i].transpose() * gate[i] + up[i].transpose() * up[i]);
    writers.push_back(down[i].transpose() * down[i] + 10 * up[i] * up[i].transpose() +
                      3 * gate[i] * gate[i].transpose());
  }
  const auto expectWith = [](const std::vector<double>& own, const Merged& merged, const std::string& path,
                             const std::vector<Dense>& deltas, const std::vector<Dense>& covariances) {
    const Dense expected = Interference{own, deltas, covariances}.solution();
    const Dense found = denseOf(pairOf(merged, path));
    EXPECT_LT((found - expected).norm(), 1e-5 * expected.norm()) << path;
  };
  const auto expect = [&](const Merged& merged, const std::string& path, const std::vector<Dense>& deltas,
                          const std::vector<Dense>& covariances) {
    expectWith(weights, merged, path, deltas, covariances);
  };
  const Merged merged = must(mergeAll(adapters, recipe));
  expect(merged, "mlp.gate_proj", gate, readers);
  expect(merged, "mlp.up_proj", up, readers);
  expect(merged, "mlp.down_proj", down, writers);
  // Modules that read the same, with weights of their own.
  recipe.moduleWeights = {{1, "*.up_proj", 0.2}};
  const Merged weighted = must(mergeAll(adapters, recipe));
  expect(weighted, "mlp.gate_proj", gate, readers);
  expectWith({1, 0.2, 1.3}, weighted, "mlp.up_proj", up, readers);
  recipe.moduleWeights.clear();
  recipe.options = {{"shared_inputs", "off"}};
  std::vector<Dense> own;
  for (const Dense& delta : down) own.push_back(delta.transpose() * delta);
  expect(must(mergeAll(adapters, recipe)), "mlp.down_proj", down, own);
}

/// The same bytes whatever the order, the batches, and what other adapters lack.
TEST(LeastInterference, GroupsGiveTheSameBytesInAnyOrder) {
  Random random(33);
  std::vector<TestAdapter> adapters;
  for (uint64_t i = 0; i < 3; ++i) {
    std::vector<Pair> pairs = {randomPair(random, 2 + i, 18, 40, "mlp.gate_proj"),
                               randomPair(random, 2 + i, 18, 40, "mlp.up_proj"),
                               randomPair(random, 2 + i, 40, 18, "mlp.down_proj")};
    // The second adapter has no up_proj, the third no down_proj.
    if (i > 0) pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(i));
    adapters.push_back(makeAdapter("a" + std::to_string(i), pairs, DType::F32, static_cast<double>(2 + i)));
  }
  Recipe recipe = recipeFor("least_interference", 4);
  recipe.weights = {1, 0.5, 2};
  const auto valuesOfAll = [](const Merged& merged) {
    std::vector<float> values;
    for (const char* path : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      const Pair pair = pairOf(merged, path);
      values.insert(values.end(), pair.a.begin(), pair.a.end());
      values.insert(values.end(), pair.b.begin(), pair.b.end());
    }
    return values;
  };
  const auto once = valuesOfAll(must(mergeAll(adapters, recipe)));
  for (const float value : once) ASSERT_TRUE(std::isfinite(value));
  std::ranges::reverse(adapters);
  std::ranges::reverse(recipe.weights);
  EXPECT_EQ(valuesOfAll(must(mergeAll(adapters, recipe, 2))), once);
}

TEST(LeastInterference, WeightsAreRelativeAndNotNegative) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    Recipe recipe = recipeFor("least_interference");
    recipe.dtype = "f32";
    for (const double weight : sum.weights) recipe.weights.push_back(std::abs(weight));
    const auto once = mergedDelta(sum.adapters, recipe);
    for (double& weight : recipe.weights) weight *= 4;
    EXPECT_LT(relativeDistance(mergedDelta(sum.adapters, recipe), once), 1e-6);
    std::ranges::reverse(recipe.weights);
    auto adapters = sum.adapters;
    std::ranges::reverse(adapters);
    EXPECT_LT(relativeDistance(mergedDelta(adapters, recipe), once), 1e-5) << "order of the adapters";
    recipe.weights[0] = -1;
    expectCode(mergeAll(sum.adapters, recipe), Code::badWeights);
  }
}

/// One adapter has only what feeds the other's module.
TEST(LeastInterference, AFeederOfOtherAdaptersSaysNothing) {
  Random random(35);
  const Pair up = randomPair(random, 2, 18, 40, "mlp.up_proj"),
             down = randomPair(random, 2, 40, 18, "mlp.down_proj"),
             both = randomPair(random, 2, 18, 18, "o_proj");
  const std::vector<TestAdapter> adapters = {makeAdapter("a", {both, up}, DType::F32, 2),
                                             makeAdapter("b", {both, down}, DType::F32, 2)};
  const Merged merged = must(mergeAll(adapters, recipeFor("least_interference", 2)));
  EXPECT_LT(relativeDistance(delta(pairOf(merged, "mlp.down_proj"), 1), delta(down, 1)), 1e-6);
  EXPECT_LT(relativeDistance(delta(pairOf(merged, "mlp.up_proj"), 1), delta(up, 1)), 1e-6);
}

TEST(LeastInterference, AnAdapterFadesWithItsWeight) {
  Random random(34);
  const auto one = makeAdapter("a", {randomPair(random, 3, 20, 14)}, DType::F32, 3),
             two = makeAdapter("b", {randomPair(random, 3, 20, 14)}, DType::F32, 3);
  Recipe recipe = recipeFor("least_interference", 6);
  const auto alone = mergedDelta({one}, recipeFor("least_interference", 3));
  double last = 1e9;
  for (const double weight : {1.0, 0.1, 0.01, 0.001, 0.0001}) {
    recipe.weights = {1, weight};
    const double distance = relativeDistance(mergedDelta({one, two}, recipe), alone);
    EXPECT_LT(distance, last) << weight;
    last = distance;
  }
  EXPECT_LT(last, 1e-3);
}

TEST(LeastInterference, CopiesGiveTheAdapter) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sample sample(seed);
    Recipe recipe = recipeFor("least_interference");
    recipe.weights = {0.3, 2};
    EXPECT_LT(
        relativeDistance(mergedDelta({sample.adapter("a"), sample.adapter("b")}, recipe), sample.exact()),
        roundingOf(sample.dtype))
        << sample.text();
  }
}

TEST(LeastInterference, OfNothingIsNothing) {
  Random random(12);
  Pair zero = randomPair(random, 4, 20, 10);
  const Pair pair = zero;
  std::ranges::fill(zero.b, 0.0f);
  const auto nothing = makeAdapter("zero", {zero}, DType::F32, 4),
             something = makeAdapter("a", {pair}, DType::F32, 4);
  EXPECT_EQ(norm(mergedDelta({nothing, nothing}, recipeFor("least_interference", 3))), 0);
  const auto merged = mergedDelta({nothing, something}, recipeFor("least_interference", 4));
  // Nothing else has anything to say, and the prior counts it in full.
  EXPECT_LT(relativeDistance(merged, delta(pair, 1)), 1e-5);
}

}  // namespace
}  // namespace lego::testing

// Single methods against their definitions.

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>

#include "core/dense.h"
#include "core/samples.h"
#include "merge/angle.h"
#include "merge/registry.h"

namespace lego::testing {
namespace {

TEST(Svd, IsBetterThanAThousandCompetitors) {
  Random random(19);
  const Pair first = randomPair(random, 4, 18, 13), second = randomPair(random, 5, 18, 13);
  for (const uint32_t rank : {1u, 3u, 6u}) {
    const Merged merged =
        must(mergeAll({makeAdapter("a", {first}, DType::F32, 4), makeAdapter("b", {second}, DType::F32, 5)},
                      recipeFor("svd", rank)));
    auto target = delta(first, 1);
    const auto more = delta(second, 1);
    for (size_t e = 0; e < target.size(); ++e) target[e] += more[e];
    const Pair best = pairOf(merged);
    const double least = relativeDistance(delta(best, 1), target);
    for (int trial = 0; trial < 1000; ++trial) {
      const auto step = static_cast<float>(std::pow(10.0, -trial % 5));
      Pair other = best;
      for (float& x : other.a) x += step * randomFloat(random);
      for (float& x : other.b) x += step * randomFloat(random);
      ASSERT_GE(relativeDistance(delta(other, 1), target), least * (1 - 1e-6)) << "rank " << rank;
    }
  }
}

/// The core-space methods against the same operations on cores that a dense singular value decomposition
/// gives.
TEST(CoreSpace, TiesEqualsItsDefinition) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Random random(seed + 900);
    const uint64_t in = 30, out = 25;
    std::vector<Pair> pairs;
    std::vector<TestAdapter> adapters;
    for (const uint64_t rank : {3, 4, 2}) {
      pairs.push_back(randomPair(random, rank, in, out));
      adapters.push_back(makeAdapter("a", {pairs.back()}, DType::F32, static_cast<double>(rank)));
    }
    Dense a(9, in), b(out, 9);
    Eigen::Index at = 0;
    std::vector<Dense> deltas;
    for (const Pair& pair : pairs) {
      deltas.push_back(denseOf(delta(pair, 1), out, in));
      for (uint64_t r = 0; r < pair.rank; ++r, ++at) {
        for (Eigen::Index c = 0; c < 30; ++c) a(at, c) = pair.a[r * in + static_cast<uint64_t>(c)];
        for (Eigen::Index o = 0; o < 25; ++o) b(o, at) = pair.b[static_cast<uint64_t>(o) * pair.rank + r];
      }
    }
    const Dense v = Eigen::JacobiSVD<Dense>(a, Eigen::ComputeThinV).matrixV();
    const Dense u = Eigen::JacobiSVD<Dense>(b, Eigen::ComputeThinU).matrixU();
    const std::vector<double> weights = {1, 0.8, 0.6};
    std::vector<Dense> cores;
    for (const Dense& d : deltas) {
      Dense core = u.transpose() * d * v;
      std::vector<double> sizes;
      for (const double x : core.reshaped()) sizes.push_back(std::abs(x));
      std::ranges::sort(sizes, std::greater<>());
      const double threshold = sizes[sizes.size() / 2 - 1];  // density 0.5
      for (double& x : core.reshaped()) x = std::abs(x) >= threshold ? x : 0;
      cores.push_back(core);
    }
    Dense merged = Dense::Zero(cores[0].rows(), cores[0].cols());
    for (Eigen::Index e = 0; e < merged.size(); ++e) {
      double sum = 0, total = 0;
      for (const Dense& core : cores) sum += core(e);
      int count = 0;
      for (size_t i = 0; i < 3; ++i) {
        const double x = cores[i](e);
        if (x == 0 || (x > 0) != (sum >= 0)) continue;
        total += weights[i] * x;
        ++count;
      }
      merged(e) = total / std::max(1, count);
    }
    const Dense expected = u * merged * v.transpose();
    Recipe recipe = recipeFor("ties", 9);
    recipe.weights = weights;
    const auto result = denseOf(mergedDelta(adapters, recipe), out, in);
    EXPECT_LT((result - expected).norm() / expected.norm(), 1e-5) << seed;
  }
}

TEST(Dare, KeepsTheExpectation) {
  Random random(3);
  const Pair pair = randomPair(random, 6, 40, 30);
  for (const char* name : {"dare_linear", "dense_dare_linear", "della"}) {
    const MethodInfo& method = *findMethod(name);
    std::vector<double> mean(pair.in * pair.out);
    constexpr int kRounds = 300;
    for (int round = 0; round < kRounds; ++round) {
      Recipe recipe = recipeFor(name, method.rank == RankKind::UpToSides ? 30 : 6);
      recipe.seed = static_cast<uint64_t>(round);
      const auto result = mergedDelta({makeAdapter("a", {pair}, DType::F32, 6)}, recipe);
      for (size_t e = 0; e < mean.size(); ++e) mean[e] += result[e] / kRounds;
    }
    // One draw is off by 100 % of its size at density 0.5, the mean of 300 by 1 / sqrt(300).
    EXPECT_LT(relativeDistance(mean, delta(pair, 1)), 0.08) << name;
  }
}

TEST(Slerp, GoesAlongTheGreatCircle) {
  Random random(21);
  const Pair x = randomPair(random, 3, 20, 15);
  Pair y = randomPair(random, 3, 20, 15);
  const auto dx = delta(x, 1), dy = delta(y, 1);
  double inner = 0;
  for (size_t e = 0; e < dx.size(); ++e) inner += dx[e] * dy[e];
  const double angle = std::acos(inner / (norm(dx) * norm(dy)));
  Recipe recipe = recipeFor("slerp", 6);
  recipe.weights = {3, 1};
  const auto result =
      mergedDelta({makeAdapter("x", {x}, DType::F32, 3), makeAdapter("y", {y}, DType::F32, 3)}, recipe);
  for (size_t e = 0; e < result.size(); ++e)
    ASSERT_NEAR(result[e],
                (std::sin(0.75 * angle) * dx[e] + std::sin(0.25 * angle) * dy[e]) / std::sin(angle), 1e-5);
  recipe.weights = {1, 1, 1};
  expectCode(mergeAll({makeAdapter("x", {x}, DType::F32, 3), makeAdapter("y", {y}, DType::F32, 3),
                       makeAdapter("z", {y}, DType::F32, 3)},
                      recipe),
             Code::tooManyAdapters);
}

TEST(Karcher, IsWhereTheWeightedLogarithmsCancel) {
  Random random(22);
  std::vector<std::vector<double>> directions;
  std::vector<TestAdapter> adapters;
  Recipe recipe = recipeFor("karcher", 9);
  recipe.weights = {1, 2, 0.5};
  double meanNorm = 0;
  for (size_t i = 0; i < 3; ++i) {
    const Pair pair = randomPair(random, 3, 20, 15);
    directions.push_back(delta(pair, 1));
    meanNorm += recipe.weights[i] / 3.5 * norm(directions.back());
    directions.back() = times(directions.back(), 1 / norm(directions.back()));
    adapters.push_back(makeAdapter("a", {pair}, DType::F32, 3));
  }
  auto mean = mergedDelta(adapters, recipe);
  EXPECT_NEAR(norm(mean) / meanNorm, 1, 1e-6);
  mean = times(mean, 1 / norm(mean));
  std::vector<double> sum(mean.size());
  for (size_t i = 0; i < 3; ++i) {
    double c = 0;
    for (size_t e = 0; e < mean.size(); ++e) c += mean[e] * directions[i][e];
    const double angle = std::acos(c);
    for (size_t e = 0; e < mean.size(); ++e)
      sum[e] += recipe.weights[i] * angle / std::sin(angle) * (directions[i][e] - c * mean[e]);
  }
  EXPECT_LT(norm(sum), 1e-4);
}

TEST(TsvM, AddsWhatIsOrthogonalAndAveragesWhatIsShared) {
  // Two adapters that share no direction at all: the sum.
  Pair x{"layer", 2, 12, 12, std::vector<float>(24), std::vector<float>(24)}, y = x;
  x.a[0] = 3, x.a[12 + 1] = 2, x.b[0] = 1, x.b[2 * 1 + 1] = 1;
  y.a[5] = 4, y.a[12 + 6] = 1, y.b[2 * 7] = 1, y.b[2 * 8 + 1] = 1;
  auto sum = delta(x, 1);
  const auto other = delta(y, 1);
  for (size_t e = 0; e < sum.size(); ++e) sum[e] += other[e];
  EXPECT_LT(relativeDistance(
                mergedDelta({makeAdapter("x", {x}, DType::F32, 2), makeAdapter("y", {y}, DType::F32, 2)},
                            recipeFor("tsv_m", 4)),
                sum),
            1e-6);
}

TEST(Pico, DampsWhatAdaptersShareAndKeepsTheirMeanNorm) {
  Random random(24);
  Pair x = randomPair(random, 2, 20, 15), y = randomPair(random, 2, 20, 15);
  // Both write into the same output direction with their first unit.
  for (uint64_t o = 0; o < 15; ++o) y.b[o * 2] = x.b[o * 2];
  Recipe recipe = recipeFor("svd", 4);
  const std::vector<TestAdapter> adapters = {makeAdapter("x", {x}, DType::F32, 2),
                                             makeAdapter("y", {y}, DType::F32, 2)};
  const auto plain = mergedDelta(adapters, recipe);
  recipe.options = {{"pico", "on"}};
  const auto damped = mergedDelta(adapters, recipe);
  EXPECT_NEAR(norm(damped) / ((norm(delta(x, 1)) + norm(delta(y, 1))) / 2), 1, 1e-5);
  const auto share = [&](const std::vector<double>& d) {
    double along = 0;
    for (uint64_t i = 0; i < 20; ++i) {
      double sum = 0, length = 0;
      for (uint64_t o = 0; o < 15; ++o) sum += x.b[o * 2] * d[o * 20 + i], length += x.b[o * 2] * x.b[o * 2];
      along += sum * sum / length;
    }
    return std::sqrt(along) / norm(d);
  };
  EXPECT_LT(share(damped), share(plain));
}

TEST(Angles, AgreeWithTheLibrary) {
  for (int i = 0; i <= 2000; ++i) {
    const double x = 3.14159265358979323846 * i / 2000;
    EXPECT_NEAR(sine(x), std::sin(x), 4e-16);
    EXPECT_NEAR(cosineOf(x), std::cos(x), 4e-16);
    EXPECT_NEAR(arcCosine(std::cos(x)), std::acos(std::cos(x)), 2e-15);
  }
  EXPECT_NEAR(arcCosine(1), 0, 1e-15);
  EXPECT_NEAR(arcCosine(-1), 3.14159265358979323846, 1e-15);
}

}  // namespace
}  // namespace lego::testing

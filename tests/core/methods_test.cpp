// What every method of the registry promises, over random shapes, ranks and dtypes, and on degenerate input.

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <set>

#include "core/samples.h"
#include "merge/angle.h"
#include "merge/registry.h"

namespace lego::testing {
namespace {

using Dense = Eigen::MatrixXd;  // out x in

Dense denseOf(const std::vector<double>& values, uint64_t out, uint64_t in) {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const Rows>(values.data(), static_cast<Eigen::Index>(out), static_cast<Eigen::Index>(in));
}

/// A recipe that drops nothing by chance or size: only then does a method have to give everything back.
Recipe wholeRecipe(const MethodInfo& method, uint64_t rank, uint64_t in, uint64_t out) {
  Recipe recipe = recipeFor(method.name);
  if (method.rank == RankKind::UpToUnits) recipe.rank = static_cast<uint32_t>(rank);
  if (method.rank == RankKind::UpToSides) recipe.rank = static_cast<uint32_t>(std::min({rank, in, out}));
  for (const OptionInfo& option : method.options) {
    if (std::string_view(option.name) == "density") recipe.options.push_back({"density", "1"});
  }
  return recipe;
}

/// Rounding of everything inside is binary32; methods on entries round single entries of deltas.
double toleranceOf(const MethodInfo& method, DType dtype) {
  const bool onEntries = std::holds_alternative<EntryMethod>(method.run);
  return roundingOf(dtype) * (onEntries ? 3 : 1);
}

std::vector<double> times(std::vector<double> values, double factor) {
  for (double& value : values) value *= factor;
  return values;
}

TEST(EveryMethod, HasAnEntryThatIsComplete) {
  std::set<std::string> names;
  for (const MethodInfo& method : methods()) {
    EXPECT_TRUE(names.insert(method.name).second) << method.name;
    for (const char* alias : method.aliases) {
      EXPECT_TRUE(names.insert(alias).second) << alias;
      EXPECT_EQ(findMethod(alias), &method);
    }
    EXPECT_EQ(findMethod(method.name), &method);
    EXPECT_TRUE(std::string(method.sentence).ends_with(".")) << method.name;
    EXPECT_FALSE(std::string(method.source).empty()) << method.name;
    EXPECT_FALSE(std::string(nameOf(method.family)).empty());
    for (const OptionInfo& option : method.options) {
      EXPECT_TRUE(std::string(option.sentence).ends_with(".")) << option.name;
      if (option.type == OptionInfo::Type::Choice) continue;
      EXPECT_GE(option.standard, option.minimum) << option.name;
      EXPECT_LE(option.standard, option.maximum) << option.name;
    }
  }
  EXPECT_EQ(findMethod("nonsense"), nullptr);
}

TEST(EveryMethod, GivesOneAdapterBack) {
  for (const MethodInfo& method : methods()) {
    for (uint64_t seed = 0; seed < kSamples; ++seed) {
      const Sample sample(seed);
      const Recipe recipe = wholeRecipe(method, sample.rank, sample.in, sample.out);
      const auto result = mergedDelta({sample.adapter()}, recipe);
      if (method.reshapes) {
        // Its directions, equally strong: the same span, the same sum of singular values.
        const Eigen::JacobiSVD<Dense> before(denseOf(sample.exact(), sample.out, sample.in)),
            after(denseOf(result, sample.out, sample.in));
        EXPECT_NEAR(after.singularValues().sum() / before.singularValues().sum(), 1,
                    roundingOf(sample.dtype));
        continue;
      }
      ASSERT_LT(relativeDistance(result, sample.exact()), toleranceOf(method, sample.dtype))
          << method.name << " " << sample.text();
    }
  }
}

TEST(EveryMethod, TreatsWeightsAsItsFamilySays) {
  for (const MethodInfo& method : methods()) {
    if (method.reshapes || method.family == MethodFamily::Factors) continue;
    for (uint64_t seed = 0; seed < kSamples; ++seed) {
      const Sample sample(seed);
      const auto exact = sample.exact();
      const std::vector<TestAdapter> one = {sample.adapter("a")},
                                     two = {sample.adapter("a"), sample.adapter("b")};
      // An exact sum keeps everything only at the rank of all units.
      const bool sums = method.family == MethodFamily::ExactSum;
      const auto merge = [&](const std::vector<TestAdapter>& adapters, std::vector<double> weights) {
        Recipe recipe =
            wholeRecipe(method, sample.rank * (sums ? adapters.size() : 1), sample.in, sample.out);
        recipe.weights = std::move(weights);
        return mergedDelta(adapters, recipe);
      };
      const double tolerance = toleranceOf(method, sample.dtype);
      const std::string what = std::string(method.name) + " " + sample.text();
      if (sums) {
        ASSERT_LT(relativeDistance(merge(two, {0.5, 0.5}), exact), tolerance) << what;
        ASSERT_LT(norm(merge(two, {1, -1})), 2e-6 * norm(exact)) << what;
        ASSERT_LT(relativeDistance(merge(one, {-2.5}), times(exact, -2.5)), tolerance) << what;
        ASSERT_LT(relativeDistance(merge(two, {1, 1}), times(exact, 2)), tolerance) << what;
      } else if (method.family == MethodFamily::Consensus) {
        ASSERT_LT(relativeDistance(merge(two, {1, 1}), exact), tolerance) << what;
        ASSERT_LT(relativeDistance(merge(one, {0.25}), times(exact, 0.25)), tolerance) << what;
        ASSERT_LT(relativeDistance(merge(one, {-2.5}), times(exact, -2.5)), tolerance) << what;
      } else {
        ASSERT_LT(relativeDistance(merge(two, {0.3, 1.7}), exact), tolerance) << what;
        ASSERT_LT(relativeDistance(merge(one, {0.25}), exact), tolerance) << what;
      }
    }
  }
}

TEST(EveryMethod, IsScaled) {
  for (const MethodInfo& method : methods()) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      const Sample sample(seed), other(seed + 100);
      Pair second = sample.pair;
      Random random(seed);
      second = randomPair(random, sample.rank, sample.in, sample.out);
      const std::vector<TestAdapter> adapters = {makeAdapter("a", {sample.pair}, DType::F32, 3),
                                                 makeAdapter("b", {second}, DType::F32, 5)};
      Recipe recipe = wholeRecipe(method, sample.rank, sample.in, sample.out);
      recipe.dtype = "f32";
      const auto plain = mergedDelta(adapters, recipe);
      for (const double scale : {-0.7, 3.0, 0.0}) {
        recipe.scale = scale;
        ASSERT_LT(relativeDistance(mergedDelta(adapters, recipe), times(plain, scale)), 3e-6)
            << method.name << " " << scale;
      }
    }
  }
}

/// Three adapters of several modules, of one rank where the method needs that.
std::vector<TestAdapter> threeAdapters(const MethodInfo& method, uint64_t seed) {
  Random random(seed * 77 + 5);
  std::vector<TestAdapter> adapters;
  const uint64_t in = 2 + random.below(40), out = 2 + random.below(40), rank = 1 + random.below(8);
  for (const char* name : {"a", "b", "c"}) {
    std::vector<Pair> pairs;
    for (const char* path : {"layer.q_proj", "layer.k_proj", "layer.down_proj"}) {
      // Uneven modules: c lacks one.
      if (name[0] == 'c' && path[6] == 'k') continue;
      const uint64_t own = method.rank == RankKind::Equal ? rank : 1 + random.below(8);
      pairs.push_back(randomPair(random, own, in, out, path));
    }
    adapters.push_back(makeAdapter(name, pairs, DType::F32, 4));
  }
  if (method.mostAdapters < 3) adapters.pop_back();
  return adapters;
}

// Bytes, not values: also for those that drop entries at random.
TEST(EveryMethod, ForgetsTheOrderOfTheAdapters) {
  for (const MethodInfo& method : methods()) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      auto adapters = threeAdapters(method, seed);
      Recipe recipe = recipeFor(method.name, method.takesRank() ? 2 : 0);
      recipe.seed = seed;
      for (size_t i = 0; i < adapters.size(); ++i)
        recipe.weights.push_back(0.5 + 0.3 * static_cast<double>(i));
      const Merged forward = must(mergeAll(adapters, recipe));
      std::ranges::rotate(adapters, adapters.begin() + 1);
      std::ranges::rotate(recipe.weights, recipe.weights.begin() + 1);
      const Merged rotated = must(mergeAll(adapters, recipe));
      const size_t header = forward.plan.header.size();
      // The headers differ: they hold the recipe's weights in their order.
      ASSERT_TRUE(std::equal(forward.file.begin() + static_cast<std::ptrdiff_t>(header), forward.file.end(),
                             rotated.file.begin() + static_cast<std::ptrdiff_t>(rotated.plan.header.size()),
                             rotated.file.end()))
          << method.name << " seed " << seed;
    }
  }
}

TEST(EveryMethod, GivesTheSameBytesOnReferenceKernelsAndAnyThreads) {
  for (const MethodInfo& method : methods()) {
    const auto adapters = threeAdapters(method, 3);
    Recipe recipe = recipeFor(method.name, method.takesRank() ? 2 : 0);
    const Merged fast = must(mergeAll(adapters, recipe));
    EXPECT_EQ(must(mergeAll(adapters, recipe, 3)).file, fast.file) << method.name;
    EXPECT_EQ(must(mergeAll(adapters, recipe, 1, kReferenceKernels)).file, fast.file) << method.name;
  }
}

TEST(EveryMethod, DropsBySeedIfItDrops) {
  for (const MethodInfo& method : methods()) {
    const auto adapters = threeAdapters(method, 4);
    Recipe recipe = recipeFor(method.name, method.takesRank() ? 2 : 0);
    const Merged one = must(mergeAll(adapters, recipe));
    EXPECT_EQ(must(mergeAll(adapters, recipe)).file, one.file) << method.name;
    recipe.seed = 1;
    const Merged other = must(mergeAll(adapters, recipe));
    const bool atRandom =
        std::string(method.name).find("dare") != std::string::npos || std::string(method.name) == "della";
    if (!atRandom) continue;
    const size_t header = one.plan.header.size();
    EXPECT_FALSE(std::equal(one.file.begin() + static_cast<std::ptrdiff_t>(header), one.file.end(),
                            other.file.begin() + static_cast<std::ptrdiff_t>(header)))
        << method.name;
  }
}

TEST(EveryMethod, ReportsWhatADenseComputationFinds) {
  for (const MethodInfo& method : methods()) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const auto adapters = threeAdapters(method, seed);
      Recipe recipe = recipeFor(method.name, method.takesRank() ? 2 : 0);
      recipe.scale = 0.8;
      for (size_t i = 0; i < adapters.size(); ++i)
        recipe.weights.push_back(0.5 + 0.4 * static_cast<double>(i));
      const Merged merged = must(mergeAll(adapters, recipe));
      for (size_t m = 0; m < merged.plan.modules.size(); ++m) {
        const PlannedModule& module = merged.plan.modules[m];
        const ModuleReport& report = merged.reports[m];
        const auto result = delta(pairOf(merged, module.path), 1);
        std::vector<double> target(result.size());
        std::vector<std::vector<double>> inputs;
        for (size_t i = 0; i < report.adapter.size(); ++i) {
          const uint32_t adapter = report.adapter[i];
          const auto& source = module.sources[i];
          ASSERT_EQ(source.adapter, adapter);
          const std::string key = "base_model.model." + module.path;
          Pair pair{module.path,
                    source.rank,
                    module.in,
                    module.out,
                    valuesOf(adapters[adapter].file, key + ".lora_A.weight"),
                    valuesOf(adapters[adapter].file, key + ".lora_B.weight")};
          inputs.push_back(delta(pair, source.scale));
          for (size_t e = 0; e < target.size(); ++e)
            target[e] += recipe.scale * recipe.weights[adapter] * inputs.back()[e];
        }
        const auto inner = [](const auto& x, const auto& y) {
          double sum = 0;
          for (size_t e = 0; e < x.size(); ++e) sum += x[e] * y[e];
          return sum;
        };
        const auto distance = [](const auto& x, const auto& y) {
          double sum = 0;
          for (size_t e = 0; e < x.size(); ++e) sum += (x[e] - y[e]) * (x[e] - y[e]);
          return std::sqrt(sum);
        };
        const Quality& quality = report.quality;
        const std::string what = std::string(method.name) + " " + module.path;
        const double size = norm(target) + norm(result);
        EXPECT_NEAR(quality.norm, norm(result), 1e-5 * size) << what;
        EXPECT_NEAR(quality.targetNorm, norm(target), 1e-5 * size) << what;
        // Where X is D*, all that is left is rounding, of the square root of squares.
        EXPECT_NEAR(quality.error, distance(result, target), 2e-4 * size) << what;
        for (size_t i = 0; i < inputs.size(); ++i) {
          EXPECT_NEAR(quality.relation.norm[i] / norm(inputs[i]), 1, 1e-5) << what;
          EXPECT_NEAR(quality.inputError[i], distance(result, inputs[i]), 2e-4 * (size + norm(inputs[i])))
              << what;
          const double lengths = norm(result) * norm(inputs[i]);
          EXPECT_NEAR(quality.inputCosine[i], lengths > 0 ? inner(result, inputs[i]) / lengths : 0, 1e-5);
          for (size_t j = 0; j < inputs.size(); ++j)
            EXPECT_NEAR(quality.relation.cosine(i, j),
                        inner(inputs[i], inputs[j]) / (norm(inputs[i]) * norm(inputs[j])), 1e-5);
        }
        EXPECT_GE(quality.relation.conflict, 0);
        EXPECT_LE(quality.relation.conflict, 1);
      }
    }
  }
}

/// Input on which a method may divide by nothing or lose the small beside the large.
TEST(Degenerate, EveryMethodStaysFinite) {
  Random random(47);
  const Pair plain = randomPair(random, 4, 20, 10);
  Pair zero = plain, deficient = plain, huge = randomPair(random, 4, 20, 10);
  std::ranges::fill(zero.a, 0.0f);
  std::ranges::fill(zero.b, 0.0f);
  // Every row of A is the same.
  for (size_t i = plain.in; i < plain.a.size(); ++i) deficient.a[i] = deficient.a[i % plain.in];
  for (float& value : huge.a) value *= 1e4f;
  const auto adapter = [](const Pair& pair) { return makeAdapter("a", {pair}, DType::F32, 4); };

  for (const MethodInfo& method : methods()) {
    const Recipe recipe = wholeRecipe(method, 4, 20, 10);
    const auto merge = [&](const std::vector<TestAdapter>& adapters) {
      const Merged merged = must(mergeAll(adapters, recipe));
      const auto result = delta(pairOf(merged), 1);
      EXPECT_TRUE(std::isfinite(norm(result))) << method.name;
      const Quality& quality = merged.reports[0].quality;
      EXPECT_TRUE(std::isfinite(quality.norm + quality.cosine() + quality.relation.conflict)) << method.name;
      for (size_t i = 0; i < adapters.size(); ++i)
        EXPECT_TRUE(std::isfinite(quality.inputError[i] + quality.inputCosine[i])) << method.name;
      return result;
    };
    EXPECT_EQ(norm(merge({adapter(zero), adapter(zero)})), 0) << method.name;
    merge({adapter(plain), adapter(zero)});
    // Identical adapters.
    std::vector<TestAdapter> copies(std::min<size_t>(3, method.mostAdapters), adapter(plain));
    const auto same = merge(copies);
    const double count = static_cast<double>(copies.size());
    if (method.rank == RankKind::Equal) {
      // A's and B's both add up, unless an election averages them.
      const bool averages = std::string(method.name).ends_with("ties");
      EXPECT_LT(relativeDistance(same, delta(plain, averages ? 1 : count * count)), 1e-5) << method.name;
    } else if (!method.reshapes && std::string(method.name) != "prune") {
      const double copiesCount = method.family == MethodFamily::ExactSum ? count : 1;
      EXPECT_LT(relativeDistance(same, delta(plain, copiesCount)), 1e-5) << method.name;
    }
    // A deficient adapter alone has fewer directions than ranks, and still comes back.
    const auto back = merge({adapter(deficient)});
    merge({adapter(deficient), adapter(plain)});
    // Where it counts, the huge one decides: nothing of it is lost beside the small one.
    const auto mixed = merge({adapter(plain), adapter(huge)});
    const auto large = delta(huge, 1);
    double inner = 0;
    for (size_t i = 0; i < mixed.size(); ++i) inner += mixed[i] * large[i];
    if (method.reshapes) continue;
    EXPECT_LT(relativeDistance(back, delta(deficient, 1)), 1e-5) << method.name;
    // Karcher's mean gives every direction its weight, and PEFT's cross terms mix them.
    if (method.family == MethodFamily::Factors || std::string(method.name) == "karcher") continue;
    EXPECT_GT(inner / (norm(mixed) * norm(large)), 0.9) << method.name;
  }
}

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

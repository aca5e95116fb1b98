// What every method of the registry promises, over random shapes, ranks and dtypes, and on degenerate input.

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <set>

#include "core/dense.h"
#include "core/samples.h"
#include "merge/registry.h"

namespace lego::testing {
namespace {

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

}  // namespace
}  // namespace lego::testing

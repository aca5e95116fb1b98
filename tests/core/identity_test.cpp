// What must come back unchanged, and what must cancel: properties over random shapes, ranks and dtypes.

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/samples.h"

namespace lego::testing {
namespace {

TEST(Identity, OneAdapterAloneComesBack) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sample sample(seed);
    for (const char* method : {"lego", "svd", "cat", "least_interference"}) {
      EXPECT_LT(relativeDistance(mergedDelta({sample.adapter()}, recipeFor(method)), sample.exact()),
                roundingOf(sample.dtype))
          << method << " " << sample.text();
    }
  }
}

TEST(Identity, FactorsOfEightBitsAreReadExactly) {
  Random random(36);
  for (const DType dtype : {DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ}) {
    const Pair pair = randomPair(random, 3, 20, 14);
    const auto adapter = makeAdapter("a", {pair}, dtype, 3);
    EXPECT_LT(relativeDistance(mergedDelta({adapter}, recipeFor("cat")), delta(rounded(pair, dtype), 1)),
              1e-6)
        << nameOf(dtype);
  }
}

TEST(Identity, OneAdapterOfScaleOneComesBackBitForBit) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    Sample sample(seed);
    sample.alpha = static_cast<double>(sample.rank);
    for (const char* method : {"lego", "cat"}) {
      const Pair back = pairOf(must(mergeAll({sample.adapter()}, recipeFor(method))));
      EXPECT_EQ(back.a, sample.pair.a) << method << " " << sample.text();
      EXPECT_EQ(back.b, sample.pair.b) << method << " " << sample.text();
    }
  }
}

// The paper's own motivating case: plain averaging of the factors fails here.
TEST(Identity, LegoOfAnAdapterAndItsPermutedCopy) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    Sample sample(seed);
    const TestAdapter copy =
        makeAdapter("copy", {shuffled(sample.random, sample.pair, false)}, sample.dtype, sample.alpha);
    for (const char* reweight : {"linf", "l2", "off"}) {
      Recipe recipe = recipeFor("lego", static_cast<uint32_t>(sample.rank));
      recipe.options = {{"parameter_reweight", reweight}};
      recipe.weights = {0.3, 1.7};
      EXPECT_LT(relativeDistance(mergedDelta({sample.adapter(), copy}, recipe), sample.exact()),
                roundingOf(sample.dtype))
          << reweight << " " << sample.text();
    }
  }
}

TEST(Identity, BalancedLegoOfAnAdapterAndItsCopyInAnotherGauge) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    Sample sample(seed);
    const TestAdapter copy =
        makeAdapter("copy", {shuffled(sample.random, sample.pair, true)}, sample.dtype, sample.alpha);
    for (const char* reweight : {"linf", "l2", "off"}) {
      Recipe recipe = recipeFor("lego", static_cast<uint32_t>(sample.rank));
      recipe.options = {{"parameter_reweight", reweight}, {"gauge", "balanced"}};
      EXPECT_LT(relativeDistance(mergedDelta({sample.adapter(), copy}, recipe), sample.exact()),
                roundingOf(sample.dtype))
          << reweight << " " << sample.text();
    }
  }
}

TEST(Sums, CatIsExact) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    Recipe recipe = recipeFor("cat");
    recipe.weights = sum.weights;
    recipe.dtype = "f32";
    const Merged merged = must(mergeAll(sum.adapters, recipe));
    EXPECT_EQ(pairOf(merged).rank, sum.units);
    EXPECT_LT(relativeDistance(delta(pairOf(merged), 1), sum.exact), 3e-6);
    EXPECT_LT(merged.reports[0].quality.relativeError(), 1e-6);
  }
}

TEST(Sums, SvdErrorIsTheTailOfTheSpectrum) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    const Eigen::Map<const Eigen::MatrixXd> dense(sum.exact.data(), static_cast<Eigen::Index>(sum.in),
                                                  static_cast<Eigen::Index>(sum.out));
    const Eigen::VectorXd spectrum = Eigen::JacobiSVD<Eigen::MatrixXd>(dense).singularValues();
    const double total = spectrum.squaredNorm();
    for (uint32_t rank : {1u, static_cast<uint32_t>((sum.units + 1) / 2), static_cast<uint32_t>(sum.units)}) {
      double tail = 0;
      for (Eigen::Index i = rank; i < spectrum.size(); ++i) tail += spectrum[i] * spectrum[i];
      Recipe recipe = recipeFor("svd", rank);
      recipe.weights = sum.weights;
      recipe.dtype = "f32";
      const Merged merged = must(mergeAll(sum.adapters, recipe));
      const double expected = std::sqrt(tail / total);
      EXPECT_NEAR(relativeDistance(delta(pairOf(merged), 1), sum.exact), expected, 5e-6)
          << "rank " << rank << " of " << sum.units;
      EXPECT_NEAR(merged.reports[0].quality.relativeError(), expected, 5e-6);
    }
  }
}

TEST(Sums, WeightsOfOneAdapterAddUp) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sample sample(seed);
    auto exact = sample.exact();
    for (const char* method : {"cat", "svd"}) {
      Recipe recipe = recipeFor(method);
      recipe.weights = {0.5, 0.5};
      EXPECT_LT(relativeDistance(mergedDelta({sample.adapter("a"), sample.adapter("b")}, recipe), exact),
                roundingOf(sample.dtype))
          << method << " " << sample.text();
      recipe.weights = {1, -1};
      EXPECT_LT(norm(mergedDelta({sample.adapter("a"), sample.adapter("b")}, recipe)), 1e-6 * norm(exact))
          << method << " " << sample.text();
      recipe.weights = {-2.5};
      auto scaled = exact;
      for (double& value : scaled) value *= -2.5;
      EXPECT_LT(relativeDistance(mergedDelta({sample.adapter()}, recipe), scaled), roundingOf(sample.dtype))
          << method;
    }
  }
}

TEST(Sums, ScaleMultipliesEveryMethod) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    for (const char* method : {"lego", "svd", "cat"}) {
      Recipe recipe = recipeFor(method);
      recipe.weights = sum.weights;
      recipe.dtype = "f32";
      auto plain = mergedDelta(sum.adapters, recipe);
      for (const double scale : {-0.7, 3.0, 0.0}) {
        recipe.scale = scale;
        auto expected = plain;
        for (double& value : expected) value *= scale;
        EXPECT_LT(relativeDistance(mergedDelta(sum.adapters, recipe), expected), 3e-6)
            << method << " " << scale;
      }
    }
  }
}

TEST(Lego, WeightsAreRelative) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    Recipe recipe = recipeFor("lego");
    recipe.dtype = "f32";
    recipe.weights = sum.weights;
    const auto once = mergedDelta(sum.adapters, recipe);
    for (double& weight : recipe.weights) weight *= 4;
    EXPECT_LT(relativeDistance(mergedDelta(sum.adapters, recipe), once), 1e-9);
  }
}

TEST(Lego, ANegativeWeightSubtracts) {
  const Sample sample(3);
  auto negative = sample.exact();
  for (double& value : negative) value = -value;
  Recipe recipe = recipeFor("lego");
  recipe.weights = {-1};
  EXPECT_LT(relativeDistance(mergedDelta({sample.adapter()}, recipe), negative), roundingOf(sample.dtype));
}

TEST(Lego, TheOrderOfTheAdaptersMakesNoDifference) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    Sum sum(seed);
    for (const char* gauge : {"raw", "balanced"}) {
      Recipe recipe = recipeFor("lego", static_cast<uint32_t>(1 + sum.units / 3));
      recipe.dtype = "f32";
      recipe.options = {{"gauge", gauge}};
      recipe.weights = sum.weights;
      const auto forward = mergedDelta(sum.adapters, recipe);
      auto reversed = sum.adapters;
      std::ranges::reverse(reversed);
      std::ranges::reverse(recipe.weights);
      EXPECT_LT(relativeDistance(mergedDelta(reversed, recipe), forward), 3e-6) << gauge << " seed " << seed;
    }
  }
}

TEST(Lego, AllUnitsKeptWithoutReweightingIsTheSum) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    Recipe recipe = recipeFor("lego", static_cast<uint32_t>(sum.units));
    recipe.dtype = "f32";
    recipe.options = {{"parameter_reweight", "off"}, {"output_reweight", "off"}};
    // Weights are relative: with one unit per cluster they do not show.
    Recipe cat = recipeFor("cat");
    cat.dtype = "f32";
    EXPECT_LT(relativeDistance(mergedDelta(sum.adapters, recipe), mergedDelta(sum.adapters, cat)), 1e-6);
  }
}

// A unit and its negative average to zero; reweighting must not blow up what rounding leaves of them.
TEST(Lego, CancellingMembersAreReportedAndStaySmall) {
  Random random(11);
  Pair pair = randomPair(random, 1, 40, 30), opposite = pair;
  for (float& value : opposite.a) value = -value;
  for (float& value : opposite.b) value = -value * 1.0001f;
  for (const char* reweight : {"linf", "l2"}) {
    Recipe recipe = recipeFor("lego", 1);
    recipe.options = {{"parameter_reweight", reweight}};
    const Merged merged = must(mergeAll(
        {makeAdapter("a", {pair}, DType::F32, 1), makeAdapter("b", {opposite}, DType::F32, 1)}, recipe));
    EXPECT_EQ(merged.reports[0].nearZero, std::vector<uint32_t>{0}) << reweight;
    EXPECT_LT(norm(delta(pairOf(merged), 1)), 1e-6 * norm(delta(pair, 1))) << reweight;
    recipe.options.push_back({"gauge", "balanced"});
    const Merged balanced = must(mergeAll(
        {makeAdapter("a", {pair}, DType::F32, 1), makeAdapter("b", {opposite}, DType::F32, 1)}, recipe));
    EXPECT_TRUE(balanced.reports[0].nearZero.empty()) << reweight;
    EXPECT_LT(relativeDistance(delta(pairOf(balanced), 1), delta(pair, 1)), 1e-3) << reweight;
  }
}

TEST(Lego, UntrainedAdaptersAreZero) {
  Random random(12);
  Pair pair = randomPair(random, 4, 20, 10);
  std::ranges::fill(pair.b, 0.0f);
  for (const char* gauge : {"raw", "balanced"}) {
    Recipe recipe = recipeFor("lego", 3);
    recipe.options = {{"gauge", gauge}};
    EXPECT_EQ(
        norm(mergedDelta({makeAdapter("a", {pair}, DType::F32, 4), makeAdapter("b", {pair}, DType::F32, 4)},
                         recipe)),
        0);
  }
}

TEST(Quality, EqualsTheDenseComputation) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    const Sum sum(seed);
    for (const char* method : {"lego", "svd", "cat"}) {
      Recipe recipe = recipeFor(method);
      recipe.weights = sum.weights;
      recipe.scale = 0.8;
      recipe.dtype = "f32";
      const Merged merged = must(mergeAll(sum.adapters, recipe));
      auto target = sum.exact;
      for (double& value : target) value *= 0.8;
      const auto result = delta(pairOf(merged), 1);
      const Quality& quality = merged.reports[0].quality;
      EXPECT_NEAR(quality.relativeError(), relativeDistance(result, target), 1e-5) << method;
      EXPECT_NEAR(quality.norm / norm(result), 1, 1e-5) << method;
      EXPECT_NEAR(quality.targetNorm / norm(target), 1, 1e-5) << method;
      double inner = 0;
      for (size_t i = 0; i < result.size(); ++i) inner += result[i] * target[i];
      EXPECT_NEAR(quality.cosine(), inner / (norm(result) * norm(target)), 1e-5) << method;
    }
  }
}

}  // namespace
}  // namespace lego::testing

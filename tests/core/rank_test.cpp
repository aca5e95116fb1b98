// Ranks from the data, weights and ranks of parts of a model, modules that read one input.

#include <gtest/gtest.h>

#include <cmath>

#include "adapter/glob.h"
#include "core/samples.h"
#include "job/rank_rule.h"
#include "job/shared_inputs.h"

namespace lego::testing {
namespace {

TEST(Glob, Matches) {
  for (const auto& [glob, path] : {std::pair{"*", "a.b"},
                                   {"a.b", "a.b"},
                                   {"*mlp*", "model.layers.0.mlp.up_proj"},
                                   {"*.layers.?.mlp.*", "model.layers.0.mlp.up_proj"},
                                   {"a*b*c", "aXbXbc"},
                                   {"**", ""},
                                   {"", ""},
                                   {"*?", "x"},
                                   {"a*", "a"}})
    EXPECT_TRUE(globMatches(glob, path)) << glob << " " << path;
  for (const auto& [glob, path] : {std::pair{"a", "ab"},
                                   {"*.layers.?.mlp.*", "model.layers.10.mlp.up_proj"},
                                   {"b*", "ab"},
                                   {"a*b", "abc"},
                                   {"?", ""},
                                   {"", "a"},
                                   {"a.b", "axb"}})
    EXPECT_FALSE(globMatches(glob, path)) << glob << " " << path;
  // Would take exponential time if every star were tried with every rest.
  const std::string stars = "a*a*a*a*a*a*a*a*a*a*b", path(2000, 'a');
  EXPECT_FALSE(globMatches(stars, path));
}

TEST(SharedInputs, KnowsWhatReadsTheSameVector) {
  const auto same = [](const std::string& x, const std::string& y) {
    return sharedInputKey(x) == sharedInputKey(y);
  };
  const std::string layer = "model.layers.3.";
  EXPECT_TRUE(same(layer + "self_attn.q_proj", layer + "self_attn.k_proj"));
  EXPECT_TRUE(same(layer + "self_attn.q_proj", layer + "self_attn.v_proj"));
  EXPECT_TRUE(same(layer + "mlp.gate_proj", layer + "mlp.up_proj"));
  EXPECT_FALSE(same(layer + "self_attn.q_proj", layer + "self_attn.o_proj"));
  EXPECT_FALSE(same(layer + "mlp.up_proj", layer + "mlp.down_proj"));
  EXPECT_FALSE(same(layer + "mlp.up_proj", layer + "self_attn.q_proj"));
  EXPECT_FALSE(same("model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.q_proj"));
  EXPECT_TRUE(same("encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.value"));
  const std::string unet = "down_blocks.0.attentions.0.transformer_blocks.0.";
  EXPECT_TRUE(same(unet + "attn1.to_q", unet + "attn1.to_v"));
  EXPECT_TRUE(same(unet + "attn2.to_k", unet + "attn2.to_v"));
  EXPECT_FALSE(same(unet + "attn2.to_q", unet + "attn2.to_k"));
  EXPECT_TRUE(same("transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.attn.add_k_proj"));
  EXPECT_FALSE(same("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"));
  EXPECT_FALSE(same("decoder.layers.0.encoder_attn.q_proj", "decoder.layers.0.encoder_attn.k_proj"));
  EXPECT_TRUE(same("decoder.block.0.layer.1.EncDecAttention.k", "decoder.block.0.layer.1.EncDecAttention.v"));
  EXPECT_FALSE(
      same("decoder.block.0.layer.1.EncDecAttention.q", "decoder.block.0.layer.1.EncDecAttention.v"));
  EXPECT_EQ(sharedInputKey("lm_head"), "lm_head");
}

TEST(SharedInputs, KnowsWhatFeedsAFeedForwardBlocksLastModule) {
  const auto feeding = feedingModules("model.layers.3.mlp.down_proj");
  ASSERT_EQ(feeding.size(), 2u);
  EXPECT_EQ(feeding[0].path, "model.layers.3.mlp.up_proj");
  EXPECT_EQ(feeding[1].path, "model.layers.3.mlp.gate_proj");
  EXPECT_GT(feeding[0].strength, feeding[1].strength);
  EXPECT_EQ(feedingModules("w2").front().path, "w3");
  EXPECT_TRUE(feedingModules("model.layers.3.mlp.up_proj").empty());
  EXPECT_TRUE(feedingModules("").empty());
}

uint32_t rankFor(RankRule::Kind kind, double value, std::vector<double> singularValues) {
  for (double& s : singularValues) s *= s;
  return rankByRule({kind, value}, singularValues);
}

// sd-scripts' rules, whose own helpers keep one rank more than they say.
TEST(RankRule, CountsAsItSays) {
  const std::vector<double> values = {8, 4, 2, 1, 1};  // energies 64, 16, 4, 1, 1 of 86; sum 16
  EXPECT_EQ(rankFor(RankRule::Kind::Ratio, 4, values), 2u);
  EXPECT_EQ(rankFor(RankRule::Kind::Ratio, 4.01, values), 3u);
  EXPECT_EQ(rankFor(RankRule::Kind::Ratio, 1, values), 1u);
  EXPECT_EQ(rankFor(RankRule::Kind::Cumulative, 0.5, values), 1u);
  EXPECT_EQ(rankFor(RankRule::Kind::Cumulative, 0.51, values), 2u);
  EXPECT_EQ(rankFor(RankRule::Kind::Cumulative, 1, values), 5u);
  EXPECT_EQ(rankFor(RankRule::Kind::Energy, 64.0 / 86, values), 1u);
  EXPECT_EQ(rankFor(RankRule::Kind::Energy, 0.75, values), 2u);
  EXPECT_EQ(rankFor(RankRule::Kind::Frobenius, std::sqrt(0.75), values), 2u);
  EXPECT_EQ(rankFor(RankRule::Kind::Energy, 1, {3, 0, 0}), 1u);
  EXPECT_EQ(rankFor(RankRule::Kind::Energy, 0.9, {}), 1u);
  EXPECT_EQ(rankFor(RankRule::Kind::Energy, 0.9, {0, 0}), 1u);
}

TEST(RankRule, NamesGoBothWays) {
  for (const auto kind :
       {RankRule::Kind::Fixed, RankRule::Kind::Energy, RankRule::Kind::Cumulative, RankRule::Kind::Ratio,
        RankRule::Kind::Frobenius, RankRule::Kind::Size, RankRule::Kind::Automatic})
    EXPECT_EQ(rankRuleOf(nameOf(kind)), kind);
  EXPECT_FALSE(rankRuleOf("nonsense"));
}

/// What every method's energies say, against what its merges of each rank leave of its merge of full rank.
TEST(RankRule, EnergiesAreWhatEachRankIsWorth) {
  Random random(3);
  const std::vector<TestAdapter> adapters = {
      makeAdapter("a", {randomPair(random, 4, 30, 25)}, DType::F32, 4),
      makeAdapter("b", {randomPair(random, 3, 30, 25)}, DType::F32, 3)};
  for (const MethodInfo& method : methods()) {
    if (!method.choosesRank() || method.reshapes) continue;
    // Measured in their own terms: clusters explained, errors in a metric, units kept.
    const std::string name = method.name;
    if (name.starts_with("lego") || name == "least_interference" || name == "prune") continue;
    const auto full = mergedDelta(adapters, recipeFor(name, 7));
    for (const double share : {0.5, 0.8, 0.95}) {
      Recipe recipe = recipeFor(name);
      recipe.rule = {RankRule::Kind::Energy, share};
      const Merged merged = must(mergeAll(adapters, recipe));
      const auto distance = relativeDistance(delta(pairOf(merged), 1), full);
      EXPECT_LE(distance * distance, 1 - share + 1e-6) << name;
      const uint32_t rank = merged.plan.modules[0].rank;
      EXPECT_LT(rank, 7u) << name;
      if (rank == 1) continue;
      const auto less = relativeDistance(mergedDelta(adapters, recipeFor(name, rank - 1)), full);
      EXPECT_GT(less * less, 1 - share - 1e-6) << name;
    }
  }
}

TEST(RankRule, AnAdapterAndItsCopyNeedTheRankOfOne) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Sample sample(seed);
    if (sample.rank > std::min(sample.in, sample.out)) continue;
    sample.dtype = DType::F32;
    const auto adapter = makeAdapter("a", {sample.pair}, DType::F32, 1),
               copy = makeAdapter("b", {shuffled(sample.random, sample.pair, false)}, DType::F32, 1);
    for (const char* name : {"svd", "least_interference", "lego", "lego_delta", "ties"}) {
      Recipe recipe = recipeFor(name);
      recipe.rule = {RankRule::Kind::Energy, 1 - 1e-9};
      EXPECT_LE(must(mergeAll({adapter, copy}, recipe)).plan.modules[0].rank, sample.rank)
          << name << " " << sample.text();
      recipe.rule = {RankRule::Kind::Automatic, 0};
      EXPECT_LE(must(mergeAll({adapter, copy}, recipe)).plan.modules[0].rank, sample.rank)
          << name << " " << sample.text();
    }
  }
}

TEST(RankRule, SizeGoesWhereItKeepsMost) {
  Random random(5);
  Pair strong = randomPair(random, 6, 40, 40, "strong"), weak = randomPair(random, 6, 40, 40, "weak");
  for (float& x : weak.a) x *= 0.01f;
  const std::vector<TestAdapter> adapters = {makeAdapter("a", {strong, weak}, DType::F32, 6)};
  Recipe recipe = recipeFor("svd");
  recipe.rule = {RankRule::Kind::Size, 0};
  for (const uint32_t ranks : {2u, 5u, 7u, 9u, 12u}) {
    Recipe fixed = recipeFor("svd", 6);
    const uint64_t header = must(mergeAll(adapters, fixed)).plan.header.size();
    recipe.rule.value = static_cast<double>(header + 40 + ranks * 80 * 4);
    const Merged merged = must(mergeAll(adapters, recipe));
    EXPECT_LE(static_cast<double>(merged.file.size()), recipe.rule.value);
    EXPECT_EQ(merged.plan.modules[0].rank, std::min(6u, ranks - 1)) << ranks;
    EXPECT_EQ(merged.plan.modules[1].rank, ranks - merged.plan.modules[0].rank) << ranks;
  }
  recipe.rule.value = 300;
  expectCode(mergeAll(adapters, recipe), Code::badRank);
}

/// A pair whose delta has these singular values.
Pair diagonal(const std::string& path, const std::vector<float>& values) {
  const uint64_t n = values.size();
  Pair pair{path, n, 9, 7, std::vector<float>(n * 9), std::vector<float>(7 * n)};
  for (uint64_t r = 0; r < n; ++r) {
    pair.a[r * 9 + r + 1] = 1;
    pair.b[(r + 2) * n + r] = values[r];
  }
  return pair;
}

TEST(RankRule, AutomaticLooksAtAllModulesTogether) {
  // Energies over norms: 6.94, 1.74, 0.43, 0.11 and a tenth of that; 99 % of all is 10.04.
  const auto adapter = makeAdapter(
      "a", {diagonal("strong", {8, 4, 2, 1}), diagonal("weak", {0.8f, 0.4f, 0.2f, 0.1f})}, DType::F32, 4);
  Recipe recipe = recipeFor("svd");
  recipe.rule = {RankRule::Kind::Automatic, 0};
  const Merged merged = must(mergeAll({adapter}, recipe));
  EXPECT_EQ(merged.plan.modules[0].rank, 4u);
  EXPECT_EQ(merged.plan.modules[1].rank, 2u);
  // A limit on one does not keep the other from going on.
  recipe.moduleRanks = {{"strong", 2}};
  const Merged limited = must(mergeAll({adapter}, recipe));
  EXPECT_EQ(limited.plan.modules[0].rank, 2u);
  EXPECT_EQ(limited.plan.modules[1].rank, 4u);
}

TEST(Weights, OfPartsOfAModel) {
  Random random(6);
  const std::vector<Pair> one = {randomPair(random, 2, 9, 8, "x.up"), randomPair(random, 2, 9, 8, "x.down")},
                          two = {randomPair(random, 3, 9, 8, "x.up"), randomPair(random, 3, 9, 8, "x.down")};
  const std::vector<TestAdapter> adapters = {makeAdapter("a", one, DType::F32, 2),
                                             makeAdapter("b", two, DType::F32, 3)};
  Recipe recipe = recipeFor("cat");
  recipe.moduleWeights = {{1, "x.*", 0.5}, {1, "*.down", -2}, {0, "*.down", 0}};
  const Merged merged = must(mergeAll(adapters, recipe));
  auto up = delta(one[0], 1);
  const auto other = delta(two[0], 0.5);
  for (size_t e = 0; e < up.size(); ++e) up[e] += other[e];
  EXPECT_LT(relativeDistance(delta(pairOf(merged, "x.up"), 1), up), 1e-6);
  EXPECT_LT(relativeDistance(delta(pairOf(merged, "x.down"), 1), delta(two[1], -2)), 1e-6);
  // The two adapters do not meet where one of them is left out, but they do elsewhere.
  recipe.moduleWeights = {{0, "*", 0}, {1, "*.up", 0}};
  EXPECT_EQ(must(mergeAll(adapters, recipe)).plan.modules.size(), 1u);
  recipe.moduleWeights = {{0, "y.*", 1}};
  expectCode(mergeAll(adapters, recipe), Code::badWeights);
  recipe.moduleWeights = {{2, "*", 1}};
  expectCode(mergeAll(adapters, recipe), Code::badWeights);
  recipe.moduleWeights = {{0, "*", 0}, {1, "*", 0}};
  expectCode(mergeAll(adapters, recipe), Code::badWeights);
}

}  // namespace
}  // namespace lego::testing

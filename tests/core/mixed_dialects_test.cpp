// Adapters of several dialects in one merge, and conversions from one to another.

#include <gtest/gtest.h>

#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

/// What kohya trains of an SD1 text encoder and UNet, and the same modules as diffusers names them.
std::vector<std::pair<std::string, std::string>> sdNames() {
  return {{"lora_te_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"},
          {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
           "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"}};
}

TEST(MixedDialects, KohyaAndDiffusersGiveWhatEachOfThemGives) {
  Random random(6);
  std::vector<Pair> kohya, diffusers;
  for (const auto& [flat, dotted] : sdNames()) {
    kohya.push_back(randomPair(random, 4, 768, 320, flat));
    diffusers.push_back(kohya.back());
    diffusers.back().path = dotted;
  }
  const TestAdapter first = sampleOf(Dialect::Kohya, kohya).adapter;
  const TestAdapter second = sampleOf(Dialect::Diffusers, diffusers).adapter;
  Recipe recipe;
  recipe.method = "svd";
  recipe.weights = {1, 0.5};
  const Merged mixed = must(mergeAll({first, second}, recipe));
  EXPECT_EQ(mixed.plan.dialect, Dialect::Diffusers);
  for (const Pair& pair : diffusers)
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(mixed), pair.path), delta(pair, 1.5 * kScale)), 1e-6);
  recipe.format = "kohya";
  const Merged asKohya = must(mergeAll({first, second}, recipe));
  for (const Pair& pair : kohya)
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(asKohya), pair.path), delta(pair, 1.5 * kScale)), 1e-6);
}

TEST(MixedDialects, PeftAndMlxGiveWhatEachOfThemGives) {
  const std::vector<Pair> pairs = pairsFor(Dialect::Peft, 7);
  Recipe recipe;
  recipe.method = "svd";
  const Merged mixed =
      must(mergeAll({sampleOf(Dialect::Peft, pairs).adapter, sampleOf(Dialect::Mlx, pairs).adapter}, recipe));
  EXPECT_EQ(mixed.plan.dialect, Dialect::Peft);
  for (const Pair& pair : pairs)
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(mixed), pair.path), delta(pair, 2 * kScale)), 1e-6);
}

/// Flux's fused q, k and v in kohya's naming, hidden size 8.
TEST(MixedDialects, FusedModulesAreSplitExactly) {
  Random random(8);
  const Pair fused = randomPair(random, 4, 8, 24, "lora_unet_double_blocks_0_img_attn_qkv");
  const TestAdapter adapter = sampleOf(Dialect::Kohya, {fused}).adapter;
  const Merged split = must(mergeAll({adapter}, converting("diffusers")));
  ASSERT_EQ(split.plan.modules.size(), 3u);
  const std::vector<double> whole = delta(fused, kScale);
  for (const auto& [name, first] : {std::pair{"to_q", 0u}, std::pair{"to_k", 8u}, std::pair{"to_v", 16u}}) {
    const auto part = deltaOf(asAdapter(split), std::string("transformer.transformer_blocks.0.attn.") + name);
    const std::vector<double> expected(whole.begin() + first * 8, whole.begin() + (first + 8) * 8);
    EXPECT_LT(relativeDistance(part, expected), 1e-12) << name;
  }
}

TEST(MixedDialects, ConvertingThereAndBackChangesNothing) {
  const auto names = sdNames();
  Random random(9);
  std::vector<Pair> kohya;
  for (const auto& [flat, dotted] : names) kohya.push_back(randomPair(random, 4, 768, 320, flat));
  const std::vector<std::pair<DialectSample, const char*>> ways = {
      {sampleOf(Dialect::Kohya, kohya, DType::F16), "diffusers"},
      {sampleOf(Dialect::Peft, pairsFor(Dialect::Peft, 10), DType::BF16), "mlx"},
      {sampleOf(Dialect::Mlx, pairsFor(Dialect::Mlx, 11), DType::F32), "peft"}};
  for (const auto& [sample, other] : ways) {
    const TestAdapter there = asAdapter(must(mergeAll({sample.adapter}, converting(other))));
    EXPECT_EQ(catalogueOf(there).dialect, *dialectOf(other));
    const TestAdapter back = asAdapter(must(mergeAll({there}, converting(infoOf(sample.dialect).name))));
    for (const std::string& name : namesOf(sample.adapter.file))
      EXPECT_EQ(valuesOf(back.file, name), valuesOf(sample.adapter.file, name)) << name;
    for (const Pair& pair : sample.pairs)
      EXPECT_EQ(deltaOf(back, pair.path), deltaOf(sample.adapter, pair.path)) << pair.path;
  }
}

TEST(MixedDialects, WhatCannotBeTheSameModelIsRefused) {
  const auto sample = [](Dialect dialect) { return sampleOf(dialect, pairsFor(dialect, 12)).adapter; };
  const auto merged = [&](Dialect x, Dialect y) { return mergeAll({sample(x), sample(y)}, {}); };
  expectCode(merged(Dialect::Peft, Dialect::Kohya), Code::mixedDialects);
  // Named: the first that is not like the first.
  EXPECT_EQ(mergeAll({sample(Dialect::Mlx), sample(Dialect::Peft), sample(Dialect::Kohya)}, {}).error().file,
            "kohya/adapter_model.safetensors");
  expectCode(merged(Dialect::Diffusers, Dialect::ControlLora), Code::mixedDialects);
  // A module that no table has.
  Random random(13);
  const auto unknown =
      sampleOf(Dialect::Kohya, {randomPair(random, 4, 12, 9, "lora_unet_model_layers_0_self_attn_q_proj")});
  const std::string text =
      expectCode(mergeAll({unknown.adapter, sample(Dialect::Diffusers)}, {}), Code::mixedDialects);
  EXPECT_NE(text.find("lora_unet_model_layers_0"), std::string::npos) << text;
  EXPECT_NE(expectCode(mergeAll({sample(Dialect::Peft)}, converting("kohya")), Code::badFormat)
                .find("peft/adapter_model"),
            std::string::npos);
  expectCode(mergeAll({sample(Dialect::Peft)}, converting("zip")), Code::badFormat);
  // Of several, the one that has the module which the format cannot name.
  TestAdapter other = sampleOf(Dialect::Peft, {pairsFor(Dialect::Peft, 12)[0],
                                               randomPair(random, 4, 12, 9, "base_model.model.q_proj")})
                          .adapter;
  other.name = "other";
  Recipe recipe;
  recipe.format = "mlx";
  const auto unnamed = mergeAll({sample(Dialect::Peft), other}, recipe);
  expectCode(unnamed, Code::badFormat);
  EXPECT_EQ(unnamed.error().file, "other/adapter_model.safetensors");
}

}  // namespace
}  // namespace lego::testing

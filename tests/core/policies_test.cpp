// What becomes of tensors that are no factors.

#include <gtest/gtest.h>

#include <cmath>

#include "core/dialect_samples.h"
#include "format/json.h"
#include "format/safetensors.h"

namespace lego::testing {
namespace {

/// A kohya adapter with a pair, a trained normalisation and a difference of a bias.
TestAdapter withExtras(const char* name, const Pair& pair, const std::vector<float>& norm,
                       const std::vector<float>& bias) {
  return {name,
          makeSafetensors({matrix(kKohyaModule + ".lora_down.weight", DType::F32, pair.rank, pair.in, pair.a),
                           matrix(kKohyaModule + ".lora_up.weight", DType::F32, pair.out, pair.rank, pair.b),
                           {"lora_unet_norm.w_norm", DType::F32, {norm.size()}, norm},
                           {"lora_unet_x.diff_b", DType::BF16, {bias.size()}, bias}}),
          ""};
}

TEST(Policies, SayWhatBecomesOfWhatIsNoFactor) {
  Random random(27);
  const Pair pair = randomPair(random, 2, 6, 5);
  const std::vector<TestAdapter> adapters = {withExtras("x", pair, {1, 2, 3}, {4, 8}),
                                             withExtras("y", pair, {5, 6, 7}, {16, 32})};
  Recipe recipe;
  recipe.method = "svd";
  recipe.weights = {3, 1};
  const std::string refused = expectCode(mergeAll(adapters, recipe), Code::unsupportedTensors);
  EXPECT_NE(refused.find("lora_unet_norm.w_norm"), std::string::npos) << refused;
  recipe.policies = {{ExtraKind::Norm, Policy::Average}, {ExtraKind::Diff, Policy::Sum}};
  const Merged merged = must(mergeAll(adapters, recipe));
  EXPECT_EQ(valuesOf(merged.file, "lora_unet_norm.w_norm"), (std::vector<float>{2, 3, 4}));
  EXPECT_EQ(valuesOf(merged.file, "lora_unet_x.diff_b"), (std::vector<float>{28, 56}));
  EXPECT_EQ(merged.plan.extraFates.size(), 4u);
  EXPECT_EQ(merged.plan.extraFates[0].policy, Policy::Average);
  recipe.policies = {{ExtraKind::Norm, Policy::First}, {ExtraKind::Diff, Policy::Drop}};
  const Merged other = must(mergeAll(adapters, recipe));
  EXPECT_EQ(valuesOf(other.file, "lora_unet_norm.w_norm"), (std::vector<float>{1, 2, 3}));
  EXPECT_FALSE(namesOf(other.file).contains("lora_unet_x.diff_b"));
  EXPECT_TRUE(namesOf(other.file).contains(kKohyaModule + ".alpha"));
  // Read back, it is the same again.
  recipe.weights = {1};
  recipe.policies = {{ExtraKind::Norm, Policy::Average}};
  EXPECT_EQ(valuesOf(must(mergeAll({asAdapter(other)}, recipe)).file, "lora_unet_norm.w_norm"),
            (std::vector<float>{1, 2, 3}));
}

TEST(Policies, AdaptersOfWhichNothingIsLeftAreRefused) {
  Random random(32);
  const Pair pair = randomPair(random, 2, 6, 5, "blk.0.ffn_down");
  const TestAdapter good = sampleOf(Dialect::Gguf, {pair}).adapter;
  const TestAdapter other{
      "other", makeGguf({{"blk.0.x", DType::F32, {2, 6}, randomValues(random, 12)}}, kGgufMetadata), ""};
  expectCode(mergeAll({other, good, good}, {}), Code::unsupportedTensors);
  Recipe recipe;
  recipe.policies = {{ExtraKind::Other, Policy::Drop}};
  expectCode(mergeAll({other, good, good}, recipe), Code::noFactors);
}

TEST(Policies, LargeTensorsGoThroughInPieces) {
  Random random(28);
  const Pair pair = randomPair(random, 2, 6, 5);
  const std::vector<float> norm = randomValues(random, (size_t{1} << 21) + 5);
  Recipe recipe;
  recipe.policies = {{ExtraKind::Norm, Policy::Average}, {ExtraKind::Diff, Policy::First}};
  const Merged merged =
      must(mergeAll({withExtras("x", pair, norm, {1}), withExtras("y", pair, norm, {2})}, recipe));
  EXPECT_EQ(merged.plan.extras.size(), 4u);
  EXPECT_EQ(valuesOf(merged.file, "lora_unet_norm.w_norm"), norm);
  EXPECT_EQ(valuesOf(merged.file, "lora_unet_x.diff_b"), std::vector<float>{1});
}

TEST(Policies, TensorsWithoutEndAreRefused) {
  Header header;
  header.tensors = {{kKohyaModule + ".lora_down.weight", DType::F32, {2, 6}, 0, 0},
                    {kKohyaModule + ".lora_up.weight", DType::F32, {5, 2}, 0, 0},
                    {"lora_unet_a.w_norm", DType::U8, {uint64_t{1} << 35}, 0, 0},
                    {"lora_unet_b.w_norm", DType::U8, {uint64_t{1} << 35}, 0, 0}};
  const auto planned = [&] {
    const std::string text = must(safetensors::writeHeader(header));
    Session session(1);
    EXPECT_TRUE(
        session.addAdapter({"a", "a", ""}, std::as_bytes(std::span(text)), header.tensors.back().end, {}));
    Recipe recipe;
    recipe.policies = {{ExtraKind::Norm, Policy::First}};
    return session.makePlan(recipe);
  };
  expectCode(planned(), Code::sizeOverflow);
  header.tensors.back().shape = {(uint64_t{1} << 35) - (uint64_t{1} << 20)};
  EXPECT_TRUE(planned());
}

TEST(Policies, ThatCannotBeFollowedAreRefused) {
  Random random(29);
  const Pair pair = randomPair(random, 2, 6, 5);
  const auto merged = [&](std::vector<std::pair<ExtraKind, Policy>> policies, const std::vector<float>& norm,
                          const std::string& format = "same") {
    Recipe recipe;
    recipe.weights = {1, -1};
    recipe.method = "svd";
    recipe.policies = std::move(policies);
    recipe.format = format;
    return mergeAll({withExtras("x", pair, {1, 2}, {1}), withExtras("y", pair, norm, {2})}, recipe);
  };
  expectCode(merged({{ExtraKind::Dora, Policy::Average}}, {1, 2}), Code::badPolicy);
  expectCode(merged({{ExtraKind::Norm, Policy::Sum}, {ExtraKind::Diff, Policy::Drop}}, {1, 2, 3}),
             Code::shapeMismatch);
  expectCode(merged({{ExtraKind::Norm, Policy::Average}, {ExtraKind::Diff, Policy::Drop}}, {1, 2}),
             Code::badWeights);
  expectCode(merged({{ExtraKind::Norm, Policy::Sum}, {ExtraKind::Diff, Policy::Drop}}, {1, NAN}),
             Code::notFinite);
  expectCode(merged({{ExtraKind::Norm, Policy::Sum}, {ExtraKind::Diff, Policy::Drop}}, {1, 2}, "diffusers"),
             Code::badFormat);
}

TEST(Policies, SumsThatTheirDtypeCannotHoldAreRefused) {
  Random random(33);
  const Pair pair = randomPair(random, 2, 6, 5);
  const auto adapter = [&](DType dtype) {
    return TestAdapter{"x",
                       makeSafetensors({matrix(kKohyaModule + ".lora_down.weight", DType::F32, 2, 6, pair.a),
                                        matrix(kKohyaModule + ".lora_up.weight", DType::F32, 5, 2, pair.b),
                                        {"lora_unet_norm.w_norm", dtype, {2}, {40000, -1}}}),
                       ""};
  };
  Recipe recipe;
  recipe.policies = {{ExtraKind::Norm, Policy::Sum}};
  const std::string text =
      expectCode(mergeAll({adapter(DType::F16), adapter(DType::F16)}, recipe), Code::valueOverflow);
  EXPECT_NE(text.find("lora_unet_norm.w_norm"), std::string::npos) << text;
  // Two dtypes become F32.
  const Merged merged = must(mergeAll({adapter(DType::F16), adapter(DType::BF16)}, recipe));
  EXPECT_EQ(valuesOf(merged.file, "lora_unet_norm.w_norm")[1], -2);
  recipe.policies = {{ExtraKind::Norm, Policy::Average}};
  EXPECT_TRUE(mergeAll({adapter(DType::F16), adapter(DType::F16)}, recipe));
}

TEST(Policies, ConfigsOfPeftSayWhatIsKept) {
  Random random(30);
  TestAdapter adapter = sampleOf(Dialect::Peft, pairsFor(Dialect::Peft, 31)).adapter;
  const Header header = headerOf(adapter.file);
  std::vector<NamedTensor> tensors;
  for (const TensorInfo& tensor : header.tensors)
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, valuesOf(adapter.file, tensor.name)});
  tensors.push_back({"base_model.model.lm_head.weight", DType::F32, {3, 2}, randomValues(random, 6)});
  adapter.file = makeSafetensors(tensors);
  adapter.config = R"({"peft_type":"LORA","r":4,"lora_alpha":8,"modules_to_save":["lm_head"]})";
  expectCode(mergeAll({adapter}, {}), Code::unsupportedTensors);
  Recipe recipe;
  recipe.policies = {{ExtraKind::ModulesToSave, Policy::First}};
  const Merged kept = must(mergeAll({adapter}, recipe));
  EXPECT_EQ(valuesOf(kept.file, "base_model.model.lm_head.weight"), tensors.back().values);
  EXPECT_EQ(must(parseJson(kept.plan.config, Code::badConfig))["modules_to_save"], Json({"lm_head"}));
  recipe.policies = {{ExtraKind::ModulesToSave, Policy::Drop}};
  const Merged dropped = must(mergeAll({adapter}, recipe));
  EXPECT_TRUE(must(parseJson(dropped.plan.config, Code::badConfig))["modules_to_save"].is_null());
  EXPECT_FALSE(dropped.plan.notices.empty());
}

TEST(Policies, BiasesOfFactorsGoThroughTheirModulesScale) {
  Random random(33);
  const Pair pair = randomPair(random, 2, 6, 3);
  const auto adapter = [&](const char* name, double alpha, const std::vector<float>& bias) {
    const std::string key = "base_model.model." + pair.path;
    return TestAdapter{
        name,
        makeSafetensors({matrix(key + ".lora_A.weight", DType::F32, pair.rank, pair.in, pair.a),
                         matrix(key + ".lora_B.weight", DType::F32, pair.out, pair.rank, pair.b),
                         {key + ".lora_B.bias", DType::F32, {bias.size()}, bias}}),
        R"({"peft_type":"LORA","r":2,"lora_bias":true,"lora_alpha":)" + std::to_string(alpha) + "}"};
  };
  const std::vector<TestAdapter> adapters = {adapter("x", 4, {1, 2, 3}), adapter("y", 8, {10, 20, 30})};
  Recipe recipe;
  recipe.method = "cat";
  recipe.weights = {1, 0.5};
  expectCode(mergeAll(adapters, recipe), Code::unsupportedTensors);
  recipe.policies = {{ExtraKind::LoraBias, Policy::Sum}};
  const Merged merged = must(mergeAll(adapters, recipe));
  // The outputs' delta is scale (B A x + bias): 2 (1, 2, 3) + 0.5 * 4 (10, 20, 30), at scale 1.
  const std::string key = "base_model.model.layer.lora_B.bias";
  EXPECT_EQ(valuesOf(merged.file, key), (std::vector<float>{22, 44, 66}));
  EXPECT_EQ(must(parseJson(merged.plan.config, Code::badConfig))["lora_bias"], true);
  recipe.policies = {{ExtraKind::LoraBias, Policy::First}};
  EXPECT_EQ(valuesOf(must(mergeAll(adapters, recipe)).file, key), (std::vector<float>{2, 4, 6}));
  // A conversion keeps scale and bias as they are.
  recipe.weights = {};
  recipe.keepScales = true;
  EXPECT_EQ(valuesOf(must(mergeAll({adapters[1]}, recipe)).file, key), (std::vector<float>{10, 20, 30}));
  recipe.policies = {{ExtraKind::LoraBias, Policy::Drop}};
  EXPECT_EQ(must(parseJson(must(mergeAll({adapters[1]}, recipe)).plan.config, Code::badConfig))["lora_bias"],
            false);
}

}  // namespace
}  // namespace lego::testing

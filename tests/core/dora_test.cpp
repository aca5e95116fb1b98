// DoRA: merges against the definition, W' = diag(m) (W + s B A) / |W + s B A|, in double.
#include <cmath>

#include "core/dense.h"
#include "core/fixtures.h"
#include "format/json.h"
#include "linalg/row_norms.h"
#include "tensor/convert.h"

namespace lego::testing {
namespace {

using File = std::vector<std::byte>;

/// A module of a DoRA adapter. `weight` is the base model's, `magnitude` empty in a plain adapter.
struct DoraModule {
  Pair pair;
  std::vector<float> magnitude;
};

const std::vector<std::string> kPaths = {"model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"};

std::vector<float> randomWeight(uint64_t seed, uint64_t count) {
  Random random(seed);
  std::vector<float> values;
  for (uint64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(4 * random.uniform() - 2));
  return values;
}

/// W + scale B A of one module, `weight` row-major out x in.
Dense sumOf(const std::vector<float>& weight, const Pair& pair, double scale) {
  return denseOf({weight.begin(), weight.end()}, pair.out, pair.in) + scale * denseOf(pair);
}

/// What the adapter makes of the weight.
Dense changed(const std::vector<float>& weight, const DoraModule& module, double scale) {
  Dense result = sumOf(weight, module.pair, scale);
  for (size_t o = 0; o < module.magnitude.size(); ++o) {
    const auto row = static_cast<Eigen::Index>(o);
    result.row(row) *= module.magnitude[o] / result.row(row).norm();
  }
  return result;
}

/// An adapter of kPaths, magnitudes a few percent away from the rows' norms.
std::vector<DoraModule> randomModules(uint64_t seed, const std::vector<std::vector<float>>& weights,
                                      bool isDora, double scale) {
  Random random(seed);
  std::vector<DoraModule> modules;
  for (size_t m = 0; m < kPaths.size(); ++m) {
    const uint64_t in = m == 0 ? 300 : 17, out = weights[m].size() / in;
    DoraModule module{randomPair(random, 3, in, out, kPaths[m]), {}};
    const Dense sum = sumOf(weights[m], module.pair, scale);
    for (Eigen::Index o = 0; isDora && o < sum.rows(); ++o)
      module.magnitude.push_back(static_cast<float>(sum.row(o).norm() * (0.9 + 0.2 * random.uniform())));
    modules.push_back(std::move(module));
  }
  return modules;
}

constexpr double kScale = 2;  // alpha 6 over rank 3

TestAdapter peftOf(const std::string& name, const std::vector<DoraModule>& modules, bool isDora) {
  std::vector<NamedTensor> tensors;
  for (const auto& [pair, magnitude] : modules) {
    const std::string key = "base_model.model." + pair.path;
    tensors.push_back({key + ".lora_A.weight", DType::F32, {pair.rank, pair.in}, pair.a});
    tensors.push_back({key + ".lora_B.weight", DType::F32, {pair.out, pair.rank}, pair.b});
    if (!magnitude.empty())
      tensors.push_back({key + ".lora_magnitude_vector", DType::F32, {magnitude.size()}, magnitude});
  }
  return {
      name, makeSafetensors(tensors),
      std::string(R"({"peft_type":"LORA","r":3,"lora_alpha":6,"use_dora":)") + (isDora ? "true}" : "false}")};
}

/// The module of a merged file, whose scale is 1.
DoraModule moduleOf(const Merged& merged, const std::string& path) {
  return {pairOf(merged, path), valuesOf(merged.file, "base_model.model." + path + ".lora_magnitude_vector")};
}

struct Dora : ::testing::Test {
  std::vector<std::vector<float>> weights = {randomWeight(1, 9 * 300), randomWeight(2, 21 * 17)};
  // In two shards, with tensors that belong to nothing here.
  std::vector<File> base = {makeSafetensors({{"model.norm.weight", DType::F32, {4}, {1, 1, 1, 1}},
                                             {kPaths[0] + ".weight", DType::F32, {9, 300}, weights[0]}}),
                            makeSafetensors({{kPaths[1] + ".weight", DType::F32, {21, 17}, weights[1]}})};
  std::vector<std::vector<DoraModule>> modules = {randomModules(3, weights, true, kScale),
                                                  randomModules(4, weights, true, kScale),
                                                  randomModules(5, weights, false, kScale)};
  std::vector<TestAdapter> adapters = {peftOf("x", modules[0], true), peftOf("y", modules[1], true),
                                       peftOf("plain", modules[2], false)};

  Result<Merged> merge(const std::vector<TestAdapter>& given, const Recipe& recipe, size_t threads = 1) {
    return mergeAll(given, recipe, threads, kFastKernels, base);
  }
  /// |W* - W' | / |W' - W| of one module, W' = W + the weighted sum of what the adapters change.
  double distance(const Merged& merged, size_t m, const std::vector<double>& factors) const {
    const Dense before = sumOf(weights[m], modules[0][m].pair, 0);
    Dense change = Dense::Zero(before.rows(), before.cols());
    for (size_t i = 0; i < factors.size(); ++i)
      change += factors[i] * (changed(weights[m], modules[i][m], kScale) - before);
    const Dense made = changed(weights[m], moduleOf(merged, kPaths[m]), 1) - before;
    return (made - change).norm() / change.norm();
  }
};

Recipe recipeOf(const std::string& method, std::vector<double> weights = {}) {
  Recipe recipe;
  recipe.method = method;
  recipe.weights = std::move(weights);
  return recipe;
}

TEST_F(Dora, IsMergedExactlyWithTheBaseModelsWeights) {
  const std::vector<double> factors = {1, -0.5, 0.75};
  const Merged merged = must(merge(adapters, recipeOf("cat", factors)));
  for (size_t m = 0; m < kPaths.size(); ++m) EXPECT_LT(distance(merged, m, factors), 1e-5) << kPaths[m];
  const Json config = must(parseJson(merged.plan.config, Code::badConfig));
  EXPECT_EQ(config["use_dora"], true);
  for (const ExtraFate& fate : merged.plan.extraFates) EXPECT_EQ(fate.policy, Policy::Merge);
  // The same at full rank, doubled, and on several threads.
  Recipe recipe = recipeOf("svd", factors);
  recipe.rank = 9;
  recipe.scale = 2;
  const Merged other = must(merge(adapters, recipe));
  for (size_t m = 0; m < kPaths.size(); ++m) EXPECT_LT(distance(other, m, {2, -1, 1.5}), 1e-5) << kPaths[m];
  EXPECT_EQ(must(merge(adapters, recipe, 2)).file, other.file);
}

TEST_F(Dora, ComesBackFromEveryMethodThatGivesAnAdapterBack) {
  for (const MethodInfo& method : methods()) {
    if (method.reshapes || method.family == MethodFamily::Factors) continue;
    SCOPED_TRACE(method.name);
    const size_t copies = method.family == MethodFamily::ExactSum ? 1 : 2;
    const bool isAlone = method.mostAdapters < 2;
    Recipe recipe = recipeOf(method.name);
    if (method.choosesRank()) recipe.rank = 3;
    const auto merged = merge(std::vector<TestAdapter>(isAlone ? 1 : copies, adapters[0]), recipe);
    // What drops entries by chance gives something else.
    const bool drops = std::string_view(method.name).find("dare") != std::string_view::npos ||
                       std::string_view(method.name).find("della") != std::string_view::npos ||
                       std::string_view(method.name).find("prune") != std::string_view::npos ||
                       std::string_view(method.name).find("ties") != std::string_view::npos ||
                       std::string_view(method.name) == "breadcrumbs" ||
                       std::string_view(method.name) == "slerp";
    ASSERT_TRUE(merged || std::string_view(method.name) == "slerp") << describe(merged.error());
    if (drops) continue;
    for (size_t m = 0; m < kPaths.size(); ++m) EXPECT_LT(distance(*merged, m, {1}), 1e-3) << kPaths[m];
  }
}

TEST_F(Dora, ComesThroughAConversionAsItIs) {
  Recipe recipe = recipeOf("cat");
  recipe.keepScales = true;
  const Merged converted = must(mergeAll({adapters[0]}, recipe));
  for (const std::string& path : kPaths) {
    const std::string key = "base_model.model." + path;
    for (const char* part : {".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"})
      EXPECT_EQ(valuesOf(converted.file, key + part), valuesOf(adapters[0].file, key + part)) << key << part;
  }
  EXPECT_EQ(must(parseJson(converted.plan.config, Code::badConfig))["use_dora"], true);
  recipe.format = "mlx";
  expectCode(mergeAll({adapters[0]}, recipe), Code::unsupportedTensors);
}

TEST_F(Dora, OfConvolutionsAndDiffusersIsMerged) {
  Random random(6);
  Pair pair = randomPair(random, 2, 3 * 9, 5, "unet.down_blocks.0.conv");
  const std::vector<float> weight = randomWeight(7, 5 * 27), magnitude = randomWeight(8, 5);
  const TestAdapter adapter{
      "x",
      makeSafetensors({{pair.path + ".lora_A.weight", DType::F32, {2, 3, 3, 3}, pair.a},
                       {pair.path + ".lora_B.weight", DType::F32, {5, 2, 1, 1}, pair.b},
                       {pair.path + ".lora_magnitude_vector.weight", DType::F32, {1, 5, 1, 1}, magnitude}}),
      ""};
  // As the UNet's own file calls it.
  base = {makeSafetensors({{"down_blocks.0.conv.weight", DType::F32, {5, 3, 3, 3}, weight}})};
  const Merged merged = must(merge({adapter}, recipeOf("cat", {0.5})));
  const Header header = headerOf(merged.file);
  EXPECT_EQ(header.tensors.back().name, pair.path + ".lora_magnitude_vector");
  EXPECT_EQ(header.tensors.back().shape, (std::vector<uint64_t>{1, 5, 1, 1}));
  const Dense before = sumOf(weight, pair, 0),
              change = 0.5 * (changed(weight, {pair, magnitude}, 1) - before);
  const DoraModule made{{pair.path, 2, 27, 5, valuesOf(merged.file, pair.path + ".lora_A.weight"),
                         valuesOf(merged.file, pair.path + ".lora_B.weight")},
                        valuesOf(merged.file, pair.path + ".lora_magnitude_vector")};
  EXPECT_LT((changed(weight, made, 1) - before - change).norm() / change.norm(), 1e-5);
  EXPECT_NE(merged.plan.header.find("use_dora"), std::string::npos);
}

TEST_F(Dora, WithoutWhatItNeedsIsRefused) {
  expectCode(mergeAll(adapters, recipeOf("cat")), Code::unsupportedTensors);
  Recipe recipe = recipeOf("cat");
  recipe.policies = {{ExtraKind::Dora, Policy::Merge}};
  expectCode(mergeAll(adapters, recipe), Code::baseMissing);
  // Dropped where the user wants that, the base model given or not.
  recipe.policies = {{ExtraKind::Dora, Policy::Drop}};
  const Merged dropped = must(merge(adapters, recipe));
  EXPECT_EQ(must(parseJson(dropped.plan.config, Code::badConfig))["use_dora"], false);
  EXPECT_EQ(dropped.file, must(mergeAll(adapters, recipe)).file);
  expectCode(merge(adapters, recipeOf("peft_linear")), Code::unsupportedAdapter);
  // A magnitude is missing, or of another length.
  auto less = modules[0];
  less[1].magnitude.clear();
  expectCode(merge({peftOf("less", less, true), adapters[1]}, recipeOf("cat")), Code::unpairedFactor);
  less[1].magnitude = {1, 2};
  expectCode(merge({peftOf("less", less, true), adapters[1]}, recipeOf("cat")), Code::shapeMismatch);
  TestAdapter turned = adapters[0];
  turned.config.insert(1, R"("fan_in_fan_out":true,)");
  expectCode(merge({turned}, recipeOf("cat")), Code::unsupportedAdapter);
  // kohya's magnitudes, which programs read in different ways.
  const Pair pair = modules[0][1].pair;
  const TestAdapter kohya{
      "k",
      makeSafetensors({{"lora_unet_x.lora_down.weight", DType::F32, {3, 17}, pair.a},
                       {"lora_unet_x.lora_up.weight", DType::F32, {21, 3}, pair.b},
                       {"lora_unet_x.dora_scale", DType::F32, {21, 1}, randomWeight(1, 21)}}),
      ""};
  expectCode(merge({kohya}, recipeOf("cat")), Code::unsupportedTensors);
  recipe.policies = {{ExtraKind::Dora, Policy::Merge}};
  expectCode(merge({kohya}, recipe), Code::badPolicy);
}

TEST_F(Dora, BaseWeightsAreFoundOrTheModuleIsNamed) {
  const std::vector<File> good = base;
  base = {good[0]};
  const std::string missing = expectCode(merge(adapters, recipeOf("cat")), Code::baseMissing);
  EXPECT_NE(missing.find(kPaths[1]), std::string::npos) << missing;
  base = {good[0], makeSafetensors({{kPaths[1] + ".weight", DType::F32, {17, 21}, weights[1]}})};
  const std::string other = expectCode(merge(adapters, recipeOf("cat")), Code::baseMissing);
  EXPECT_NE(other.find("[17, 21]"), std::string::npos) << other;
  base = {good[0], good[1], good[1]};
  expectCode(merge(adapters, recipeOf("cat")), Code::baseMissing);
  auto broken = weights[1];
  broken[5] = NAN;
  base = {good[0], makeSafetensors({{kPaths[1] + ".weight", DType::F32, {21, 17}, broken}})};
  expectCode(merge(adapters, recipeOf("cat")), Code::notFinite);
  // Also where no adapter's magnitude meets it.
  auto plain = modules[0];
  plain[1].magnitude.clear();
  const std::string none =
      expectCode(merge({peftOf("plain", plain, false)}, recipeOf("cat")), Code::notFinite);
  EXPECT_NE(none.find(kPaths[1] + ".weight"), std::string::npos) << none;
}

TEST_F(Dora, AnOutputThatVanishesIsRefused) {
  auto gone = modules[0];
  gone[1].magnitude[4] = 0;
  const std::string text =
      expectCode(merge({peftOf("gone", gone, true)}, recipeOf("cat")), Code::valueOverflow);
  EXPECT_NE(text.find("output 4"), std::string::npos) << text;
}

TEST(RowNorms, AreThoseOfTheSum) {
  Random random(9);
  for (const size_t in : {1, 2, 3, 4, 5, 255, 256, 257, 515}) {
    for (const DType dtype : {DType::F32, DType::BF16, DType::F16, DType::F64}) {
      const Pair pair = randomPair(random, 2, in, 3);
      std::vector<float> weight = randomWeight(in, 3 * in);
      std::vector<std::byte> stored(3 * in * bitsOf(dtype) / 8 + 1);
      // At an odd address.
      fromFloat(dtype, weight.data(), weight.size(), stored.data() + 1);
      toFloat(dtype, stored.data() + 1, weight.size(), weight.data());
      std::vector<float> b;
      for (uint64_t r = 0; r < 2; ++r) {
        for (uint64_t o = 0; o < 3; ++o) b.push_back(pair.b[o * 2 + r]);
      }
      const std::vector<double> scales = {1.5, 1.5};
      std::vector<double> norms(3);
      rowNorms(dtype, stored.data() + 1, in, {pair.a.data(), in, b.data(), 3, scales}, norms);
      const Dense sum = sumOf(weight, pair, 1.5);
      for (Eigen::Index o = 0; o < 3; ++o)
        EXPECT_NEAR(norms[static_cast<size_t>(o)], sum.row(o).norm(), 1e-5 * sum.row(o).norm());
    }
  }
}

}  // namespace
}  // namespace lego::testing

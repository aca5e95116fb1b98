// Modules that are several in another format: Flux's q, k and v in one, written from their parts and split
// again.

#include <gtest/gtest.h>

#include <algorithm>

#include "adapter/dialect.h"
#include "core/dense.h"
#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

// Flux.1's is 3072; names of the tables are taken for its modules at any width.
constexpr uint64_t kHidden = 8;

const std::string kDouble = "transformer.transformer_blocks.0.attn.";
const std::string kSingle = "transformer.single_transformer_blocks.1.";

struct Part {
  std::string path;
  uint64_t rank, out;
};
/// In the order of the fused modules' rows.
const std::vector<Part> kQkv = {
    {kDouble + "to_q", 2, kHidden}, {kDouble + "to_k", 1, kHidden}, {kDouble + "to_v", 3, kHidden}};
const std::vector<Part> kLinear1 = {{kSingle + "attn.to_q", 1, kHidden},
                                    {kSingle + "attn.to_k", 2, kHidden},
                                    {kSingle + "attn.to_v", 2, kHidden},
                                    {kSingle + "proj_mlp", 1, 4 * kHidden}};

std::vector<Pair> pairsOf(Random& random, const std::vector<Part>& parts) {
  std::vector<Pair> pairs;
  for (const auto& [path, rank, out] : parts) pairs.push_back(randomPair(random, rank, kHidden, out, path));
  return pairs;
}

/// Pairs under the names of diffusers or kohya; `scale` of each in its alpha, 0: it has none.
TestAdapter adapterOf(Dialect dialect, const std::vector<Pair>& pairs, const std::vector<double>& scales = {},
                      DType dtype = DType::F32) {
  const bool isDiffusers = dialect == Dialect::Diffusers;
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto& [path, rank, in, out, a, b] = pairs[i];
    tensors.push_back({path + (isDiffusers ? ".lora_A.weight" : ".lora_down.weight"), dtype, {rank, in}, a});
    tensors.push_back({path + (isDiffusers ? ".lora_B.weight" : ".lora_up.weight"), dtype, {out, rank}, b});
    if (!scales.empty())
      tensors.push_back(
          {path + ".alpha", DType::F32, {}, {static_cast<float>(scales[i] * static_cast<double>(rank))}});
  }
  return {infoOf(dialect).name, makeSafetensors(tensors), ""};
}

/// A module's factors as they stand in a file of kohya, ComfyUI or diffusers, and what its alpha makes of
/// them.
Pair readPair(const Merged& merged, const std::string& path, double* scale = nullptr) {
  const bool isDiffusers = merged.plan.dialect == Dialect::Diffusers;
  const std::string a = path + (isDiffusers ? ".lora_A.weight" : ".lora_down.weight");
  const std::string b = path + (isDiffusers ? ".lora_B.weight" : ".lora_up.weight");
  Pair pair{path, 0, 0, 0, valuesOf(merged.file, a), valuesOf(merged.file, b)};
  for (const TensorInfo& tensor : headerOf(merged.file).tensors) {
    if (tensor.name == a) pair.rank = tensor.shape[0], pair.in = tensor.shape[1];
    if (tensor.name == b) pair.out = tensor.shape[0];
  }
  if (scale) *scale = valuesOf(merged.file, path + ".alpha").at(0) / static_cast<double>(pair.rank);
  return pair;
}

Dense deltaOf(const Merged& merged, const std::string& path) {
  double scale = 1;
  const Pair pair = readPair(merged, path, &scale);
  return scale * denseOf(pair);
}

/// The parts' deltas, one above the other.
Dense stacked(const std::vector<Pair>& parts, const std::vector<double>& scales = {}) {
  uint64_t rows = 0;
  for (const Pair& pair : parts) rows += pair.out;
  Dense whole(static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(parts[0].in));
  Eigen::Index row = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Dense part = (scales.empty() ? 1 : scales[i]) * denseOf(parts[i]);
    whole.middleRows(row, part.rows()) = part;
    row += part.rows();
  }
  return whole;
}

double distance(const Dense& x, const Dense& y) { return (x - y).norm() / y.norm(); }

struct Names {
  const char *qkv, *linear1, *projection, *last;
};
Names namesOf(const std::string& format) {
  if (format == "kohya")
    return {"lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_1_linear1",
            "lora_unet_double_blocks_0_img_attn_proj", "lora_unet_final_layer_adaLN_modulation_1"};
  return {"diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.single_blocks.1.linear1",
          "diffusion_model.double_blocks.0.img_attn.proj", "diffusion_model.final_layer.adaLN_modulation.1"};
}

TEST(Fused, PartsStandSideBySide) {
  Random random(1);
  std::vector<Pair> qkv = pairsOf(random, kQkv), linear1 = pairsOf(random, kLinear1);
  std::vector<Pair> pairs = qkv;
  pairs.insert(pairs.end(), linear1.begin(), linear1.end());
  pairs.push_back(randomPair(random, 2, kHidden, kHidden, kDouble + "to_out.0"));
  for (const char* format : {"kohya", "comfy"}) {
    const auto [nameOfQkv, nameOfLinear1, projection, last] = namesOf(format);
    const Merged merged = must(mergeAll({adapterOf(Dialect::Diffusers, pairs)}, converting(format)));
    EXPECT_EQ(merged.plan.modules.size(), 8u);
    EXPECT_EQ(merged.reports.size(), 8u);
    EXPECT_EQ(merged.plan.pairs.size(), 3u);
    for (const auto& [name, parts] : {std::pair(nameOfQkv, &qkv), std::pair(nameOfLinear1, &linear1)}) {
      const Pair fused = readPair(merged, name);
      EXPECT_EQ(fused.rank, 6u);
      EXPECT_LT(distance(deltaOf(merged, name), stacked(*parts)), 1e-12) << name;
      // Each part has its ranks, bit by bit, and elsewhere they do nothing.
      uint64_t rank = 0, row = 0;
      for (const Pair& part : *parts) {
        for (uint64_t i = 0; i < part.a.size(); ++i) EXPECT_EQ(fused.a[rank * kHidden + i], part.a[i]);
        for (uint64_t o = 0; o < fused.out; ++o) {
          const bool isOwn = o >= row && o < row + part.out;
          for (uint64_t q = 0; q < part.rank; ++q)
            EXPECT_EQ(fused.b[o * fused.rank + rank + q], isOwn ? part.b[(o - row) * part.rank + q] : 0);
        }
        rank += part.rank;
        row += part.out;
      }
    }
    EXPECT_EQ(readPair(merged, projection).a, pairs.back().a);
    // The parts are packed by several threads.
    EXPECT_EQ(must(mergeAll({adapterOf(Dialect::Diffusers, pairs)}, converting(format), 4)).file,
              merged.file);
    // Split again, each part has the rows of all: the same delta.
    const Merged split = must(mergeAll({asAdapter(merged)}, converting("diffusers")));
    for (const Pair& pair : pairs)
      EXPECT_LT(distance(denseOf(readPair(split, pair.path)), denseOf(pair)), 1e-12) << pair.path;
  }
}

TEST(Fused, PartsThatAreMissingAreZero) {
  Random random(2);
  const std::vector<Pair> qkv = pairsOf(random, kQkv);
  const Merged merged =
      must(mergeAll({adapterOf(Dialect::Diffusers, {qkv[0], qkv[2]})}, converting("kohya")));
  const auto names = namesOf("kohya");
  EXPECT_EQ(readPair(merged, names.qkv).rank, 5u);
  Dense whole = stacked(qkv);
  whole.middleRows(kHidden, kHidden).setZero();
  EXPECT_LT(distance(deltaOf(merged, names.qkv), whole), 1e-12);
  // So are those that a recipe leaves out.
  Recipe recipe = converting("kohya");
  recipe.moduleWeights = {{0, "*to_k", 0}};
  EXPECT_EQ(valuesOf(must(mergeAll({adapterOf(Dialect::Diffusers, qkv)}, recipe)).file,
                     std::string(names.qkv) + ".lora_up.weight"),
            valuesOf(merged.file, std::string(names.qkv) + ".lora_up.weight"));
}

TEST(Fused, HaveOneAlpha) {
  Random random(3);
  const std::vector<Pair> qkv = pairsOf(random, kQkv);
  const auto names = namesOf("kohya");
  for (const std::vector<double>& scales : {std::vector<double>{2, 2, 2}, {2, 0.5, 1}, {0.5, 0.5, 1}}) {
    const Merged merged = must(mergeAll({adapterOf(Dialect::Diffusers, qkv, scales)}, converting("kohya")));
    double scale = 0;
    const Pair fused = readPair(merged, names.qkv, &scale);
    const bool isShared = scales[0] == scales[2];
    EXPECT_EQ(scale, isShared ? 2 : 1);
    EXPECT_LT(distance(deltaOf(merged, names.qkv), stacked(qkv, scales)), 1e-6);
    // A is never scaled.
    EXPECT_TRUE(std::equal(qkv[0].a.begin(), qkv[0].a.end(), fused.a.begin()));
  }
}

TEST(Fused, StayWholeBetweenFormatsThatHaveThem) {
  Random random(4);
  const auto kohya = namesOf("kohya"), comfy = namesOf("comfy");
  const Pair qkv = randomPair(random, 4, kHidden, 3 * kHidden, kohya.qkv),
             linear1 = randomPair(random, 2, kHidden, 7 * kHidden, kohya.linear1),
             last = randomPair(random, 3, kHidden, 2 * kHidden, kohya.last);
  const TestAdapter adapter = adapterOf(Dialect::Kohya, {qkv, linear1, last}, {2, 2, 0.5});
  const Merged there = must(mergeAll({adapter}, converting("comfy")));
  EXPECT_EQ(there.plan.modules.size(), 3u);
  for (const auto& [name, pair] :
       {std::pair(comfy.qkv, &qkv), std::pair(comfy.linear1, &linear1), std::pair(comfy.last, &last)}) {
    EXPECT_EQ(readPair(there, name).a, pair->a) << name;
    EXPECT_EQ(readPair(there, name).b, pair->b) << name;
  }
  const Merged back = must(mergeAll({asAdapter(there)}, converting("kohya")));
  for (const TensorInfo& tensor : headerOf(adapter.file).tensors)
    EXPECT_EQ(valuesOf(back.file, tensor.name), valuesOf(adapter.file, tensor.name)) << tensor.name;
  // Merged with each other too, and with what is stored in another way.
  Recipe recipe;
  recipe.method = "svd";
  recipe.rank = 4;
  recipe.format = "comfy";
  const Merged sum = must(mergeAll({adapter, asAdapter(there)}, recipe));
  EXPECT_LT(distance(deltaOf(sum, comfy.qkv), 4 * denseOf(qkv)), 1e-5);
  Pair diff = randomPair(random, 1, kHidden, 3 * kHidden);
  std::vector<float> values;
  for (const double value : delta(diff, 1)) values.push_back(static_cast<float>(value));
  const TestAdapter full{
      "full",
      makeSafetensors({{std::string(kohya.qkv) + ".diff", DType::F32, {3 * kHidden, kHidden}, values}}), ""};
  EXPECT_LT(distance(deltaOf(must(mergeAll({full}, converting("comfy"))), comfy.qkv), denseOf(diff)), 1e-6);
}

TEST(Fused, AreMergedWithTheirParts) {
  Random random(5);
  const std::vector<Pair> parts = pairsOf(random, kQkv);
  const auto kohya = namesOf("kohya");
  const Pair whole = randomPair(random, 2, kHidden, 3 * kHidden, kohya.qkv);
  const std::vector<TestAdapter> adapters = {adapterOf(Dialect::Kohya, {whole}),
                                             adapterOf(Dialect::Diffusers, parts)};
  Recipe recipe;
  recipe.method = "cat";
  recipe.weights = {0.5, -2};
  const Dense exact = 0.5 * denseOf(whole) - 2 * stacked(parts);
  recipe.format = "kohya";
  EXPECT_LT(distance(deltaOf(must(mergeAll(adapters, recipe)), kohya.qkv), exact), 1e-5);
  recipe.format = "same";
  const Merged split = must(mergeAll(adapters, recipe));
  EXPECT_EQ(split.plan.dialect, Dialect::Diffusers);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Dense own = exact.middleRows(static_cast<Eigen::Index>(i * kHidden), kHidden);
    EXPECT_LT(distance(denseOf(readPair(split, parts[i].path)), own), 1e-5);
  }
}

/// OneTrainer flattens the names of diffusers, in files that are otherwise kohya's.
TEST(Fused, AreSplitWhereAnotherFileHasTheParts) {
  Random random(9);
  const auto kohya = namesOf("kohya"), comfy = namesOf("comfy");
  const Pair whole = randomPair(random, 2, kHidden, 3 * kHidden, kohya.qkv);
  std::vector<Pair> parts = pairsOf(random, kQkv);
  for (Pair& part : parts)
    part.path = "lora_transformer_transformer_blocks_0_attn_" + part.path.substr(kDouble.size());
  Recipe recipe;
  recipe.method = "cat";
  recipe.format = "comfy";
  const Merged merged =
      must(mergeAll({adapterOf(Dialect::Kohya, {whole}), adapterOf(Dialect::Kohya, parts)}, recipe));
  EXPECT_LT(distance(deltaOf(merged, comfy.qkv), denseOf(whole) + stacked(parts)), 1e-6);
}

/// The original code has shift and scale, diffusers scale and shift.
TEST(Fused, RowsInAnotherOrderAreExchanged) {
  Random random(6);
  const auto kohya = namesOf("kohya");
  const Pair original = randomPair(random, 2, kHidden, 2 * kHidden, kohya.last);
  Pair exchanged = original;
  std::rotate(exchanged.b.begin(), exchanged.b.begin() + 2 * kHidden, exchanged.b.end());
  const std::string path = "transformer.norm_out.linear";
  for (const DType dtype : {DType::F32, DType::F16, DType::F64}) {
    const Merged there =
        must(mergeAll({adapterOf(Dialect::Kohya, {original}, {}, dtype)}, converting("diffusers")));
    EXPECT_EQ(readPair(there, path).a, rounded(original, dtype).a);
    EXPECT_EQ(readPair(there, path).b, rounded(exchanged, dtype).b);
    const Merged back = must(mergeAll({asAdapter(there)}, converting("kohya")));
    EXPECT_EQ(readPair(back, kohya.last).a, rounded(original, dtype).a);
    EXPECT_EQ(readPair(back, kohya.last).b, rounded(original, dtype).b);
  }
}

/// A budget counts the zeros beside each part's rows.
TEST(Fused, FitIntoABudget) {
  Random random(7);
  std::vector<Part> parts = kQkv;
  for (Part& part : parts) part.rank = 6;
  const std::vector<TestAdapter> adapters = {adapterOf(Dialect::Diffusers, pairsOf(random, parts)),
                                             adapterOf(Dialect::Diffusers, pairsOf(random, parts))};
  Recipe recipe;
  recipe.method = "svd";
  recipe.format = "kohya";
  recipe.rule = {RankRule::Kind::Size, 2200};
  recipe.metadata = false;
  const Merged merged = must(mergeAll(adapters, recipe));
  EXPECT_LE(merged.file.size(), 2200u);
  EXPECT_GT(merged.file.size(), 1900u);
}

TEST(Fused, PartsOfDifferentWidthsAreRefused) {
  Random random(8);
  const TestAdapter adapter = adapterOf(
      Dialect::Diffusers,
      {randomPair(random, 1, 8, 8, kDouble + "to_q"), randomPair(random, 1, 16, 16, kDouble + "to_k")});
  const std::string text = expectCode(mergeAll({adapter}, converting("kohya")), Code::shapeMismatch);
  EXPECT_NE(text.find("to_k"), std::string::npos) << text;
  // A shape that is not Flux.1's has no place.
  const TestAdapter other = adapterOf(Dialect::Diffusers, {randomPair(random, 1, 8, 12, kDouble + "to_q")});
  expectCode(mergeAll({other}, converting("kohya")), Code::badFormat);
}

}  // namespace
}  // namespace lego::testing

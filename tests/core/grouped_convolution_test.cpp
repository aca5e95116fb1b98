// Convolutions in groups: each group is a module.

#include <gtest/gtest.h>

#include "core/dense.h"
#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

/// A convolution of three groups, 3 x 3, from 4 channels to 6, of rank 6 and scale 2: each group has two
/// ranks and two outputs of its own.
struct Grouped {
  static constexpr uint64_t kGroups = 3, kOwn = 2, kColumns = 4 * 9;
  std::vector<float> a, b;

  explicit Grouped(uint64_t seed) {
    Random random(seed);
    const Pair pair = randomPair(random, kOwn, kGroups * kColumns, kGroups * kOwn);
    a = pair.a;
    b = pair.b;
  }
  TestAdapter adapter(const std::string& more = "") const {
    const std::string key = "base_model.model.conv";
    return {"x",
            makeSafetensors({{key + ".lora_A.weight", DType::F32, {kGroups * kOwn, 4, 3, 3}, a},
                             {key + ".lora_B.weight", DType::F32, {kGroups * kOwn, kOwn, 1, 1}, b}}),
            R"({"peft_type":"LORA","r":6,"lora_alpha":12)" + more + "}"};
  }
};

/// Output o sees the ranks of its group alone.
Dense denseOfGroups(const std::vector<float>& a, const std::vector<float>& b, uint64_t rank) {
  constexpr uint64_t kOutputs = Grouped::kGroups * Grouped::kOwn;
  Dense delta = Dense::Zero(kOutputs, Grouped::kColumns);
  for (uint64_t o = 0; o < kOutputs; ++o) {
    for (uint64_t q = 0; q < rank; ++q) {
      const uint64_t row = o / Grouped::kOwn * rank + q;
      for (uint64_t c = 0; c < Grouped::kColumns; ++c)
        delta(static_cast<Eigen::Index>(o), static_cast<Eigen::Index>(c)) +=
            double{b[o * rank + q]} * a[row * Grouped::kColumns + c];
    }
  }
  return delta;
}

TEST(GroupedConvolution, HasAModuleForEachGroup) {
  const Grouped first(30), second(31);
  const std::string key = "base_model.model.conv";
  const Merged converted = must(mergeAll({first.adapter()}, converting()));
  EXPECT_EQ(converted.plan.modules.size(), Grouped::kGroups);
  EXPECT_EQ(converted.plan.modules[1].path, "conv[1]");
  EXPECT_EQ(valuesOf(converted.file, key + ".lora_A.weight"), first.a);
  EXPECT_EQ(valuesOf(converted.file, key + ".lora_B.weight"), first.b);
  EXPECT_NE(converted.plan.config.find("\"r\": 6"), std::string::npos);
  EXPECT_NE(converted.plan.config.find("\"lora_alpha\": 12"), std::string::npos);
  Recipe recipe;
  recipe.method = "cat";
  recipe.weights = {1, -0.5};
  const Merged merged = must(mergeAll({first.adapter(), second.adapter()}, recipe));
  const Header header = headerOf(merged.file);
  EXPECT_EQ(header.tensors[0].shape, (std::vector<uint64_t>{12, 4, 3, 3}));
  EXPECT_EQ(header.tensors[1].shape, (std::vector<uint64_t>{6, 4, 1, 1}));
  const Dense sum = 2 * (denseOfGroups(first.a, first.b, 2) - 0.5 * denseOfGroups(second.a, second.b, 2));
  const Dense made = denseOfGroups(valuesOf(merged.file, key + ".lora_A.weight"),
                                   valuesOf(merged.file, key + ".lora_B.weight"), 4);
  EXPECT_LT((made - sum).norm() / sum.norm(), 1e-6);
  EXPECT_NE(merged.plan.config.find("\"r\": 12"), std::string::npos);
}

TEST(GroupedConvolution, OfOtherShapesIsRefused) {
  Grouped grouped(32);
  expectCode(mergeAll({grouped.adapter(R"(,"rank_pattern":{"conv":4})")}, {}), Code::rankMismatch);
  Recipe recipe;
  recipe.format = "mlx";
  expectCode(mergeAll({grouped.adapter()}, recipe), Code::mixedDialects);
  const std::string key = "base_model.model.conv";
  // Two groups of ranks for seven outputs; in linear layers there are no groups.
  Random random(33);
  const auto file = [&](std::vector<uint64_t> a, std::vector<uint64_t> b) {
    const Pair pair = randomPair(random, 4, 72, 14);
    const auto count = [](const std::vector<uint64_t>& shape) {
      size_t values = 1;
      for (const uint64_t side : shape) values *= side;
      return static_cast<std::ptrdiff_t>(values);
    };
    return TestAdapter{
        "x",
        makeSafetensors(
            {{key + ".lora_A.weight", DType::F32, a, {pair.a.begin(), pair.a.begin() + count(a)}},
             {key + ".lora_B.weight", DType::F32, b, {pair.b.begin(), pair.b.begin() + count(b)}}}),
        R"({"peft_type":"LORA","r":4,"lora_alpha":4})"};
  };
  expectCode(mergeAll({file({4, 2, 3, 3}, {7, 2, 1, 1})}, {}), Code::rankMismatch);
  expectCode(mergeAll({file({4, 2, 3, 3}, {6, 3, 1, 1})}, {}), Code::rankMismatch);
  expectCode(mergeAll({file({4, 18}, {6, 2})}, {}), Code::rankMismatch);
}

}  // namespace
}  // namespace lego::testing

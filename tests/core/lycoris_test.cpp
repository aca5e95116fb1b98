// LyCORIS adapters through whole merges; tensor/expand.h has its own tests.

#include <gtest/gtest.h>

#include <algorithm>

#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

/// A kohya file with one module that LyCORIS stores in its own way, and the delta that its formula gives.
struct LycorisSample {
  const char* name;
  std::vector<NamedTensor> tensors;
  std::vector<double> delta;
  uint64_t units;
};

/// rows x inner times inner x columns.
std::vector<double> product(const std::vector<float>& a, const std::vector<float>& b, size_t rows,
                            size_t inner, size_t columns) {
  std::vector<double> result(rows * columns);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      for (size_t m = 0; m < inner; ++m)
        result[i * columns + j] += double{a[i * inner + m]} * b[m * columns + j];
    }
  }
  return result;
}

std::vector<LycorisSample> lycorisSamples() {
  Random random(23);
  const auto tensor = [](const std::string& suffix, std::vector<uint64_t> shape, std::vector<float> values) {
    return NamedTensor{kKohyaModule + suffix, DType::F32, std::move(shape), std::move(values)};
  };
  const NamedTensor alpha = tensor(".alpha", {}, {6});
  std::vector<LycorisSample> samples;
  {
    const auto w1a = randomValues(random, 8 * 3), w1b = randomValues(random, 3 * 10),
               w2a = randomValues(random, 8 * 3), w2b = randomValues(random, 3 * 10);
    auto dense = product(w1a, w1b, 8, 3, 10);
    const auto second = product(w2a, w2b, 8, 3, 10);
    for (size_t i = 0; i < dense.size(); ++i) dense[i] *= 2 * second[i];
    samples.push_back({"LoHa",
                       {tensor(".hada_w1_a", {8, 3}, w1a), tensor(".hada_w1_b", {3, 10}, w1b),
                        tensor(".hada_w2_a", {8, 3}, w2a), tensor(".hada_w2_b", {3, 10}, w2b), alpha},
                       dense,
                       8});
  }
  {
    const auto w1 = randomValues(random, 2 * 2), w2a = randomValues(random, 4 * 3),
               w2b = randomValues(random, 3 * 5);
    const auto w2 = product(w2a, w2b, 4, 3, 5);
    std::vector<double> dense(8 * 10);
    for (size_t o = 0; o < 8; ++o) {
      for (size_t i = 0; i < 10; ++i)
        dense[o * 10 + i] = 2 * w1[(o / 4) * 2 + i / 5] * w2[(o % 4) * 5 + i % 5];
    }
    samples.push_back({"LoKr",
                       {tensor(".lokr_w1", {2, 2}, w1), tensor(".lokr_w2_a", {4, 3}, w2a),
                        tensor(".lokr_w2_b", {3, 5}, w2b), alpha},
                       dense,
                       6});
  }
  {
    const auto w1 = randomValues(random, 2 * 2), w2 = randomValues(random, 4 * 5);
    std::vector<double> dense(8 * 10);
    // Two full factors: scale 1, whatever alpha says.
    for (size_t o = 0; o < 8; ++o) {
      for (size_t i = 0; i < 10; ++i)
        dense[o * 10 + i] = double{w1[(o / 4) * 2 + i / 5]} * w2[(o % 4) * 5 + i % 5];
    }
    samples.push_back({"LoKr of full factors",
                       {tensor(".lokr_w1", {2, 2}, w1), tensor(".lokr_w2", {4, 5}, w2), alpha},
                       dense,
                       8});
  }
  {
    const auto up = randomValues(random, 8 * 3), down = randomValues(random, 3 * 2),
               mid = randomValues(random, 3 * 3 * 9);
    std::vector<double> dense(8 * 2 * 9);
    for (size_t o = 0; o < 8; ++o) {
      for (size_t i = 0; i < 2; ++i) {
        for (size_t k = 0; k < 9; ++k) {
          for (size_t m = 0; m < 3; ++m) {
            for (size_t n = 0; n < 3; ++n)
              dense[(o * 2 + i) * 9 + k] += 2.0 * mid[(m * 3 + n) * 9 + k] * up[o * 3 + m] * down[n * 2 + i];
          }
        }
      }
    }
    samples.push_back(
        {"LoCon with a core",
         {tensor(".lora_up.weight", {8, 3, 1, 1}, up), tensor(".lora_down.weight", {3, 2, 1, 1}, down),
          tensor(".lora_mid.weight", {3, 3, 3, 3}, mid), alpha},
         dense,
         3});
  }
  {
    const auto diff = randomValues(random, 8 * 10);
    samples.push_back({"full difference", {tensor(".diff", {8, 10}, diff)}, {diff.begin(), diff.end()}, 8});
  }
  return samples;
}

TEST(Lycoris, ExpansionIsTheDenseFormula) {
  for (const LycorisSample& sample : lycorisSamples()) {
    SCOPED_TRACE(sample.name);
    const TestAdapter adapter{"x", makeSafetensors(sample.tensors), ""};
    const Merged converted = must(mergeAll({adapter}, converting()));
    ASSERT_EQ(converted.plan.modules.size(), 1u);
    EXPECT_EQ(converted.plan.modules[0].rank, sample.units);
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(converted), kKohyaModule), sample.delta), 2e-7);
    // Also where the scale has to go into the factors, and on the readable kernels.
    Recipe recipe;
    recipe.method = "svd";
    recipe.rank = static_cast<uint32_t>(sample.units);
    const Merged merged = must(mergeAll({adapter}, recipe));
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(merged), kKohyaModule), sample.delta), 1e-6);
    EXPECT_EQ(must(mergeAll({adapter}, recipe, 1, kReferenceKernels)).file, merged.file);
  }
}

TEST(Lycoris, MergesWithPlainPairsAndIsTruncatedOnRequest) {
  Random random(24);
  for (const LycorisSample& sample : lycorisSamples()) {
    SCOPED_TRACE(sample.name);
    const uint64_t in = sample.delta.size() / 8;
    const Pair pair = randomPair(random, 4, in, 8, kKohyaModule);
    const TestAdapter other = sampleOf(Dialect::Kohya, {pair}).adapter;
    Recipe recipe;
    recipe.method = "svd";
    recipe.weights = {1, -0.5};
    // All that the delta can have.
    recipe.rank = static_cast<uint32_t>(std::min<uint64_t>(8, sample.units + pair.rank));
    const Merged merged = must(mergeAll({{"x", makeSafetensors(sample.tensors), ""}, other}, recipe));
    std::vector<double> sum = sample.delta;
    const auto minus = delta(pair, -0.5 * kScale);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += minus[i];
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(merged), kKohyaModule), sum), 1e-6);
    recipe.rank = 2;
    EXPECT_EQ(must(mergeAll({{"x", makeSafetensors(sample.tensors), ""}, other}, recipe))
                  .plan.modules[0]
                  .a.shape[0],
              2u);
  }
}

TEST(Lycoris, WhatIsNoSumOfUnitsIsListed) {
  Random random(25);
  auto tensors = lycorisSamples()[0].tensors;
  const auto add = [&](const std::string& suffix, std::vector<uint64_t> shape, size_t count) {
    tensors.push_back({kKohyaModule + suffix, DType::F32, std::move(shape), randomValues(random, count)});
  };
  add(".dora_scale", {8, 1}, 8);
  add(".diff_b", {8}, 8);
  add(".oft_blocks", {2, 4, 4}, 32);
  add(".w_norm", {8}, 8);
  Session session(1);
  ASSERT_TRUE(addTo(session, {"x", makeSafetensors(tensors), ""}));
  EXPECT_EQ(session.adapters()[0].catalogue.unsupported.size(), 4u);
  expectCode(session.makePlan({}), Code::unsupportedTensors);
  // Tensors of two algorithms in one module.
  tensors = lycorisSamples()[0].tensors;
  add(".lokr_w1", {2, 2}, 4);
  Session other(1);
  expectCode(addTo(other, {"x", makeSafetensors(tensors), ""}), Code::unpairedFactor);
}

}  // namespace
}  // namespace lego::testing

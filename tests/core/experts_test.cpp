// Mixtures of experts whose factors are stacked: each expert is a module, whatever the layout.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "adapter/dialect.h"
#include "adapter/peft_config.h"
#include "adapter/stack.h"
#include "adapter/write_adapter.h"
#include "core/dense.h"
#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

constexpr uint64_t kRank = 2, kExperts = 3, kIn = 6, kOut = 5;

/// One pair for each expert, of scale 2 in every dialect.
struct Stack {
  std::string path;
  std::vector<Pair> experts;
};

Stack randomStack(Random& random, const std::string& path, uint64_t rank = kRank, uint64_t experts = kExperts,
                  uint64_t in = kIn, uint64_t out = kOut) {
  Stack stack{path, {}};
  for (uint64_t e = 0; e < experts; ++e) stack.experts.push_back(randomPair(random, rank, in, out));
  return stack;
}

/// Every expert's values, one after the other.
std::vector<float> joined(const Stack& stack, std::vector<float> Pair::*values, float factor = 1) {
  std::vector<float> all;
  for (const Pair& pair : stack.experts) {
    for (const float value : pair.*values) all.push_back(factor * value);
  }
  return all;
}

/// Column q * experts + e of PEFT's B is column q of expert e's.
std::vector<float> interleaved(const Stack& stack) {
  const uint64_t experts = stack.experts.size(), rank = stack.experts[0].rank, out = stack.experts[0].out;
  std::vector<float> b(out * rank * experts);
  for (uint64_t e = 0; e < experts; ++e) {
    for (uint64_t o = 0; o < out; ++o) {
      for (uint64_t q = 0; q < rank; ++q)
        b[o * rank * experts + q * experts + e] = stack.experts[e].b[o * rank + q];
    }
  }
  return b;
}

const std::string kPeftConfig =
    R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"],)"
    R"("target_parameters":["mlp.experts.gate_up_proj","mlp.experts.down_proj"]})";
const std::string kMlxConfig =
    R"({"fine_tune_type":"lora","num_layers":2,"lora_parameters":{"rank":2,"scale":2.0,"dropout":0.0}})";

std::vector<std::pair<std::string, gguf::Value>> ggufMetadata(const std::string& architecture) {
  return {{"general.type", std::string("adapter")},
          {"adapter.type", std::string("lora")},
          {"general.architecture", architecture},
          {"adapter.lora.alpha", 0.0f}};
}

/// As the dialects' own programs write it, with a scale of 2.
TestAdapter adapterOf(Dialect dialect, const std::vector<Stack>& stacks, DType dtype = DType::F32,
                      const std::string& architecture = "qwen3moe") {
  std::vector<NamedTensor> tensors;
  for (const Stack& stack : stacks) {
    const uint64_t experts = stack.experts.size();
    const auto [path, rank, in, out, a, b] = stack.experts[0];
    const float inB = dialect == Dialect::Gguf ? 2 : 1;
    if (dialect == Dialect::Peft) {
      const std::string key = "base_model.model." + stack.path;
      tensors.push_back({key + ".lora_A.weight", dtype, {experts * rank, in}, joined(stack, &Pair::a)});
      tensors.push_back({key + ".lora_B.weight", dtype, {out, rank * experts}, interleaved(stack)});
    } else {
      const std::string key = stack.path + (dialect == Dialect::Gguf ? ".weight" : "");
      tensors.push_back({key + ".lora_a", dtype, {experts, rank, in}, joined(stack, &Pair::a)});
      tensors.push_back({key + ".lora_b", dtype, {experts, out, rank}, joined(stack, &Pair::b, inB)});
    }
  }
  if (dialect == Dialect::Gguf) return {"gguf", makeGguf(tensors, ggufMetadata(architecture)), ""};
  const bool isMlx = dialect == Dialect::Mlx;
  return {isMlx ? "mlx" : "peft", makeSafetensors(tensors), isMlx ? kMlxConfig : kPeftConfig};
}

/// Stacks as each dialect names them; PEFT's second parameter of a module wraps the first.
std::vector<std::string> stacksOf(Dialect dialect) {
  if (dialect == Dialect::Peft)
    return {"model.layers.0.mlp.experts.base_layer", "model.layers.0.mlp.experts"};
  if (dialect == Dialect::Mlx)
    return {"model.layers.0.mlp.switch_mlp.down_proj", "model.layers.0.mlp.switch_mlp.up_proj"};
  return {"blk.0.ffn_down_exps", "blk.0.ffn_up_exps"};
}

std::vector<Stack> stacksFor(Dialect dialect, uint64_t seed, uint64_t rank = kRank) {
  Random random(seed);
  std::vector<Stack> stacks;
  for (const std::string& path : stacksOf(dialect)) stacks.push_back(randomStack(random, path, rank));
  return stacks;
}

/// B A of each expert of a stack, by the definition of the layout, from a file.
std::vector<Dense> deltasOf(Dialect dialect, std::span<const std::byte> file, const std::string& path,
                            uint64_t experts = kExperts, uint64_t in = kIn, uint64_t out = kOut) {
  const bool isPeft = dialect == Dialect::Peft;
  const std::string key = (isPeft ? "base_model.model." : "") + path +
                          (dialect == Dialect::Gguf ? ".weight.lora_"
                           : isPeft                 ? ".lora_"
                                                    : ".lora_");
  const auto a = valuesOf(file, key + (isPeft ? "A.weight" : "a"));
  const auto b = valuesOf(file, key + (isPeft ? "B.weight" : "b"));
  const uint64_t rank = a.size() / experts / in;
  std::vector<Dense> deltas;
  for (uint64_t e = 0; e < experts; ++e) {
    Dense delta = Dense::Zero(static_cast<Eigen::Index>(out), static_cast<Eigen::Index>(in));
    for (uint64_t o = 0; o < out; ++o) {
      for (uint64_t i = 0; i < in; ++i) {
        double sum = 0;
        for (uint64_t q = 0; q < rank; ++q) {
          const float ofB = isPeft ? b[o * rank * experts + q * experts + e] : b[(e * out + o) * rank + q];
          sum += double{ofB} * a[(e * rank + q) * in + i];
        }
        delta(static_cast<Eigen::Index>(o), static_cast<Eigen::Index>(i)) = sum;
      }
    }
    deltas.push_back(std::move(delta));
  }
  return deltas;
}

double distance(const Dense& x, const Dense& y) { return (x - y).norm() / (y.norm() + 1e-30); }

class Experts : public ::testing::TestWithParam<Dialect> {};
INSTANTIATE_TEST_SUITE_P(Stacks, Experts, ::testing::Values(Dialect::Peft, Dialect::Mlx, Dialect::Gguf),
                         [](const auto& info) { return std::string(infoOf(info.param).name); });

TEST_P(Experts, AreModules) {
  const auto stacks = stacksFor(GetParam(), 1);
  const TestAdapter adapter = adapterOf(GetParam(), stacks);
  const Catalogue catalogue = catalogueOf(adapter);
  EXPECT_TRUE(catalogue.unsupported.empty());
  ASSERT_EQ(catalogue.modules.size(), stacks.size() * kExperts);
  for (const Stack& stack : stacks) {
    for (uint32_t e = 0; e < kExperts; ++e) {
      const auto module =
          std::ranges::find(catalogue.modules, expertPath(stack.path, e), &AdapterModule::path);
      ASSERT_NE(module, catalogue.modules.end()) << stack.path;
      EXPECT_EQ(module->rank, kRank);
      EXPECT_EQ(module->in, kIn);
      EXPECT_EQ(module->out, kOut);
      EXPECT_EQ(module->scale, GetParam() == Dialect::Gguf ? 1 : 2);
    }
  }
  EXPECT_EQ(expertPath("model.layers.0.mlp.experts", 3), "model.layers.0.mlp.experts[3]");
}

TEST_P(Experts, AreWrittenAsTheyWereRead) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    const TestAdapter adapter = adapterOf(GetParam(), stacksFor(GetParam(), 2), dtype);
    const Merged converted = must(mergeAll({adapter}, converting()));
    const Header before = headerOf(adapter.file), after = headerOf(converted.file);
    ASSERT_EQ(after.tensors.size(), before.tensors.size());
    for (const TensorInfo& tensor : before.tensors) {
      const auto written = std::ranges::find(after.tensors, tensor.name, &TensorInfo::name);
      ASSERT_NE(written, after.tensors.end()) << tensor.name;
      EXPECT_EQ(written->shape, tensor.shape) << tensor.name;
      EXPECT_TRUE(
          std::ranges::equal(bytesOf(converted.file, tensor.name), bytesOf(adapter.file, tensor.name)))
          << tensor.name;
    }
    const Catalogue one = catalogueOf(adapter), two = catalogueOf(asAdapter(converted));
    ASSERT_EQ(one.modules.size(), two.modules.size());
    for (size_t m = 0; m < one.modules.size(); ++m) {
      EXPECT_EQ(one.modules[m].path, two.modules[m].path);
      EXPECT_EQ(one.modules[m].scale, two.modules[m].scale);
    }
  }
}

TEST_P(Experts, AreMergedOneByOne) {
  const auto first = stacksFor(GetParam(), 3), second = stacksFor(GetParam(), 4);
  const std::vector<TestAdapter> adapters = {adapterOf(GetParam(), first), adapterOf(GetParam(), second)};
  for (const char* method : {"cat", "svd"}) {
    Recipe recipe;
    recipe.method = method;
    recipe.weights = {0.5, -1.5};
    // All that two adapters of rank 2 span.
    if (recipe.method == "svd") recipe.rank = 2 * kRank;
    const Merged merged = must(mergeAll(adapters, recipe));
    EXPECT_EQ(merged.reports.size(), first.size() * kExperts);
    for (size_t s = 0; s < first.size(); ++s) {
      const auto deltas = deltasOf(GetParam(), merged.file, first[s].path);
      for (size_t e = 0; e < kExperts; ++e) {
        const Dense sum = 2 * (0.5 * denseOf(first[s].experts[e]) - 1.5 * denseOf(second[s].experts[e]));
        EXPECT_LT(distance(deltas[e], sum), 1e-5) << method << " " << first[s].path << " " << e;
      }
    }
    // Every expert at once, in any number of threads.
    EXPECT_EQ(must(mergeAll(adapters, recipe, 4)).file, merged.file);
    EXPECT_EQ(must(mergeAll({adapters[1], adapters[0]},
                            [&] {
                              auto other = recipe;
                              other.weights = {-1.5, 0.5};
                              other.metadata = false;
                              return other;
                            }()))
                  .file,
              must(mergeAll(adapters,
                            [&] {
                              auto other = recipe;
                              other.metadata = false;
                              return other;
                            }()))
                  .file);
  }
}

TEST_P(Experts, OfOneStackHaveOneRank) {
  const auto stacks = stacksFor(GetParam(), 5);
  const TestAdapter adapter = adapterOf(GetParam(), stacks);
  Recipe recipe;
  recipe.method = "svd";
  recipe.rank = 1;
  recipe.moduleRanks = {{"*" + stacks[1].path + "[2]", 2}};
  const Merged merged = must(mergeAll({adapter}, recipe));
  for (const PlannedModule& module : merged.plan.modules) {
    EXPECT_EQ(module.rank, module.path == stacks[1].path + "[2]" ? 2u : 1u);
    const bool isLarge = module.path.starts_with(stacks[1].path + "[");
    // MLX has one rank for all. No file tells which of PEFT's levels is which parameter: one for all of a
    // module.
    EXPECT_EQ(module.written, isLarge || GetParam() != Dialect::Gguf ? 2u : 1u) << module.path;
  }
  const auto deltas = deltasOf(GetParam(), merged.file, stacks[1].path);
  EXPECT_LT(distance(deltas[2], 2 * denseOf(stacks[1].experts[2])), 1e-5);
  // It is an adapter like any other.
  const Catalogue back = catalogueOf(asAdapter(merged));
  EXPECT_EQ(back.modules.size(), stacks.size() * kExperts);
  EXPECT_TRUE(std::ranges::all_of(back.modules, [](const auto& module) { return module.scale == 1; }));
}

TEST_P(Experts, AreChosenByPatternsAndMayBeLeftOut) {
  const auto stacks = stacksFor(GetParam(), 6);
  const TestAdapter adapter = adapterOf(GetParam(), stacks);
  Recipe recipe;
  recipe.method = "cat";
  recipe.moduleWeights = {{0, "*[1]", 0}, {0, "*[2]", 3}};
  const Merged merged = must(mergeAll({adapter}, recipe));
  EXPECT_EQ(merged.plan.modules.size(), stacks.size() * (kExperts - 1));
  for (const Stack& stack : stacks) {
    const auto deltas = deltasOf(GetParam(), merged.file, stack.path);
    EXPECT_LT(distance(deltas[0], 2 * denseOf(stack.experts[0])), 1e-6);
    EXPECT_EQ(deltas[1].norm(), 0);
    EXPECT_LT(distance(deltas[2], 6 * denseOf(stack.experts[2])), 1e-6);
  }
}

TEST_P(Experts, OfDifferentNumbersAreNotMerged) {
  Random random(7);
  const std::string path = stacksOf(GetParam())[1];
  const auto of = [&](uint64_t experts) {
    return adapterOf(GetParam(), {randomStack(random, path, kRank, experts)});
  };
  const std::string text = expectCode(mergeAll({of(3), of(4)}, {}), Code::shapeMismatch);
  EXPECT_NE(text.find("experts"), std::string::npos) << text;
}

TEST_P(Experts, AreReadOnceAndTogether) {
  Random random(8);
  // A stack larger than what a batch mostly has, 16 MB: headers are enough for a plan.
  const std::string path = stacksOf(GetParam())[1];
  TestAdapter adapter = adapterOf(GetParam(), {randomStack(random, path, kRank, 64, 64 << 10, 128)});
  Session session(1);
  ASSERT_TRUE(addTo(session, adapter));
  Recipe recipe;
  recipe.rank = 1;
  ASSERT_TRUE(session.makePlan(recipe));
  const Plan& plan = session.plan();
  ASSERT_EQ(plan.batches.size(), 1u);
  EXPECT_EQ(plan.batches[0].endModule, 64u);
  EXPECT_EQ(plan.pairs.size(), 1u);
  const uint64_t factors = (64 << 10) * 64 * kRank * 4 + 128 * 64 * kRank * 4;
  EXPECT_EQ(plan.inputBytes, factors);
  EXPECT_EQ(plan.batches[0].inputBytes, factors);
  EXPECT_GE(plan.peakBytes, factors);
}

TEST(PeftParameters, LieAsThePeftLayerReadsThem) {
  Random random(9);
  const Stack stack = randomStack(random, "model.layers.0.mlp.experts");
  const TestAdapter adapter = adapterOf(Dialect::Peft, {stack});
  for (uint64_t e = 0; e < kExperts; ++e)
    EXPECT_LT(distance(deltasOf(Dialect::Peft, adapter.file, stack.path)[e], denseOf(stack.experts[e])),
              1e-7);
}

TEST(PeftParameters, StayInTheConfig) {
  const auto first = adapterOf(Dialect::Peft, stacksFor(Dialect::Peft, 10));
  const auto second = adapterOf(Dialect::Peft, stacksFor(Dialect::Peft, 11));
  Recipe recipe;
  recipe.method = "svd";
  recipe.rank = 3;
  const Merged merged = must(mergeAll({first, second}, recipe));
  const Json config = must(parseJson(merged.plan.config, Code::badConfig));
  EXPECT_EQ(config.at("target_parameters"),
            (std::vector<std::string>{"mlp.experts.down_proj", "mlp.experts.gate_up_proj"}));
  EXPECT_EQ(config.at("target_modules"), std::vector<std::string>{"q_proj"});
  EXPECT_EQ(config.at("r"), 3);
  EXPECT_EQ(config.at("lora_alpha"), 3);
}

/// Ranks and alphas of a parameter stand under its own name.
TEST(PeftParameters, HaveTheirRanksByTheirNames) {
  Random random(12);
  const Stack stack = randomStack(random, "m.mlp.experts");
  const auto with = [&](const std::string& rest) {
    TestAdapter adapter = adapterOf(Dialect::Peft, {stack});
    adapter.config = R"({"peft_type":"LORA","r":4,"lora_alpha":4,"use_rslora":false,)" + rest + "}";
    return adapter;
  };
  const Catalogue one =
      catalogueOf(with(R"("target_parameters":["experts.down_proj"],"rank_pattern":{"experts.down_proj":2},)"
                       R"("alpha_pattern":{"m.mlp.experts.down_proj":3})"));
  ASSERT_EQ(one.modules.size(), kExperts);
  EXPECT_EQ(one.modules[0].scale, 1.5);
  // A target without a module is known by its rank alone.
  const Catalogue two =
      catalogueOf(with(R"("target_parameters":["down_proj"],"rank_pattern":{"down_proj":2})"));
  EXPECT_EQ(two.modules.size(), kExperts);
  // Written again, the patterns say the same.
  Recipe recipe;
  recipe.method = "cat";
  const TestAdapter back = asAdapter(must(
      mergeAll({with(R"("target_parameters":["experts.down_proj"],"rank_pattern":{"experts.down_proj":2})")},
               recipe)));
  EXPECT_EQ(catalogueOf(back).modules.size(), kExperts);
  Session session(1);
  const auto refused = [&](const std::string& rest, Code code) {
    const std::string text = expectCode(addTo(session, with(rest)), code);
    EXPECT_NE(text.find("m.mlp.experts.lora_A"), std::string::npos) << text;
  };
  refused(R"("target_parameters":["experts.x","experts.y"],"rank_pattern":{"experts.x":2})", Code::badConfig);
  refused(R"("target_parameters":["experts.x"])", Code::rankMismatch);
  refused(R"("target_parameters":["elsewhere.x"])", Code::rankMismatch);
  expectCode(addTo(session, with(R"("target_parameters":"x")")), Code::badConfig);
  expectCode(addTo(session, with(R"("target_parameters":[1])")), Code::badConfig);
}

TEST(PeftParameters, ThatDifferAreNotMerged) {
  const TestAdapter first = adapterOf(Dialect::Peft, stacksFor(Dialect::Peft, 13));
  TestAdapter second = first;
  second.config =
      R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_parameters":["mlp.experts.down_proj"]})";
  const std::string text = expectCode(mergeAll({first, second}, {}), Code::mixedDialects);
  EXPECT_NE(text.find("target_parameters"), std::string::npos) << text;
}

TEST(PeftParameters, StayAmongThemselves) {
  const TestAdapter adapter = adapterOf(Dialect::Peft, stacksFor(Dialect::Peft, 14));
  for (const char* format : {"mlx", "gguf", "onnx"}) {
    Recipe recipe = converting(format);
    recipe.base = BaseModel{"qwen3moe", 2, 2, false, kExperts};
    const std::string text = expectCode(mergeAll({adapter}, recipe), Code::mixedDialects);
    EXPECT_NE(text.find("target_parameters"), std::string::npos) << text;
  }
}

/// One parameter with an even number of ranks beside ordinary modules, and a parameter of two dimensions.
TEST(PeftParameters, StandBesideOrdinaryModules) {
  Random random(15);
  const Stack stack = randomStack(random, "m.experts");
  const Pair plain = randomPair(random, kRank, kIn, kOut), router = randomPair(random, kRank, kIn, kOut);
  TestAdapter adapter;
  adapter.name = "a";
  std::vector<NamedTensor> tensors = {
      {"base_model.model.m.experts.lora_A.weight", DType::F32, {6, kIn}, joined(stack, &Pair::a)},
      {"base_model.model.m.experts.lora_B.weight", DType::F32, {kOut, 6}, interleaved(stack)}};
  for (const auto& [name, pair] : {std::pair("m.q_proj", &plain), std::pair("m.router", &router)}) {
    const std::string key = "base_model.model." + std::string(name);
    tensors.push_back({key + ".lora_A.weight", DType::F32, {kRank, kIn}, pair->a});
    tensors.push_back({key + ".lora_B.weight", DType::F32, {kOut, kRank}, pair->b});
  }
  adapter.file = makeSafetensors(tensors);
  adapter.config =
      R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_parameters":["experts.up","router.weight"]})";
  const Merged merged = must(mergeAll({adapter}, converting()));
  for (const NamedTensor& tensor : tensors) EXPECT_EQ(valuesOf(merged.file, tensor.name), tensor.values);
  const Json config = must(parseJson(merged.plan.config, Code::badConfig));
  EXPECT_EQ(config.at("target_modules"), std::vector<std::string>{"m.q_proj"});
  EXPECT_EQ(catalogueOf(asAdapter(merged)).modules.size(), 5u);
}

/// Qwen's experts are MLX's and llama.cpp's, and in transformers modules one by one.
TEST(ExpertNames, LeadFromMlxToGgufAndBack) {
  const auto stacks = stacksFor(Dialect::Mlx, 16);
  const TestAdapter mlx = adapterOf(Dialect::Mlx, stacks);
  Recipe recipe = converting("gguf");
  recipe.base = BaseModel{"qwen3moe", 2, 2, false};
  const Merged gguf = must(mergeAll({mlx}, recipe));
  const std::vector<std::string> names = stacksOf(Dialect::Gguf);
  for (size_t s = 0; s < stacks.size(); ++s) {
    const auto deltas = deltasOf(Dialect::Gguf, gguf.file, names[s]);
    for (size_t e = 0; e < kExperts; ++e)
      EXPECT_LT(distance(deltas[e], 2 * denseOf(stacks[s].experts[e])), 1e-6);
  }
  const Merged back = must(mergeAll({asAdapter(gguf)}, converting("mlx")));
  for (const Stack& stack : stacks) {
    EXPECT_EQ(valuesOf(back.file, stack.path + ".lora_a"), joined(stack, &Pair::a));
    EXPECT_EQ(valuesOf(back.file, stack.path + ".lora_b"), joined(stack, &Pair::b, 2));
  }
  // Another architecture may have them in another way.
  const auto other = adapterOf(Dialect::Gguf, stacksFor(Dialect::Gguf, 16), DType::F32, "deepseek2");
  expectCode(mergeAll({other}, converting("mlx")), Code::mixedDialects);
}

TEST(ExpertNames, OfTransformersAreModulesOneByOne) {
  const auto stacks = stacksFor(Dialect::Mlx, 17);
  const TestAdapter mlx = adapterOf(Dialect::Mlx, stacks);
  const Merged peft = must(mergeAll({mlx}, converting("peft")));
  EXPECT_EQ(peft.plan.modules.size(), 2 * kExperts);
  for (size_t e = 0; e < kExperts; ++e) {
    const std::string path = "model.layers.0.mlp.experts." + std::to_string(e) + ".up_proj";
    EXPECT_EQ(pairOf(peft, path).a, stacks[1].experts[e].a);
    EXPECT_EQ(pairOf(peft, path).b, stacks[1].experts[e].b);
  }
  // The way back needs to know of how many experts these are.
  const TestAdapter single = asAdapter(peft);
  expectCode(mergeAll({single}, converting("mlx")), Code::baseMissing);
  Recipe recipe = converting("mlx");
  recipe.base = BaseModel{"qwen3moe", 2, 2, false, kExperts};
  const Merged back = must(mergeAll({single}, recipe));
  for (const Stack& stack : stacks) {
    EXPECT_EQ(valuesOf(back.file, stack.path + ".lora_a"), joined(stack, &Pair::a));
    EXPECT_EQ(valuesOf(back.file, stack.path + ".lora_b"), joined(stack, &Pair::b));
  }
  recipe.base->experts = 2;
  expectCode(mergeAll({single}, recipe), Code::shapeMismatch);
  // Together with a stack it is known.
  Recipe sum;
  sum.method = "cat";
  sum.format = "mlx";
  const Merged both = must(mergeAll({single, mlx}, sum));
  const auto deltas = deltasOf(Dialect::Mlx, both.file, stacks[0].path);
  for (size_t e = 0; e < kExperts; ++e)
    EXPECT_LT(distance(deltas[e], 4 * denseOf(stacks[0].experts[e])), 1e-6);
}

/// What reads one input, and what feeds what, is known of experts in a stack as of those one by one.
TEST(ExpertNames, MakeNoDifferenceToTheDefaultMethod) {
  const auto adapters = [](uint64_t seed) {
    Random random(seed);
    return adapterOf(Dialect::Mlx, {randomStack(random, "model.layers.0.mlp.switch_mlp.gate_proj"),
                                    randomStack(random, "model.layers.0.mlp.switch_mlp.up_proj"),
                                    randomStack(random, "model.layers.0.mlp.switch_mlp.down_proj", kRank,
                                                kExperts, kOut, kIn)});
  };
  const std::vector<TestAdapter> stacked = {adapters(24), adapters(25)};
  std::vector<TestAdapter> single;
  for (const TestAdapter& adapter : stacked)
    single.push_back(asAdapter(must(mergeAll({adapter}, converting("peft")))));
  Recipe recipe;
  recipe.method = "least_interference";
  const Merged one = must(mergeAll(stacked, recipe)), other = must(mergeAll(single, recipe));
  EXPECT_EQ(one.plan.groups.size(), 2 * kExperts);
  EXPECT_EQ(std::ranges::count(one.plan.groups, 2u, [](const auto& group) { return group.feeders.size(); }),
            static_cast<std::ptrdiff_t>(kExperts));
  EXPECT_EQ(must(mergeAll(stacked, recipe, 4)).file, one.file);
  const auto deltas =
      deltasOf(Dialect::Mlx, one.file, "model.layers.0.mlp.switch_mlp.down_proj", kExperts, kOut, kIn);
  for (size_t e = 0; e < kExperts; ++e) {
    const std::string path = "model.layers.0.mlp.experts." + std::to_string(e) + ".down_proj";
    EXPECT_LT(distance(deltas[e], denseOf(pairOf(other, path))), 1e-5);
  }
}

TEST(ExpertNames, ThatNoTableHasAreRefused) {
  Random random(18);
  const TestAdapter mlx =
      adapterOf(Dialect::Mlx, {randomStack(random, "model.layers.0.mlp.experts.up_proj")});
  EXPECT_TRUE(mergeAll({mlx}, converting()));
  for (const char* format : {"peft", "gguf"}) {
    Recipe recipe = converting(format);
    recipe.base = BaseModel{"gpt-oss", 2, 2, false};
    const std::string text = expectCode(mergeAll({mlx}, recipe), Code::mixedDialects);
    EXPECT_NE(text.find("model.layers.0.mlp.experts.up_proj"), std::string::npos) << text;
  }
}

TEST(Stacks, OfOtherShapesAreRefused) {
  struct Case {
    std::vector<uint64_t> a, b;
    Code code;
  };
  const Case cases[] = {
      {{3, 2, 6}, {4, 5, 2}, Code::shapeMismatch},  // numbers of experts
      {{0, 2, 6}, {0, 5, 2}, Code::shapeMismatch},
      {{3, 2, 6}, {3, 5, 4}, Code::rankMismatch},
      {{3, 0, 6}, {3, 5, 0}, Code::rankZero},
      {{3, 2, 0}, {3, 5, 2}, Code::shapeMismatch},
      {{3, 2, 6}, {5, 2}, Code::shapeMismatch},
      {{2, 6}, {3, 5, 2}, Code::shapeMismatch},
      {{3, 1, 2, 6}, {3, 1, 5, 2}, Code::shapeMismatch},
      {{4097, 1, 1}, {4097, 1, 1}, Code::shapeMismatch},
  };
  for (const auto& [a, b, code] : cases) {
    const auto values = [](const std::vector<uint64_t>& shape) {
      uint64_t count = 1;
      for (const uint64_t side : shape) count *= side;
      return std::vector<float>(count, 1.0f);
    };
    const TestAdapter adapter{"bad",
                              makeSafetensors({{"layers.0.x.lora_a", DType::F32, a, values(a)},
                                               {"layers.0.x.lora_b", DType::F32, b, values(b)}}),
                              kMlxConfig};
    Session session(1);
    const std::string text = expectCode(addTo(session, adapter), code);
    EXPECT_NE(text.find("layers.0.x.lora_a"), std::string::npos) << text;
  }
  // PEFT: ranks that are no multiple, and more experts than any model has.
  for (const uint64_t rows : {uint64_t{7}, uint64_t{2 * 4097}}) {
    const TestAdapter adapter{"bad",
                              makeSafetensors({{"base_model.model.mlp.experts.lora_A.weight",
                                                DType::F32,
                                                {rows, 1},
                                                std::vector<float>(rows, 1.0f)},
                                               {"base_model.model.mlp.experts.lora_B.weight",
                                                DType::F32,
                                                {1, rows},
                                                std::vector<float>(rows, 1.0f)}}),
                              kPeftConfig};
    Session session(1);
    const std::string text =
        expectCode(addTo(session, adapter), rows == 7 ? Code::rankMismatch : Code::shapeMismatch);
    EXPECT_NE(text.find("mlp.experts.lora_A"), std::string::npos) << text;
  }
}

/// Experts that are modules one by one may be of any shape until they are to become a stack.
TEST(Stacks, AreOfExpertsOfOneShape) {
  Random random(21);
  const auto merged = [&](const Pair& other) {
    const Pair first = randomPair(random, kRank, kIn, kOut, "model.layers.0.mlp.experts.0.up_proj");
    Recipe recipe = converting("mlx");
    recipe.base = BaseModel{"qwen3moe", 2, 2, false, 2};
    return mergeAll({makeAdapter("a", {first, other}, DType::F32, 2)}, recipe);
  };
  const std::string path = "model.layers.0.mlp.experts.1.up_proj";
  EXPECT_TRUE(merged(randomPair(random, 1, kIn, kOut, path)));
  expectCode(merged(randomPair(random, kRank, kIn + 1, kOut, path)), Code::shapeMismatch);
  expectCode(merged(randomPair(random, kRank, kIn, kOut + 1, path)), Code::shapeMismatch);
}

/// A budget counts the zeros that fill smaller ranks up.
TEST(Stacks, FitIntoABudget) {
  for (const Dialect dialect : {Dialect::Peft, Dialect::Mlx, Dialect::Gguf}) {
    const std::vector<TestAdapter> adapters = {adapterOf(dialect, stacksFor(dialect, 22)),
                                               adapterOf(dialect, stacksFor(dialect, 23))};
    Recipe recipe;
    recipe.method = "svd";
    recipe.metadata = false;
    recipe.rule = {RankRule::Kind::Size, 1700};
    const Merged merged = must(mergeAll(adapters, recipe));
    EXPECT_LE(merged.file.size(), 1700u) << infoOf(dialect).name;
    EXPECT_GE(merged.file.size(), 1000u) << infoOf(dialect).name;
  }
}

TEST(Stacks, AreWrittenOnlyWhereAFormatHasThem) {
  for (const DialectInfo& info : dialects()) {
    const Status status = checkWritable(info.dialect, "x[0]", ModuleKind::Linear, /*isStack=*/true);
    if (info.stacks == StackLayout::None) {
      expectCode(status, Code::badFormat);
    } else {
      EXPECT_TRUE(status) << info.name;
    }
  }
}

TEST(Stacks, AndModulesOfOneNameAreRefused) {
  Random random(19);
  const Stack stack = randomStack(random, "x");
  TestAdapter adapter = adapterOf(Dialect::Mlx, {stack});
  adapter.file = makeSafetensors({{"x.lora_a", DType::F32, {3, 2, 6}, joined(stack, &Pair::a)},
                                  {"x.lora_b", DType::F32, {3, 5, 2}, joined(stack, &Pair::b)},
                                  {"x[1].lora_a", DType::F32, {6, 2}, stack.experts[0].a},
                                  {"x[1].lora_b", DType::F32, {2, 5}, stack.experts[0].b}});
  Session session(1);
  expectCode(addTo(session, adapter), Code::duplicateModule);
  // In another adapter it is that expert, or, under the stack's own name, nothing that could be written with
  // it.
  const auto plain = [&](const std::string& path) {
    const Pair pair = randomPair(random, kRank, kOut, kIn);
    return TestAdapter{"plain",
                       makeSafetensors({{path + ".lora_a", DType::F32, {kIn, kRank}, pair.b},
                                        {path + ".lora_b", DType::F32, {kRank, kOut}, pair.a}}),
                       kMlxConfig};
  };
  const TestAdapter whole = adapterOf(Dialect::Mlx, {stack});
  for (const auto& adapters : {std::vector{plain("x[1]"), whole}, std::vector{whole, plain("x[1]")}}) {
    Recipe recipe;
    recipe.method = "cat";
    const Merged merged = must(mergeAll(adapters, recipe));
    ASSERT_EQ(merged.plan.modules.size(), kExperts);
    EXPECT_EQ(merged.plan.modules[1].sources.size(), 2u);
    EXPECT_EQ(merged.plan.modules[1].expert, 1u);
    EXPECT_EQ(merged.plan.modules[1].written, 2 * kRank);
    EXPECT_LT(distance(deltasOf(Dialect::Mlx, merged.file, "x")[2], 2 * denseOf(stack.experts[2])), 1e-6);
  }
  Recipe recipe;
  recipe.method = "cat";
  const TestAdapter both{"both",
                         makeSafetensors({{"x.lora_a", DType::F32, {kIn, kRank}, stack.experts[0].a},
                                          {"x.lora_b", DType::F32, {kRank, kOut}, stack.experts[0].b},
                                          {"x[1].lora_a", DType::F32, {kIn, kRank}, stack.experts[0].a},
                                          {"x[1].lora_b", DType::F32, {kRank, kOut}, stack.experts[0].b}}),
                         kMlxConfig};
  expectCode(mergeAll({both, whole}, recipe), Code::badFormat);
}

/// NaN in one expert is found under its stack's name.
TEST(Stacks, AreCheckedForValuesThatAreNone) {
  for (const Dialect dialect : {Dialect::Peft, Dialect::Mlx}) {
    auto stacks = stacksFor(dialect, 20);
    stacks[1].experts[2].b[3] = std::numeric_limits<float>::quiet_NaN();
    const std::string text = expectCode(mergeAll({adapterOf(dialect, stacks)}, {}), Code::notFinite);
    EXPECT_NE(text.find(stacks[1].path + ".lora_"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace lego::testing

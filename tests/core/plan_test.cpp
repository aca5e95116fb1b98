// Plans: unions, ranks, dtypes, configs, layouts, and every refusal.

#include <gtest/gtest.h>

#include <cmath>

#include "core/fixtures.h"
#include "format/json.h"

namespace lego::testing {
namespace {

TestAdapter sample(const std::string& name, const std::vector<std::pair<std::string, uint64_t>>& modules,
                   DType dtype = DType::F32, const std::string& config = "", uint64_t in = 12,
                   uint64_t out = 9) {
  Random random(modules.size() + name.size());
  std::vector<Pair> pairs;
  for (const auto& [path, rank] : modules) pairs.push_back(randomPair(random, rank, in, out, path));
  return makeAdapter(name, pairs, dtype, 4, config);
}

Result<Plan> planOf(const std::vector<TestAdapter>& adapters, const Recipe& recipe = {},
                    const Footprint& footprint = {}) {
  Session session(footprint);
  for (const auto& adapter : adapters) {
    if (Status added = addTo(session, adapter); !added) return added.error();
  }
  if (Status planned = session.makePlan(recipe); !planned) return planned.error();
  return session.plan();
}

Recipe with(const std::function<void(Recipe&)>& change) {
  Recipe recipe;
  change(recipe);
  return recipe;
}

TEST(Plan, UnitesModulesAndMixesRanks) {
  const Plan plan = must(planOf({sample("one", {{"a", 4}, {"b", 4}}), sample("two", {{"b", 6}, {"c", 2}})}));
  ASSERT_EQ(plan.modules.size(), 3u);
  EXPECT_EQ(plan.modules[0].path, "a");
  EXPECT_EQ(plan.modules[0].units, 4u);
  EXPECT_EQ(plan.modules[0].rank, 4u);
  EXPECT_EQ(plan.modules[1].units, 10u);
  EXPECT_EQ(plan.modules[1].rank, 6u);
  EXPECT_EQ(plan.modules[1].sources.size(), 2u);
  EXPECT_EQ(plan.modules[2].rank, 2u);
  EXPECT_EQ(plan.modules[2].sources[0].adapter, 1u);
  EXPECT_EQ(plan.notices.size(), 1u);
  const Json config = must(parseJson(plan.config, Code::badConfig));
  EXPECT_EQ(config.at("target_modules"), std::vector<std::string>{"layer"});
}

TEST(Plan, RankOfEachMethod) {
  const std::vector<TestAdapter> adapters = {sample("one", {{"a", 4}}), sample("two", {{"a", 6}})};
  EXPECT_EQ(must(planOf(adapters, with([](Recipe& r) { r.rank = 10; }))).modules[0].rank, 10u);
  EXPECT_EQ(must(planOf(adapters, with([](Recipe& r) { r.method = "cat"; }))).modules[0].rank, 10u);
  EXPECT_EQ(must(planOf(adapters, with([](Recipe& r) { r.method = "svd"; }))).modules[0].rank, 6u);
}

TEST(Plan, OutputDtype) {
  const auto dtype = [](DType x, DType y, const std::string& asked) {
    return must(planOf({sample("one", {{"a", 4}}, x), sample("two", {{"a", 4}}, y)},
                       with([&](Recipe& r) { r.dtype = asked; })))
        .dtype;
  };
  EXPECT_EQ(dtype(DType::BF16, DType::BF16, "same"), DType::BF16);
  EXPECT_EQ(dtype(DType::F16, DType::BF16, "same"), DType::F32);
  EXPECT_EQ(dtype(DType::F16, DType::F64, "same"), DType::F64);
  EXPECT_EQ(dtype(DType::F16, DType::F32, "bf16"), DType::BF16);
  EXPECT_EQ(dtype(DType::F8E4M3, DType::F8E5M2, "same"), DType::F16);
  EXPECT_EQ(dtype(DType::F8E4M3, DType::F16, "same"), DType::F16);
  EXPECT_EQ(dtype(DType::F8E4M3FNUZ, DType::BF16, "same"), DType::F32);
}

TEST(Plan, OutputLayoutIsContiguousAndExact) {
  const Plan plan = must(
      planOf({sample("one", {{"a", 4}, {"b", 3}}, DType::BF16), sample("two", {{"b", 6}}, DType::BF16)}));
  uint64_t position = plan.header.size();
  for (const auto& module : plan.modules) {
    EXPECT_EQ(module.a.begin, position);
    EXPECT_EQ(module.b.begin, module.a.end);
    EXPECT_EQ(module.a.shape, (std::vector<uint64_t>{module.rank, 12}));
    EXPECT_EQ(module.b.shape, (std::vector<uint64_t>{9, module.rank}));
    position = module.b.end;
  }
  EXPECT_EQ(plan.outputBytes, position);
  EXPECT_EQ(plan.inputBytes, (4u + 3u + 6u) * (12 + 9) * 2);
  EXPECT_GT(plan.peakBytes, plan.inputBytes);
}

TEST(Plan, ReadsCoverEveryFactorOnce) {
  std::vector<TestAdapter> adapters;
  std::vector<std::pair<std::string, uint64_t>> modules;
  for (int i = 0; i < 40; ++i) modules.push_back({"m" + std::to_string(100 + i), 16});
  for (const char* name : {"x", "y", "z"})
    adapters.push_back(sample(name, modules, DType::F32, "", 5000, 3000));
  const Plan plan = must(planOf(adapters));
  EXPECT_GT(plan.batches.size(), 1u);
  size_t next = 0;
  for (const auto& batch : plan.batches) {
    EXPECT_EQ(batch.firstModule, next);
    next = batch.endModule;
    // Factors of neighbouring modules lie side by side in the file: one read per adapter.
    EXPECT_EQ(batch.reads.size(), 3u);
    for (size_t m = batch.firstModule; m < batch.endModule; ++m) {
      for (const auto& source : plan.modules[m].sources) {
        for (const auto& [tensor, at] : {std::pair{&source.a, source.atA}, {&source.b, source.atB}}) {
          bool covered = false;
          for (const auto& read : batch.reads) {
            covered |= read.adapter == source.adapter && tensor->begin >= read.offset &&
                       tensor->end <= read.offset + read.length &&
                       at - read.at == tensor->begin - read.offset;
          }
          EXPECT_TRUE(covered);
          EXPECT_LE(at + (tensor->end - tensor->begin), batch.inputBytes);
        }
      }
    }
  }
  EXPECT_EQ(next, plan.modules.size());
}

TEST(Plan, ShardsGetEqualSharesOfTheSameOutput) {
  std::vector<std::pair<std::string, uint64_t>> modules;
  for (int i = 0; i < 60; ++i) modules.push_back({"m" + std::to_string(100 + i), 4});
  const std::vector<TestAdapter> adapters = {sample("x", modules), sample("y", modules)};
  const Plan whole = must(planOf(adapters));
  EXPECT_EQ(whole.batches.size(), 1u);
  for (const uint32_t shards : {1u, 2u, 5u, 1000u}) {
    const Plan plan = must(planOf(adapters, {}, {.shards = shards}));
    EXPECT_EQ(plan.header, whole.header);
    EXPECT_EQ(plan.config, whole.config);
    EXPECT_EQ(plan.inputBytes, whole.inputBytes);
    std::vector<uint64_t> written(shards, 0);
    uint64_t position = plan.header.size();
    for (size_t b = 0; b < plan.batches.size(); ++b) {
      EXPECT_EQ(plan.batches[b].outputBegin, position);
      position = plan.batches[b].outputEnd;
      written[b % shards] += plan.batches[b].outputEnd - plan.batches[b].outputBegin;
    }
    EXPECT_EQ(position, whole.outputBytes);
    // At most one batch more than another has, which is an eighth of a share, or a module.
    const auto [least, most] = std::ranges::minmax(written);
    const uint64_t module = (whole.outputBytes - whole.header.size()) / modules.size();
    EXPECT_LE(most - least, std::max(module, (whole.outputBytes - whole.header.size()) / (8 * shards)));
  }
}

TEST(Plan, TargetsAreSpelledOutUnlessSuffixesChoseThem) {
  const auto targets = [](const std::string& config) {
    Random random(1);
    TestAdapter adapter = makeAdapter(
        "x", {randomPair(random, 2, 5, 5, "m.0.q"), randomPair(random, 2, 5, 5, "m.1.q")}, DType::F32, 2);
    adapter.config = R"({"peft_type":"LORA","r":2,"lora_alpha":2,)" + config + "}";
    return must(parseJson(must(planOf({adapter})).config, Code::badConfig)).at("target_modules");
  };
  const std::vector<std::string> suffix = {"q"}, paths = {"m.0.q", "m.1.q"};
  EXPECT_EQ(targets(R"("target_modules":["q"])"), suffix);
  EXPECT_EQ(targets(R"("target_modules":["q"],"layers_to_transform":[0,1])"), paths);
  EXPECT_EQ(targets(R"("target_modules":["q"],"exclude_modules":["z"])"), paths);
  EXPECT_EQ(targets(R"("target_modules":"all-linear")"), paths);
  EXPECT_EQ(targets(R"("target_modules":["m.0.q","m.1.q"])"), paths);
  EXPECT_EQ(targets(R"("r2":1)"), paths);
}

TEST(Plan, CarriesAndComparesConfigs) {
  const Plan plan =
      must(planOf({sample("one", {{"a", 4}}, DType::F32,
                          R"(,"base_model_name_or_path":"x","task_type":"T","fan_in_fan_out":true)"),
                   sample("two", {{"a", 4}}, DType::F32,
                          R"(,"base_model_name_or_path":"y","task_type":"T","fan_in_fan_out":true)")}));
  const Json config = must(parseJson(plan.config, Code::badConfig));
  EXPECT_EQ(config.at("base_model_name_or_path"), "x");
  EXPECT_EQ(config.at("task_type"), "T");
  EXPECT_EQ(config.at("fan_in_fan_out"), true);
  ASSERT_EQ(plan.notices.size(), 1u);
  EXPECT_NE(plan.notices[0].find("different base models"), std::string::npos);
  expectCode(
      planOf({sample("one", {{"a", 4}}, DType::F32, R"(,"fan_in_fan_out":true)"), sample("two", {{"a", 4}})}),
      Code::layoutMismatch);
}

TEST(Plan, WeightZeroLeavesAnAdapterOut) {
  const Plan plan = must(planOf({sample("one", {{"a", 4}}), sample("two", {{"b", 4}})}, with([](Recipe& r) {
                                  r.weights = {1, 0};
                                })));
  ASSERT_EQ(plan.modules.size(), 1u);
  EXPECT_EQ(plan.modules[0].path, "a");
  EXPECT_EQ(plan.notices.size(), 1u);
}

TEST(Plan, ProvenanceIsTheRecipe) {
  const std::vector<TestAdapter> adapters = {sample("one", {{"a", 4}}), sample("two", {{"a", 4}})};
  const Plan plan = must(planOf(adapters, with([](Recipe& r) {
                                  r.rank = 3, r.seed = 9007199254740991u, r.weights = {0.5, -0.1},
                                  r.scale = 1.5, r.options = {{"gauge", "balanced"}};
                                })));
  EXPECT_NE(plan.header.find("\\\"method\\\":\\\"lego\\\",\\\"rank\\\":3,\\\"weights\\\":[0.5,-0.1],"
                             "\\\"seed\\\":9007199254740991,\\\"scale\\\":1.5"),
            std::string::npos)
      << plan.header;
  EXPECT_NE(plan.header.find("\\\"gauge\\\":\\\"balanced\\\""), std::string::npos);
  EXPECT_NE(plan.header.find("\"format\":\"pt\""), std::string::npos);
}

TEST(PlanRefuses, Recipes) {
  const std::vector<TestAdapter> two = {sample("one", {{"a", 4}}), sample("two", {{"a", 6}})};
  expectCode(planOf({}), Code::noInputs);
  expectCode(planOf(two, with([](Recipe& r) { r.method = "LEGO"; })), Code::unknownMethod);
  expectCode(planOf(two, with([](Recipe& r) { r.rank = 11; })), Code::rankAboveUnits);
  expectCode(planOf(two, with([](Recipe& r) { r.method = "svd", r.rank = 11; })), Code::rankAboveUnits);
  expectCode(planOf(two, with([](Recipe& r) { r.method = "cat", r.rank = 4; })), Code::badRank);
  expectCode(planOf(two, with([](Recipe& r) { r.weights = {1}; })), Code::badWeights);
  expectCode(planOf(two, with([](Recipe& r) { r.weights = {1, NAN}; })), Code::badWeights);
  expectCode(planOf(two, with([](Recipe& r) { r.weights = {0, 0}; })), Code::badWeights);
  expectCode(planOf(two, with([](Recipe& r) { r.scale = INFINITY; })), Code::badOption);
  expectCode(planOf(two, with([](Recipe& r) { r.dtype = "int8"; })), Code::badDtype);
  expectCode(planOf(two, with([](Recipe& r) { r.options = {{"colour", "red"}}; })), Code::badOption);
  expectCode(planOf(two, with([](Recipe& r) {
                      r.method = "cat", r.options = {{"gauge", "raw"}};
                    })),
             Code::badOption);
  for (const char* value : {"0", "-1", "x", "", "1.5", "1e3", "10001", "99999999999999999999999"}) {
    expectCode(planOf(two, with([&](Recipe& r) { r.options = {{"restarts", value}}; })), Code::badOption);
  }
  const std::string text = expectCode(planOf(two, with([](Recipe& r) {
                                               r.options = {{"gauge", "off"}};
                                             })),
                                      Code::badOption);
  EXPECT_NE(text.find("raw or balanced"), std::string::npos) << text;
  for (const std::vector<uint32_t>& start : {std::vector<uint32_t>{0}, {0, 0}, {0, 10}}) {
    expectCode(planOf(two, with([&](Recipe& r) { r.rank = 2, r.start = start; })), Code::badOption);
  }
}

TEST(PlanRefuses, Adapters) {
  const TestAdapter one = sample("one", {{"a", 4}});
  const std::string shapes =
      expectCode(planOf({one, sample("two", {{"a", 4}}, DType::F32, "", 13, 9)}), Code::shapeMismatch);
  EXPECT_NE(shapes.find("[4, 13]"), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("[4, 12]"), std::string::npos);
  EXPECT_NE(shapes.find("two/adapter_model.safetensors"), std::string::npos);
  EXPECT_NE(shapes.find("one/adapter_model.safetensors"), std::string::npos);
  EXPECT_NE(shapes.find("base_model.model.a.lora_A.weight"), std::string::npos);
  expectCode(planOf({one, sample("two", {{"a", 4}}, DType::F32, "", 12, 10)}), Code::shapeMismatch);
  expectCode(planOf({one, sample("two", {{"b", 4}})}), Code::noCommonModule);
  expectCode(planOf({sample("one", {{"a", 5000}}, DType::F32, "", 1, 1),
                     sample("two", {{"a", 5000}}, DType::F32, "", 1, 1)}),
             Code::rankAboveUnits);
  EXPECT_EQ(must(planOf({one, sample("two", {{"a", 4}}), sample("three", {{"c", 4}})})).notices.size(), 1u);

  TestAdapter dora = one;
  dora.config = R"({"peft_type":"LORA","r":4,"use_dora":true})";
  expectCode(planOf({one, dora}), Code::unsupportedAdapter);
  Random random(1);
  const Pair pair = randomPair(random, 4, 12, 9, "a");
  TestAdapter biased = one;
  biased.file = makeSafetensors({{"base_model.model.a.lora_A.weight", DType::F32, {4, 12}, pair.a},
                                 {"base_model.model.a.lora_B.weight", DType::F32, {9, 4}, pair.b},
                                 {"base_model.model.a.lora_B.bias", DType::F32, {9}, std::vector<float>(9)},
                                 {"base_model.model.head.weight", DType::F32, {1}, {1}}});
  const std::string text = expectCode(planOf({one, biased}), Code::unsupportedTensors);
  EXPECT_NE(text.find("a.lora_B.bias"), std::string::npos) << text;
  EXPECT_NE(text.find("head.weight"), std::string::npos) << text;
  TestAdapter bare = one;
  bare.config.clear();
  expectCode(planOf({bare}), Code::configMissing);
}

}  // namespace
}  // namespace lego::testing

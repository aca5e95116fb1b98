// The PEFT dialect: configs, keys, shapes, and what is refused or reported.

#include <gtest/gtest.h>

#include <cmath>

#include "adapter/read_adapter.h"
#include "core/fixtures.h"
#include "format/json.h"

namespace lego::testing {
namespace {

const std::string kPlain = R"({"peft_type":"LORA","r":4,"lora_alpha":8})";

Header headerOf(const std::vector<std::pair<std::string, std::vector<uint64_t>>>& tensors,
                DType dtype = DType::F32) {
  Header header;
  for (const auto& [name, shape] : tensors) header.tensors.push_back({name, dtype, shape, 0, 0});
  return header;
}

Result<Catalogue> read(const Header& header, const std::string& config = kPlain) {
  const auto settings = readAdapterConfig(config);
  if (!settings) return settings.error();
  return lego::readAdapter(Container{header, {}}, *settings);
}

std::string a(const std::string& path) { return "base_model.model." + path + ".lora_A.weight"; }
std::string b(const std::string& path) { return "base_model.model." + path + ".lora_B.weight"; }

TEST(Peft, ResolvesLinearConvolutionAndEmbedding) {
  const Catalogue catalogue = must(read(headerOf({
      {a("m.q_proj"), {4, 32}},
      {b("m.q_proj"), {16, 4}},
      {a("c2"), {4, 3, 5, 5}},
      {b("c2"), {8, 4, 1, 1}},
      {a("c1"), {4, 3, 5}},
      {b("c1"), {8, 4, 1}},
      {"base_model.model.emb.lora_embedding_A", {4, 100}},
      {"base_model.model.emb.lora_embedding_B", {16, 4}},
      {"base_model.model.d.lora_A.default.weight", {4, 6}},
      {"base_model.model.d.lora_B.default.weight", {7, 4}},
  })));
  EXPECT_TRUE(catalogue.unsupported.empty());
  ASSERT_EQ(catalogue.modules.size(), 5u);
  const auto& c1 = catalogue.modules[0];
  EXPECT_EQ(c1.path, "c1");
  EXPECT_EQ(c1.kind, ModuleKind::Convolution);
  EXPECT_EQ(c1.in, 15u);
  EXPECT_EQ(catalogue.modules[1].in, 75u);
  EXPECT_EQ(catalogue.modules[1].out, 8u);
  EXPECT_EQ(catalogue.modules[2].path, "d");
  EXPECT_EQ(catalogue.modules[3].kind, ModuleKind::Embedding);
  EXPECT_EQ(catalogue.modules[3].in, 100u);
  EXPECT_EQ(catalogue.modules[4].kind, ModuleKind::Linear);
  EXPECT_EQ(catalogue.modules[4].rank, 4u);
  EXPECT_EQ(catalogue.modules[4].scale, 2);
}

TEST(Peft, ScaleFollowsConfigAndPatterns) {
  const Header header = headerOf({{a("x.q"), {4, 8}},
                                  {b("x.q"), {8, 4}},
                                  {a("x.k"), {2, 8}},
                                  {b("x.k"), {8, 2}},
                                  {a("y.k"), {2, 8}},
                                  {b("y.k"), {8, 2}}});
  const Catalogue catalogue = must(read(
      header,
      R"({"peft_type":"LORA","r":4,"lora_alpha":8,"use_rslora":true,"rank_pattern":{"k":2},"alpha_pattern":{"y\\..*":6,"k":3.5}})"));
  EXPECT_EQ(catalogue.modules[0].path, "x.k");
  EXPECT_EQ(catalogue.modules[0].scale, 3.5 / std::sqrt(2.0));
  EXPECT_EQ(catalogue.modules[1].scale, 8 / std::sqrt(4.0));
  // The first pattern of the file counts, not the longest.
  EXPECT_EQ(catalogue.modules[2].scale, 6 / std::sqrt(2.0));
  const Catalogue defaults =
      must(read(headerOf({{a("q"), {8, 3}}, {b("q"), {3, 8}}}), R"({"peft_type":"LORA"})"));
  EXPECT_EQ(defaults.modules[0].scale, 1);
}

TEST(Peft, RefusesBadConfigs) {
  const Header header = headerOf({{a("q"), {4, 8}}, {b("q"), {8, 4}}});
  for (const char* config :
       {"", "{", "[]", "1", R"({"peft_type":1})", R"({"peft_type":"LORA","r":"4"})",
        R"({"peft_type":"LORA","r":-4})", R"({"peft_type":"LORA","r":4.5})",
        R"({"peft_type":"LORA","r":1e30})", R"({"peft_type":"LORA","r":4,"r":4})",
        R"({"peft_type":"LORA","lora_alpha":[]})", R"({"peft_type":"LORA","lora_alpha":1e999})",
        R"({"peft_type":"LORA","use_rslora":1})", R"({"peft_type":"LORA","fan_in_fan_out":"yes"})",
        R"({"peft_type":"LORA","rank_pattern":[]})", R"({"peft_type":"LORA","rank_pattern":{"q":"x"}})",
        R"({"peft_type":"LORA","alpha_pattern":{"q":null}})", R"({"peft_type":"LORA","task_type":3})"}) {
    expectCode(read(header, config), Code::badConfig);
  }
  expectCode(
      read(header, "{\"peft_type\":\"LORA\",\"x\":" + std::string(100, '[') + std::string(100, ']') + "}"),
      Code::badConfig);
  expectCode(read(header, std::string(5'000'000, ' ')), Code::badConfig);
  expectCode(read(header, kPlain + std::string("\0, and more", 11)), Code::badConfig);
  expectCode(read(header, R"({"peft_type":"LORA","rank_pattern":{"(":4}})"), Code::badPattern);
  expectCode(read(header, R"({"peft_type":"LORA","r":0})"), Code::rankZero);
  expectCode(read(header, R"({"peft_type":"LORA","r":4,"rank_pattern":{"q":0}})"), Code::rankZero);
  expectCode(read(header, R"({"peft_type":"IA3"})"), Code::unsupportedAdapter);
  expectCode(read(header, R"({"r":4})"), Code::unsupportedAdapter);
}

TEST(Peft, RefusesBadFactors) {
  expectCode(read(headerOf({})), Code::noFactors);
  expectCode(read(headerOf({{"x.lora_C.weight", {4, 8}}})), Code::noFactors);
  expectCode(read(headerOf({{a("q"), {4, 8}}})), Code::unpairedFactor);
  expectCode(read(headerOf({{b("q"), {8, 4}}})), Code::unpairedFactor);
  expectCode(read(headerOf({{a("q"), {4, 8}}, {"base_model.model.q.lora_embedding_B", {8, 4}}})),
             Code::unpairedFactor);
  expectCode(read(headerOf(
                 {{a("q"), {4, 8}}, {"base_model.model.q.lora_A.default.weight", {4, 8}}, {b("q"), {8, 4}}})),
             Code::duplicateModule);
  expectCode(read(headerOf({{a("q"), {0, 8}}, {b("q"), {8, 0}}})), Code::rankZero);
  expectCode(read(headerOf({{a("q"), {4, 8}}, {b("q"), {8, 0}}})), Code::rankZero);
  expectCode(read(headerOf({{a("q"), {4, 8}}, {b("q"), {8, 3}}})), Code::rankMismatch);
  expectCode(read(headerOf({{a("q"), {5, 8}}, {b("q"), {8, 5}}})), Code::rankMismatch);
  expectCode(read(headerOf({{a("q"), {4}}, {b("q"), {8, 4}}})), Code::shapeMismatch);
  expectCode(read(headerOf({{a("q"), {4, 0}}, {b("q"), {8, 4}}})), Code::shapeMismatch);
  expectCode(read(headerOf({{a("q"), {4, 3, 3, 3}}, {b("q"), {8, 4}}})), Code::shapeMismatch);
  expectCode(read(headerOf({{a("q"), {4, 3, 3, 3}}, {b("q"), {8, 4, 3, 3}}})), Code::shapeMismatch);
  expectCode(read(headerOf({{a("q"), {4, 3, 3, 3, 3, 3}}, {b("q"), {8, 4, 1, 1, 1, 1}}})),
             Code::shapeMismatch);
  expectCode(read(headerOf({{a("q"), {4, uint64_t{1} << 40}}, {b("q"), {8, 4}}})), Code::shapeMismatch);
  const std::string text =
      expectCode(read(headerOf({{a("q"), {4, 8}}, {b("q"), {8, 4}}}, DType::I32)), Code::unsupportedDtype);
  EXPECT_NE(text.find("I32"), std::string::npos);
  EXPECT_NE(text.find(a("q")), std::string::npos);
}

TEST(Peft, ListsWhatItCannotCarry) {
  const Catalogue catalogue = must(read(
      headerOf({{a("q"), {4, 8}},
                {b("q"), {8, 4}},
                {"base_model.model.q.lora_magnitude_vector", {8}},
                {"base_model.model.q.lora_B.bias", {8}},
                {"base_model.model.lm_head.modules_to_save.weight", {8, 8}},
                {"base_model.model.n.bias", {8}},
                {"stray", {1}}}),
      R"({"peft_type":"LORA","r":4,"use_dora":true,"modules_to_save":["lm_head"],"bias":"none","loftq_config":{}})"));
  ASSERT_EQ(catalogue.unsupported.size(), 5u + 2u);
  EXPECT_EQ(catalogue.unsupported[0].tensor, "base_model.model.q.lora_magnitude_vector");
  EXPECT_NE(catalogue.unsupported[0].reason.find("DoRA"), std::string::npos);
  EXPECT_NE(catalogue.unsupported[4].reason.find("not a key of PEFT"), std::string::npos);
  EXPECT_TRUE(catalogue.unsupported[5].tensor.empty());
}

TEST(Peft, WarnsAboutInitialisationsThatChangeTheBase) {
  const Header header = headerOf({{a("q"), {4, 8}}, {b("q"), {8, 4}}});
  EXPECT_EQ(must(read(header, R"({"peft_type":"LORA","r":4,"init_lora_weights":"pissa"})")).notices.size(),
            1u);
  EXPECT_TRUE(
      must(read(header, R"({"peft_type":"LORA","r":4,"init_lora_weights":"gaussian"})")).notices.empty());
  EXPECT_TRUE(must(read(header, R"({"peft_type":"LORA","r":4,"init_lora_weights":true})")).notices.empty());
}

TEST(PeftConfig, WritesOneRank) {
  AdapterInfo info;
  info.baseModel = "base";
  info.taskType = "CAUSAL_LM";
  info.fanInFanOut = true;
  info.targetSuffixes = {"q", "k"};
  const std::string text = peft::textOf(peft::mergedConfig(info, {{"x.k", 8, 8}, {"x.q", 8, 8}}));
  const Json json = must(parseJson(text, Code::badConfig));
  EXPECT_EQ(json.at("r"), 8);
  EXPECT_EQ(json.at("lora_alpha"), 8);
  EXPECT_TRUE(json.at("rank_pattern").empty());
  EXPECT_EQ(json.at("target_modules"), (std::vector<std::string>{"q", "k"}));
  EXPECT_EQ(json.at("base_model_name_or_path"), "base");
  EXPECT_EQ(json.at("fan_in_fan_out"), true);
  EXPECT_EQ(json.at("use_rslora"), false);
  const auto config = must(peft::readConfig(must(parseJson(text, Code::badConfig))));
  EXPECT_EQ(config.rankOf("x.q"), 8u);
  EXPECT_EQ(config.alphaOf("x.q"), 8);
}

// Whatever the paths and ranks: read back, each module has its own rank and scale 1.
TEST(PeftConfig, PatternsGiveEveryModuleItsRank) {
  const std::vector<std::vector<peft::MergedRank>> cases = {
      {{"a.q", 8}, {"b.q", 8}, {"b.k", 4}},
      {{"q", 4}, {"a.q", 8}, {"b.q", 8}, {"c.a.q", 8}},
      {{"q", 8}, {"a.q", 4}, {"c.a.q", 8}, {"d.c.a.q", 4}},
      {{"a.b", 4}, {"a_b", 8}, {"axb", 2}, {"x.a.b", 8}, {"y", 8}, {"z", 8}},
      {{"w(1)+", 4}, {"w1", 8}, {"w11", 8}, {"m[0]", 2}, {"m0", 8}},
  };
  for (const auto& modules : cases) {
    std::vector<peft::MergedRank> merged = modules;
    for (auto& module : merged) module.alpha = static_cast<double>(module.rank);
    const auto config = must(peft::readConfig(peft::mergedConfig({}, merged)));
    for (const auto& module : modules) {
      EXPECT_EQ(config.rankOf(module.path), module.rank) << module.path;
      EXPECT_EQ(config.alphaOf(module.path), static_cast<double>(module.rank)) << module.path;
    }
  }
}

}  // namespace
}  // namespace lego::testing

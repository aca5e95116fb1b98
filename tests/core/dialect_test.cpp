// Dialects: detection, names, and adapters that go through each of them unchanged.

#include "adapter/dialect.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "adapter/read_adapter.h"
#include "adapter/write_adapter.h"
#include "core/fixtures.h"
#include "format/onnx_adapter.h"
#include "format/safetensors.h"
#include "tensor/convert.h"

namespace lego::testing {
namespace {

/// What the test writes by hand: names and shapes as docs/formats.md has them, not as the core's writer does.
struct Sample {
  Dialect dialect;
  TestAdapter adapter;
  std::vector<Pair> pairs;  // of scale kScale; paths as the dialect has them
};
constexpr double kScale = 2;

std::vector<float> turned(const std::vector<float>& values, size_t rows, size_t columns) {
  std::vector<float> result(values.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) result[c * rows + r] = values[r * columns + c];
  }
  return result;
}

NamedTensor matrix(const std::string& name, DType dtype, uint64_t rows, uint64_t columns,
                   const std::vector<float>& values) {
  return {name, dtype, {rows, columns}, values};
}

const std::vector<std::pair<std::string, gguf::Value>> kGgufMetadata = {
    {"general.type", std::string("adapter")},
    {"adapter.type", std::string("lora")},
    {"general.architecture", std::string("llama")},
    {"adapter.lora.alpha", 0.0f}};

/// Pairs under a dialect's names, with what gives them scale 2; XLabs and Control-LoRA cannot, and fold it.
Sample sampleOf(Dialect dialect, std::vector<Pair> pairs, DType dtype = DType::F32) {
  std::vector<NamedTensor> tensors;
  std::string config;
  for (Pair& pair : pairs) {
    const double alpha = kScale * static_cast<double>(pair.rank);
    const auto plain = [&](const std::string& a, const std::string& b) {
      tensors.push_back(matrix(a, dtype, pair.rank, pair.in, pair.a));
      tensors.push_back(matrix(b, dtype, pair.out, pair.rank, pair.b));
    };
    const auto folded = [&](const std::string& a, const std::string& b) {
      std::vector<float> doubled(pair.b);
      for (float& value : doubled) value *= static_cast<float>(kScale);
      tensors.push_back(matrix(a, dtype, pair.rank, pair.in, pair.a));
      tensors.push_back(matrix(b, dtype, pair.out, pair.rank, doubled));
    };
    switch (dialect) {
      case Dialect::Peft:
        plain("base_model.model." + pair.path + ".lora_A.weight",
              "base_model.model." + pair.path + ".lora_B.weight");
        config = R"({"peft_type":"LORA","r":4,"lora_alpha":8})";
        break;
      case Dialect::Kohya:
      case Dialect::Comfy:
        plain(pair.path + ".lora_down.weight", pair.path + ".lora_up.weight");
        tensors.push_back({pair.path + ".alpha", dtype, {}, {static_cast<float>(alpha)}});
        break;
      case Dialect::Diffusers: folded(pair.path + ".lora_A.weight", pair.path + ".lora_B.weight"); break;
      case Dialect::XLabs: folded(pair.path + ".down.weight", pair.path + ".up.weight"); break;
      case Dialect::ControlLora: folded(pair.path + ".down", pair.path + ".up"); break;
      case Dialect::Gguf: folded(pair.path + ".weight.lora_a", pair.path + ".weight.lora_b"); break;
      case Dialect::OnnxAdapter: ADD_FAILURE() << "is not read"; break;
      case Dialect::Mlx:
        tensors.push_back(
            matrix(pair.path + ".lora_a", dtype, pair.in, pair.rank, turned(pair.a, pair.rank, pair.in)));
        tensors.push_back(
            matrix(pair.path + ".lora_b", dtype, pair.rank, pair.out, turned(pair.b, pair.out, pair.rank)));
        config =
            R"({"fine_tune_type":"lora","num_layers":2,"lora_parameters":{"rank":4,"scale":2.0,"dropout":0.0}})";
        break;
    }
  }
  const DialectInfo& info = infoOf(dialect);
  const auto file =
      (info.file == FileKind::Gguf) ? makeGguf(tensors, kGgufMetadata) : makeSafetensors(tensors);
  return {dialect, {info.name, file, config}, std::move(pairs)};
}

/// Names of modules as each dialect has them.
std::vector<std::string> pathsOf(Dialect dialect) {
  switch (dialect) {
    case Dialect::Peft:
    case Dialect::Mlx: return {"model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"};
    case Dialect::Kohya:
      return {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_down_blocks_0_attentions_0_proj_in"};
    case Dialect::Diffusers:
      return {"text_encoder.text_model.encoder.layers.0.mlp.fc1", "unet.down_blocks.0.attentions.0.proj_in"};
    case Dialect::Comfy:
      return {"diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.single_blocks.1.linear2"};
    case Dialect::XLabs:
      return {"double_blocks.0.processor.qkv_lora1", "single_blocks.3.processor.proj_lora"};
    case Dialect::ControlLora:
      return {"input_blocks.1.1.proj_in", "middle_block.1.transformer_blocks.0.attn1.to_q"};
    case Dialect::Gguf: return {"blk.0.attn_q", "blk.0.ffn_down"};
    case Dialect::OnnxAdapter: return {};
  }
  return {};
}

std::vector<Pair> pairsFor(Dialect dialect, uint64_t seed) {
  Random random(seed);
  std::vector<Pair> pairs;
  for (const std::string& path : pathsOf(dialect)) pairs.push_back(randomPair(random, 4, 12, 9, path));
  return pairs;
}

Recipe converting(const std::string& format = "same") {
  Recipe recipe;
  recipe.method = "cat";
  recipe.keepScales = true;
  recipe.format = format;
  return recipe;
}

Catalogue catalogueOf(const TestAdapter& adapter) {
  Session session(1);
  const Status added = addTo(session, adapter);
  EXPECT_TRUE(added) << describe(added.error());
  return added ? session.adapters()[0].catalogue : Catalogue{};
}

/// scale * B A of a module of an adapter, however its file has it.
std::vector<double> deltaOf(const TestAdapter& adapter, const std::string& path) {
  const Catalogue catalogue = catalogueOf(adapter);
  const auto module = std::ranges::find(catalogue.modules, path, &AdapterModule::path);
  if (module == catalogue.modules.end()) {
    ADD_FAILURE() << "no module " << path;
    return {};
  }
  Pair pair{path,
            module->rank,
            module->in,
            module->out,
            valuesOf(adapter.file, module->a.name),
            valuesOf(adapter.file, module->b.name)};
  if (module->transposedA) pair.a = turned(pair.a, pair.in, pair.rank);
  if (module->transposedB) pair.b = turned(pair.b, pair.rank, pair.out);
  return delta(pair, module->scale);
}

TestAdapter asAdapter(const Merged& merged) { return {"merged", merged.file, merged.plan.config}; }

std::set<std::string> namesOf(std::span<const std::byte> file) {
  std::set<std::string> names;
  for (const TensorInfo& tensor : headerOf(file).tensors) names.insert(tensor.name);
  return names;
}

class EveryDialect : public ::testing::TestWithParam<Dialect> {};
INSTANTIATE_TEST_SUITE_P(Dialects, EveryDialect, ::testing::ValuesIn([] {
                           std::vector<Dialect> all;
                           for (const DialectInfo& info : dialects()) {
                             if (info.isRead) all.push_back(info.dialect);
                           }
                           return all;
                         }()),
                         [](const auto& info) { return std::string(infoOf(info.param).name); });

TEST_P(EveryDialect, IsToldFromTheOthersByItsNames) {
  const Sample sample = sampleOf(GetParam(), pairsFor(GetParam(), 1));
  const Catalogue catalogue = catalogueOf(sample.adapter);
  EXPECT_EQ(catalogue.dialect, GetParam());
  EXPECT_NE(catalogue.reason.find((infoOf(GetParam()).file == FileKind::Gguf) ? "GGUF" : "4 tensors"),
            std::string::npos)
      << catalogue.reason;
  EXPECT_TRUE(catalogue.unsupported.empty());
}

TEST_P(EveryDialect, IsReadAsTheDeltasThatItsSpecificationGives) {
  const Sample sample = sampleOf(GetParam(), pairsFor(GetParam(), 2));
  for (const Pair& pair : sample.pairs)
    EXPECT_LT(relativeDistance(deltaOf(sample.adapter, pair.path), delta(pair, kScale)), 1e-7) << pair.path;
}

TEST_P(EveryDialect, IsWrittenAsItWasRead) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::F64}) {
    if ((infoOf(GetParam()).file == FileKind::Gguf) && dtype == DType::F64)
      continue;  // GGUF adapters have none
    const Sample sample = sampleOf(GetParam(), pairsFor(GetParam(), 3), dtype);
    const Merged converted = must(mergeAll({sample.adapter}, converting()));
    EXPECT_EQ(converted.plan.dialect, GetParam());
    EXPECT_EQ(namesOf(converted.file).size(), namesOf(sample.adapter.file).size());
    for (const std::string& name : namesOf(sample.adapter.file))
      EXPECT_EQ(valuesOf(converted.file, name), valuesOf(sample.adapter.file, name)) << name;
    const Catalogue before = catalogueOf(sample.adapter), after = catalogueOf(asAdapter(converted));
    ASSERT_EQ(after.modules.size(), before.modules.size());
    for (size_t m = 0; m < before.modules.size(); ++m) {
      EXPECT_EQ(after.modules[m].path, before.modules[m].path);
      EXPECT_EQ(after.modules[m].scale, before.modules[m].scale);
      EXPECT_EQ(after.modules[m].a.shape, before.modules[m].a.shape);
      EXPECT_EQ(after.modules[m].b.shape, before.modules[m].b.shape);
    }
  }
}

TEST_P(EveryDialect, HoldsAMergeOfItsOwn) {
  Recipe recipe;
  recipe.method = "cat";
  recipe.weights = {0.5, -1};
  const Sample first = sampleOf(GetParam(), pairsFor(GetParam(), 4)),
               second = sampleOf(GetParam(), pairsFor(GetParam(), 5));
  const TestAdapter merged = asAdapter(must(mergeAll({first.adapter, second.adapter}, recipe)));
  EXPECT_EQ(catalogueOf(merged).dialect, GetParam());
  for (size_t i = 0; i < first.pairs.size(); ++i) {
    std::vector<double> sum = delta(first.pairs[i], 0.5 * kScale);
    const std::vector<double> other = delta(second.pairs[i], -kScale);
    for (size_t j = 0; j < sum.size(); ++j) sum[j] += other[j];
    EXPECT_LT(relativeDistance(deltaOf(merged, first.pairs[i].path), sum), 1e-6);
  }
}

/// A module as the dialect's keys begin with it.
std::string frontOf(Dialect dialect) {
  return (dialect == Dialect::Peft ? "base_model.model." : "") + pathsOf(dialect)[0];
}

TEST_P(EveryDialect, HasKeysForEmbeddingsOnlyAsPeft) {
  const std::string path = frontOf(GetParam());
  for (const char* suffix : {".lora_embedding_A", ".lora_embedding_B"})
    EXPECT_EQ(parseKey(GetParam(), path + suffix).has_value(), GetParam() == Dialect::Peft) << suffix;
}

TEST_P(EveryDialect, HasLycorisKeysWhereProgramsWriteThem) {
  const bool expected =
      GetParam() == Dialect::Kohya || GetParam() == Dialect::Diffusers || GetParam() == Dialect::Comfy;
  const std::string path = frontOf(GetParam());
  for (const char* suffix : {".hada_w1_a", ".lokr_w2_b", ".lora_mid.weight", ".diff"})
    EXPECT_EQ(parseKey(GetParam(), path + suffix).has_value(), expected) << suffix;
}

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
  const std::vector<std::pair<Sample, const char*>> ways = {
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
  expectCode(merged(Dialect::Diffusers, Dialect::ControlLora), Code::mixedDialects);
  // A module that no table has.
  Random random(13);
  const auto unknown =
      sampleOf(Dialect::Kohya, {randomPair(random, 4, 12, 9, "lora_unet_model_layers_0_self_attn_q_proj")});
  const std::string text =
      expectCode(mergeAll({unknown.adapter, sample(Dialect::Diffusers)}, {}), Code::mixedDialects);
  EXPECT_NE(text.find("lora_unet_model_layers_0"), std::string::npos) << text;
  expectCode(mergeAll({sample(Dialect::Peft)}, converting("kohya")), Code::badFormat);
  expectCode(mergeAll({sample(Dialect::Peft)}, converting("zip")), Code::badFormat);
}

TEST(Dialects, OfOneFileAreNotMixed) {
  Random random(14);
  const Pair peft = randomPair(random, 4, 12, 9, "model.layers.0.self_attn.q_proj");
  const Pair kohya = randomPair(random, 4, 12, 9, "lora_unet_x");
  const TestAdapter both{
      "both",
      makeSafetensors({matrix("base_model.model.m.lora_A.weight", DType::F32, 4, 12, peft.a),
                       matrix("base_model.model.m.lora_B.weight", DType::F32, 9, 4, peft.b),
                       matrix("lora_unet_x.lora_down.weight", DType::F32, 4, 12, kohya.a),
                       matrix("lora_unet_x.lora_up.weight", DType::F32, 9, 4, kohya.b)}),
      R"({"peft_type":"LORA","r":4,"lora_alpha":8})"};
  Session session(1);
  const std::string text = expectCode(addTo(session, both), Code::ambiguousDialect);
  EXPECT_NE(text.find("(kohya)"), std::string::npos) << text;
  EXPECT_NE(text.find("(peft)"), std::string::npos) << text;
}

TEST(Dialects, OldNamesOfDiffusersAreThoseOfToday) {
  const std::pair<const char*, const char*> names[] = {
      {"unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "unet.down_blocks.0.attn1.to_q"},
      {"unet.mid_block.attn2.processor.to_out_lora.down.weight", "unet.mid_block.attn2.to_out.0"},
      {"unet.down_blocks.0.attn1.to_k.lora.down.weight", "unet.down_blocks.0.attn1.to_k"},
      {"text_encoder.layers.0.self_attn.to_v_lora.down.weight", "text_encoder.layers.0.self_attn.v_proj"},
      {"text_encoder.layers.0.self_attn.to_out_lora.down.weight", "text_encoder.layers.0.self_attn.out_proj"},
      {"text_encoder_2.layers.0.q_proj.lora_linear_layer.down.weight", "text_encoder_2.layers.0.q_proj"},
      {"transformer.blocks.0.attn.to_q.lora_A.weight", "transformer.blocks.0.attn.to_q"}};
  for (const auto& [name, path] : names) {
    const auto key = parseKey(Dialect::Diffusers, name);
    ASSERT_TRUE(key) << name;
    EXPECT_EQ(key->path, path);
    EXPECT_EQ(key->part, Part::A);
  }
}

TEST(Dialects, AlphasThatGiveNoScaleAreRefused) {
  for (const float alpha : {0.0f, NAN, INFINITY}) {
    Sample sample = sampleOf(Dialect::Kohya, pairsFor(Dialect::Kohya, 15));
    sample.adapter.file =
        makeSafetensors({matrix("lora_unet_x.lora_down.weight", DType::F32, 4, 12, sample.pairs[0].a),
                         matrix("lora_unet_x.lora_up.weight", DType::F32, 9, 4, sample.pairs[0].b),
                         {"lora_unet_x.alpha", DType::F32, {}, {alpha}}});
    Session session(1);
    expectCode(addTo(session, sample.adapter), Code::badAlpha);
  }
}

TEST(Dialects, DiffusersOwnConfigGivesScales) {
  Random random(16);
  const Pair pair = randomPair(random, 4, 12, 9, "unet.a.to_q");
  Header header;
  header.metadata = {{"lora_adapter_metadata", R"({"unet.r":4,"unet.lora_alpha":12,"text_encoder.r":8})"}};
  header.tensors = {{"unet.a.to_q.lora_A.weight", DType::F32, {4, 12}, 0, 0},
                    {"unet.a.to_q.lora_B.weight", DType::F32, {9, 4}, 0, 0}};
  EXPECT_EQ(must(lego::readAdapter(Container{header, {}}, {})).modules[0].scale, 3);
  header.metadata[0].second = R"({"unet.r":8})";
  expectCode(lego::readAdapter(Container{header, {}}, {}), Code::rankMismatch);
  header.metadata[0].second = "{";
  expectCode(lego::readAdapter(Container{header, {}}, {}), Code::badConfig);
}

TEST(Dialects, MetadataIsWhatTheInputsAgreeAbout) {
  const Metadata first = {{"ss_base_model_version", "sdxl_base_v1-0"},
                          {"ss_network_dim", "8"},
                          {"sshs_model_hash", "12"},
                          {"ss_tag_frequency", R"({"cats":{"cat":3,"red":1}})"},
                          {"ss_seed", "1"},
                          {"modelspec.trigger_phrase", "cat"}};
  const Metadata second = {{"ss_base_model_version", "sdxl_base_v1-0"},
                           {"ss_seed", "2"},
                           {"ss_tag_frequency", R"({"cats":{"red":2},"dogs":{"dog":5}})"},
                           {"modelspec.trigger_phrase", "dog"}};
  const std::vector<const Metadata*> files = {&first, &second};
  EXPECT_EQ(uniteMetadata(files),
            (Metadata{{"ss_base_model_version", "sdxl_base_v1-0"},
                      {"ss_tag_frequency", R"({"cats":{"cat":3,"red":3},"dogs":{"dog":5}})"},
                      {"modelspec.trigger_phrase", "cat, dog"}}));
}

TEST(Scales, ThatNoAlphaCanSayGoIntoTheFactors) {
  // 1e-40 times the rank is no normal binary32.
  const TestAdapter small = sampleOf(Dialect::Diffusers, pairsFor(Dialect::Diffusers, 33)).adapter;
  Session session(1);
  Header header{headerOf(small.file).tensors,
                {{"lora_adapter_metadata", R"({"unet.r":4,"unet.lora_alpha":4e-40,"text_encoder.r":4})"}}};
  const std::string text = must(safetensors::writeHeader(header));
  ASSERT_TRUE(
      session.addAdapter({"a", "a", ""}, std::as_bytes(std::span(text)), header.tensors.back().end, {}));
  ASSERT_TRUE(session.makePlan(converting("kohya")));
  for (const PlannedModule& module : session.plan().modules) {
    const bool isSmall = module.path.starts_with("unet");
    EXPECT_EQ(module.scale, isSmall ? 1 : 2) << module.path;
    EXPECT_EQ(module.sources.front().foldIntoB, isSmall) << module.path;
  }
  // Four times 1e308 is infinite, which no JSON says: before, PEFT's own default took its place.
  TestAdapter large = sampleOf(Dialect::Mlx, pairsFor(Dialect::Mlx, 34)).adapter;
  large.config = R"({"fine_tune_type":"lora","lora_parameters":{"rank":4,"scale":1e308}})";
  expectCode(mergeAll({large}, converting("peft")), Code::valueOverflow);
}

TEST(Names, ThatAnotherDialectWouldReadInAnotherWayAreNotWrittenInIt) {
  Random random(35);
  const Pair pair = randomPair(random, 4, 12, 9, "base_model.model.q_proj");
  const TestAdapter peft = sampleOf(Dialect::Peft, {pair}).adapter;
  EXPECT_TRUE(mergeAll({peft}, converting("peft")));
  expectCode(mergeAll({peft}, converting("mlx")), Code::badFormat);
}

TEST(Names, OfOldDiffusersAreReadAgainAsThemselves) {
  Random random(36);
  const Pair pair = randomPair(random, 4, 12, 9, "unet.a.processor.processor.to_q");
  const TestAdapter old = sampleOf(Dialect::Diffusers, {pair}).adapter;
  const Merged merged = must(mergeAll({old}, converting()));
  const Catalogue back = catalogueOf(asAdapter(merged));
  ASSERT_EQ(back.modules.size(), 1u);
  EXPECT_EQ(back.modules[0].path, merged.plan.modules[0].name);
}

/// The base model that the test's GGUF adapters are for.
Recipe withBase(Recipe recipe, uint32_t heads = 3, uint32_t keyHeads = 1) {
  recipe.base = BaseModel{"llama", heads, keyHeads, false};
  return recipe;
}

/// llama.cpp's order of rows, as convert_hf_to_gguf.py makes it: reshape(heads, 2, d / 2, columns), swap the
/// middle axes.
std::vector<float> permuted(const std::vector<float>& b, size_t rows, size_t columns, size_t heads) {
  std::vector<float> result(b.size());
  const size_t d = rows / heads;
  for (size_t h = 0; h < heads; ++h) {
    for (size_t j = 0; j < 2; ++j) {
      for (size_t i = 0; i < d / 2; ++i) {
        const size_t from = h * d + j * (d / 2) + i, to = h * d + 2 * i + j;
        for (size_t c = 0; c < columns; ++c) result[to * columns + c] = b[from * columns + c];
      }
    }
  }
  return result;
}

TEST(Gguf, RowsOfQAndKGoIntoTheOrderOfLlamaCppAndBack) {
  Random random(17);
  const std::vector<Pair> pairs = {randomPair(random, 4, 12, 8, "model.layers.1.self_attn.k_proj"),
                                   randomPair(random, 4, 12, 24, "model.layers.1.self_attn.q_proj"),
                                   randomPair(random, 4, 12, 8, "model.layers.1.self_attn.v_proj")};
  const TestAdapter peft = sampleOf(Dialect::Peft, pairs).adapter;
  const Merged there = must(mergeAll({peft}, withBase(converting("gguf"), 6, 2)));
  EXPECT_EQ(there.plan.modules.size(), 3u);
  const auto b = [&](const char* name) {
    return valuesOf(there.file, std::string("blk.1.") + name + ".weight.lora_b");
  };
  const auto doubled = [](std::vector<float> values) {
    for (float& value : values) value *= 2;
    return values;
  };
  EXPECT_EQ(b("attn_k"), permuted(doubled(pairs[0].b), 8, 4, 2));
  EXPECT_EQ(b("attn_q"), permuted(doubled(pairs[1].b), 24, 4, 6));
  EXPECT_EQ(b("attn_v"), doubled(pairs[2].b));
  EXPECT_EQ(valuesOf(there.file, "blk.1.attn_q.weight.lora_a"), pairs[1].a);
  const Merged back = must(mergeAll({asAdapter(there)}, withBase(converting("peft"), 6, 2)));
  for (const Pair& pair : pairs)
    EXPECT_EQ(deltaOf(asAdapter(back), pair.path), deltaOf(peft, pair.path)) << pair.path;
}

TEST(Gguf, AndPeftGiveWhatEachOfThemGives) {
  Random random(18);
  const std::vector<Pair> pairs = {randomPair(random, 4, 12, 24, "model.layers.0.self_attn.q_proj"),
                                   randomPair(random, 4, 24, 12, "model.layers.0.mlp.down_proj")};
  const TestAdapter peft = sampleOf(Dialect::Peft, pairs).adapter;
  const TestAdapter gguf = asAdapter(must(mergeAll({peft}, withBase(converting("gguf")))));
  Recipe recipe;
  recipe.method = "svd";
  const Merged mixed = must(mergeAll({peft, gguf}, withBase(recipe)));
  EXPECT_EQ(mixed.plan.dialect, Dialect::Peft);
  for (const Pair& pair : pairs)
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(mixed), pair.path), delta(pair, 2 * kScale)), 1e-6)
        << pair.path;
}

TEST(Gguf, ItsAlphaIsDividedByTheRankOfEachModule) {
  Random random(27);
  auto metadata = kGgufMetadata;
  metadata.back().second = 6.0f;
  std::vector<NamedTensor> tensors;
  for (const auto& [path, rank] : {std::pair{"blk.0.ffn_down", 2u}, std::pair{"blk.0.ffn_up", 4u}}) {
    const Pair pair = randomPair(random, rank, 12, 9, path);
    tensors.push_back(matrix(pair.path + ".weight.lora_a", DType::F32, rank, 12, pair.a));
    tensors.push_back(matrix(pair.path + ".weight.lora_b", DType::F32, 9, rank, pair.b));
  }
  const Catalogue catalogue = catalogueOf({"x", makeGguf(tensors, metadata), ""});
  ASSERT_EQ(catalogue.modules.size(), 2u);
  EXPECT_EQ(catalogue.modules[0].scale, 3);
  EXPECT_EQ(catalogue.modules[1].scale, 1.5);
}

TEST(Gguf, EmbeddingsKeepTheirDelta) {
  Random random(19);
  const Pair pair = randomPair(random, 2, 11, 6, "model.embed_tokens");
  const TestAdapter peft{
      "x",
      makeSafetensors(
          {matrix("base_model.model.model.embed_tokens.lora_embedding_A", DType::F32, 2, 11, pair.a),
           matrix("base_model.model.model.embed_tokens.lora_embedding_B", DType::F32, 6, 2, pair.b)}),
      R"({"peft_type":"LORA","r":2,"lora_alpha":4})"};
  const Merged there = must(mergeAll({peft}, withBase(converting("gguf"))));
  const Header header = headerOf(there.file);
  EXPECT_EQ(header.tensors[0].name, "token_embd.weight.lora_a");
  EXPECT_EQ(header.tensors[0].shape, (std::vector<uint64_t>{11, 2}));
  EXPECT_EQ(header.tensors[1].shape, (std::vector<uint64_t>{6, 2}));
  const Merged back = must(mergeAll({asAdapter(there)}, withBase(converting("peft"))));
  EXPECT_EQ(deltaOf(asAdapter(back), pair.path), deltaOf(peft, pair.path));
}

TEST(Gguf, BlocksOf8BitsWhereRowsAreWholeBlocks) {
  Random random(20);
  const Pair pair = randomPair(random, 4, 64, 32, "model.layers.0.mlp.down_proj");
  const TestAdapter peft = sampleOf(Dialect::Peft, {pair}).adapter;
  Recipe recipe = withBase(converting("gguf"));
  recipe.dtype = "q8_0";
  const Merged there = must(mergeAll({peft}, recipe));
  const Header header = headerOf(there.file);
  EXPECT_EQ(header.tensors[0].dtype, DType::Q8_0);
  EXPECT_EQ(header.tensors[1].dtype, DType::F16);
  // A step of 1/127 of a block's largest value, half of it on either side.
  EXPECT_LT(relativeDistance(deltaOf(asAdapter(there), "blk.0.ffn_down"), delta(pair, kScale)), 1.0 / 127);
  recipe.format = "same";
  expectCode(mergeAll({peft}, recipe), Code::badDtype);
}

TEST(Gguf, EmbeddingsOfOtherRanksThanBlocksStayF16) {
  Random random(30);
  const Pair pair = randomPair(random, 2, 11, 32, "model.embed_tokens");
  const TestAdapter peft{
      "x",
      makeSafetensors(
          {matrix("base_model.model.model.embed_tokens.lora_embedding_A", DType::F16, 2, 11, pair.a),
           matrix("base_model.model.model.embed_tokens.lora_embedding_B", DType::F16, 32, 2, pair.b)}),
      R"({"peft_type":"LORA","r":2,"lora_alpha":4})"};
  Recipe recipe = withBase(converting("gguf"));
  recipe.dtype = "q8_0";
  const Header header = headerOf(must(mergeAll({peft}, recipe)).file);
  for (const TensorInfo& tensor : header.tensors) EXPECT_EQ(tensor.dtype, DType::F16) << tensor.name;
}

TEST(Gguf, ModulesAreEmbeddingsExactlyWhereTheirNamesSaySo) {
  Random random(31);
  const auto adapter = [&](const std::string& path, const char* a, const char* b) {
    return TestAdapter{
        "x",
        makeSafetensors(
            {{"base_model.model." + path + a, DType::F32, {2, 8}, randomPair(random, 2, 8, 8).a},
             {"base_model.model." + path + b, DType::F32, {8, 2}, randomPair(random, 2, 8, 8).b}}),
        R"({"peft_type":"LORA","r":2})"};
  };
  const Recipe recipe = withBase(converting("gguf"));
  expectCode(mergeAll({adapter("model.embed_tokens", ".lora_A.weight", ".lora_B.weight")}, recipe),
             Code::badFormat);
  expectCode(
      mergeAll({adapter("model.layers.0.mlp.up_proj", ".lora_embedding_A", ".lora_embedding_B")}, recipe),
      Code::badFormat);
}

TEST(Gguf, NoTextHasNul) {
  TestAdapter peft = sampleOf(Dialect::Peft, pairsFor(Dialect::Peft, 32)).adapter;
  peft.config = R"({"peft_type":"LORA","r":4,"base_model_name_or_path":"a\u0000b"})";
  Recipe recipe = converting("gguf");
  recipe.base = BaseModel{"qwen2", 3, 1, false};
  expectCode(mergeAll({peft}, recipe), Code::notExpressible);
}

TEST(Gguf, WhatIsNotKnownIsAskedFor) {
  const TestAdapter peft = sampleOf(Dialect::Peft, pairsFor(Dialect::Peft, 21)).adapter;
  expectCode(mergeAll({peft}, converting("gguf")), Code::baseMissing);
  Recipe recipe = converting("gguf");
  recipe.base = BaseModel{"llama", 0, 0, false};
  expectCode(mergeAll({peft}, recipe), Code::baseMissing);
  recipe.base = BaseModel{"nobody", 3, 3, false};
  expectCode(mergeAll({peft}, recipe), Code::badFormat);
  // 9 rows are no 2 heads of an even number of rows.
  expectCode(mergeAll({peft}, withBase(converting("gguf"), 2, 1)), Code::shapeMismatch);
  const TestAdapter gguf = sampleOf(Dialect::Gguf, pairsFor(Dialect::Gguf, 22)).adapter;
  expectCode(mergeAll({gguf}, converting("peft")), Code::baseMissing);
  Recipe other = converting("peft");
  other.base = BaseModel{"qwen2", 3, 3, false};
  expectCode(mergeAll({gguf}, other), Code::mixedDialects);
}

TEST(Gguf, BaseModelsAreReadFromTheirConfigs) {
  const BaseModel llama =
      must(readBaseConfig(R"({"model_type":"mistral","num_attention_heads":32,"num_key_value_heads":8})"));
  EXPECT_EQ(llama.architecture, "llama");
  EXPECT_EQ(llama.heads, 32u);
  EXPECT_EQ(llama.keyHeads, 8u);
  EXPECT_EQ(must(readBaseConfig(R"({"model_type":"qwen2","num_attention_heads":4})")).keyHeads, 4u);
  EXPECT_TRUE(
      must(
          readBaseConfig(
              R"({"model_type":"gemma3","text_config":{"model_type":"gemma3_text","tie_word_embeddings":true}})"))
          .tiedOutput);
  expectCode(readBaseConfig("{}"), Code::badConfig);
  expectCode(readBaseConfig("[]"), Code::badConfig);
  expectCode(readBaseConfig(R"({"model_type":"llama","num_attention_heads":"many"})"), Code::badConfig);
}

/// A kohya file with one module that LyCORIS stores in its own way, and the delta that its formula gives.
struct LycorisSample {
  const char* name;
  std::vector<NamedTensor> tensors;
  std::vector<double> delta;
  uint64_t units;
};

std::vector<float> randomValues(Random& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = randomFloat(random);
  return values;
}

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

const std::string kLycoris = "lora_unet_down_blocks_0_attentions_0_proj_in";

std::vector<LycorisSample> lycorisSamples() {
  Random random(23);
  const auto tensor = [](const std::string& suffix, std::vector<uint64_t> shape, std::vector<float> values) {
    return NamedTensor{kLycoris + suffix, DType::F32, std::move(shape), std::move(values)};
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
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(converted), kLycoris), sample.delta), 2e-7);
    // Also where the scale has to go into the factors, and on the readable kernels.
    Recipe recipe;
    recipe.method = "svd";
    recipe.rank = static_cast<uint32_t>(sample.units);
    const Merged merged = must(mergeAll({adapter}, recipe));
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(merged), kLycoris), sample.delta), 1e-6);
    EXPECT_EQ(must(mergeAll({adapter}, recipe, 1, kReferenceKernels)).file, merged.file);
  }
}

TEST(Lycoris, MergesWithPlainPairsAndIsTruncatedOnRequest) {
  Random random(24);
  for (const LycorisSample& sample : lycorisSamples()) {
    SCOPED_TRACE(sample.name);
    const uint64_t in = sample.delta.size() / 8;
    const Pair pair = randomPair(random, 4, in, 8, kLycoris);
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
    EXPECT_LT(relativeDistance(deltaOf(asAdapter(merged), kLycoris), sum), 1e-6);
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
    tensors.push_back({kLycoris + suffix, DType::F32, std::move(shape), randomValues(random, count)});
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

TEST(OnnxAdapter, HoldsTheFactorsUnderTheGraphsNames) {
  Random random(26);
  const std::vector<Pair> pairs = {randomPair(random, 3, 12, 9, "model.layers.0.mlp.down_proj"),
                                   randomPair(random, 3, 9, 12, "model.layers.0.self_attn.q_proj")};
  const TestAdapter peft{"x", makeAdapter("x", pairs, DType::F16, 6).file,
                         makeAdapter("x", pairs, DType::F16, 6).config};
  Recipe recipe = converting("onnx");
  const auto tensors = [&] {
    const Merged there = must(mergeAll({peft}, recipe));
    EXPECT_TRUE(there.plan.config.empty());
    const auto file = must(onnx_adapter::readHeader(there.file));
    std::vector<std::pair<TensorInfo, std::vector<float>>> found;
    for (const TensorInfo& tensor : file.header.tensors) {
      std::vector<float> values((tensor.end - tensor.begin) / 2);
      toFloatRef(tensor.dtype, there.file.data() + tensor.begin, values.size(), values.data());
      found.emplace_back(tensor, std::move(values));
    }
    return found;
  };
  const Pair first = rounded(pairs[0], DType::F16);
  std::vector<float> doubled(first.b);
  for (float& value : doubled) value *= 2;
  auto found = tensors();
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].first.name, "model.layers.0.mlp.down_proj.lora_A.weight");
  EXPECT_EQ(found[0].first.shape, (std::vector<uint64_t>{12, 3}));
  EXPECT_EQ(found[0].second, turned(first.a, 3, 12));
  EXPECT_EQ(found[1].first.shape, (std::vector<uint64_t>{3, 9}));
  EXPECT_EQ(found[1].second, turned(doubled, 9, 3));
  recipe.onnxNameA = "{module}.A";
  recipe.onnxNameB = "{module}.B";
  recipe.onnxMatMul = false;
  found = tensors();
  EXPECT_EQ(found[0].first.name, "model.layers.0.mlp.down_proj.A");
  EXPECT_EQ(found[0].first.shape, (std::vector<uint64_t>{3, 12}));
  EXPECT_EQ(found[0].second, first.a);
  EXPECT_EQ(found[1].second, doubled);
}

/// A kohya adapter with a pair, a trained normalisation and a difference of a bias.
TestAdapter withExtras(const char* name, const Pair& pair, const std::vector<float>& norm,
                       const std::vector<float>& bias) {
  return {name,
          makeSafetensors({matrix(kLycoris + ".lora_down.weight", DType::F32, pair.rank, pair.in, pair.a),
                           matrix(kLycoris + ".lora_up.weight", DType::F32, pair.out, pair.rank, pair.b),
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
  EXPECT_TRUE(namesOf(other.file).contains(kLycoris + ".alpha"));
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

}  // namespace
}  // namespace lego::testing

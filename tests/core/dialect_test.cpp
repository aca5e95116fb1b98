// Dialects: detection, names, and adapters that go through each of them unchanged.

#include "adapter/dialect.h"

#include <gtest/gtest.h>

#include <cmath>

#include "adapter/read_adapter.h"
#include "adapter/write_adapter.h"
#include "core/dialect_samples.h"
#include "format/json.h"
#include "format/safetensors.h"

namespace lego::testing {
namespace {

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
  const DialectSample sample = sampleOf(GetParam(), pairsFor(GetParam(), 1));
  const Catalogue catalogue = catalogueOf(sample.adapter);
  EXPECT_EQ(catalogue.dialect, GetParam());
  EXPECT_NE(catalogue.reason.find((infoOf(GetParam()).file == FileKind::Gguf) ? "GGUF" : "4 tensors"),
            std::string::npos)
      << catalogue.reason;
  EXPECT_TRUE(catalogue.unsupported.empty());
}

TEST_P(EveryDialect, IsReadAsTheDeltasThatItsSpecificationGives) {
  const DialectSample sample = sampleOf(GetParam(), pairsFor(GetParam(), 2));
  for (const Pair& pair : sample.pairs)
    EXPECT_LT(relativeDistance(deltaOf(sample.adapter, pair.path), delta(pair, kScale)), 1e-7) << pair.path;
}

TEST_P(EveryDialect, IsWrittenAsItWasRead) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::F64}) {
    if ((infoOf(GetParam()).file == FileKind::Gguf) && dtype == DType::F64)
      continue;  // GGUF adapters have none
    DialectSample sample = sampleOf(GetParam(), pairsFor(GetParam(), 3), dtype);
    // Values that binary32 does not have.
    for (const TensorInfo& tensor : headerOf(sample.adapter.file).tensors) {
      const bool isFactor = tensor.dtype == DType::F64 && tensor.end - tensor.begin > sizeof(double);
      for (uint64_t at = tensor.begin; isFactor && at < tensor.end; at += sizeof(double))
        sample.adapter.file[at] |= std::byte{1};
    }
    const Merged converted = must(mergeAll({sample.adapter}, converting()));
    EXPECT_EQ(converted.plan.dialect, GetParam());
    EXPECT_EQ(namesOf(converted.file).size(), namesOf(sample.adapter.file).size());
    for (const std::string& name : namesOf(sample.adapter.file))
      EXPECT_EQ(doublesOf(converted.file, name), doublesOf(sample.adapter.file, name)) << name;
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

TEST_P(EveryDialect, MergesDoraOnlyWhereItsMeaningIsCertain) {
  Recipe recipe;
  recipe.policies = {{ExtraKind::Dora, Policy::Merge}};
  // A plain adapter has nothing that would need the base model.
  const auto merged = mergeAll({sampleOf(GetParam(), pairsFor(GetParam(), 6)).adapter}, recipe);
  if (hasMagnitudes(GetParam())) {
    EXPECT_TRUE(merged);
  } else {
    expectCode(merged, Code::badPolicy);
  }
}

TEST_P(EveryDialect, HoldsAMergeOfItsOwn) {
  Recipe recipe;
  recipe.method = "cat";
  recipe.weights = {0.5, -1};
  const DialectSample first = sampleOf(GetParam(), pairsFor(GetParam(), 4)),
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
    DialectSample sample = sampleOf(Dialect::Kohya, pairsFor(Dialect::Kohya, 15));
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

TEST(Dialects, KohyaHasPlacesForHashesOfItsTensors) {
  TestAdapter adapter = sampleOf(Dialect::Kohya, pairsFor(Dialect::Kohya, 37)).adapter;
  Header header = headerOf(adapter.file);
  const uint64_t before = header.tensors.front().begin;
  header.metadata = {
      {"ss_steps", "\"sshs_model_hash\":\""}, {"modelspec.title", "x"}, {"sshs_model_hash", "f"}};
  const std::string text = must(safetensors::writeHeader(header));
  adapter.file.erase(adapter.file.begin(), adapter.file.begin() + static_cast<std::ptrdiff_t>(before));
  const auto bytes = std::as_bytes(std::span(text));
  adapter.file.insert(adapter.file.begin(), bytes.begin(), bytes.end());

  const Plan plan = must(mergeAll({adapter}, converting())).plan;
  ASSERT_TRUE(plan.hashes);
  const PlannedHashes& hashes = *plan.hashes;
  EXPECT_EQ(hashes.dataBegin, plan.constants.front().begin);
  EXPECT_EQ(plan.header.substr(hashes.modelAt - 19, 19 + 66),
            "\"sshs_model_hash\":\"" + std::string(64, '0') + "\",");
  EXPECT_EQ(plan.header.substr(hashes.legacyAt, 9), "00000000\"");
  Json legacy = must(parseJson(std::string_view(hashes.legacyHeader).substr(8), Code::badHeader));
  EXPECT_EQ(legacy["__metadata__"]["ss_steps"], header.metadata.front().second);
  for (const auto& [key, value] : legacy["__metadata__"].items()) EXPECT_TRUE(key.starts_with("ss_")) << key;
  EXPECT_EQ(legacy.size(), 1 + header.tensors.size());
  Recipe bare = converting();
  bare.metadata = false;
  EXPECT_FALSE(must(mergeAll({adapter}, bare)).plan.hashes);
  const TestAdapter comfy = sampleOf(Dialect::Comfy, pairsFor(Dialect::Comfy, 38)).adapter;
  EXPECT_FALSE(must(mergeAll({comfy}, converting())).plan.hashes);
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

}  // namespace
}  // namespace lego::testing

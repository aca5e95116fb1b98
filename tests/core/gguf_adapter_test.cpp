// Adapters in GGUF: llama.cpp's names, order of rows and scales, and what must be known of the base model.

#include <gtest/gtest.h>

#include "adapter/base_model.h"
#include "core/dialect_samples.h"

namespace lego::testing {
namespace {

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

/// A PEFT adapter of an embedding, of scale 2 at rank 2.
TestAdapter peftEmbedding(const Pair& pair, DType dtype) {
  const std::string key = "base_model.model." + pair.path;
  return {"x",
          makeSafetensors({matrix(key + ".lora_embedding_A", dtype, pair.rank, pair.in, pair.a),
                           matrix(key + ".lora_embedding_B", dtype, pair.out, pair.rank, pair.b)}),
          R"({"peft_type":"LORA","r":2,"lora_alpha":4})"};
}

TEST(Gguf, EmbeddingsKeepTheirDelta) {
  Random random(19);
  const Pair pair = randomPair(random, 2, 11, 6, "model.embed_tokens");
  const TestAdapter peft = peftEmbedding(pair, DType::F32);
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
  const TestAdapter peft = peftEmbedding(pair, DType::F16);
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

}  // namespace
}  // namespace lego::testing

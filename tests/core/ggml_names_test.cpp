// llama.cpp's tensor names and order of attention rows.

#include "adapter/ggml_names.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/random.h"
#include "core/fixtures.h"

namespace lego::testing {
namespace {

TEST(GgmlNames, OfModules) {
  const std::pair<const char*, const char*> kNames[] = {
      {"model.embed_tokens", "token_embd"},
      {"lm_head", "output"},
      {"model.layers.0.self_attn.q_proj", "blk.0.attn_q"},
      {"model.layers.31.self_attn.k_proj", "blk.31.attn_k"},
      {"model.layers.3.self_attn.v_proj", "blk.3.attn_v"},
      {"model.layers.3.self_attn.o_proj", "blk.3.attn_output"},
      {"model.layers.3.self_attn.qkv_proj", "blk.3.attn_qkv"},
      {"model.layers.3.self_attn.dense", "blk.3.attn_output"},
      {"model.layers.3.mlp.gate_proj", "blk.3.ffn_gate"},
      {"model.layers.3.mlp.up_proj", "blk.3.ffn_up"},
      {"model.layers.3.mlp.down_proj", "blk.3.ffn_down"},
      {"model.layers.3.mlp.gate_up_proj", "blk.3.ffn_up"},
      {"model.layers.3.mlp.fc1", "blk.3.ffn_up"},
      {"model.layers.3.mlp.fc2", "blk.3.ffn_down"},
      {"model.layers.3.mlp.gate", "blk.3.ffn_gate_inp"},
      {"model.layers.3.block_sparse_moe.gate", "blk.3.ffn_gate_inp"},
      {"model.layers.3.mlp.switch_mlp.down_proj", "blk.3.ffn_down_exps"},
      {"model.layers.3.mlp.shared_expert.up_proj", "blk.3.ffn_up_shexp"},
      {"model.layers.3.mlp.shared_experts.gate_proj", "blk.3.ffn_gate_shexp"},
      {"model.language_model.layers.3.mlp.up_proj", "blk.3.ffn_up"},
      {"language_model.model.layers.3.mlp.up_proj", "blk.3.ffn_up"},
      {"language_model.lm_head", "output"},
      {"layers.7.self_attn.q_proj", "blk.7.attn_q"},
      {"transformer.wte", "token_embd"},
      {"transformer.h.11.attn.c_attn", "blk.11.attn_qkv"},
      {"transformer.h.11.mlp.c_fc", "blk.11.ffn_up"},
      {"h.11.mlp.c_proj", "blk.11.ffn_down"},
      {"transformer.encoder.layers.5.self_attention.query_key_value", "blk.5.attn_qkv"},
      {"model.transformer.blocks.2.ff_proj", "blk.2.ffn_gate"},
  };
  for (const auto& [path, name] : kNames) EXPECT_EQ(ggmlName(path), name) << path;
}

TEST(GgmlNames, AreRefusedWhereUncertain) {
  for (const char* path : {
           "",
           "model",
           "lm_head.weight",
           "model.layers",
           "model.layers.",
           "model.layers.3",
           "model.layers.3.",
           "model.layers..self_attn.q_proj",
           "model.layers.x.self_attn.q_proj",
           "model.layers.-1.self_attn.q_proj",
           "model.layers.03.self_attn.q_proj",
           "model.layers.1234567.self_attn.q_proj",
           "model.layers.3.self_attn.q_proj.weight",
           "model.layers.3.input_layernorm",
           "xmodel.layers.3.self_attn.q_proj",
           "vision_tower.layers.3.self_attn.q_proj",
           "gpt_neox.layers.3.attention.query_key_value",     // reordered by the converter
           "transformer.h.3.self_attention.query_key_value",  // Falcon: reordered
           "model.layers.3.self_attn.W_pack",                 // Baichuan: split
           "model.layers.3.self_attn.kv_b_proj",              // DeepSeek 2: split
           "model.layers.3.mlp.experts.gate_up_proj",         // split
           "model.layers.3.mlp.experts.7.up_proj",            // one of a stack
       }) {
    EXPECT_EQ(ggmlName(path), std::nullopt) << path;
  }
}

TEST(GgmlNames, OfExperts) {
  EXPECT_EQ(ggmlExpert("model.layers.3.mlp.experts.7.up_proj"), (ExpertName{"blk.3.ffn_up_exps", 7}));
  EXPECT_EQ(ggmlExpert("model.layers.10.block_sparse_moe.experts.0.w1"),
            (ExpertName{"blk.10.ffn_gate_exps", 0}));
  EXPECT_EQ(ggmlExpert("model.layers.10.block_sparse_moe.experts.127.w2"),
            (ExpertName{"blk.10.ffn_down_exps", 127}));
  EXPECT_EQ(ggmlExpert("model.layers.10.block_sparse_moe.experts.12.w3"),
            (ExpertName{"blk.10.ffn_up_exps", 12}));
  for (const char* path : {"", "model.layers.3.mlp.up_proj", "model.layers.3.mlp.experts.up_proj",
                           "model.layers.3.mlp.experts.7", "model.layers.3.mlp.experts.7.",
                           "model.layers.3.mlp.experts.07.up_proj", "model.layers.3.mlp.experts.7.norm"})
    EXPECT_EQ(ggmlExpert(path), std::nullopt) << path;
}

TEST(GgmlNames, GoBackWhereTheyAreCertain) {
  EXPECT_EQ(hfPath("blk.3.attn_q", "llama"), "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(hfPath("blk.3.ffn_up", "qwen2"), "model.layers.3.mlp.up_proj");
  EXPECT_EQ(hfPath("blk.3.ffn_up", "phi3"), "model.layers.3.mlp.gate_up_proj");
  EXPECT_EQ(hfPath("blk.3.attn_qkv", "phi3"), "model.layers.3.self_attn.qkv_proj");
  EXPECT_EQ(hfPath("blk.3.ffn_up", "phi2"), "model.layers.3.mlp.fc1");
  EXPECT_EQ(hfPath("token_embd", "gemma3"), "model.embed_tokens");
  EXPECT_EQ(hfPath("output", "granite"), "lm_head");
  EXPECT_EQ(hfPath("blk.3.ffn_gate_inp", "qwen3moe"), "model.layers.3.mlp.gate");
  for (const auto& [name, architecture] : std::initializer_list<std::pair<const char*, const char*>>{
           {"blk.3.attn_qkv", "llama"},      // no Llama has it
           {"blk.3.ffn_gate_inp", "llama"},  // Mixtral, whose module has two names
           {"blk.3.attn_q", "phi3"},
           {"blk.3.attn_q", "an architecture"},
           {"blk.3.attn_q", ""},
           {"blk.03.attn_q", "llama"},
           {"blk.3.attn_q.weight", "llama"},
           {"blk.attn_q", "llama"},
           {"blk.3", "llama"},
           {"", "llama"},
           {"output_norm", "llama"}}) {
    EXPECT_EQ(hfPath(name, architecture), std::nullopt) << name << " " << architecture;
  }
}

// What hfPath says must lead back to the same tensor, or the table contradicts itself.
TEST(GgmlNames, RoundTrip) {
  size_t pairs = 0;
  for (const char* architecture :
       {"llama",   "mistral3", "qwen2", "qwen3", "gemma",      "gemma2",   "gemma3",   "granite",
        "smollm3", "arcee",    "olmo",  "olmo2", "command-r",  "cohere2",  "stablelm", "minicpm",
        "deci",    "seed_oss", "phi2",  "phi3",  "starcoder2", "qwen2moe", "qwen3moe"}) {
    EXPECT_TRUE(permutesHeads(architecture)) << architecture;
    for (const char* tensor :
         {"attn_q", "attn_k", "attn_v", "attn_output", "attn_qkv", "ffn_gate", "ffn_up", "ffn_down",
          "ffn_gate_inp", "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"}) {
      const std::string name = std::string("blk.12.") + tensor;
      const auto path = hfPath(name, architecture);
      if (!path) continue;
      ++pairs;
      EXPECT_EQ(ggmlName(*path), name) << architecture;
    }
  }
  EXPECT_GT(pairs, 150u);
}

TEST(GgmlHeads, ArchitecturesThatPermute) {
  for (const char* name : {"llama", "deci", "granite", "granitemoe", "bailingmoe", "llada", "deepseek",
                           "mistral3", "olmo", "minicpm", "smollm3", "arcee"})
    EXPECT_EQ(permutesHeads(name), true) << name;
  for (const char* name :
       {"qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "olmo2", "llama4", "deepseek2"})
    EXPECT_EQ(permutesHeads(name), false) << name;
  for (const char* name : {"", "Llama", "llama2", "glm4", "some new model"})
    EXPECT_EQ(permutesHeads(name), std::nullopt) << name;
}

// reshape(heads, 2, d / 2).swapaxes(1, 2).reshape(rows), as the converter has it.
TEST(GgmlHeads, PermuteByDefinitionAndBack) {
  std::vector<float> twelve(12), scratch(6);
  std::iota(twelve.begin(), twelve.end(), 0.0f);
  permuteHeads(twelve, 2, scratch);
  EXPECT_EQ(twelve, (std::vector<float>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  restoreHeads(twelve, 2, scratch);
  EXPECT_EQ(twelve, (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));

  Random random(4);
  for (const uint32_t heads : {1, 2, 3, 8, 32}) {
    for (const size_t d : {2, 4, 6, 64, 128}) {
      std::vector<float> column(heads * d), room(d + 3);
      for (float& value : column) value = static_cast<float>(random.uniform());
      const auto source = column;
      ASSERT_TRUE(checkHeads(column.size(), heads));
      permuteHeads(column, heads, room);
      for (size_t h = 0; h < heads; ++h) {
        for (size_t j = 0; j < 2; ++j) {
          for (size_t i = 0; i < d / 2; ++i)
            ASSERT_EQ(column[h * d + 2 * i + j], source[h * d + j * (d / 2) + i]);
        }
      }
      restoreHeads(column, heads, room);
      ASSERT_EQ(column, source);
    }
  }
}

TEST(GgmlHeads, MustFitTheRows) {
  EXPECT_TRUE(checkHeads(4096, 32));
  EXPECT_TRUE(checkHeads(2, 1));
  expectCode(checkHeads(4096, 0), Code::shapeMismatch);
  expectCode(checkHeads(0, 8), Code::shapeMismatch);
  expectCode(checkHeads(100, 3), Code::shapeMismatch);
  expectCode(checkHeads(9, 3), Code::shapeMismatch);  // heads of three rows have no halves
  expectCode(checkHeads(8, 16), Code::shapeMismatch);
}

}  // namespace
}  // namespace lego::testing

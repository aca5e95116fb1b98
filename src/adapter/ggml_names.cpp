#include "adapter/ggml_names.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace lego {
namespace {

/// A module and its tensor, both without what is in front of them.
struct Name {
  std::string_view module, tensor;
};

// Outside the layers.
constexpr Name kTop[] = {
    {"model.embed_tokens", "token_embd"},
    {"embed_tokens", "token_embd"},
    {"lm_head", "output"},
    {"transformer.wte", "token_embd"},  // GPT-2, Qwen 1, EXAONE, MPT
    {"wte", "token_embd"},
    {"transformer.word_embeddings", "token_embd"},            // Falcon
    {"transformer.embedding.word_embeddings", "token_embd"},  // ChatGLM
    {"transformer.output_layer", "output"},                   // ChatGLM
    {"gpt_neox.embed_in", "token_embd"},
    {"embed_out", "output"},                  // GPT-NeoX
    {"model.tok_embeddings", "token_embd"},   // InternLM 2
    {"output", "output"},                     // InternLM 2
    {"model.transformer.wte", "token_embd"},  // LLaDA
    {"model.transformer.ff_out", "output"},   // LLaDA
};

// Layers of Llama and most models since. Where a module occurs only in some of them, they are named.
constexpr Name kLlama[] = {
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.out_proj", "attn_output"},  // LFM2
    {"self_attn.dense", "attn_output"},     // Phi-2
    {"self_attn.qkv_proj", "attn_qkv"},     // Phi-3
    {"self_attn.q_a_proj", "attn_q_a"},     // DeepSeek 2; kv_b_proj is split
    {"self_attn.q_b_proj", "attn_q_b"},
    {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate_up_proj", "ffn_up"},  // Phi-3, GLM-4: one tensor there too
    {"mlp.fc1", "ffn_up"},           // Phi-2
    {"mlp.fc2", "ffn_down"},
    {"mlp.c_fc", "ffn_up"},  // StarCoder 2
    {"mlp.c_proj", "ffn_down"},
    {"feed_forward.gate_proj", "ffn_gate"},  // Llama 4, Jamba
    {"feed_forward.up_proj", "ffn_up"},
    {"feed_forward.down_proj", "ffn_down"},
    {"attention.wo", "attn_output"},  // InternLM 2; its wqkv is split
    {"feed_forward.w1", "ffn_gate"},
    {"feed_forward.w3", "ffn_up"},
    {"feed_forward.w2", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},                       // Qwen 2 MoE, Qwen 3 MoE, DeepSeek, OLMoE
    {"mlp.router", "ffn_gate_inp"},                     // gpt-oss
    {"block_sparse_moe.gate", "ffn_gate_inp"},          // Mixtral, PhiMoE
    {"block_sparse_moe.router.layer", "ffn_gate_inp"},  // Granite MoE
    {"feed_forward.router", "ffn_gate_inp"},            // Llama 4, Jamba
    {"mlp.switch_mlp.gate_proj", "ffn_gate_exps"},      // MLX: all experts at once
    {"mlp.switch_mlp.up_proj", "ffn_up_exps"},
    {"mlp.switch_mlp.down_proj", "ffn_down_exps"},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},  // Qwen 2 MoE
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},  // DeepSeek
    {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
    {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
    {"feed_forward.shared_expert.gate_proj", "ffn_gate_shexp"},  // Llama 4
    {"feed_forward.shared_expert.up_proj", "ffn_up_shexp"},
    {"feed_forward.shared_expert.down_proj", "ffn_down_shexp"},
};

constexpr Name kGpt2[] = {
    {"attn.c_attn", "attn_qkv"},
    {"attn.c_proj", "attn_output"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},  // Qwen 1 and EXAONE too
    {"mlp.w1", "ffn_up"},        // Qwen 1
    {"mlp.w2", "ffn_gate"},
    {"attn.attention.q_proj", "attn_q"},  // EXAONE
    {"attn.attention.k_proj", "attn_k"},
    {"attn.attention.v_proj", "attn_v"},
    {"attn.attention.out_proj", "attn_output"},
    {"mlp.c_fc_0", "ffn_gate"},
    {"mlp.c_fc_1", "ffn_up"},
    {"self_attention.dense", "attn_output"},  // Falcon, whose query_key_value is reordered
    {"mlp.dense_h_to_4h", "ffn_up"},
    {"mlp.dense_4h_to_h", "ffn_down"},
};

constexpr Name kChatGlm[] = {
    {"self_attention.query_key_value", "attn_qkv"},
    {"self_attention.dense", "attn_output"},
    {"mlp.dense_h_to_4h", "ffn_up"},
    {"mlp.dense_4h_to_h", "ffn_down"},
};

constexpr Name kMpt[] = {
    {"attn.Wqkv", "attn_qkv"},
    {"attn.out_proj", "attn_output"},
    {"ffn.up_proj", "ffn_up"},
    {"ffn.down_proj", "ffn_down"},
};

constexpr Name kNeoX[] = {
    {"attention.dense", "attn_output"},
    {"mlp.dense_h_to_4h", "ffn_up"},
    {"mlp.dense_4h_to_h", "ffn_down"},
};

constexpr Name kLlada[] = {
    {"q_proj", "attn_q"},    {"k_proj", "attn_k"},  {"v_proj", "attn_v"},   {"attn_out", "attn_output"},
    {"ff_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"ff_out", "ffn_down"},
};

/// Where the layers of a family of models stand.
struct Family {
  std::string_view front;
  std::span<const Name> names;
};
constexpr Family kFamilies[] = {
    {"model.layers.", kLlama},
    {"layers.", kLlama},  // a model without head, such as an embedding model
    {"transformer.h.", kGpt2},
    {"h.", kGpt2},
    {"transformer.encoder.layers.", kChatGlm},
    {"transformer.blocks.", kMpt},
    {"gpt_neox.layers.", kNeoX},
    {"model.transformer.blocks.", kLlada},
};

// Experts by number, between these and the number's dot.
constexpr std::string_view kExperts[] = {"mlp.experts.", "block_sparse_moe.experts.",
                                         "feed_forward.experts."};
constexpr Name kExpert[] = {
    {"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"},
    {"down_proj", "ffn_down_exps"}, {"w1", "ffn_gate_exps"},  // Mixtral, PhiMoE
    {"w3", "ffn_up_exps"},          {"w2", "ffn_down_exps"},
};

// MLX's stacks, and where transformers keeps the experts one by one.
constexpr std::string_view kMlxSwitch = ".switch_mlp.";
struct Switch {
  std::string_view parent;
  std::array<Name, 3> names;  // of an expert in transformers, of the stack in MLX
};
constexpr Switch kSwitches[] = {
    {"mlp", {{{"gate_proj", "gate_proj"}, {"up_proj", "up_proj"}, {"down_proj", "down_proj"}}}},
    {"block_sparse_moe", {{{"w1", "gate_proj"}, {"w3", "up_proj"}, {"w2", "down_proj"}}}},  // Mixtral, PhiMoE
};
// Architectures whose experts stand in kSwitches' first way in transformers, and as gate, up and down in
// llama.cpp.
constexpr std::string_view kPlainExperts[] = {"qwen2moe", "qwen3moe"};

// Ways back. What an architecture has beyond the common modules, or instead of them.
constexpr Name kPlain[] = {
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr Name kPhi3[] = {
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr Name kPhi2[] = {
    {"self_attn.q_proj", "attn_q"},     {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"},
    {"self_attn.dense", "attn_output"}, {"mlp.fc1", "ffn_up"},          {"mlp.fc2", "ffn_down"},
};
constexpr Name kStarCoder2[] = {
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"mlp.c_fc", "ffn_up"},         {"mlp.c_proj", "ffn_down"},
};
constexpr Name kQwenMoe[] = {
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
};

struct Architecture {
  std::string_view name;
  std::span<const Name> names;
};
constexpr Architecture kArchitectures[] = {
    {"llama", kPlain},      {"mistral3", kPlain},   {"qwen2", kPlain},
    {"qwen3", kPlain},      {"gemma", kPlain},      {"gemma2", kPlain},
    {"gemma3", kPlain},     {"granite", kPlain},    {"smollm3", kPlain},
    {"arcee", kPlain},      {"olmo", kPlain},       {"olmo2", kPlain},
    {"command-r", kPlain},  {"cohere2", kPlain},    {"stablelm", kPlain},
    {"minicpm", kPlain},    {"deci", kPlain},       {"seed_oss", kPlain},
    {"phi2", kPhi2},        {"phi3", kPhi3},        {"starcoder2", kStarCoder2},
    {"qwen2moe", kQwenMoe}, {"qwen3moe", kQwenMoe},
};

// Converter classes that call permute() on q_proj and k_proj; those of Llama's class unless undo_permute is
// off.
constexpr std::string_view kPermuting[] = {
    "llama", "mistral3", "deci",    "granite", "granitemoe", "granitehybrid", "smollm3",
    "arcee", "olmo",     "minicpm", "arctic",  "deepseek",   "bailingmoe",    "llada",
};
// Classes that leave the rows as they are.
constexpr std::string_view kNotPermuting[] = {
    "qwen",    "qwen2",    "qwen2moe", "qwen2vl",   "qwen3",      "qwen3moe", "gemma",
    "gemma2",  "gemma3",   "phi2",     "phi3",      "phimoe",     "gpt2",     "gptneox",
    "falcon",  "mpt",      "bloom",    "starcoder", "starcoder2", "stablelm", "command-r",
    "cohere2", "olmo2",    "olmoe",    "chatglm",   "exaone",     "nemotron", "deepseek2",
    "gpt-oss", "seed_oss", "llama4",   "apertus",   "llada-moe",
};

bool dropFront(std::string_view& text, std::string_view front) {
  if (!text.starts_with(front)) return false;
  text.remove_prefix(front.size());
  return true;
}

/// Takes a number and its dot from the front of `text`. The number as it is printed: no leading zeros.
std::optional<std::string_view> takeNumber(std::string_view& text) {
  constexpr size_t kDigits = 6;  // no model has a million layers or experts
  const size_t length = text.find('.');
  if (length == 0 || length > kDigits) return std::nullopt;
  const std::string_view number = text.substr(0, length);
  if (!std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  if (number.size() > 1 && number[0] == '0') return std::nullopt;
  text.remove_prefix(length + 1);
  return number;
}

/// Of a number from takeNumber().
uint32_t valueOf(std::string_view number) {
  uint32_t value = 0;
  for (const char digit : number) value = 10 * value + static_cast<uint32_t>(digit - '0');
  return value;
}

/// A multimodal model's language model under the path that the model has by itself.
void dropWrapper(std::string& path) {
  constexpr std::string_view kInner = "model.language_model.", kOuter = "language_model.";
  if (path.starts_with(kInner)) {
    path.replace(0, kInner.size(), "model.");
  } else if (path.starts_with(kOuter)) {
    path.erase(0, kOuter.size());
  }
}

std::optional<std::string_view> tensorOf(std::span<const Name> names, std::string_view module) {
  const auto found = std::ranges::find(names, module, &Name::module);
  if (found == names.end()) return std::nullopt;
  return found->tensor;
}

std::string blockTensor(std::string_view layer, std::string_view tensor) {
  return "blk." + std::string(layer) + "." + std::string(tensor);
}

}  // namespace

std::optional<std::string> ggmlName(std::string_view path) {
  std::string plain(path);
  dropWrapper(plain);
  if (const auto top = tensorOf(kTop, plain)) return std::string(*top);
  for (const Family& family : kFamilies) {
    std::string_view rest = plain;
    if (!dropFront(rest, family.front)) continue;
    const auto layer = takeNumber(rest);
    if (!layer) return std::nullopt;
    const auto tensor = tensorOf(family.names, rest);
    if (!tensor) return std::nullopt;
    return blockTensor(*layer, *tensor);
  }
  return std::nullopt;
}

std::optional<ExpertName> ggmlExpert(std::string_view path) {
  std::string plain(path);
  dropWrapper(plain);
  std::string_view rest = plain;
  if (!dropFront(rest, "model.layers.") && !dropFront(rest, "layers.")) return std::nullopt;
  const auto layer = takeNumber(rest);
  if (!layer) return std::nullopt;
  if (std::ranges::none_of(kExperts, [&](std::string_view front) { return dropFront(rest, front); }))
    return std::nullopt;
  const auto number = takeNumber(rest);
  if (!number) return std::nullopt;
  const auto tensor = tensorOf(kExpert, rest);
  if (!tensor) return std::nullopt;
  return ExpertName{blockTensor(*layer, *tensor), valueOf(*number)};
}

std::optional<ExpertName> mlxExpert(std::string_view path) {
  constexpr std::string_view kNumbered = ".experts.";
  const size_t at = path.rfind(kNumbered);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = path.substr(at + kNumbered.size());
  const auto number = takeNumber(rest);
  if (!number) return std::nullopt;
  const std::string_view front = path.substr(0, at);
  const std::string_view parent = front.substr(front.rfind('.') + 1);
  const auto* known = std::ranges::find(kSwitches, parent, &Switch::parent);
  const auto name = known == std::end(kSwitches) ? std::nullopt : tensorOf(known->names, rest);
  if (!name) return std::nullopt;
  return ExpertName{std::string(front) + std::string(kMlxSwitch) + std::string(*name), valueOf(*number)};
}

std::optional<std::string> hfExpertOfMlx(std::string_view stack, uint32_t expert) {
  const size_t at = stack.rfind(kMlxSwitch);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view front = stack.substr(0, at), name = stack.substr(at + kMlxSwitch.size());
  const auto* known = std::ranges::find(kSwitches, front.substr(front.rfind('.') + 1), &Switch::parent);
  if (known == std::end(kSwitches)) return std::nullopt;
  const auto* module = std::ranges::find(known->names, name, &Name::tensor);
  if (module == known->names.end()) return std::nullopt;
  return std::string(front) + ".experts." + std::to_string(expert) + '.' + std::string(module->module);
}

std::optional<std::string> hfExpertOfGgml(std::string_view ggmlName, uint32_t expert,
                                          std::string_view architecture) {
  if (std::ranges::find(kPlainExperts, architecture) == std::end(kPlainExperts)) return std::nullopt;
  if (!dropFront(ggmlName, "blk.")) return std::nullopt;
  const auto layer = takeNumber(ggmlName);
  const auto* known = std::ranges::find(kExpert, ggmlName, &Name::tensor);
  if (!layer || known == std::end(kExpert)) return std::nullopt;
  return "model.layers." + std::string(*layer) + ".mlp.experts." + std::to_string(expert) + '.' +
         std::string(known->module);
}

std::optional<std::string> hfPath(std::string_view ggmlName, std::string_view architecture) {
  const auto* known = std::ranges::find(kArchitectures, architecture, &Architecture::name);
  if (known == std::end(kArchitectures)) return std::nullopt;
  if (ggmlName == "token_embd") return "model.embed_tokens";
  if (ggmlName == "output") return "lm_head";
  if (!dropFront(ggmlName, "blk.")) return std::nullopt;
  const auto layer = takeNumber(ggmlName);
  if (!layer) return std::nullopt;
  const auto found = std::ranges::find(known->names, ggmlName, &Name::tensor);
  if (found == known->names.end()) return std::nullopt;
  return "model.layers." + std::string(*layer) + "." + std::string(found->module);
}

std::optional<bool> permutesHeads(std::string_view architecture) {
  if (std::ranges::find(kPermuting, architecture) != std::end(kPermuting)) return true;
  if (std::ranges::find(kNotPermuting, architecture) != std::end(kNotPermuting)) return false;
  return std::nullopt;
}

Status checkHeads(uint64_t rows, uint64_t heads) {
  if (heads != 0 && rows != 0 && rows % heads == 0 && rows / heads % 2 == 0) return {};
  return Error{Code::shapeMismatch,
               std::to_string(rows) + " rows are not " + std::to_string(heads) +
                   " attention heads of an even number of rows each",
               {},
               {},
               {}};
}

void permuteHeads(std::span<float> column, uint32_t heads, std::span<float> scratch) {
  const size_t d = column.size() / heads;
  for (size_t head = 0; head < column.size(); head += d) {
    std::copy_n(&column[head], d, scratch.begin());
    for (size_t i = 0; i < d / 2; ++i) {
      column[head + 2 * i] = scratch[i];
      column[head + 2 * i + 1] = scratch[d / 2 + i];
    }
  }
}

void restoreHeads(std::span<float> column, uint32_t heads, std::span<float> scratch) {
  const size_t d = column.size() / heads;
  for (size_t head = 0; head < column.size(); head += d) {
    std::copy_n(&column[head], d, scratch.begin());
    for (size_t i = 0; i < d / 2; ++i) {
      column[head + i] = scratch[2 * i];
      column[head + d / 2 + i] = scratch[2 * i + 1];
    }
  }
}

}  // namespace lego

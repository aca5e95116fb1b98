#include "adapter/base_model.h"

#include <algorithm>

#include "adapter/config_fields.h"
#include "base/limits.h"
#include "format/json.h"

namespace lego {
namespace {

Error bad(std::string detail) { return {Code::badConfig, std::move(detail), {}, {}, {}}; }

/// model_type of transformers -> general.architecture, where these are not the same word.
/// Source: the converter classes of llama.cpp (conversion/).
std::string architectureOf(const std::string& type) {
  constexpr std::pair<std::string_view, const char*> kNames[] = {
      {"mistral", "llama"},      {"mixtral", "llama"},
      {"gemma3_text", "gemma3"}, {"phi", "phi2"},
      {"qwen2_moe", "qwen2moe"}, {"qwen3_moe", "qwen3moe"},
      {"cohere", "command-r"},   {"granitemoe", "granitemoe"},
      {"gpt_neox", "gptneox"},   {"bailing_moe", "bailingmoe"}};
  const auto found = std::ranges::find(kNames, type, [](const auto& entry) { return entry.first; });
  return found == std::end(kNames) ? type : found->second;
}

uint32_t countOf(const gguf::Metadata& metadata, const std::string& key) {
  const auto count = gguf::integerOf(metadata, key);
  return count && *count <= UINT32_MAX ? static_cast<uint32_t>(*count) : 0;
}

}  // namespace

Result<BaseModel> readBaseConfig(std::string_view text) {
  if (text.size() > limits::kConfigBytes) return bad("the config is too long");
  const auto json = parseJson(text, Code::badConfig);
  if (!json) return json.error();
  if (!json->is_object()) return bad("the config is no JSON object");
  ConfigFields top(*json);
  // Models inside multimodal ones keep theirs one level down.
  const Json* inner = top.find("text_config");
  ConfigFields fields(inner && inner->is_object() ? *inner : *json);
  const std::string type = fields.text("model_type");
  const auto heads = asRank(fields.number("num_attention_heads", 0));
  const auto keyHeads = asRank(fields.number("num_key_value_heads", static_cast<double>(heads.value_or(0))));
  BaseModel model{architectureOf(type), static_cast<uint32_t>(heads.value_or(0)),
                  static_cast<uint32_t>(keyHeads.value_or(0)), fields.flag("tie_word_embeddings"), 0};
  // Of Qwen, of Mixtral, of DeepSeek.
  for (const char* name : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    const auto experts = asRank(fields.number(name, 0));
    if (experts && *experts > 0) model.experts = static_cast<uint32_t>(*experts);
  }
  if (!fields.problem.empty()) return bad(fields.problem);
  if (type.empty())
    return bad("it has no model_type: give the config.json of the base model, or its GGUF file");
  return model;
}

Result<BaseModel> readBaseGguf(const gguf::Metadata& metadata, const Header& header) {
  const std::string* architecture = gguf::textOf(metadata, "general.architecture");
  if (!architecture) return bad("the GGUF file names no architecture");
  BaseModel model{*architecture, countOf(metadata, *architecture + ".attention.head_count"),
                  countOf(metadata, *architecture + ".attention.head_count_kv"), false,
                  countOf(metadata, *architecture + ".expert_count")};
  if (model.keyHeads == 0) model.keyHeads = model.heads;
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(header.tensors, [&](const TensorInfo& tensor) { return tensor.name == name; });
  };
  model.tiedOutput = has("token_embd.weight") && !has("output.weight");
  return model;
}

}  // namespace lego

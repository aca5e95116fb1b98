#include "job/shared_inputs.h"

#include <algorithm>
#include <array>
#include <span>

namespace lego {
namespace {

struct Family {
  std::string_view parent;  ///< what the path in front of the name must end with; empty: anything
  std::array<std::string_view, 3> names;
};

// The first family that has a module's name and fits its parent counts.
constexpr Family kFamilies[] = {
    {"", {"q_proj", "k_proj", "v_proj"}},  // llama, mistral, qwen, gemma, OPT, CLIP, Whisper (self)
    {"", {"gate_proj", "up_proj", ""}},    // llama and kin
    {"", {"wq", "wk", "wv"}},              // the original llama names
    {"", {"w1", "w3", ""}},
    {"attention.self", {"query", "key", "value"}},  // BERT, RoBERTa, ViT
    {"attention.attention", {"query", "key", "value"}},
    {"", {"query_proj", "key_proj", "value_proj"}},  // DeBERTa
    {"", {"q_lin", "k_lin", "v_lin"}},               // DistilBERT
    {"SelfAttention", {"q", "k", "v"}},              // T5
    {"EncDecAttention", {"k", "v", ""}},
    {"", {"wi_0", "wi_1", ""}},
    {"attn1", {"to_q", "to_k", "to_v"}},  // diffusers' UNets: attn1 attends to itself ...
    {"attn2", {"to_k", "to_v", ""}},      // ... attn2 to the text
    {".attn", {"to_q", "to_k", "to_v"}},  // diffusers' transformers
    {".attn", {"add_q_proj", "add_k_proj", "add_v_proj"}},
};

struct FeedForward {
  std::string_view last, linear, gate;
};

constexpr FeedForward kFeedForwards[] = {
    {"down_proj", "up_proj", "gate_proj"},  // llama and kin
    {"w2", "w3", "w1"},                     // the original llama names
    {"wo", "wi_1", "wi_0"},                 // T5
};
constexpr double kLinearStrength = 10, kGateStrength = 3;

// Encoder-decoder models whose cross attention has the same names as their self attention.
constexpr std::string_view kCrossAttention[] = {"encoder_attn", "cross_attn", "crossattention.self"};

/// Cuts off the number of an expert of a stack, "[3]": its neighbours are those with the same number.
std::string_view takeExpert(std::string_view& path) {
  const size_t at = path.ends_with(']') ? path.rfind('[') : std::string_view::npos;
  if (at == std::string_view::npos) return {};
  const std::string_view expert = path.substr(at);
  path = path.substr(0, at);
  return expert;
}

}  // namespace

std::string sharedInputKey(std::string_view path) {
  const std::string_view whole = path, expert = takeExpert(path);
  const size_t dot = path.rfind('.');
  if (dot == std::string_view::npos) return std::string(whole);
  const std::string_view parent = path.substr(0, dot), name = path.substr(dot + 1);
  const bool crosses =
      std::ranges::any_of(kCrossAttention, [&](std::string_view end) { return parent.ends_with(end); });
  for (size_t f = 0; f < std::size(kFamilies) && !crosses; ++f) {
    const Family& family = kFamilies[f];
    if (parent.ends_with(family.parent) && std::ranges::find(family.names, name) != family.names.end())
      return std::string(parent) + '#' + std::to_string(f) + std::string(expert);
  }
  return std::string(whole);
}

std::vector<FeedingModule> feedingModules(std::string_view path) {
  const std::string expert(takeExpert(path));
  const std::string_view name = path.substr(path.rfind('.') + 1);
  const std::string parent(path.substr(0, path.size() - name.size()));
  const auto block = std::ranges::find(kFeedForwards, name, &FeedForward::last);
  if (block == std::end(kFeedForwards)) return {};
  return {{parent + std::string(block->linear) + expert, kLinearStrength},
          {parent + std::string(block->gate) + expert, kGateStrength}};
}

}  // namespace lego

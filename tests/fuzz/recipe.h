// A recipe, and what else a user says, out of a fuzzer's bytes.
#pragma once

#include "adapter/dialect.h"
#include "fuzz.h"
#include "job/session.h"
#include "merge/registry.h"
#include "tensor/convert.h"

namespace lego::fuzz {

/// Ordinary numbers and such as are hard to compute with; at times any bits at all.
inline double takeNumber(Input& input) {
  constexpr double kNumbers[] = {1,    0.5,  0.25,  2,      -1,  -0.5, 0,     3, 0.1,
                                 1e-3, 1e-8, 1e-30, 1e-300, 1e8, 1e30, 1e300, 16};
  const size_t choice = input.below(std::size(kNumbers) + 1);
  return choice < std::size(kNumbers) ? kNumbers[choice] : input.take<double>();
}

inline std::string takeOption(Input& input, const OptionInfo& info) {
  char text[32];
  switch (info.type) {
    case OptionInfo::Type::Choice: {
      const auto choices = splitChoices(info.choices);
      return choices[input.below(choices.size())];
    }
    // The bound keeps a case short; what is above the option's own is for the tests.
    case OptionInfo::Type::Integer: return std::to_string(input.below(5));
    case OptionInfo::Type::Number: {
      // A tenth of the cases lies outside the bounds.
      const double share = static_cast<double>(input.take<uint8_t>()) / 232;
      std::snprintf(text, sizeof text, "%.17g", info.minimum + share * (info.maximum - info.minimum));
      return text;
    }
  }
  return {};
}

/// Any method with any options, weights, ranks and rules; `globs` are patterns that may match modules. Mostly
/// such as the method takes, so that something is left to be merged.
inline Recipe takeRecipe(Input& input, size_t adapters, std::span<const std::string> globs) {
  const auto takeGlob = [&] { return globs[input.below(globs.size())]; };
  Recipe recipe;
  const auto all = methods();
  const MethodInfo& method = all[input.below(all.size())];
  recipe.method = method.name;
  for (const OptionInfo& info : method.options) {
    if (input.flag()) recipe.options.push_back({info.name, takeOption(input, info)});
  }
  const bool anything = input.below(16) == 15;
  if (input.flag()) {
    for (size_t i = 0; i < adapters; ++i) {
      const double weight = takeNumber(input);
      recipe.weights.push_back(weight < 0 && !method.takesNegativeWeights && !anything ? -weight : weight);
    }
  }
  if (method.takesRank() || anything) recipe.rank = static_cast<uint32_t>(input.below(anything ? 20 : 5));
  if (input.below(4) == 3 && (method.choosesRank() || anything)) {
    constexpr RankRule::Kind kKinds[] = {RankRule::Kind::Energy, RankRule::Kind::Cumulative,
                                         RankRule::Kind::Ratio,  RankRule::Kind::Frobenius,
                                         RankRule::Kind::Size,   RankRule::Kind::Automatic};
    recipe.rule.kind = input.oneOf(kKinds);
    const double share = static_cast<double>(input.take<uint8_t>()) / 255;
    switch (recipe.rule.kind) {
      case RankRule::Kind::Size: recipe.rule.value = 1000 + 4000 * share; break;
      case RankRule::Kind::Ratio: recipe.rule.value = 1 + 100 * share; break;
      case RankRule::Kind::Automatic: break;
      default: recipe.rule.value = anything ? takeNumber(input) : share;
    }
  }
  recipe.scale = input.below(4) == 3 ? takeNumber(input) : 1;
  constexpr const char* kDtypes[] = {"same", "f64", "f32", "f16", "bf16", "q8_0"};
  recipe.dtype = input.oneOf(kDtypes);
  recipe.seed = input.take<uint8_t>();
  const size_t more = input.below(16);
  if (more == 1) {
    const auto adapter = static_cast<uint32_t>(input.below(adapters + 1));
    const std::string glob = takeGlob();
    recipe.moduleWeights.push_back({adapter, glob, takeNumber(input)});
  }
  if (more == 2) {
    const std::string glob = takeGlob();
    recipe.moduleRanks.push_back({glob, static_cast<uint32_t>(input.below(9))});
  }
  if (more == 3) {
    for (size_t i = 0; i < recipe.rank; ++i) recipe.start.push_back(static_cast<uint32_t>(input.below(9)));
  }
  // What is no factor: all that can be kept in one way and the rest left out, or each kind by itself.
  constexpr Policy kPolicies[] = {Policy::Drop, Policy::First,  Policy::Average,
                                  Policy::Sum,  Policy::Refuse, Policy::Merge};
  if (more >= 4 && more < 9) {
    for (const ExtraInfo& kind : extraKinds()) {
      const Policy policy = more == 8 ? input.oneOf(kPolicies) : kPolicies[more - 4];
      recipe.policies.emplace_back(kind.kind, kind.allows(policy) || anything ? policy : Policy::Drop);
    }
  }
  // At times a dialect of the other naming, or none.
  const size_t format = input.below(3 * dialects().size());
  if (format > 0) recipe.format = format <= dialects().size() ? dialects()[format - 1].name : "same";
  if (anything && input.flag()) recipe.format = "none";
  recipe.metadata = !input.flag();
  if (recipe.format == "onnx") {
    constexpr const char* kNames[] = {"", "{module}.A", "same", "{module", "a.{module}.{module}"};
    recipe.onnxNameA = input.oneOf(kNames);
    recipe.onnxNameB = input.oneOf(kNames);
    recipe.onnxMatMul = !input.flag();
  }
  if (input.below(4) == 3) {
    recipe.keepScales = true;
    // As a conversion asks for it.
    if (!anything && adapters == 1) {
      Recipe conversion;
      conversion.method = "cat";
      conversion.dtype = recipe.dtype;
      conversion.format = recipe.format;
      conversion.metadata = recipe.metadata;
      conversion.onnxNameA = recipe.onnxNameA;
      conversion.onnxNameB = recipe.onnxNameB;
      conversion.onnxMatMul = recipe.onnxMatMul;
      conversion.policies = recipe.policies;
      conversion.keepScales = true;
      return conversion;
    }
  }
  return recipe;
}

/// The text of a base model's config.json; nothing for half of all inputs.
inline std::optional<std::string> takeBase(Input& input) {
  if (!input.flag()) return std::nullopt;
  constexpr const char* kTypes[] = {"llama", "qwen2",     "mistral",    "gpt2",
                                    "phi3",  "qwen3_moe", "unheard-of", ""};
  const std::string type = input.oneOf(kTypes);
  const size_t heads = input.below(9), keyHeads = input.below(5);
  const bool tied = input.flag();
  return "{\"model_type\":\"" + type + "\",\"num_attention_heads\":" + std::to_string(heads) +
         ",\"num_key_value_heads\":" + std::to_string(keyHeads) +
         ",\"num_experts\":" + std::to_string(keyHeads) +
         ",\"tie_word_embeddings\":" + (tied ? "true" : "false") + "}";
}

/// Tells the session the base model, if there is one.
inline void setBase(Session& session, const std::optional<std::string>& config) {
  if (!config) return;
  if (const Status set = session.setBase("config.json", bytesOf(*config), config->size()); !set)
    checkError(set.error());
}

/// Bytes of an alpha's tensor.
inline std::vector<std::byte> takeAlpha(Input& input, DType dtype) {
  std::vector<std::byte> bytes(*lego::bytesOf(dtype, 1));
  const auto value = static_cast<float>(takeNumber(input));
  if (isFloat8(dtype)) {
    bytes[0] = input.take<std::byte>();
  } else {
    fromFloatRef(dtype, &value, 1, bytes.data());
  }
  return bytes;
}

}  // namespace lego::fuzz

// A recipe out of a fuzzer's bytes.
#pragma once

#include "fuzz.h"
#include "job/recipe.h"
#include "merge/registry.h"

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
  constexpr const char* kDtypes[] = {"same", "f64", "f32", "f16", "bf16"};
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
  return recipe;
}

}  // namespace lego::fuzz

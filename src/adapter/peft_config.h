// adapter_config.json of PEFT: text <-> settings. Source: peft `LoraConfig`, docs/formats.md.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapter/catalogue.h"
#include "adapter/pattern.h"
#include "base/result.h"
#include "format/json.h"

namespace lego::peft {

struct Config {
  AdapterInfo info;
  std::vector<std::pair<Pattern, uint64_t>>
      rankPattern;  ///< in the order of the file: the first match counts
  std::vector<std::pair<Pattern, double>> alphaPattern;
  std::vector<Unsupported> unsupported;
  std::vector<std::string> notices;

  uint64_t rankOf(std::string_view path) const;
  double alphaOf(std::string_view path) const;
};

/// `json` is an object. `typeIsGiven`: whether it must say that it is of a LoRA.
/// Errors: bad_config, bad_pattern, rank_zero, unsupported_adapter (not a LoRA).
Result<Config> readConfig(const Json& json, bool typeIsGiven = true);

/// One module of an adapter, as its config must describe it.
struct MergedRank {
  std::string path;
  uint64_t rank = 0;
  double alpha = 0;
};

/// The config of an adapter: r and lora_alpha are the most frequent ones, patterns say where others are.
/// `modules` by path.
Json mergedConfig(const AdapterInfo& info, const std::vector<MergedRank>& modules);

/// A config as PEFT writes it into a file.
std::string textOf(const Json& config);

}  // namespace lego::peft

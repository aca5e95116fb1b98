// adapter_config.json of PEFT: text <-> settings. Source: peft `LoraConfig`, docs/formats.md.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapter/catalogue.h"
#include "adapter/pattern.h"
#include "base/result.h"

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

/// Errors: bad_config, bad_pattern, rank_zero, unsupported_adapter (not a LoRA).
Result<Config> readConfig(std::string_view text);

/// One module of a merged adapter, as its config must describe it.
struct MergedModule {
  std::string path;
  uint64_t rank = 0;
};

/// The config of a merged adapter: r = lora_alpha = the most frequent rank, patterns only where ranks
/// differ, so that every module's scale is 1. `modules` by path.
std::string writeConfig(const AdapterInfo& info, const std::vector<MergedModule>& modules);

}  // namespace lego::peft

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

/// Paths of the parameters that a module of this path may hold the factors of: those `targets` (the config's
/// `target_parameters`, or ends of them) that are the module's own. `.base_layer` in the path, which PEFT
/// puts in for each further parameter of one module, does not count; which of several parameters a level
/// belongs to depends on the model. `certain`: leaves out targets without a module, which are parameters of
/// any. Source: peft src/peft/tuners/tuners_utils.py, _inject_parameters.
std::vector<std::string> parametersOf(const std::vector<std::string>& targets, std::string_view path,
                                      bool certain);

/// One module of an adapter, as its config must describe it.
struct MergedRank {
  std::string path;  ///< of the module, or, of a parameter, the parameter's
  uint64_t rank = 0;
  double alpha = 0;
  bool isParameter = false;
};

/// The config of an adapter: r and lora_alpha are the most frequent ones, patterns say where others are.
/// `modules` by path.
Json mergedConfig(const AdapterInfo& info, const std::vector<MergedRank>& modules);

/// A config as PEFT writes it into a file.
std::string textOf(const Json& config);

}  // namespace lego::peft

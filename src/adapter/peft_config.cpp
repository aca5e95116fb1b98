#include "adapter/peft_config.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "adapter/config_fields.h"
#include "adapter/stack.h"
#include "base/limits.h"
#include "base/order.h"
#include "format/json.h"

namespace lego::peft {
namespace {

Error bad(std::string detail) { return {Code::badConfig, std::move(detail), {}, {}, {}}; }

template <typename Value, typename Read>
Status readPatterns(ConfigFields& fields, const char* name, std::vector<std::pair<Pattern, Value>>& patterns,
                    Read read) {
  const Json* object = fields.find(name);
  if (!object) return {};
  if (!object->is_object()) return fields.wrong(name, "an object"), Status();
  for (const auto& [key, value] : object->items()) {
    auto pattern = Pattern::compile(key);
    if (!pattern) return pattern.error();
    const std::optional<Value> number = value.is_number() ? read(value.template get<double>()) : std::nullopt;
    if (!number) return bad("the pattern " + shownName(key) + " of " + name + " has no valid number");
    patterns.emplace_back(std::move(*pattern), *number);
  }
  return {};
}

// Settings that change what the factors mean, with what would be lost. Any value but null, false or empty
// counts.
struct Setting {
  const char* name;
  const char* reason;
  ExtraKind kind = ExtraKind::Other;
};
constexpr Setting kUnsupportedSettings[] = {
    {"use_dora", "DoRA: its magnitudes need the base model's weights", ExtraKind::Dora},
    {"lora_bias", "biases of lora_B (lora_bias)", ExtraKind::LoraBias},
    {"modules_to_save", "fully trained modules (modules_to_save)", ExtraKind::ModulesToSave},
    {"trainable_token_indices", "separately trained token embeddings (trainable_token_indices)"},
    {"alora_invocation_tokens", "activated LoRA: it acts only after its invocation tokens"},
    {"use_qalora", "QALoRA: its factors act on pooled inputs"},
    {"kasa_config", "KaSA: its delta is no plain product of two factors"},
    {"arrow_config", "Arrow: its adapters are routed per token"},
    {"monteclora_config", "MonteCLoRA: its delta is no plain product of two factors"},
    {"velora_config", "VeLoRA: its delta is no plain product of two factors"},
    {"bdlora_config", "BD-LoRA: its factors are block-diagonal"},
};

/// The suffixes that choose the adapter's modules, if the config chose them by suffix alone.
std::optional<std::vector<std::string>> readTargets(const ConfigFields& fields) {
  const Json* targets = fields.find("target_modules");
  if (!targets || !targets->is_array() || fields.isSet("exclude_modules") ||
      fields.isSet("layers_to_transform"))
    return std::nullopt;
  std::vector<std::string> suffixes;
  for (const Json& target : *targets) {
    const auto* name = target.get_ptr<const std::string*>();
    if (!name || name->find('.') != std::string::npos) return std::nullopt;
    suffixes.push_back(*name);
  }
  return suffixes;
}

/// `target_parameters`, in order.
std::vector<std::string> readParameters(ConfigFields& fields) {
  std::vector<std::string> parameters;
  const Json* targets = fields.find("target_parameters");
  if (!targets) return parameters;
  const auto isText = [](const Json& target) { return target.is_string(); };
  if (!targets->is_array() || !std::ranges::all_of(*targets, isText))
    return fields.wrong("target_parameters", "a list of strings"), parameters;
  for (const Json& target : *targets) parameters.push_back(*target.get_ptr<const std::string*>());
  sortStable(parameters, std::less<>());
  // Not std::ranges::unique: the clang that builds the fuzz targets cannot compile it.
  parameters.erase(std::unique(parameters.begin(), parameters.end()), parameters.end());
  return parameters;
}

}  // namespace

std::vector<std::string> parametersOf(const std::vector<std::string>& targets, std::string_view path,
                                      bool certain) {
  std::vector<std::string> parameters;
  if (targets.empty()) return parameters;
  const std::string module = unwrapped(std::string(path));
  for (const std::string& target : targets) {
    const size_t dot = target.rfind('.');
    if (dot == std::string::npos) {
      if (!certain) parameters.push_back(module + '.' + target);
      continue;
    }
    const std::string parent = target.substr(0, dot);
    if (module == parent || module.ends_with('.' + parent)) parameters.push_back(module + target.substr(dot));
  }
  return parameters;
}

uint64_t Config::rankOf(std::string_view path) const {
  for (const auto& [pattern, rank] : rankPattern) {
    if (pattern.matches(path)) return rank;
  }
  return info.rank;
}

double Config::alphaOf(std::string_view path) const {
  for (const auto& [pattern, alpha] : alphaPattern) {
    if (pattern.matches(path)) return alpha;
  }
  return info.alpha;
}

Result<Config> readConfig(const Json& json, bool typeIsGiven) {
  ConfigFields fields(json);
  const std::string type = fields.text("peft_type", typeIsGiven ? "" : "LORA");
  if (fields.problem.empty() && type != "LORA") {
    return Error{Code::unsupportedAdapter,
                 "the config's peft_type is " + shownName(type) + "; only LORA can be merged",
                 {},
                 {},
                 {}};
  }
  Config config;
  config.info.baseModel = fields.text("base_model_name_or_path");
  config.info.taskType = fields.text("task_type");
  config.info.revision = fields.text("revision");
  config.info.fanInFanOut = fields.flag("fan_in_fan_out");
  config.info.rslora = fields.flag("use_rslora");
  config.info.dora = fields.isSet("use_dora");
  config.info.loraBias = fields.isSet("lora_bias");
  config.info.targetSuffixes = readTargets(fields);
  config.info.targetParameters = readParameters(fields);

  // PEFT's own defaults are r = 8 and lora_alpha = 8.
  const auto rank = asRank(fields.number("r", 8));
  if (!rank) fields.wrong("r", "a whole number");
  config.info.rank = rank.value_or(0);
  config.info.alpha = fields.number("lora_alpha", 8);
  if (Status read = readPatterns(fields, "rank_pattern", config.rankPattern, asRank); !read)
    return read.error();
  const auto asAlpha = [](double alpha) {
    return std::isfinite(alpha) ? std::optional(alpha) : std::nullopt;
  };
  if (Status read = readPatterns(fields, "alpha_pattern", config.alphaPattern, asAlpha); !read)
    return read.error();

  for (const auto& [name, reason, kind] : kUnsupportedSettings) {
    if (fields.isSet(name)) config.unsupported.push_back({{}, reason, kind});
  }
  if (const Json* saved = fields.find("modules_to_save"); saved && saved->is_array()) {
    for (const Json& module : *saved) {
      if (const auto* path = module.get_ptr<const std::string*>()) config.info.modulesToSave.push_back(*path);
    }
  }
  config.info.bias = fields.text("bias");
  if (const Json* init = fields.find("init_lora_weights");
      init && init->is_string() && *init->get_ptr<const std::string*>() != "gaussian") {
    config.notices.push_back(
        "was initialised by " + shownName(*init->get_ptr<const std::string*>()) +
        ": its delta may be relative to a modified base model, unless it was converted when it was saved");
  }
  if (!fields.problem.empty()) return bad(fields.problem);
  const bool zeroInPattern =
      std::ranges::any_of(config.rankPattern, [](const auto& entry) { return entry.second == 0; });
  if (config.info.rank == 0 || zeroInPattern)
    return Error{Code::rankZero, "the config's rank is zero", {}, {}, {}};
  return config;
}

namespace {

/// Whether the pattern that consists of `key` as it stands matches `path`: its dots match any byte.
bool keyMatches(std::string_view key, std::string_view path) {
  if (key.size() > path.size()) return false;
  const size_t at = path.size() - key.size();
  if (at > 0 && path[at - 1] != '.') return false;
  for (size_t i = key.size(); i-- > 0;) {
    if (key[i] != '.' && key[i] != path[at + i]) return false;
  }
  return true;
}

/// A path as a regular expression. PEFT's own files leave dots as they are, and readers that compare keys
/// as plain text rely on that.
std::string asPattern(const std::string& path, bool escapeDots) {
  std::string key;
  for (const char c : path) {
    if (c == '.' ? escapeDots : std::string_view("\\^$*+?()[]{}|").find(c) != std::string_view::npos)
      key += '\\';
    key += c;
  }
  return key;
}

/// One number for each module: its rank, or its alpha.
struct ModuleNumber {
  const std::string* path;
  Json number;
};

/// The most frequent number; of several, the smallest.
Json commonNumber(const std::vector<ModuleNumber>& modules) {
  std::map<double, std::pair<size_t, Json>> counts;
  for (const auto& [path, number] : modules) {
    auto& [count, value] = counts[number.get<double>()];
    ++count;
    value = number;
  }
  const auto most = std::ranges::max_element(
      counts, [](const auto& x, const auto& y) { return x.second.first < y.second.first; });
  return most->second.second;
}

/// The modules that need an entry of their own, in an order in which each path meets its own entry first:
/// those whose number is not `common`, and those that an entry for another would catch.
std::vector<const ModuleNumber*> patternEntries(const std::vector<ModuleNumber>& modules,
                                                const Json& common) {
  std::vector<const ModuleNumber*> odd, entries;
  for (const auto& module : modules) {
    if (module.number != common) odd.push_back(&module);
  }
  for (const auto& module : modules) {
    const auto catches = [&](const ModuleNumber* other) { return keyMatches(*other->path, *module.path); };
    if (module.number != common || std::ranges::any_of(odd, catches)) entries.push_back(&module);
  }
  sortStable(entries, [](auto* x, auto* y) { return x->path->size() > y->path->size(); });
  return entries;
}

/// rank_pattern or alpha_pattern.
Json patternsOf(const std::vector<ModuleNumber>& modules, const Json& common) {
  const auto entries = patternEntries(modules, common);
  const bool misleading = std::ranges::any_of(entries, [&](const ModuleNumber* module) {
    const auto first =
        std::ranges::find_if(entries, [&](auto* entry) { return keyMatches(*entry->path, *module->path); });
    return *first != module && (*first)->number != module->number;
  });
  Json patterns = Json::object();
  for (const ModuleNumber* module : entries) patterns[asPattern(*module->path, misleading)] = module->number;
  return patterns;
}

/// 8 rather than 8.0, as PEFT's own configs have it.
Json shortNumber(double value) {
  constexpr double kExact = 9007199254740992;  // 2^53
  return value == std::floor(value) && std::abs(value) < kExact ? Json(static_cast<int64_t>(value))
                                                                : Json(value);
}

}  // namespace

Json mergedConfig(const AdapterInfo& info, const std::vector<MergedRank>& modules) {
  std::vector<ModuleNumber> ranks, alphas;
  for (const MergedRank& module : modules) {
    ranks.push_back({&module.path, module.rank});
    alphas.push_back({&module.path, shortNumber(module.alpha)});
  }
  const Json commonRank = commonNumber(ranks), commonAlpha = commonNumber(alphas);

  Json targets = Json::array();
  if (info.targetSuffixes) {
    for (const auto& suffix : *info.targetSuffixes) targets.push_back(suffix);
  } else {
    for (const auto& module : modules) {
      if (!module.isParameter) targets.push_back(module.path);
    }
  }

  const auto textOrNull = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  Json config = Json::object();
  config["alpha_pattern"] = patternsOf(alphas, commonAlpha);
  config["auto_mapping"] = nullptr;
  config["base_model_name_or_path"] = textOrNull(info.baseModel);
  config["bias"] = info.bias.empty() ? "none" : info.bias;
  config["fan_in_fan_out"] = info.fanInFanOut;
  config["inference_mode"] = true;
  config["init_lora_weights"] = true;
  config["lora_alpha"] = commonAlpha;
  config["lora_bias"] = info.loraBias;
  config["lora_dropout"] = 0.0;
  config["modules_to_save"] = info.modulesToSave.empty() ? Json() : Json(info.modulesToSave);
  config["peft_type"] = "LORA";
  config["r"] = commonRank;
  config["rank_pattern"] = patternsOf(ranks, commonRank);
  config["revision"] = textOrNull(info.revision);
  config["target_modules"] = targets;
  // Only where it is needed: versions of PEFT that do not know it refuse the config.
  if (!info.targetParameters.empty()) config["target_parameters"] = info.targetParameters;
  config["task_type"] = textOrNull(info.taskType);
  config["use_dora"] = info.dora;
  config["use_rslora"] = false;
  return config;
}

std::string textOf(const Json& config) {
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lego::peft

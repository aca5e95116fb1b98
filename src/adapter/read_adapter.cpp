#include "adapter/read_adapter.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "adapter/modules.h"
#include "adapter/stack.h"
#include "base/limits.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail, std::string tensor = {}) {
  return {code, std::move(detail), {}, std::move(tensor), {}};
}

/// The dialect of most factors, and how it was told.
struct Detected {
  Dialect dialect;
  std::string reason;
};

Result<Detected> detect(const Header& header) {
  struct Found {
    size_t factors = 0;
    const std::string* first = nullptr;
  };
  std::map<Dialect, Found> found;
  for (const TensorInfo& tensor : header.tensors) {
    for (const DialectInfo& dialect : dialects()) {
      if (dialect.file == FileKind::Gguf) continue;
      const auto key = parseKey(dialect.dialect, tensor.name);
      if (!key || key->part == Part::Alpha || key->part == Part::Magnitude) continue;
      Found& own = found[dialect.dialect];
      if (own.factors++ == 0) own.first = &tensor.name;
    }
  }
  if (found.empty()) {
    const std::string first = header.tensors.empty() ? std::string() : header.tensors.front().name;
    return fail(Code::noFactors,
                "the file holds no LoRA factors whose names are known (such as "
                "'base_model.model.<module>.lora_A.weight' or 'lora_unet_<module>.lora_down.weight')",
                first);
  }
  if (found.size() > 1) {
    std::string names;
    for (const auto& [dialect, own] : found)
      names += (names.empty() ? "" : ", ") + shownName(*own.first) + " (" + infoOf(dialect).name + ")";
    return fail(Code::ambiguousDialect, "the file's tensors are named in several dialects: " + names,
                *found.rbegin()->second.first);
  }
  const auto& [dialect, own] = *found.begin();
  return Detected{dialect, std::to_string(own.factors) + " tensors are named as " + shownName(*own.first)};
}

/// `path`: of the module, as the config's patterns have it.
void setScale(AdapterModule& module, const std::string& path, const peft::Config& config) {
  module.alpha = config.alphaOf(path);
  const auto rank = static_cast<double>(module.rank);
  module.scale = module.alpha / (config.info.rslora ? std::sqrt(rank) : rank);
}

/// Parameters of the model that the module may hold the factors of, as its config's patterns have them; none
/// where it is an ordinary layer.
std::vector<std::string> parametersOf(const AdapterModule& module, const peft::Config& config) {
  // A parameter has the factors of a linear layer.
  if (module.kind != ModuleKind::Linear) return {};
  const auto& targets = config.info.targetParameters;
  const bool isCertain = !peft::parametersOf(targets, module.path, /*certain=*/true).empty();
  if (!isCertain && config.rankOf(module.path) == module.rank) return {};
  return peft::parametersOf(targets, module.path, /*certain=*/false);
}

/// Adds a parameter's experts to the catalogue: one, or as many as the rank says that are stacked.
Status addParameter(Catalogue& catalogue, AdapterModule module, std::span<const std::string> parameters,
                    const peft::Config& config) {
  const std::string& first = parameters.front();
  const uint64_t rank = config.rankOf(first);
  for (const std::string& other : parameters) {
    if (config.rankOf(other) == rank && config.alphaOf(other) == config.alphaOf(first)) continue;
    return fail(Code::badConfig,
                "the config gives the parameters " + shownName(first) + " and " + shownName(other) +
                    " different ranks or alphas, and which of them these factors are of, no file tells",
                module.a.name);
  }
  if (module.rank % rank != 0) {
    return fail(Code::rankMismatch,
                "the factors of the parameter have " + std::to_string(module.rank) +
                    " ranks, which are no multiple of the config's " + std::to_string(rank) +
                    " for each expert",
                module.a.name);
  }
  const uint64_t experts = module.rank / rank;
  module.rank = rank;
  module.alphaRank = static_cast<double>(rank);
  setScale(module, first, config);
  return addExperts(catalogue, module, StackLayout::Rows, experts);
}

/// Adds the groups of a convolution, `experts` of them, of which the module still has all ranks and outputs.
Status addGroups(Catalogue& catalogue, AdapterModule module) {
  const uint64_t groups = module.experts;
  module.rank /= groups;
  module.out /= groups;
  module.alphaRank = static_cast<double>(module.rank);
  return addExperts(catalogue, module, StackLayout::Groups, groups);
}

Status applyPeft(Catalogue& catalogue, const peft::Config& config) {
  std::vector<AdapterModule> modules;
  modules.swap(catalogue.modules);
  for (AdapterModule& module : modules) {
    if (const auto parameters = parametersOf(module, config); !parameters.empty()) {
      if (Status added = addParameter(catalogue, std::move(module), parameters, config); !added) return added;
      continue;
    }
    if (const uint64_t expected = config.rankOf(module.path);
        expected != module.rank && config.unsupported.empty()) {
      return fail(Code::rankMismatch,
                  "the factor has rank " + std::to_string(module.rank) + ", but the config says " +
                      std::to_string(expected),
                  module.a.name);
    }
    setScale(module, module.path, config);
    if (module.experts > 0) {
      if (Status added = addGroups(catalogue, std::move(module)); !added) return added;
    } else {
      catalogue.modules.push_back(std::move(module));
    }
  }
  if (Status sorted = sortModules(catalogue.modules); !sorted) return sorted;
  catalogue.info = config.info;
  catalogue.unsupported.insert(catalogue.unsupported.end(), config.unsupported.begin(),
                               config.unsupported.end());
  catalogue.notices = config.notices;
  return {};
}

void applyMlx(Catalogue& catalogue, const mlx::Config& config) {
  for (AdapterModule& module : catalogue.modules) {
    module.scale = config.scale;
    module.alpha = config.scale * static_cast<double>(module.rank);
  }
  catalogue.info.baseModel = config.model;
  catalogue.unsupported.insert(catalogue.unsupported.end(), config.unsupported.begin(),
                               config.unsupported.end());
}

/// Where no alpha is found, a module's scale is 1 in all dialects without configs: kohya's alpha is then the
/// rank, and ComfyUI and diffusers do not scale.
void applyNothing(Catalogue& catalogue) {
  for (AdapterModule& module : catalogue.modules) {
    module.alpha = static_cast<double>(module.rank);
    module.scale = 1;
  }
}

constexpr std::string_view kDiffusersMetadata = "lora_adapter_metadata";

/// diffusers' configs: one JSON object in the metadata, "unet.r" being the field r of the component unet.
/// Source: diffusers loaders/lora_base.py, _pack_dict_with_prefix.
Status applyDiffusers(Catalogue& catalogue) {
  applyNothing(catalogue);
  const auto text = std::ranges::find(catalogue.metadata, kDiffusersMetadata,
                                      [](const auto& entry) { return std::string_view(entry.first); });
  if (text == catalogue.metadata.end()) return {};
  const auto inMetadata = [](Error error) {
    error.detail = "in the metadata " + std::string(kDiffusersMetadata) + ": " + error.detail;
    return error;
  };
  if (text->second.size() > limits::kConfigBytes) return inMetadata(fail(Code::badConfig, "it is too long"));
  const auto json = parseJson(text->second, Code::badConfig);
  if (!json) return inMetadata(json.error());
  if (!json->is_object()) return inMetadata(fail(Code::badConfig, "it is no JSON object"));
  std::map<std::string, Json> components;
  for (const auto& [key, value] : json->items()) {
    const size_t dot = key.find('.');
    if (dot != std::string::npos) components[key.substr(0, dot)][key.substr(dot + 1)] = value;
  }
  for (const auto& [component, fields] : components) {
    const auto config = peft::readConfig(fields, /*typeIsGiven=*/false);
    if (!config) return inMetadata(config.error());
    for (AdapterModule& module : catalogue.modules) {
      if (!module.path.starts_with(component + '.')) continue;
      const std::string path = module.path.substr(component.size() + 1);
      const bool isPlain = config->unsupported.empty() && config->info.targetParameters.empty();
      if (config->rankOf(path) != module.rank && isPlain)
        return inMetadata(fail(Code::rankMismatch,
                               "it gives the module rank " + std::to_string(config->rankOf(path)) +
                                   ", but the factor has " + std::to_string(module.rank),
                               module.a.name));
      setScale(module, path, *config);
    }
    catalogue.unsupported.insert(catalogue.unsupported.end(), config->unsupported.begin(),
                                 config->unsupported.end());
    if (!config->info.targetParameters.empty())
      catalogue.unsupported.push_back({{}, "adapted parameters (target_parameters) in a file of diffusers"});
    if (catalogue.info.baseModel.empty()) catalogue.info.baseModel = config->info.baseModel;
  }
  return {};
}

/// A GGUF file that says what it is. Source: llama.cpp src/llama-adapter.cpp.
Result<Detected> detectGguf(const gguf::Metadata& metadata) {
  const std::string* type = gguf::textOf(metadata, "general.type");
  const std::string* adapter = gguf::textOf(metadata, "adapter.type");
  if (!type || *type != "adapter" || !adapter || *adapter != "lora")
    return fail(Code::unsupportedAdapter,
                "this GGUF file is no LoRA adapter (general.type and adapter.type say so)");
  return Detected{Dialect::Gguf, "it is a GGUF file with adapter.type lora"};
}

Status applyGguf(Catalogue& catalogue, const gguf::Metadata& metadata) {
  const std::string* architecture = gguf::textOf(metadata, "general.architecture");
  if (!architecture) return fail(Code::badHeader, "the file names no architecture (general.architecture)");
  catalogue.info.architecture = *architecture;
  if (const std::string* name = gguf::textOf(metadata, "general.base_model.0.name"))
    catalogue.info.baseModel = *name;
  if (const gguf::Array* tokens = gguf::arrayOf(metadata, "adapter.alora.invocation_tokens");
      tokens && tokens->count > 0)
    catalogue.unsupported.push_back({{}, "activated LoRA: it acts only after its invocation tokens"});
  const double alpha = gguf::numberOf(metadata, "adapter.lora.alpha").value_or(0);
  if (!std::isfinite(alpha)) return fail(Code::badAlpha, "adapter.lora.alpha is no finite number");
  for (AdapterModule& module : catalogue.modules) {
    // An alpha of zero means that the file's factors are final.
    const auto rank = static_cast<double>(module.rank);
    module.alpha = alpha == 0 ? rank : alpha;
    module.scale = module.alpha / rank;
  }
  return {};
}

/// What kohya's files say about their base model.
void readKohyaMetadata(Catalogue& catalogue) {
  for (const auto& [key, value] : catalogue.metadata) {
    if (key == "ss_base_model_version" && catalogue.info.baseModel.empty()) catalogue.info.baseModel = value;
    if (key == "modelspec.architecture") catalogue.info.baseModel = value;
  }
}

}  // namespace

Result<AdapterConfig> readAdapterConfig(std::string_view text) {
  if (text.size() > limits::kConfigBytes)
    return fail(Code::badConfig,
                "the config is longer than " + std::to_string(limits::kConfigBytes) + " bytes");
  const auto json = parseJson(text, Code::badConfig);
  if (!json) return json.error();
  if (!json->is_object()) return fail(Code::badConfig, "the config is no JSON object");
  if (mlx::isConfig(*json)) {
    auto config = mlx::readConfig(*json);
    if (!config) return config.error();
    return AdapterConfig(std::move(*config));
  }
  auto config = peft::readConfig(*json);
  if (!config) return config.error();
  return AdapterConfig(std::move(*config));
}

Result<Catalogue> readAdapter(const Container& file, const std::optional<AdapterConfig>& config) {
  const Header& header = file.header;
  const auto detected = file.gguf ? detectGguf(*file.gguf) : detect(header);
  if (!detected) return detected.error();
  const DialectInfo& dialect = infoOf(detected->dialect);
  auto catalogue = collectModules(header, detected->dialect);
  if (!catalogue) return catalogue.error();
  catalogue->reason = detected->reason;
  const auto* peftConfig = config ? std::get_if<peft::Config>(&*config) : nullptr;
  const auto* mlxConfig = config ? std::get_if<mlx::Config>(&*config) : nullptr;
  if (dialect.configFile && !config) {
    return fail(Code::configMissing, "this is an adapter of the dialect " + std::string(dialect.name) +
                                         ", whose scale stands in its " + dialect.configFile +
                                         "; give that file too");
  }
  if (dialect.configFile && (dialect.dialect == Dialect::Mlx) != (mlxConfig != nullptr)) {
    return fail(Code::ambiguousDialect, "the tensors are named in the dialect " + std::string(dialect.name) +
                                            ", but the config beside them is one of " +
                                            (mlxConfig ? "mlx" : "peft"));
  }
  if (config && !dialect.configFile)
    catalogue->notices.push_back("is of the dialect " + std::string(dialect.name) +
                                 ", which has no config: the adapter_config.json beside it was not used");
  Status applied;
  switch (dialect.dialect) {
    case Dialect::Peft: applied = applyPeft(*catalogue, *peftConfig); break;
    case Dialect::Mlx: applyMlx(*catalogue, *mlxConfig); break;
    case Dialect::Gguf: applied = applyGguf(*catalogue, *file.gguf); break;
    case Dialect::Diffusers: applied = applyDiffusers(*catalogue); break;
    case Dialect::Kohya: applyNothing(*catalogue), readKohyaMetadata(*catalogue); break;
    case Dialect::Comfy:
    case Dialect::OnnxAdapter:
    case Dialect::XLabs:
    case Dialect::ControlLora: applyNothing(*catalogue); break;
  }
  if (!applied) return applied.error();
  return catalogue;
}

}  // namespace lego

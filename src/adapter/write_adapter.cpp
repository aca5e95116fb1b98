#include "adapter/write_adapter.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "adapter/dialect.h"
#include "adapter/mlx_config.h"
#include "adapter/modules.h"
#include "adapter/peft_config.h"
#include "format/json.h"

namespace lego {
namespace {

/// What all modules have, as text; "Dynamic" where they differ, as sd-scripts' own resize_lora.py writes.
template <typename Value>
std::string commonText(std::span<const MergedModule> modules, Value value) {
  const auto first = value(modules.front());
  const bool equal =
      std::ranges::all_of(modules, [&](const MergedModule& module) { return value(module) == first; });
  return equal ? Json(first).dump() : "Dynamic";
}

/// One PEFT config for each component (the first part of a path), its fields prefixed by it, in one object.
/// Source: diffusers loaders/lora_base.py, _pack_dict_with_prefix.
std::string diffusersConfigs(const AdapterInfo& info, std::span<const MergedModule> modules) {
  std::map<std::string, std::vector<peft::MergedRank>> components;
  for (const MergedModule& module : modules) {
    const size_t dot = module.path.find('.');
    components[module.path.substr(0, dot)].push_back(
        {module.path.substr(dot + 1), module.rank, module.alpha()});
  }
  Json packed = Json::object();
  for (const auto& [component, ranks] : components) {
    const Json config = peft::mergedConfig(info, ranks);
    for (const auto& [field, value] : config.items()) packed[component + "." + field] = value;
  }
  return packed.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Whether an entry says something that a merge makes untrue.
bool isOutdated(std::string_view key) {
  constexpr std::string_view kKeys[] = {
      "format",         "lora_lego",           "lora_adapter_metadata", "modelspec.hash_sha256",
      "modelspec.date", "modelspec.thumbnail", "ss_session_id"};
  return std::ranges::find(kKeys, key) != std::end(kKeys) || key.starts_with("sshs_") ||
         key.starts_with("ss_network_");
}

/// {dataset: {tag: count}} of two files, counts added. Nothing where one of them is not that.
std::optional<std::string> addedTags(const std::string& first, const std::string& second) {
  auto sum = parseJson(first, Code::badHeader);
  const auto other = parseJson(second, Code::badHeader);
  if (!sum || !other || !sum->is_object() || !other->is_object()) return std::nullopt;
  for (const auto& [dataset, tags] : other->items()) {
    Json& own = (*sum)[dataset];
    if (own.is_null()) own = Json::object();
    if (!own.is_object() || !tags.is_object()) return std::nullopt;
    for (const auto& [tag, count] : tags.items()) {
      if (!count.is_number_unsigned()) return std::nullopt;
      const uint64_t before =
          own.contains(tag) && own[tag].is_number_unsigned() ? own[tag].get<uint64_t>() : 0;
      own[tag] = before + count.get<uint64_t>();
    }
  }
  return sum->dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// What two files' values of one key become; nothing where only one of them could be kept.
std::optional<std::string> unitedValue(std::string_view key, const std::string& first,
                                       const std::string& second) {
  if (first == second) return first;
  if (key == "ss_tag_frequency") return addedTags(first, second);
  if (key == "modelspec.trigger_phrase") return first + ", " + second;
  return std::nullopt;
}

/// Rows that are no whole blocks stay F16, as llama.cpp's own converter leaves them.
WrittenFactors narrowed(WrittenFactors tensors) {
  for (TensorInfo* tensor : {&tensors.a, &tensors.b}) {
    if (!bytesOf(tensor->dtype, tensor->shape)) tensor->dtype = DType::F16;
  }
  return tensors;
}

/// What a PEFT config says of ranks and alphas: those of a stack under the names of the parameters that it
/// may be of, which all have the same ones.
std::vector<peft::MergedRank> mergedRanks(const AdapterInfo& info, std::span<const MergedModule> modules) {
  std::vector<peft::MergedRank> ranks;
  std::set<std::string> known;
  for (const MergedModule& module : modules) {
    if (module.experts == 0 || module.kind == ModuleKind::Convolution) {
      // Those of all groups.
      const uint64_t rank = module.rank * std::max<uint64_t>(module.experts, 1);
      ranks.push_back({module.path, rank, module.scale * static_cast<double>(rank)});
      continue;
    }
    for (std::string& parameter : peft::parametersOf(info.targetParameters, module.path, /*certain=*/false)) {
      if (known.insert(parameter).second)
        ranks.push_back({std::move(parameter), module.rank, module.alpha(), true});
    }
  }
  return ranks;
}

}  // namespace

Status checkWritable(Dialect dialect, const std::string& path, ModuleKind kind, bool isStack) {
  const DialectInfo& info = infoOf(dialect);
  const bool fits = (kind != ModuleKind::Embedding || info.hasEmbeddings) &&
                    (kind != ModuleKind::Convolution || info.hasConvolutions);
  const bool canStack = !isStack || layoutOf(dialect, kind) != StackLayout::None;
  if (fits && canStack) return {};
  return Error{Code::badFormat,
               "the module " + shownName(path) + " is " +
                   (!canStack                       ? "one of a stack of experts, or a group of a convolution"
                    : kind == ModuleKind::Embedding ? "an embedding"
                                                    : "a convolution") +
                   ", which the format " + info.name + " cannot hold",
               {},
               {},
               {}};
}

Status checkReadable(Dialect dialect, const std::string& name, ModuleKind kind) {
  const auto isRead = [&](Part part) {
    const auto key = parseKey(dialect, keyOf(dialect, name, kind, part));
    return key && key->path == name && key->part == part;
  };
  const DialectInfo& info = infoOf(dialect);
  if (!info.isRead) return {};
  // Where the name tells what an embedding is, its factors may be stored in another way.
  const ModuleKind told = info.keysTellEmbeddings || kind == ModuleKind::Convolution ? kind
                          : namesEmbedding(name)                                     ? ModuleKind::Embedding
                                                                                     : ModuleKind::Linear;
  if (isRead(Part::A) && isRead(Part::B) && turnedFactors(dialect, kind) == turnedFactors(dialect, told))
    return {};
  return Error{Code::badFormat,
               "the module " + shownName(name) + ", " + nameOf(kind) +
                   ", would be read as another one in the format " + info.name,
               {},
               {},
               {}};
}

std::pair<bool, bool> turnedFactors(Dialect dialect, ModuleKind kind) {
  const DialectInfo& info = infoOf(dialect);
  return {info.transposed || (info.file == FileKind::Gguf && kind == ModuleKind::Embedding), info.transposed};
}

WrittenFactors factorsOf(Dialect dialect, const MergedModule& module, DType dtype) {
  WrittenFactors tensors{{keyOf(dialect, module.path, module.kind, Part::A), dtype, {}, 0, 0},
                         {keyOf(dialect, module.path, module.kind, Part::B), dtype, {}, 0, 0}};
  uint64_t channels = module.in;
  for (const uint64_t side : module.kernel) channels /= side;
  const StackLayout layout = layoutOf(dialect, module.kind);
  if (module.experts > 0 && layout != StackLayout::Groups) {
    const bool hasAxis = layout == StackLayout::Axis;
    // The ranks of an adapter's stacks, and their bytes, were counted when their experts were.
    const uint64_t all = module.experts * module.rank;
    tensors.a.shape = {all, module.in};
    tensors.b.shape = {module.out, all};
    if (hasAxis) {
      tensors.a.shape = {module.experts, module.rank, module.in};
      tensors.b.shape = {module.experts, module.out, module.rank};
    }
    return narrowed(std::move(tensors));
  }
  const uint64_t groups = std::max<uint64_t>(module.experts, 1);
  // Dialects that turn factors have no kernels.
  const auto [turnedA, turnedB] = turnedFactors(dialect, module.kind);
  tensors.a.shape = {groups * module.rank, channels};
  tensors.a.shape.insert(tensors.a.shape.end(), module.kernel.begin(), module.kernel.end());
  tensors.b.shape = {groups * module.out, module.rank};
  tensors.b.shape.insert(tensors.b.shape.end(), module.kernel.size(), 1);
  if (turnedA) std::swap(tensors.a.shape[0], tensors.a.shape[1]);
  if (turnedB) std::swap(tensors.b.shape[0], tensors.b.shape[1]);
  return narrowed(std::move(tensors));
}

std::string configOf(Dialect dialect, const AdapterInfo& info, std::span<const MergedModule> modules) {
  if (dialect == Dialect::Peft) {
    return peft::textOf(peft::mergedConfig(info, mergedRanks(info, modules)));
  }
  if (dialect == Dialect::Mlx) {
    std::vector<std::string> paths;
    for (const MergedModule& module : modules) paths.push_back(module.path);
    return mlx::writeConfig(info.baseModel, paths, modules.front().rank, modules.front().scale);
  }
  return {};
}

Metadata formatMetadata(Dialect dialect, const AdapterInfo& info, std::span<const MergedModule> modules) {
  if (dialect == Dialect::Mlx) return {{"format", "mlx"}};
  Metadata metadata = {{"format", "pt"}};
  if (dialect == Dialect::Diffusers)
    metadata.emplace_back("lora_adapter_metadata", diffusersConfigs(info, modules));
  if (dialect == Dialect::Kohya) {
    metadata.emplace_back("ss_network_module", "networks.lora");
    metadata.emplace_back("ss_network_dim",
                          commonText(modules, [](const auto& module) { return module.rank; }));
    metadata.emplace_back("ss_network_alpha",
                          commonText(modules, [](const auto& module) { return module.alpha(); }));
  }
  return metadata;
}

Metadata uniteMetadata(std::span<const Metadata* const> files) {
  Metadata united;
  if (files.empty()) return united;
  for (const auto& [key, value] : *files.front()) {
    if (isOutdated(key)) continue;
    std::optional<std::string> common = value;
    for (const Metadata* other : files.subspan(1)) {
      const auto same =
          std::ranges::find(*other, key, [](const auto& entry) -> const std::string& { return entry.first; });
      common = same != other->end() && common ? unitedValue(key, *common, same->second) : std::nullopt;
    }
    if (common) united.emplace_back(key, std::move(*common));
  }
  return united;
}

}  // namespace lego

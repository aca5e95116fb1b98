#include "adapter/translate.h"

#include <algorithm>

#include "adapter/dialect.h"
#include "adapter/modules.h"
#include "adapter/stack.h"

namespace lego {
namespace {

constexpr std::string_view kComfyPrefix = "diffusion_model.";
constexpr std::string_view kComfyText = "text_encoders.";
// Fused modules that stay whole have their original names, which canonical ones never begin like.
constexpr std::string_view kFusedFronts[] = {"double_blocks.", "single_blocks.", "final_layer."};

Error fail(Code code, std::string detail, const std::string& tensor) {
  return {code, std::move(detail), {}, tensor, {}};
}

/// XLabs' processors as the layers that they belong to, under their original names: 1 is the image's stream,
/// 2 the text's. In single blocks q, k and v are only the first rows of the fused layer, and are named one by
/// one. Source: diffusers loaders/lora_conversion_utils.py, _convert_xlabs_flux_lora_to_diffusers.
std::vector<CanonicalPart> fromXLabs(std::string_view path, uint64_t in, uint64_t out) {
  if (path.starts_with(kComfyPrefix)) path.remove_prefix(kComfyPrefix.size());
  constexpr std::string_view kProcessor = ".processor.";
  const size_t at = path.find(kProcessor);
  if (at == std::string_view::npos) return {};
  const std::string block(path.substr(0, at));
  const std::string_view name = path.substr(at + kProcessor.size());
  const auto layer = [&](const char* original) { return fromOriginal(block + original, in, out); };
  if (name == "qkv_lora1") return layer(".img_attn.qkv");
  if (name == "qkv_lora2") return layer(".txt_attn.qkv");
  if (name == "proj_lora1") return layer(".img_attn.proj");
  if (name == "proj_lora2") return layer(".txt_attn.proj");
  if (name == "proj_lora") return layer(".linear2");
  if (name != "qkv_lora" || out != 3 * in) return {};
  // The whole of the fused layer is q, k, v and the first layer of the block's network, 4 times as wide.
  auto parts = fromOriginal(block + ".linear1", in, 7 * in);
  if (parts.size() > 3) parts.resize(3);
  return parts;
}

std::vector<CanonicalPart> partsOf(Dialect dialect, const AdapterModule& module) {
  std::string_view path = module.path;
  switch (dialect) {
    case Dialect::Kohya: return fromKohya(path, module.in, module.out);
    case Dialect::XLabs: return fromXLabs(path, module.in, module.out);
    case Dialect::Comfy:
      if (path.starts_with(kComfyPrefix)) path.remove_prefix(kComfyPrefix.size());
      return fromOriginal(path, module.in, module.out);
    default: return {{module.path, 0, module.out, 0}};
  }
}

/// Rows of B, with the whole of A.
AdapterModule sliceOf(const AdapterModule& module, std::span<const CanonicalPart> parts) {
  AdapterModule slice = module;
  const CanonicalPart& part = parts.front();
  slice.path = part.path;
  if (part.rows == module.out) return slice;
  if (parts.size() > 1) {
    // In another order.
    slice.out = 0;
    for (const auto& [path, at, rows, own] : parts) {
      slice.sliceB.rows.push_back({at, own, rows});
      slice.out += rows;
    }
    slice.sliceB.rowLength = module.rank;
    return slice;
  }
  slice.out = part.rows;
  const uint64_t bytesOfRow = (module.b.end - module.b.begin) / module.out;
  slice.b.shape[0] = part.rows;
  slice.b.begin = module.b.begin + part.rowBegin * bytesOfRow;
  slice.b.end = slice.b.begin + part.rows * bytesOfRow;
  return slice;
}

/// GGUF modules as transformers names them, their rows of q and k marked as llama.cpp orders them.
Result<std::vector<AdapterModule>> fromGguf(const Catalogue& catalogue, const BaseModel* base) {
  const std::string& architecture = catalogue.info.architecture;
  if (base && base->architecture != architecture) {
    return Error{Code::mixedDialects,
                 "the adapter is of architecture " + shownName(architecture) + ", the base model of " +
                     shownName(base->architecture),
                 {},
                 {},
                 {}};
  }
  std::vector<AdapterModule> modules;
  for (AdapterModule module : catalogue.modules) {
    const auto path = module.experts > 0 ? hfExpertOfGgml(stackOf(module.path), module.expert, architecture)
                                         : hfPath(module.path, architecture);
    if (!path) {
      return fail(Code::mixedDialects,
                  "it is not known what transformers calls the tensor " + shownName(module.path) +
                      " of architecture " + shownName(architecture),
                  module.a.name);
    }
    const auto heads = rowHeadsOf(module.path, module.out, architecture, base);
    if (!heads) {
      Error error = heads.error();
      error.tensor = module.b.name;
      return error;
    }
    module.path = *path;
    module.rowHeads = *heads;
    modules.push_back(std::move(module));
  }
  if (Status sorted = sortModules(modules); !sorted) return sorted.error();
  return modules;
}

/// Modules of PEFT or MLX: under the names of transformers but for the experts that are stacked.
Result<std::vector<AdapterModule>> fromTransformers(const Catalogue& catalogue) {
  std::vector<AdapterModule> modules = catalogue.modules;
  for (AdapterModule& module : modules) {
    if (module.experts == 0) continue;
    if (module.kind == ModuleKind::Convolution) {
      return fail(Code::mixedDialects,
                  "module " + shownName(stackOf(module.path)) +
                      " is a convolution of several groups, which other formats do not have",
                  module.a.name);
    }
    if (catalogue.dialect == Dialect::Peft) {
      return fail(
          Code::mixedDialects,
          "the experts of module " + shownName(stackOf(module.path)) +
              " are one parameter (target_parameters), whose rows and columns, and mostly gate and up in "
              "one, are not those of the modules that other formats have",
          module.a.name);
    }
    auto path = hfExpertOfMlx(stackOf(module.path), module.expert);
    if (!path) {
      return fail(
          Code::mixedDialects,
          "it is not known what transformers calls the experts of module " + shownName(stackOf(module.path)),
          module.a.name);
    }
    module.path = std::move(*path);
  }
  if (Status sorted = sortModules(modules); !sorted) return sorted.error();
  return modules;
}

}  // namespace

Result<uint32_t> rowHeadsOf(std::string_view ggmlName, uint64_t rows, const std::string& architecture,
                            const BaseModel* base) {
  const bool isQuery = ggmlName.ends_with(".attn_q");
  if (!isQuery && !ggmlName.ends_with(".attn_k")) return 0u;
  const auto permutes = permutesHeads(architecture);
  if (!permutes) {
    return fail(
        Code::badFormat,
        "it is not known in which order llama.cpp keeps the rows of q and k in models of architecture " +
            shownName(architecture),
        {});
  }
  if (!*permutes) return 0u;
  const uint32_t heads = !base ? 0 : isQuery ? base->heads : base->keyHeads;
  if (heads == 0) {
    return fail(Code::baseMissing,
                "llama.cpp keeps the rows of q and k in another order; for that the number of heads is "
                "needed: give the "
                "base model's config.json or GGUF file",
                {});
  }
  if (Status whole = checkHeads(rows, heads); !whole) return whole.error();
  return heads;
}

bool hasFusedModules(Dialect dialect) { return dialect == Dialect::Kohya || dialect == Dialect::Comfy; }

Result<CanonicalModules> canonicalModules(const Catalogue& catalogue, const BaseModel* base,
                                          bool keepsFused) {
  CanonicalModules result;
  for (const DiffusionFamily family : kDiffusionFamilies) result.families |= setOf(family);
  if (catalogue.dialect == Dialect::Gguf) {
    auto modules = fromGguf(catalogue, base);
    if (!modules) return modules.error();
    result.modules = std::move(*modules);
    return result;
  }
  if (infoOf(catalogue.dialect).naming == Naming::Transformers) {
    auto modules = fromTransformers(catalogue);
    if (!modules) return modules.error();
    result.modules = std::move(*modules);
    return result;
  }
  for (const AdapterModule& module : catalogue.modules) {
    const auto parts = partsOf(catalogue.dialect, module);
    const bool isKnown = catalogue.dialect != Dialect::ControlLora && !parts.empty();
    if (!isKnown) {
      return fail(
          Code::mixedDialects,
          "the module " + shownName(module.path) +
              " is in no table of names (SD 1 and 2, SDXL, Flux), so it cannot be known what it is called "
              "in another dialect",
          module.a.name);
    }
    const bool isFused = parts.size() > 1;
    if (isFused && keepsFused) {
      uint64_t ownRows = 0;
      for (const CanonicalPart& part : parts) ownRows += part.path == parts.front().path ? part.rows : 0;
      const auto fused = fusedPartOf(parts.front().path, module.in, ownRows);
      if (fused) {
        result.families &= familiesOf(parts.front().path, module.in);
        result.modules.push_back(module);
        result.modules.back().path = fused->original;
        continue;
      }
    }
    if (isFused && module.expanded) {
      return fail(Code::mixedDialects,
                  "the module " + shownName(module.path) +
                      " is several in diffusers, and stored otherwise than as one pair",
                  module.a.name);
    }
    for (size_t first = 0, end; first < parts.size(); first = end) {
      end = first + 1;
      while (end < parts.size() && parts[end].path == parts[first].path) ++end;
      result.families &= familiesOf(parts[first].path, module.in);
      result.modules.push_back(sliceOf(module, std::span(parts).subspan(first, end - first)));
    }
    if (result.families == 0) {
      return fail(
          Code::mixedDialects,
          "the module " + shownName(module.path) +
              " and those before it are of no one model that the tables have (SD 1 and 2, SDXL, Flux)",
          module.a.name);
    }
  }
  if (Status sorted = sortModules(result.modules); !sorted) return sorted.error();
  return result;
}

std::optional<ExpertName> stackIn(Dialect dialect, std::string_view canonical) {
  if (dialect == Dialect::Gguf) return ggmlExpert(canonical);
  if (dialect == Dialect::Mlx) return mlxExpert(canonical);
  return std::nullopt;
}

std::optional<FusedRows> fusedIn(Dialect dialect, const std::string& canonical, uint64_t in, uint64_t out,
                                 DiffusionFamilies families) {
  if (!hasFusedModules(dialect) || families != setOf(DiffusionFamily::Flux)) return std::nullopt;
  auto fused = fusedPartOf(canonical, in, out);
  if (!fused) return std::nullopt;
  FusedRows rows{dialect == Dialect::Kohya ? fused->kohya : std::string(kComfyPrefix) + fused->original,
                 {},
                 fused->rows};
  for (const CanonicalPart& part : fromKohya(fused->kohya, in, fused->rows)) {
    if (part.path == canonical) rows.rows.push_back({part.rowBegin, part.canonicalRow, part.rows});
  }
  return rows;
}

std::optional<std::string> nameIn(Dialect dialect, const std::string& canonical, DiffusionFamilies families) {
  if (dialect == Dialect::Gguf) return ggmlName(canonical);
  if (infoOf(dialect).naming == Naming::Transformers || dialect == Dialect::Diffusers) return canonical;
  if (dialect != Dialect::Kohya && dialect != Dialect::Comfy) return std::nullopt;
  const auto isFront = [&](std::string_view front) { return canonical.starts_with(front); };
  if (std::ranges::any_of(kFusedFronts, isFront)) {
    if (dialect == Dialect::Comfy) return std::string(kComfyPrefix) + canonical;
    std::string flat = canonical;
    std::ranges::replace(flat, '.', '_');
    return "lora_unet_" + flat;
  }
  std::optional<std::string> common;
  for (const DiffusionFamily family : kDiffusionFamilies) {
    if ((families & setOf(family)) == 0) continue;
    auto name = dialect == Dialect::Kohya ? toKohya(canonical, family) : toOriginal(canonical, family);
    if (!name || (common && *common != *name)) return std::nullopt;
    common = std::move(name);
  }
  if (common && dialect == Dialect::Comfy && !common->starts_with(kComfyText))
    common->insert(0, kComfyPrefix);
  return common;
}

}  // namespace lego

#include "job/unite.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "adapter/dialect.h"
#include "adapter/glob.h"
#include "adapter/write_adapter.h"
#include "base/limits.h"
#include "base/order.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

/// Weights of single modules: the last pattern that matches overrides the adapter's own weight.
class WeightRules {
 public:
  WeightRules(const Recipe& recipe, std::span<const double> weights)
      : rules_(recipe.moduleWeights), weights_(weights), used_(rules_.size(), false) {}

  double weightOf(uint32_t adapter, const std::string& path) {
    double weight = weights_[adapter];
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (rules_[i].adapter != adapter || !globMatches(rules_[i].glob, path)) continue;
      weight = rules_[i].weight;
      used_[i] = true;
    }
    return weight;
  }

  /// A pattern without a module is a typing error whose author would wait for its effect.
  Status checkUsed(std::span<const AdapterFile> adapters) const {
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (!used_[i])
        return fail(Code::badWeights, "the pattern " + shownName(rules_[i].glob) + " matches no module of " +
                                          shownName(adapters[rules_[i].adapter].label));
    }
    return {};
  }

 private:
  std::span<const ModuleWeight> rules_;
  std::span<const double> weights_;
  std::vector<bool> used_;
};

/// The sides of a kernel that reaches beyond one point; a 1 x 1 convolution is a linear layer to its factors.
std::span<const uint64_t> reach(const std::vector<uint64_t>& kernel) {
  const bool isPoint = std::ranges::all_of(kernel, [](uint64_t side) { return side == 1; });
  return isPoint ? std::span<const uint64_t>() : std::span<const uint64_t>(kernel);
}

Status addSource(PlannedModule& planned, const AdapterModule& module, uint32_t adapter, double weight,
                 std::span<const AdapterFile> adapters) {
  if (planned.sources.empty()) {
    planned.path = module.path;
    planned.kind = module.kind;
    planned.in = module.in;
    planned.out = module.out;
    planned.kernel = module.kernel;
    planned.expert = module.expert;
    planned.experts = module.experts;
  } else {
    const PlannedSource& first = planned.sources.front();
    const bool embeddings = (module.kind == ModuleKind::Embedding) == (planned.kind == ModuleKind::Embedding);
    // LyCORIS flattens kernels into the channels; the other then tells what they are.
    const bool sameKernel = module.kernel.empty() || planned.kernel.empty() ||
                            std::ranges::equal(reach(module.kernel), reach(planned.kernel));
    const bool sameA = embeddings && module.in == planned.in && sameKernel;
    if (!sameA || module.out != planned.out) {
      const auto& [own, other] = sameA ? std::pair(&module.b, &first.b) : std::pair(&module.a, &first.a);
      return failAt(Code::shapeMismatch,
                    "has shape " + shapeText(own->shape) + ", but " +
                        shownName(adapters[first.adapter].file) + " has " + shapeText(other->shape) +
                        "; the adapters belong to different base models",
                    adapters[adapter], own->name);
    }
    if (planned.experts != 0 && module.experts != 0 && planned.experts != module.experts) {
      return failAt(Code::shapeMismatch,
                    "the stack has " + std::to_string(module.experts) + " experts, in " +
                        shownName(adapters[first.adapter].file) + " it has " +
                        std::to_string(planned.experts) + "; the adapters belong to different base models",
                    adapters[adapter], module.a.name);
    }
    // Where one adapter has the experts one by one.
    if (planned.experts == 0) {
      planned.expert = module.expert;
      planned.experts = module.experts;
    }
    // The same whatever the order of the adapters: a convolution where one of them stores it as that.
    if (module.kind == ModuleKind::Convolution && planned.kind == ModuleKind::Linear) {
      planned.kind = module.kind;
      planned.kernel = module.kernel;
    } else if (module.kernel.size() > planned.kernel.size()) {
      planned.kernel = module.kernel;
    }
  }
  if (module.rank > limits::kPooledUnits - planned.units) {
    return failAt(Code::rankAboveUnits,
                  "the ranks of module " + shownName(module.path) + " add up to more than " +
                      std::to_string(limits::kPooledUnits),
                  adapters[adapter], module.a.name);
  }
  PlannedSource source;
  source.adapter = adapter;
  source.a = module.a;
  source.b = module.b;
  source.transposedA = module.transposedA;
  source.transposedB = module.transposedB;
  source.sliceB = module.sliceB;
  source.rowHeads = module.rowHeads;
  source.expanded = module.expanded;
  source.rank = static_cast<uint32_t>(module.rank);
  source.scale = module.scale;
  source.weight = weight;
  planned.inputBytes += bytesOf(module);
  planned.sources.push_back(std::move(source));
  planned.units += static_cast<uint32_t>(module.rank);
  return {};
}

Status checkOverlap(std::span<const AdapterFile> adapters, std::span<const PlannedModule> modules,
                    std::vector<std::string>& notices) {
  std::vector<bool> shares(adapters.size(), false);
  for (const PlannedModule& module : modules) {
    if (module.sources.size() < 2) continue;
    for (const PlannedSource& source : module.sources) shares[source.adapter] = true;
  }
  const std::set<uint32_t> takePart = participants(modules);
  if (takePart.size() < 2) return {};
  if (std::ranges::count(shares, true) == 0) {
    return failAt(
        Code::noCommonModule,
        "no module of this adapter occurs in any of the others; were they trained on the same base model?",
        adapters[0], adapters[0].catalogue.modules.front().a.name);
  }
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    if (takePart.contains(i) && !shares[i])
      notices.push_back(shownName(adapters[i].label) + " shares no module with the others");
  }
  return {};
}

/// Sets the number of experts in each stack that is written: from an adapter that has the stack, or the base
/// model. Modules of one stack stand side by side.
Status setStackSizes(std::span<PlannedModule> modules, const NamedModules& named) {
  uint32_t experts = 0;
  for (const PlannedModule& module : modules) experts = std::max(experts, module.experts);
  if (experts == 0 && named.base) experts = named.base->experts;
  if (experts == 0) {
    return fail(Code::baseMissing, "in the format " + std::string(infoOf(named.dialect).name) +
                                       " the experts of a mixture are one stack, for which their number is "
                                       "needed: give the base model's config.json or GGUF file");
  }
  for (PlannedModule& module : modules) {
    const bool differs = module.experts != 0 && module.experts != experts;
    if (differs || module.expert >= experts || experts > limits::kStackExperts) {
      return fail(Code::shapeMismatch, "the module " + shownName(module.path) + " is none of the " +
                                           std::to_string(experts) + " experts of the stack " +
                                           shownName(module.name));
    }
    module.experts = experts;
  }
  return {};
}

/// Where the module stands among those of its pair.
uint64_t partOf(const PlannedModule& module) {
  return module.fused.empty() ? module.expert : module.fused.front().at;
}

/// Experts and parts of fused modules are linear layers, but for groups of convolutions. Errors: bad_format.
Status checkPart(const PlannedModule& module, WrittenName::Kind kind, Dialect dialect) {
  if (kind == WrittenName::Kind::Whole || module.kind == ModuleKind::Linear) return {};
  if (kind == WrittenName::Kind::Expert && layoutOf(dialect, module.kind) == StackLayout::Groups) return {};
  return fail(Code::badFormat, "the module " + shownName(module.path) + ", " + nameOf(module.kind) +
                                   ", is a part of " + shownName(module.name) + " in the format " +
                                   infoOf(dialect).name + ", which can only be linear");
}

/// Sets what a module is in the result.
Result<WrittenName::Kind> setName(PlannedModule& module, const NamedModules& named) {
  auto written = named.writtenName(module);
  if (!written) return written.error();
  const WrittenName::Kind kind = written->kind;
  module.name = std::move(written->name);
  module.expert = written->expert;
  module.experts = written->experts;
  module.fused = std::move(written->rows);
  module.fusedRows = written->fusedRows;
  const auto heads = named.writtenHeads(module.name, module.out);
  if (!heads) return heads.error();
  module.rowHeads = *heads;
  const bool isExpert = kind == WrittenName::Kind::Expert;
  if (Status fits = checkWritable(named.dialect, module.path, module.kind, isExpert); !fits)
    return fits.error();
  if (Status read = checkReadable(named.dialect, module.name, module.kind); !read) return read.error();
  if (Status fits = checkPart(module, kind, named.dialect); !fits) return fits.error();
  return kind;
}

/// Sets what the modules are in the result, and brings those together that share a pair there.
Status setNames(std::vector<PlannedModule>& modules, const NamedModules& named,
                std::span<const AdapterFile> adapters) {
  using Kind = WrittenName::Kind;
  struct Pair {
    size_t first;
    Kind kind;
    std::set<uint64_t> parts;
  };
  std::map<std::string, Pair> pairs;
  for (size_t m = 0; m < modules.size(); ++m) {
    PlannedModule& module = modules[m];
    const auto kind = setName(module, named);
    if (!kind) {
      Error error = kind.error();
      error.file = adapters[module.sources.front().adapter].file;
      return error;
    }
    Pair& pair = pairs.try_emplace(module.name, Pair{m, *kind, {}}).first->second;
    if (pair.kind != *kind || !pair.parts.insert(partOf(module)).second) {
      return fail(Code::badFormat, "the modules " + shownName(modules[pair.first].path) + " and " +
                                       shownName(module.path) + " have the same name in the format " +
                                       infoOf(named.dialect).name);
    }
    const PlannedModule& other = modules[pair.first];
    const bool sameOut = *kind == Kind::Fused ? module.fusedRows == other.fusedRows : module.out == other.out;
    if (module.in != other.in || !sameOut) {
      return fail(Code::shapeMismatch, "the modules " + shownName(other.path) + " and " +
                                           shownName(module.path) + " are parts of one, " +
                                           shownName(module.name) + ", but their shapes do not agree");
    }
  }
  // Parts by their order in the pair, which their paths, as text, do not give.
  const auto place = [&](const PlannedModule& module) {
    return std::pair(pairs.at(module.name).first, partOf(module));
  };
  sortStable(modules, [&](const PlannedModule& x, const PlannedModule& y) { return place(x) < place(y); });
  for (size_t m = 0; m < modules.size(); ++m) {
    const auto& [first, kind, parts] = pairs.at(modules[m].name);
    if (kind == Kind::Expert) {
      Status sized = setStackSizes(std::span(modules).subspan(m, parts.size()), named);
      if (!sized) return sized;
    }
    m += parts.size() - 1;
  }
  return {};
}

}  // namespace

Error failAt(Code code, std::string detail, const AdapterFile& adapter, const std::string& tensor) {
  return {code, std::move(detail), adapter.file, tensor, {}};
}

std::string counted(size_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::set<uint32_t> participants(std::span<const PlannedModule> modules) {
  std::set<uint32_t> takePart;
  for (const PlannedModule& module : modules) {
    for (const PlannedSource& source : module.sources) takePart.insert(source.adapter);
  }
  return takePart;
}

Result<std::vector<double>> readWeights(const Recipe& recipe, const MethodInfo& method,
                                        std::span<const AdapterFile> adapters) {
  std::vector<double> weights = recipe.weights;
  if (weights.empty()) weights.assign(adapters.size(), 1.0);
  if (weights.size() != adapters.size()) {
    return fail(Code::badWeights,
                counted(weights.size(), "weight") + " given for " + counted(adapters.size(), "adapter"));
  }
  std::vector<double> all = weights;
  for (const ModuleWeight& rule : recipe.moduleWeights) {
    if (rule.adapter >= adapters.size())
      return fail(Code::badWeights, "a weight for modules names an adapter that is not given");
    all.push_back(rule.weight);
  }
  if (!std::ranges::all_of(all, [](double w) { return std::isfinite(w); }))
    return fail(Code::badWeights, "a weight is not a finite number");
  if (!method.takesNegativeWeights && std::ranges::any_of(all, [](double w) { return w < 0; })) {
    return fail(Code::badWeights, "the method " + std::string(method.name) +
                                      " has no meaning for negative weights; svd subtracts exactly");
  }
  return weights;
}

Result<std::vector<PlannedModule>> uniteModules(std::span<const AdapterFile> adapters,
                                                const NamedModules& named, const Recipe& recipe,
                                                std::span<const double> weights,
                                                std::vector<std::string>& notices) {
  std::map<std::string, PlannedModule> united;
  WeightRules rules(recipe, weights);
  size_t leftOut = 0;
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    for (const AdapterModule& module : named.modules[i]) {
      const double weight = rules.weightOf(i, module.path);
      PlannedModule& planned = united[module.path];
      if (weight == 0) continue;
      if (Status added = addSource(planned, module, i, weight, adapters); !added) return added.error();
    }
  }
  if (Status used = rules.checkUsed(adapters); !used) return used.error();
  std::vector<PlannedModule> modules;
  for (auto& [path, module] : united) {
    if (module.sources.empty()) {
      ++leftOut;
    } else {
      modules.push_back(std::move(module));
    }
  }
  if (modules.empty()) return fail(Code::badWeights, "every weight is zero: nothing is left to merge");
  // Modules of an adapter that is left out as a whole are no news: it has a notice of its own.
  const bool byPattern =
      std::ranges::any_of(recipe.moduleWeights, [](const auto& w) { return w.weight == 0; });
  if (leftOut > 0 && byPattern)
    notices.push_back(counted(leftOut, "module") + " have weight 0 in every adapter and are left out");
  if (Status shared = checkOverlap(adapters, modules, notices); !shared) return shared.error();
  if (Status done = setNames(modules, named, adapters); !done) return done.error();
  return modules;
}

Result<AdapterInfo> uniteInfo(std::span<const AdapterFile> adapters, std::span<const PlannedModule> modules,
                              std::vector<std::string>& notices) {
  const std::set<uint32_t> takePart = participants(modules);
  std::optional<AdapterInfo> united;
  size_t firstAdapter = 0;
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    const AdapterInfo& info = adapters[i].catalogue.info;
    for (const auto& notice : adapters[i].catalogue.notices)
      notices.push_back(shownName(adapters[i].label) + " " + notice);
    if (!takePart.contains(i)) {
      notices.push_back(shownName(adapters[i].label) + " has weight 0 and is left out");
      continue;
    }
    if (!united) {
      united = info;
      firstAdapter = i;
      continue;
    }
    if (info.fanInFanOut != united->fanInFanOut) {
      return failAt(Code::layoutMismatch,
                    "fan_in_fan_out differs from that of " + shownName(adapters[firstAdapter].file),
                    adapters[i], {});
    }
    if (info.baseModel != united->baseModel) {
      notices.push_back("the adapters name different base models: " + shownName(united->baseModel) + " and " +
                        shownName(info.baseModel));
      if (united->baseModel.empty()) united->baseModel = info.baseModel;
    }
    if (info.taskType != united->taskType) united->taskType.clear();
    for (const std::string& module : info.modulesToSave) {
      if (std::ranges::find(united->modulesToSave, module) == united->modulesToSave.end())
        united->modulesToSave.push_back(module);
    }
    united->dora |= info.dora;
    united->loraBias |= info.loraBias;
    // "all" covers "lora_only", which covers "none".
    if (info.bias == "all" || united->bias.empty() || united->bias == "none") united->bias = info.bias;
    // Which parameter a level of PEFT's nesting belongs to depends on all of those that were adapted.
    if (!info.targetParameters.empty() && !united->targetParameters.empty() &&
        info.targetParameters != united->targetParameters) {
      return failAt(Code::mixedDialects,
                    "target_parameters differ from those of " + shownName(adapters[firstAdapter].file) +
                        ", so it cannot be known which parameters their factors are of",
                    adapters[i], {});
    }
    if (united->targetParameters.empty()) united->targetParameters = info.targetParameters;
    if (info.revision != united->revision) united->revision.clear();
    if (!info.targetSuffixes) {
      united->targetSuffixes.reset();
    } else if (united->targetSuffixes) {
      for (const auto& suffix : *info.targetSuffixes) {
        if (std::ranges::find(*united->targetSuffixes, suffix) == united->targetSuffixes->end())
          united->targetSuffixes->push_back(suffix);
      }
    }
  }
  return *united;
}

}  // namespace lego

#include "job/plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "adapter/peft.h"
#include "base/limits.h"
#include "base/random.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "job/memory.h"

#ifndef LORA_LEGO_VERSION
#error "the build passes the version of package.json"
#endif

namespace lego {
namespace {

// Factor bytes of one batch: few enough for memory, many enough that a read is long compared with the cost
// of asking for it (in a browser about a millisecond).
constexpr uint64_t kBatchBytes = 16 << 20;

// Gaps up to this size are read along rather than asked for around.
constexpr uint64_t kReadGap = 64 << 10;

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

Error failAt(Code code, std::string detail, const AdapterFile& adapter, const std::string& tensor) {
  return {code, std::move(detail), adapter.file, tensor, {}};
}

std::string counted(size_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

/// Weights, one per adapter.
Result<std::vector<double>> readWeights(const Recipe& recipe, size_t adapters) {
  if (recipe.weights.empty()) return std::vector<double>(adapters, 1.0);
  if (recipe.weights.size() != adapters) {
    return fail(Code::badWeights,
                counted(recipe.weights.size(), "weight") + " given for " + counted(adapters, "adapter"));
  }
  if (!std::ranges::all_of(recipe.weights, [](double w) { return std::isfinite(w); }))
    return fail(Code::badWeights, "a weight is not a finite number");
  if (std::ranges::all_of(recipe.weights, [](double w) { return w == 0; }))
    return fail(Code::badWeights, "every weight is zero: nothing is left to merge");
  return recipe.weights;
}

Status checkCarried(const AdapterFile& adapter) {
  const auto& unsupported = adapter.catalogue.unsupported;
  if (unsupported.empty()) return {};
  std::string text;
  size_t shown = 0;
  for (const Unsupported& item : unsupported) {
    if (shown++ == 3) break;
    text +=
        (text.empty() ? "" : "; ") + (item.tensor.empty() ? "" : shownName(item.tensor) + ": ") + item.reason;
  }
  if (unsupported.size() > 3) text += "; and " + std::to_string(unsupported.size() - 3) + " more";
  const bool byConfig = unsupported.front().tensor.empty();
  return failAt(byConfig ? Code::unsupportedAdapter : Code::unsupportedTensors,
                "merging would lose what this version cannot carry: " + text, adapter,
                unsupported.front().tensor);
}

/// Sides of a factor's shape that the rank does not change.
std::vector<uint64_t> fixedSides(const TensorInfo& tensor, size_t rankAxis) {
  std::vector<uint64_t> sides = tensor.shape;
  sides.erase(sides.begin() + static_cast<std::ptrdiff_t>(rankAxis));
  return sides;
}

std::string shapeText(const TensorInfo& tensor) {
  std::string text = "[";
  for (size_t i = 0; i < tensor.shape.size(); ++i)
    text += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

/// The union of modules, by path, with all adapters that take part in each.
Result<std::vector<PlannedModule>> uniteModules(std::span<const AdapterFile> adapters,
                                                std::span<const double> weights) {
  std::map<std::string, PlannedModule> united;
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    if (weights[i] == 0) continue;
    for (const AdapterModule& module : adapters[i].catalogue.modules) {
      PlannedModule& planned = united[module.path];
      if (planned.sources.empty()) {
        planned.path = module.path;
        planned.kind = module.kind;
        planned.in = module.in;
        planned.out = module.out;
      } else {
        const PlannedSource& first = planned.sources.front();
        for (const auto& [mine, other, axis] :
             {std::tuple{&module.a, &first.a, size_t{0}}, std::tuple{&module.b, &first.b, size_t{1}}}) {
          if (module.kind == planned.kind && fixedSides(*mine, axis) == fixedSides(*other, axis)) continue;
          return failAt(Code::shapeMismatch,
                        "has shape " + shapeText(*mine) + ", but " + shownName(adapters[first.adapter].file) +
                            " has " + shapeText(*other) + "; the adapters belong to different base models",
                        adapters[i], mine->name);
        }
      }
      planned.sources.push_back({i, module.a, module.b, 0, 0,
                                 static_cast<uint32_t>(std::min<uint64_t>(module.rank, UINT32_MAX)),
                                 module.scale, weights[i]});
      if (module.rank > limits::kPooledUnits - planned.units) {
        return failAt(Code::rankAboveUnits,
                      "the ranks of module " + shownName(module.path) + " add up to more than " +
                          std::to_string(limits::kPooledUnits),
                      adapters[i], module.a.name);
      }
      planned.units += static_cast<uint32_t>(module.rank);
      planned.inputBytes += (module.a.end - module.a.begin) + (module.b.end - module.b.begin);
    }
  }
  std::vector<PlannedModule> modules;
  for (auto& [path, module] : united) modules.push_back(std::move(module));
  return modules;
}

Status checkOverlap(std::span<const AdapterFile> adapters, std::span<const double> weights,
                    std::span<const PlannedModule> modules, std::vector<std::string>& notices) {
  std::vector<bool> shares(adapters.size(), false);
  bool any = false;
  size_t taking = 0;
  for (const double weight : weights) taking += weight != 0;
  for (const PlannedModule& module : modules) {
    if (module.sources.size() < 2) continue;
    any = true;
    for (const PlannedSource& source : module.sources) shares[source.adapter] = true;
  }
  if (taking < 2) return {};
  if (!any) {
    return failAt(
        Code::noCommonModule,
        "no module of this adapter occurs in any of the others; were they trained on the same base model?",
        adapters[0], adapters[0].catalogue.modules.front().a.name);
  }
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (weights[i] != 0 && !shares[i])
      notices.push_back(shownName(adapters[i].label) + " shares no module with the others");
  }
  return {};
}

/// Sets each module's k.
Status chooseRanks(const Recipe& recipe, const MethodInfo& method, std::vector<PlannedModule>& modules,
                   std::vector<std::string>& notices) {
  if (!method.takesRank) {
    if (recipe.rank != 0)
      return fail(Code::badRank, "the method " + std::string(method.name) +
                                     " keeps every rank and takes none; use svd for a given rank");
    for (PlannedModule& module : modules) module.rank = module.units;
    return {};
  }
  uint32_t mostUnits = 0, largestRank = 0;
  for (const PlannedModule& module : modules) {
    mostUnits = std::max(mostUnits, module.units);
    for (const PlannedSource& source : module.sources) largestRank = std::max(largestRank, source.rank);
  }
  if (recipe.rank > mostUnits) {
    return fail(Code::rankAboveUnits, "rank " + std::to_string(recipe.rank) +
                                          " was asked for, but the adapters' ranks add up to " +
                                          std::to_string(mostUnits));
  }
  const bool startFits = std::ranges::all_of(modules, [&](const PlannedModule& module) {
    return std::ranges::all_of(recipe.start, [&](uint32_t unit) { return unit < module.units; });
  });
  const std::set<uint32_t> distinct(recipe.start.begin(), recipe.start.end());
  if (!recipe.start.empty() &&
      (!startFits || distinct.size() != recipe.start.size() || recipe.start.size() != recipe.rank)) {
    return fail(
        Code::badOption,
        "start must name as many distinct units as the rank, each below every module's number of units");
  }
  const uint32_t rank = recipe.rank > 0 ? recipe.rank : largestRank;
  size_t capped = 0;
  for (PlannedModule& module : modules) {
    module.rank = std::min(rank, module.units);
    capped += module.rank < rank;
  }
  if (capped > 0)
    notices.push_back(counted(capped, "module") + " have fewer units than rank " + std::to_string(rank) +
                      " and keep them all");
  return {};
}

Result<DType> chooseDtype(const Recipe& recipe, std::span<const PlannedModule> modules) {
  constexpr std::pair<std::string_view, DType> kNames[] = {
      {"f64", DType::F64}, {"f32", DType::F32}, {"f16", DType::F16}, {"bf16", DType::BF16}};
  for (const auto& [name, dtype] : kNames) {
    if (recipe.dtype == name) return dtype;
  }
  if (recipe.dtype != "same")
    return fail(Code::badDtype,
                "the dtype " + shownName(recipe.dtype) + " is none of same, f64, f32, f16, bf16");
  std::set<DType> dtypes;
  for (const PlannedModule& module : modules) {
    for (const PlannedSource& source : module.sources) dtypes.insert({source.a.dtype, source.b.dtype});
  }
  if (dtypes.size() == 1) return *dtypes.begin();
  // F16 and BF16 together fit into neither of them.
  return dtypes.contains(DType::F64) ? DType::F64 : DType::F32;
}

/// What the merged adapter's config repeats from its inputs.
Result<AdapterInfo> uniteInfo(std::span<const AdapterFile> adapters, std::span<const double> weights,
                              std::vector<std::string>& notices) {
  std::optional<AdapterInfo> united;
  size_t firstAdapter = 0;
  for (size_t i = 0; i < adapters.size(); ++i) {
    const AdapterInfo& info = adapters[i].catalogue.info;
    for (const auto& notice : adapters[i].catalogue.notices)
      notices.push_back(shownName(adapters[i].label) + " " + notice);
    if (weights[i] == 0) {
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

/// What was done, for the output's metadata: everything that decides the bytes but the inputs themselves.
std::string provenance(const Plan& plan, std::span<const double> weights) {
  Json json = Json::object();
  json["version"] = LORA_LEGO_VERSION;
  json["method"] = plan.method->name;
  if (plan.recipe.rank != 0) json["rank"] = plan.recipe.rank;
  json["weights"] = std::vector<double>(weights.begin(), weights.end());
  json["seed"] = plan.recipe.seed;
  json["scale"] = plan.recipe.scale;
  Json options = Json::object();
  for (const OptionInfo& info : plan.method->options) {
    switch (info.type) {
      case OptionInfo::Type::Integer:
        options[info.name] = static_cast<uint64_t>(plan.options.number(info.name));
        break;
      case OptionInfo::Type::Number: options[info.name] = plan.options.number(info.name); break;
      case OptionInfo::Type::Choice: options[info.name] = plan.options.choice(info.name); break;
    }
  }
  json["options"] = std::move(options);
  return json.dump();
}

Status layOutOutput(Plan& plan, const AdapterInfo& info, std::span<const double> weights) {
  Header header;
  header.metadata = {{"format", "pt"}, {"lora_lego", provenance(plan, weights)}};
  std::vector<peft::MergedModule> merged;
  for (PlannedModule& module : plan.modules) {
    const PlannedSource& first = module.sources.front();
    module.a = {peft::keyOfA(module.path, module.kind), plan.dtype, first.a.shape, 0, 0};
    module.b = {peft::keyOfB(module.path, module.kind), plan.dtype, first.b.shape, 0, 0};
    module.a.shape[0] = module.rank;
    module.b.shape[1] = module.rank;
    header.tensors.push_back(module.a);
    header.tensors.push_back(module.b);
    merged.push_back({module.path, module.rank});
  }
  auto bytes = safetensors::writeHeader(header);
  if (!bytes) return bytes.error();
  plan.header = std::move(*bytes);
  for (size_t i = 0; i < plan.modules.size(); ++i) {
    plan.modules[i].a = std::move(header.tensors[2 * i]);
    plan.modules[i].b = std::move(header.tensors[2 * i + 1]);
  }
  plan.outputBytes = plan.modules.back().b.end;
  plan.config = peft::writeConfig(info, merged);
  return {};
}

/// The ranges that hold a batch's factors, joined where they touch or nearly do.
void layOutReads(std::span<PlannedModule> modules, PlannedBatch& batch) {
  struct Piece {
    uint32_t adapter;
    const TensorInfo* tensor;
    uint64_t* at;
  };
  std::vector<Piece> pieces;
  for (PlannedModule& module : modules) {
    for (PlannedSource& source : module.sources) {
      pieces.push_back({source.adapter, &source.a, &source.atA});
      pieces.push_back({source.adapter, &source.b, &source.atB});
    }
  }
  std::ranges::sort(pieces, {},
                    [](const Piece& piece) { return std::pair(piece.adapter, piece.tensor->begin); });
  for (const Piece& piece : pieces) {
    const uint64_t begin = piece.tensor->begin, end = piece.tensor->end;
    ReadRange* last = batch.reads.empty() ? nullptr : &batch.reads.back();
    if (!last || last->adapter != piece.adapter || begin - (last->offset + last->length) > kReadGap) {
      batch.reads.push_back({piece.adapter, begin, 0, (batch.inputBytes + 15) & ~uint64_t{15}});
      last = &batch.reads.back();
    }
    last->length = end - last->offset;
    *piece.at = last->at + (begin - last->offset);
    batch.inputBytes = last->at + last->length;
  }
}

void layOutBatches(Plan& plan) {
  size_t first = 0;
  while (first < plan.modules.size()) {
    size_t end = first;
    uint64_t bytes = 0;
    do {
      bytes += plan.modules[end++].inputBytes;
    } while (end < plan.modules.size() && bytes + plan.modules[end].inputBytes <= kBatchBytes);
    PlannedBatch batch{first, end, {}, 0, plan.modules[first].a.begin, plan.modules[end - 1].b.end};
    layOutReads(std::span(plan.modules).subspan(first, end - first), batch);
    plan.inputBytes += bytes;
    plan.batches.push_back(std::move(batch));
    first = end;
  }
}

}  // namespace

Result<Plan> makePlan(std::span<const AdapterFile> adapters, const Recipe& recipe, size_t threads) {
  if (adapters.empty()) return fail(Code::noInputs, "no adapters were given");
  Plan plan;
  plan.recipe = recipe;
  plan.method = findMethod(recipe.method);
  if (!plan.method) return fail(Code::unknownMethod, "there is no method " + shownName(recipe.method));
  auto options = Options::read(plan.method->name, plan.method->options, recipe.options);
  if (!options) return options.error();
  plan.options = std::move(*options);
  if (!std::isfinite(recipe.scale)) return fail(Code::badOption, "scale must be a finite number");
  const auto weights = readWeights(recipe, adapters.size());
  if (!weights) return weights.error();
  if (!plan.method->takesNegativeWeights && std::ranges::any_of(*weights, [](double w) { return w < 0; })) {
    return fail(Code::badWeights,
                "the method " + std::string(plan.method->name) + " has no meaning for negative weights");
  }

  for (const AdapterFile& adapter : adapters) {
    if (Status carried = checkCarried(adapter); !carried) return carried.error();
  }
  const auto info = uniteInfo(adapters, *weights, plan.notices);
  if (!info) return info.error();
  auto modules = uniteModules(adapters, *weights);
  if (!modules) return modules.error();
  plan.modules = std::move(*modules);
  if (Status shared = checkOverlap(adapters, *weights, plan.modules, plan.notices); !shared)
    return shared.error();
  if (Status chosen = chooseRanks(recipe, *plan.method, plan.modules, plan.notices); !chosen)
    return chosen.error();
  const auto dtype = chooseDtype(recipe, plan.modules);
  if (!dtype) return dtype.error();
  plan.dtype = *dtype;
  for (PlannedModule& module : plan.modules) module.seed = moduleSeed(recipe.seed, module.path);

  if (Status done = layOutOutput(plan, *info, *weights); !done) return done.error();
  layOutBatches(plan);
  plan.peakBytes = peakBytes(plan, threads);
  return plan;
}

}  // namespace lego

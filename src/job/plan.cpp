#include "job/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "adapter/dialect.h"
#include "base/random.h"
#include "job/batches.h"
#include "job/dora.h"
#include "job/extras.h"
#include "job/layout.h"
#include "job/memory.h"
#include "job/naming.h"
#include "job/rank_rule.h"
#include "job/unite.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

/// Whether a scale can be read again from the dialect's alpha, which is it times the rank; where that is a
/// tensor, in binary32.
bool hasAlpha(const DialectInfo& dialect, double scale, uint32_t rank) {
  const double alpha = std::abs(scale * rank);
  if (!dialect.alphaTensors) return std::isfinite(alpha);
  return alpha >= std::numeric_limits<float>::min() && alpha <= std::numeric_limits<float>::max();
}

/// Ranks that a shared alpha is divided by.
uint32_t ranksOf(std::span<PlannedModule* const> members) {
  uint32_t sum = 0, most = 0;
  for (const PlannedModule* module : members) {
    sum += module->rank;
    most = std::max(most, module->rank);
  }
  return members.front()->fusedRows > 0 ? sum : most;
}

/// Moves the only adapter's scales from its factors to the output, where the dialect can say them.
Status keepScales(const Recipe& recipe, const MethodInfo& method, Dialect dialect,
                  std::span<const AdapterFile> adapters, std::vector<PlannedModule>& modules) {
  if (!recipe.keepScales) return {};
  if (adapters.size() != 1 || std::string_view(method.name) != "cat" || recipe.scale != 1)
    return fail(Code::badOption, "scales can only be kept where one adapter is converted (cat, scale 1)");
  const DialectInfo& info = infoOf(dialect);
  const ScalePlace place = info.scales;
  const double first = modules.front().sources.front().scale;
  const bool isCommon = std::ranges::all_of(
      modules, [&](const PlannedModule& module) { return module.sources.front().scale == first; });
  if (place == ScalePlace::Nowhere || (place == ScalePlace::Config && !isCommon)) {
    for (PlannedModule& module : modules) module.sources.front().foldIntoB = true;
    return {};
  }
  // Modules that share a pair share its scale.
  std::map<std::string, std::vector<PlannedModule*>> sharing;
  for (PlannedModule& module : modules) sharing[nameOfScale(module)].push_back(&module);
  for (auto& [name, members] : sharing) {
    const double scale = members.front()->sources.front().scale;
    const bool isShared = std::ranges::all_of(
        members, [&](const PlannedModule* module) { return module->sources.front().scale == scale; });
    // A scale of zero leaves nothing that factors could say.
    if (isShared && scale == 0) continue;
    const bool isSaid = place == ScalePlace::Config || hasAlpha(info, scale, ranksOf(members));
    for (PlannedModule* module : members) {
      PlannedSource& source = module->sources.front();
      if (isShared && isSaid) {
        module->scale = std::exchange(source.scale, 1.0);
      } else {
        source.foldIntoB = true;
      }
    }
  }
  return {};
}

Result<DType> chooseDtype(const Recipe& recipe, const DialectInfo& dialect,
                          std::span<const PlannedModule> modules) {
  const bool isGguf = dialect.file == FileKind::Gguf;
  constexpr std::pair<std::string_view, DType> kNames[] = {{"f64", DType::F64},
                                                           {"f32", DType::F32},
                                                           {"f16", DType::F16},
                                                           {"bf16", DType::BF16},
                                                           {"q8_0", DType::Q8_0}};
  for (const auto& [name, dtype] : kNames) {
    if (recipe.dtype != name) continue;
    if (isGguf ? dtype == DType::F64 : dtype == DType::Q8_0)
      return fail(Code::badDtype, recipe.dtype + (isGguf ? " is no dtype of GGUF adapters"
                                                         : " is a dtype of GGUF files only"));
    return dtype;
  }
  if (recipe.dtype != "same")
    return fail(Code::badDtype,
                "the dtype " + shownName(recipe.dtype) + " is none of same, f64, f32, f16, bf16, q8_0");
  std::set<DType> dtypes;
  for (const PlannedModule& module : modules) {
    for (const PlannedSource& source : module.sources) {
      // Products of two factors need twice their bits.
      if (source.expanded) dtypes.insert(DType::F32);
      // What 8 bits hold, F16 holds too, and what lies between.
      for (const DType dtype : {source.a.dtype, source.b.dtype})
        dtypes.insert(isFloat8(dtype) || dtype == DType::Q8_0 ? DType::F16 : dtype);
    }
  }
  // F16 and BF16 together fit into neither of them.
  const DType common = dtypes.size() == 1            ? *dtypes.begin()
                       : dtypes.contains(DType::F64) ? DType::F64
                                                     : DType::F32;
  return isGguf && common == DType::F64 ? DType::F32 : common;
}

}  // namespace

Result<Plan> makePlan(std::span<const AdapterFile> adapters, const Recipe& recipe, const Footprint& footprint,
                      std::span<const uint32_t> ranks) {
  if (adapters.empty()) return fail(Code::noInputs, "no adapters were given");
  Plan plan;
  plan.recipe = recipe;
  plan.method = findMethod(recipe.method);
  if (!plan.method) return fail(Code::unknownMethod, "there is no method " + shownName(recipe.method));
  auto options = Options::read(plan.method->name, plan.method->options, recipe.options);
  if (!options) return options.error();
  plan.options = std::move(*options);
  if (!std::isfinite(recipe.scale)) return fail(Code::badOption, "scale must be a finite number");
  if (adapters.size() > plan.method->mostAdapters) {
    return fail(Code::tooManyAdapters, "the method " + std::string(plan.method->name) + " takes at most " +
                                           std::to_string(plan.method->mostAdapters) + " adapters, not " +
                                           std::to_string(adapters.size()));
  }
  const auto weights = readWeights(recipe, *plan.method, adapters);
  if (!weights) return weights.error();

  const auto named = nameModules(adapters, recipe, plan.notices);
  if (!named) return named.error();
  plan.dialect = named->dialect;
  plan.architecture = named->architecture;
  if (Status sorted = planExtras(plan, adapters, *weights, named->areNative); !sorted) return sorted.error();
  auto modules = uniteModules(adapters, *named, recipe, *weights, plan.notices);
  if (!modules) return modules.error();
  plan.modules = std::move(*modules);
  const auto info = uniteInfo(adapters, plan.modules, plan.notices);
  if (!info) return info.error();
  if (Status set = setRanks(recipe, *plan.method, plan.modules, plan.notices); !set) return set.error();
  plan.ranksAreKnown = recipe.rule.kind == RankRule::Kind::Fixed || !ranks.empty();
  for (size_t m = 0; m < ranks.size(); ++m) plan.modules[m].rank = ranks[m];
  if (Status kept = keepScales(recipe, *plan.method, plan.dialect, adapters, plan.modules); !kept)
    return kept.error();
  if (Status done = planDora(plan, adapters); !done) return done.error();
  const auto dtype = chooseDtype(recipe, infoOf(plan.dialect), plan.modules);
  if (!dtype) return dtype.error();
  plan.dtype = *dtype;
  for (PlannedModule& module : plan.modules) module.seed = moduleSeed(recipe.seed, module.path);

  if (Status done = layOutOutput(plan, *info, adapters, *weights); !done) return done.error();
  groupModules(plan);
  if (Status fits = fitIntoMemory(plan, footprint); !fits) return fits.error();
  return plan;
}

}  // namespace lego

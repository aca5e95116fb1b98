#include "job/rank_rule.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <set>

#include "adapter/dialect.h"
#include "adapter/glob.h"
#include "format/gguf.h"
#include "job/layout.h"
#include "job/unite.h"

namespace lego {
namespace {

constexpr std::pair<RankRule::Kind, const char*> kNames[] = {
    {RankRule::Kind::Fixed, "fixed"},           {RankRule::Kind::Energy, "energy"},
    {RankRule::Kind::Cumulative, "cumulative"}, {RankRule::Kind::Ratio, "ratio"},
    {RankRule::Kind::Frobenius, "frobenius"},   {RankRule::Kind::Size, "size"},
    {RankRule::Kind::Automatic, "auto"},
};

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

/// Rank that a module can have at most with this method.
uint64_t mostRanks(const MethodInfo& method, const PlannedModule& module) {
  return method.rank == RankKind::UpToSides ? std::min(module.in, module.out) : module.units;
}

Status checkStart(const Recipe& recipe, std::span<const PlannedModule> modules) {
  if (recipe.start.empty()) return {};
  const bool fits = std::ranges::all_of(modules, [&](const PlannedModule& module) {
    return std::ranges::all_of(recipe.start, [&](uint32_t unit) { return unit < module.units; });
  });
  const std::set<uint32_t> distinct(recipe.start.begin(), recipe.start.end());
  if (fits && distinct.size() == recipe.start.size() && recipe.start.size() == recipe.rank) return {};
  return fail(
      Code::badOption,
      "start must name as many distinct units as the rank, each below every module's number of units");
}

Status checkRule(const Recipe& recipe, const MethodInfo& method) {
  const RankRule& rule = recipe.rule;
  if (rule.kind == RankRule::Kind::Fixed) return {};
  if (!method.choosesRank()) {
    return fail(Code::badRank,
                "the method " + std::string(method.name) + " cannot choose ranks from the data; give a rank");
  }
  const auto within = [&](double minimum, double maximum) {
    return rule.value >= minimum && rule.value <= maximum;
  };
  switch (rule.kind) {
    case RankRule::Kind::Energy:
    case RankRule::Kind::Cumulative:
    case RankRule::Kind::Frobenius:
      if (!within(1e-6, 1))
        return fail(Code::badRank,
                    std::string("the rank rule ") + nameOf(rule.kind) + " takes a share from 0 to 1");
      break;
    case RankRule::Kind::Ratio:
      if (!within(1, 1e12)) return fail(Code::badRank, "the rank rule ratio takes a number from 1 on");
      break;
    case RankRule::Kind::Size:
      if (!within(1, 1e15)) return fail(Code::badRank, "the rank rule size takes a number of bytes");
      break;
    default: break;
  }
  return {};
}

/// Smallest k whose first values add up to this share of all.
uint32_t countForShare(std::span<const double> values, double share) {
  const double wanted = share * std::accumulate(values.begin(), values.end(), 0.0);
  double sum = 0;
  for (size_t k = 0; k < values.size(); ++k) {
    sum += values[k];
    // A share of 1 must not fail by the rounding of sums.
    if (sum >= wanted * (1 - 1e-12)) return static_cast<uint32_t>(k + 1);
  }
  return static_cast<uint32_t>(values.size());
}

/// What each rank of each module is worth beside those of all others.
std::vector<std::vector<double>> worthsOf(std::span<const std::vector<double>> energies) {
  std::vector<std::vector<double>> worths(energies.begin(), energies.end());
  for (auto& values : worths) {
    const double norm = std::sqrt(std::accumulate(values.begin(), values.end(), 0.0));
    for (double& value : values) value = norm > 0 ? value / norm : 0;
  }
  return worths;
}

/// Gives every module one rank, then one after the other to where `worth` per cost is largest, as long as
/// `affords(module, worth)` says that it may be; what one module may not get, another still can.
template <typename Cost, typename Affords>
std::vector<uint32_t> spread(const Plan& plan, std::span<const std::vector<double>> worths, const Cost& cost,
                             const Affords& affords) {
  std::vector<uint32_t> ranks(plan.modules.size(), 1);
  struct Step {
    double worth;
    size_t module;
  };
  const auto less = [](const Step& x, const Step& y) {
    return x.worth != y.worth ? x.worth < y.worth : x.module > y.module;
  };
  std::priority_queue<Step, std::vector<Step>, decltype(less)> next(less);
  const auto offer = [&](size_t m) {
    const bool open = ranks[m] < plan.modules[m].rank && ranks[m] < worths[m].size();
    if (open && worths[m][ranks[m]] > 0) next.push({worths[m][ranks[m]] / cost(m), m});
  };
  for (size_t m = 0; m < ranks.size(); ++m) offer(m);
  while (!next.empty()) {
    const size_t m = next.top().module;
    next.pop();
    if (!affords(m, worths[m][ranks[m]])) continue;
    ++ranks[m];
    offer(m);
  }
  return ranks;
}

Result<std::vector<uint32_t>> ranksForSize(const Plan& plan, std::span<const std::vector<double>> worths) {
  // Blocks of 8 bits take 34 bytes for 32 values, but B's rows may be no whole blocks and stay F16.
  const uint64_t element = plan.dtype == DType::Q8_0 ? 2 : bitsOf(plan.dtype) / 8;
  // Modules of equal ranks are filled up with zeros: the first to get a rank pays for all, and all modules
  // have one.
  const std::vector<size_t> groups = groupsOfEqualRank(plan);
  std::vector<double> groupBytes(groups.size(), 0);
  std::vector<uint32_t> ranks(groups.size(), 1), largest(groups.size(), 1);
  for (const PlannedPair& pair : plan.pairs) {
    for (size_t m = pair.firstModule; m < pair.endModule; ++m) {
      const PlannedModule& module = plan.modules[m];
      // A stack has room for all experts, whichever are there.
      const bool isFirst = m == pair.firstModule;
      const uint64_t count = module.experts == 0 ? 1 : isFirst ? module.experts : 0;
      // Ranks of a part have columns in all rows of the fused module.
      const uint64_t out = std::max(module.out, module.fusedRows);
      groupBytes[groups[m]] += static_cast<double>(count * (module.in + out) * element);
    }
  }
  const auto bytes = [&](size_t m) { return ranks[m] < largest[groups[m]] ? 0.0 : groupBytes[groups[m]]; };
  // The header does not grow with smaller ranks than those it was laid out with.
  double left = plan.recipe.rule.value - static_cast<double>(plan.header.size());
  if (infoOf(plan.dialect).file == FileKind::Gguf)
    left -= static_cast<double>(2 * gguf::kAlignment * plan.pairs.size());
  for (const double first : groupBytes) left -= first;
  if (left < 0) {
    return fail(Code::badRank, "rank 1 in every module already takes " +
                                   std::to_string(static_cast<uint64_t>(plan.recipe.rule.value - left)) +
                                   " bytes, more than the size that was asked for");
  }
  return spread(plan, worths, bytes, [&](size_t m, double) {
    if (bytes(m) > left) return false;
    left -= bytes(m);
    largest[groups[m]] = std::max(largest[groups[m]], ++ranks[m]);
    return true;
  });
}

std::vector<uint32_t> automaticRanks(const Plan& plan, std::span<const std::vector<double>> worths) {
  double missing = 0, all = 0;
  for (const auto& values : worths) {
    all += std::accumulate(values.begin(), values.end(), 0.0);
    if (!values.empty()) missing -= values[0];
  }
  missing += kAutomaticShare * all;
  return spread(
      plan, worths, [](size_t) { return 1.0; },
      [&](size_t, double worth) {
        if (missing <= 0) return false;
        missing -= worth;
        return true;
      });
}

}  // namespace

const char* nameOf(RankRule::Kind kind) {
  return std::ranges::find(kNames, kind, &std::pair<RankRule::Kind, const char*>::first)->second;
}

std::optional<RankRule::Kind> rankRuleOf(std::string_view name) {
  for (const auto& [kind, text] : kNames) {
    if (name == text) return kind;
  }
  return std::nullopt;
}

Status setRanks(const Recipe& recipe, const MethodInfo& method, std::vector<PlannedModule>& modules,
                std::vector<std::string>& notices) {
  if (!method.takesRank()) {
    if (recipe.rank != 0 || !recipe.moduleRanks.empty() || recipe.rule.kind != RankRule::Kind::Fixed) {
      return fail(Code::badRank,
                  "the method " + std::string(method.name) +
                      " has the ranks of the adapters and takes none; use svd for a given rank");
    }
    for (PlannedModule& module : modules) {
      const uint32_t first = module.sources.front().rank;
      const bool equal = std::ranges::all_of(module.sources, [&](const auto& s) { return s.rank == first; });
      if (method.rank == RankKind::Equal && !equal) {
        return fail(Code::badRank, "the method " + std::string(method.name) +
                                       " needs equal ranks, but those of module " + shownName(module.path) +
                                       " differ");
      }
      module.rank = method.rank == RankKind::Equal ? first : module.units;
    }
    return {};
  }
  if (Status ruled = checkRule(recipe, method); !ruled) return ruled;
  uint64_t most = 0;
  uint32_t largest = 0;
  for (const PlannedModule& module : modules) {
    most = std::max(most, mostRanks(method, module));
    for (const PlannedSource& source : module.sources) largest = std::max(largest, source.rank);
  }
  const bool isFixed = recipe.rule.kind == RankRule::Kind::Fixed;
  if (isFixed && recipe.rank > most) {
    return fail(Code::rankAboveUnits,
                "rank " + std::to_string(recipe.rank) + " was asked for, but " +
                    (method.rank == RankKind::UpToSides ? "the modules allow at most "
                                                        : "the adapters' ranks add up to ") +
                    std::to_string(most));
  }
  if (Status started = checkStart(recipe, modules); !started) return started;
  const uint32_t wanted = recipe.rank > 0 ? recipe.rank : isFixed ? largest : UINT32_MAX;
  std::vector<bool> used(recipe.moduleRanks.size(), false);
  size_t capped = 0;
  for (PlannedModule& module : modules) {
    uint32_t rank = wanted;
    for (size_t i = 0; i < used.size(); ++i) {
      if (!globMatches(recipe.moduleRanks[i].glob, module.path)) continue;
      rank = recipe.moduleRanks[i].rank;
      used[i] = true;
    }
    if (rank == 0) return fail(Code::badRank, "a rank for modules is zero");
    module.rank = static_cast<uint32_t>(std::min<uint64_t>(rank, mostRanks(method, module)));
    capped += isFixed && module.rank < rank;
  }
  if (const auto unused = std::ranges::find(used, false); unused != used.end()) {
    const auto& glob = recipe.moduleRanks[static_cast<size_t>(unused - used.begin())].glob;
    return fail(Code::badRank, "the pattern " + shownName(glob) + " matches no module");
  }
  if (capped > 0)
    notices.push_back(counted(capped, "module") +
                      " have fewer units than the rank asked for and keep them all");
  return {};
}

uint32_t rankByRule(const RankRule& rule, std::span<const double> energies) {
  // Nothing above rounding: one rank, of zeros, because a module cannot have none.
  if (energies.empty() || energies[0] <= 0) return 1;
  std::vector<double> values(energies.begin(), energies.end());
  const auto singularValues = [&] {
    for (double& value : values) value = std::sqrt(value);
  };
  switch (rule.kind) {
    case RankRule::Kind::Energy: return countForShare(values, rule.value);
    case RankRule::Kind::Frobenius: return countForShare(values, rule.value * rule.value);
    case RankRule::Kind::Cumulative: singularValues(); return countForShare(values, rule.value);
    case RankRule::Kind::Ratio: {
      singularValues();
      const auto above = std::ranges::count_if(values, [&](double s) { return s > values[0] / rule.value; });
      return std::max<uint32_t>(1, static_cast<uint32_t>(above));
    }
    // Not for single modules.
    default: return static_cast<uint32_t>(values.size());
  }
}

Result<std::vector<uint32_t>> ranksByRule(const Plan& plan, std::span<const std::vector<double>> energies) {
  if (plan.recipe.rule.kind == RankRule::Kind::Size) return ranksForSize(plan, worthsOf(energies));
  if (plan.recipe.rule.kind == RankRule::Kind::Automatic) return automaticRanks(plan, worthsOf(energies));
  std::vector<uint32_t> ranks;
  for (size_t m = 0; m < plan.modules.size(); ++m)
    ranks.push_back(std::min(rankByRule(plan.recipe.rule, energies[m]), plan.modules[m].rank));
  return ranks;
}

}  // namespace lego

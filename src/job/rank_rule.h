// Ranks: as asked for, or found from what each further rank is worth.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "job/plan.h"

namespace lego {

/// "fixed", "energy", "cumulative", "ratio", "frobenius", "size", "auto".
const char* nameOf(RankRule::Kind kind);
std::optional<RankRule::Kind> rankRuleOf(std::string_view name);

/// Sets each module's rank as far as it is known without reading weights: as asked for, or, for other rules,
/// the most that it may get. Errors: bad_rank, rank_above_units, bad_option.
Status setRanks(const Recipe& recipe, const MethodInfo& method, std::vector<PlannedModule>& modules,
                std::vector<std::string>& notices);

/// The smallest rank that a rule for single modules (not Fixed, Size or Automatic) allows for one, at
/// least 1. `energies`: what each rank is worth, squared singular values or their like
/// (MethodInfo::energies).
uint32_t rankByRule(const RankRule& rule, std::span<const double> energies);

/// What the rule Automatic keeps of all that there is.
inline constexpr double kAutomaticShare = 0.99;

/// The ranks of all modules by a recipe's rule. `energies`: of each module.
/// Size and Automatic look at all modules together. A rank is worth its energy, divided by the square root of
/// its module's energy: a module counts by its norm, because neither equal parts nor energies say how much a
/// module does (docs/methods.md, measured on minibench). Each module gets one rank, then the next rank goes
/// to where it is worth most. Size: most per byte, until the file would exceed the budget. Automatic: until
/// kAutomaticShare of all that there is has been kept.
/// Errors: bad_rank where a budget is too small for one rank in each module.
Result<std::vector<uint32_t>> ranksByRule(const Plan& plan, std::span<const std::vector<double>> energies);

}  // namespace lego

// Where everything lies in the output file.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "job/plan.h"

namespace lego {

/// What modules have in common that share a scale in the output: the pair, or, of PEFT's parameters, the
/// module that these are of, because no file tells which level of its nesting is which parameter.
std::string nameOfScale(const PlannedModule& module);

/// Modules that are written with the same number of ranks have the same number here.
std::vector<size_t> groupsOfEqualRank(const Plan& plan);

/// Sets the output's pairs, every module's part in them, and the plan's header, config and size. Errors:
/// size_overflow.
Status layOutOutput(Plan& plan, const AdapterInfo& info, std::span<const AdapterFile> adapters,
                    std::span<const double> weights);

}  // namespace lego

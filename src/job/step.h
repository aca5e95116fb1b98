// One group of modules (mostly a single one) from raw factors to merged factors. Independent of every other
// group.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/context.h"
#include "job/group_units.h"
#include "merge/report.h"

namespace lego {

/// How one module was merged. Adapters are numbered as in the input list; those that lack the module are left
/// out.
struct ModuleReport {
  Quality quality;                ///< per adapter in the order of `adapter`
  std::vector<uint32_t> adapter;  ///< adapters that have the module, ascending
  double seconds = 0;
  double inertia = 0;            ///< LEGO: sum of weighted squared distances to the centroids
  std::vector<uint32_t> labels;  ///< LEGO: merged rank of each unit; units are numbered adapter by adapter
  /// LEGO: for each merged rank, how many units of each adapter (by input index) it was made of.
  std::vector<std::vector<uint32_t>> clusters;
  std::vector<double> centroidNorm;  ///< LEGO: norm of each centroid before reweighting
  std::vector<double> mergedNorm;    ///< of each merged rank: |a_q| |b_q|
  std::vector<uint32_t> nearZero;    ///< merged ranks whose members cancelled
};

/// Where one module's merged factors go: exactly as large as the plan says. B may be a tensor of which other
/// modules have other elements, and write them at the same time.
struct ModuleOutput {
  std::span<std::byte> a, b, magnitude;
};

/// Merges a group of `plan`. `input` is the batch's input buffer; `outputs` has one entry for each module of
/// the group. Returns a report for each. Errors: not_finite, value_overflow, no_convergence, out_of_memory,
/// cancelled; they name file and tensor.
Result<std::vector<ModuleReport>> runStep(const Plan& plan, const PlannedGroup& group,
                                          std::span<const AdapterFile> adapters,
                                          std::span<const std::byte> input,
                                          std::span<const ModuleOutput> outputs, Workspace& workspace,
                                          const Kernels& kernels, const Context& context);

/// What a look at one module's adapters tells before they are merged.
struct ModuleSurvey {
  std::vector<uint32_t> adapter;  ///< adapters that have the module, ascending
  Relation relation;              ///< of these adapters, in this order
  SharedSpaces shared;
  std::vector<double> energies;  ///< what each rank would be worth (MethodInfo::energies)
};

/// Looks at each module of a group. Errors: as runStep.
Result<std::vector<ModuleSurvey>> surveyStep(const Plan& plan, const PlannedGroup& group,
                                             std::span<const AdapterFile> adapters,
                                             std::span<const std::byte> input, Workspace& workspace,
                                             const Kernels& kernels, const Context& context);

}  // namespace lego

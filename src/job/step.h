// One module from raw factors to merged factors. Independent of every other module.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/context.h"
#include "job/kernels.h"
#include "job/memory.h"
#include "job/plan.h"
#include "merge/report.h"

namespace lego {

/// What one thread works in; kept from module to module.
struct Workspace {
  Buffer<float> unitsA, unitsB;    // P rows each
  Buffer<float> mergedA, mergedB;  // k rows each

  /// Makes room for every module of a plan, once. Errors: out_of_memory.
  Status reserve(const WorkspaceSize& size);
};

struct ModuleReport {
  Quality quality;
  double inertia = 0;            ///< LEGO: sum of weighted squared distances to the centroids
  std::vector<uint32_t> labels;  ///< LEGO: merged rank of each unit; units are numbered adapter by adapter
  /// LEGO: for each merged rank, how many units of each adapter (by input index) it was made of.
  std::vector<std::vector<uint32_t>> clusters;
  std::vector<uint32_t> nearZero;  ///< merged ranks whose members cancelled
};

/// Merges `module` of `plan`. `input` is the batch's input buffer; the factors are written to `a` and `b`,
/// which have exactly the sizes that the plan gives them.
/// Errors: not_finite, value_overflow, no_convergence, out_of_memory, cancelled; they name file and tensor.
Result<ModuleReport> runStep(const Plan& plan, const PlannedModule& module,
                             std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                             std::span<std::byte> a, std::span<std::byte> b, Workspace& workspace,
                             const Kernels& kernels, const Context& context);

}  // namespace lego

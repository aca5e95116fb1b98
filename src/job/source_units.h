// One module's units, adapter by adapter, in the order of the input list: unpacked, checked, and what is
// known of them besides their rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "job/kernels.h"
#include "job/memory.h"
#include "job/plan.h"

namespace lego {

/// What one thread works in; kept from group to group.
struct Workspace {
  Buffer<float>
      unitsA;  ///< A units of all modules of a group, B units of its feeders, the merged rows of one
  Buffer<double> expansion;  ///< where deltas that are no pairs are expanded
  Buffer<std::byte> part;    ///< a factor that is a part of a tensor's rows, by itself
  Buffer<float> unitsB;      ///< for each module its B units, then its merged rows; then A units of a feeder

  /// Makes room for every group of a plan, once. Errors: out_of_memory.
  Status reserve(const WorkspaceSize& size);
};

/// One adapter's units in one module, as they lie in the workspace.
struct SourceUnits {
  uint32_t first = 0;              ///< row of the first
  double foldA = 1, foldB = 1;     ///< all of them are multiplied by this
  std::vector<double> maxA, maxB;  ///< largest |entry|, folded
  std::vector<double> gains;       ///< DoRA: what the base weight's rows are multiplied by
};

/// The units of all sources, one after the other. Errors: not_finite, value_overflow, out_of_memory.
Result<std::vector<SourceUnits>> unpackModule(const Kernels& kernels, const PlannedModule& module,
                                              std::span<const AdapterFile> adapters,
                                              std::span<const std::byte> input, float* unitsA, float* unitsB,
                                              Workspace& workspace);

/// The same of units that are not unpacked: from their maxMagnitudeBits, one after the other. Errors:
/// not_finite.
Result<std::vector<SourceUnits>> foldModule(const PlannedModule& module,
                                            std::span<const AdapterFile> adapters,
                                            std::span<const uint32_t> magnitudeA,
                                            std::span<const uint32_t> magnitudeB);

/// The order in which a group's adapters stand: by their units' largest entries, which no two adapters share
/// unless they are copies; then by weight.
std::vector<uint32_t> adapterOrder(const Plan& plan, std::span<const size_t> group,
                                   const std::vector<std::vector<SourceUnits>>& units);

}  // namespace lego

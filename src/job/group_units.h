// The units of the modules that are worked on together: from raw factors to pools.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "job/kernels.h"
#include "job/plan.h"
#include "job/source_units.h"
#include "job/stored_rows.h"

namespace lego {

/// One module's pool, and where its rows lie.
struct ModuleUnits {
  UnitPool pool;
  UnitRows rows;                        ///< without the rows themselves where they are stored
  const StoredRows* storedB = nullptr;  ///< its B units, where they stay as they are stored
  std::vector<uint32_t> adapter;        ///< of each of the pool's adapters: index into the inputs
  std::vector<uint32_t> number;  ///< P: a unit's number as users count, adapter by adapter of the input list
  float *mergedA = nullptr, *mergedB = nullptr;  ///< room for the merged rows, behind the units
  std::vector<double>
      rowGains;  ///< of a result that is DoRA: what each of the base weight's rows is multiplied by
};

/// A group's units where they stay as they are stored: A's of all modules, and B's of each.
struct StoredUnits {
  StoredRows a;
  std::vector<StoredRows> b;
};

/// Adapters stand in an order that their values decide, not the user's list, so that the same adapters give
/// the same bytes in any order.
struct GroupUnits {
  std::vector<ModuleUnits> modules;
  std::unique_ptr<const StoredUnits> stored;  ///< null: the units lie in the workspace
  /// Where several modules read one input, or others write it (PlannedGroup::feeders, whose units of B then
  /// stand behind the modules' units of A).
  std::unique_ptr<InputGroup> inputs;
  /// Of the group's units, in the order of `inputs`: their rows in unitsA, and what these are multiplied by.
  std::vector<uint32_t> groupRow;
  std::vector<double> groupFold;
};

/// How exactly a method's Gram matrices are computed.
struct Precisions {
  GramPrecision a, b;
};
Precisions precisionsOf(MethodPrecision precision);

/// Unpacks the factors of a group, unless they stay as they are stored (isStored), and computes the Gram
/// matrices. With the plan's option `canonical`, each
/// adapter's units are first replaced by its singular value decomposition: A = sqrt(S) V^T, B = U sqrt(S),
/// values descending, the largest entry of the joint row positive.
/// Where DoRA is merged, units of B are multiplied by what their adapters do to the base weight's rows.
/// Errors: not_finite, value_overflow, no_convergence, out_of_memory.
Result<GroupUnits> unpackGroup(const Plan& plan, const PlannedGroup& group,
                               std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                               Workspace& workspace, const Kernels& kernels, const Context& context);

/// Sets the pool's Gram matrix of B's units. Errors: out_of_memory.
Status computeGramB(ModuleUnits& units, const Kernels& kernels, GramPrecision precision,
                    const Context& context);

}  // namespace lego

// DoRA, exactly, where the base model's weights are given.
//
// A DoRA adapter's weight is W' = diag(m) (W + s B A) / |W + s B A|, norms by rows, so its delta is
//   W' - W = diag(c - 1) W + diag(c) s B A,   c = m / |W + s B A|:
// a change of the lengths of W's rows, of full rank but one number for each output, and a product that is
// merged as any other, B's rows times c. With d = 1 + the merged c - 1 and B* A* the merged product, the
// result
//   diag(d) W + B* A*  =  diag(m*) (W + B' A*) / |W + B' A*|,   B' = diag(1/d) B*,   m* = d |W + B' A*|
// is a DoRA adapter again. What c - 1 becomes follows the method's family: the weighted sum; the weighted
// mean; in consensus methods, where what adapters share counts once, the sum over their number, for all of
// them act on every output. Source: arXiv 2402.09353, and PEFT src/peft/tuners/lora/dora.py, which this
// agrees with.
#pragma once

#include <span>
#include <vector>

#include "job/group_units.h"
#include "job/plan.h"

namespace lego {

/// Where DoRA is to be merged, gives plan.modules their base weights and magnitudes. Errors: base_missing,
/// unpaired_factor, shape_mismatch, unsupported_dtype, unsupported_adapter (embeddings, fan_in_fan_out,
/// methods that merge factors).
Status planDora(Plan& plan, std::span<const AdapterFile> adapters);

/// c of one source, `out` values: units as they were unpacked. Errors: not_finite.
Result<std::vector<double>> doraGains(const PlannedModule& module, const PlannedSource& source,
                                      std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                                      const float* unitsA, const float* unitsB);

/// d of a module, from c of its sources (none: all 1). Errors: value_overflow, for an output that would
/// vanish.
Result<std::vector<double>> mergedGains(const Plan& plan, const PlannedModule& module,
                                        std::span<const std::vector<double>> gains);

/// Turns merged rows B* into B', and writes m*. `factors`: what rows are multiplied by, both sides, when they
/// are written. Errors: not_finite, for a base weight that is not.
Status writeDora(const PlannedModule& module, const ModuleUnits& units, std::span<const float> factors,
                 std::span<const std::byte> input, std::span<std::byte> magnitude);

}  // namespace lego

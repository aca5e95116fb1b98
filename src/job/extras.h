// Tensors that are no factors: what the recipe wants done with each, and doing it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "job/plan.h"

namespace lego {

/// Says for every tensor and setting that is no factor what happens to it (plan.extraFates), and sets
/// plan.extras to those that are written, in pieces of bounded size, without their places. `areNative`:
/// whether the output has the adapters' own names, which those tensors need.
/// Errors: unsupported_tensors, unsupported_adapter (the policy is to refuse); no_factors (nothing else is in
/// a file); bad_policy; bad_format; shape_mismatch, unsupported_dtype (of several that are to become one);
/// bad_weights (an average of weights that add up to zero); size_overflow (limits::kExtraPieces).
Status planExtras(Plan& plan, std::span<const AdapterFile> adapters, std::span<const double> weights,
                  bool areNative);

/// Whether the output has tensors, or a setting, of this kind: some adapter has them, and they are neither
/// refused nor dropped.
bool keepsExtras(const Plan& plan, ExtraKind kind);

/// Makes one piece: `input` is the batch's input buffer, `output` exactly the piece's bytes. Errors:
/// not_finite, value_overflow.
Status mergeExtra(const PlannedExtra& extra, std::span<const AdapterFile> adapters,
                  std::span<const std::byte> input, std::span<std::byte> output);

}  // namespace lego

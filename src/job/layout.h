// Where everything lies: in the output file, in the batches, in the reads that fill them.
#pragma once

#include <span>

#include "job/plan.h"

namespace lego {

/// Sets every module's output tensors, and the plan's header, config and size. Errors: size_overflow.
Status layOutOutput(Plan& plan, const AdapterInfo& info, std::span<const AdapterFile> adapters,
                    std::span<const double> weights);

/// Sets the plan's groups and cuts it into batches with their reads.
void layOutBatches(Plan& plan);

}  // namespace lego

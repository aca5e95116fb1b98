// Multiplying a merged delta by a number, evenly over both halves.
#pragma once

#include "merge/method.h"

namespace lego {

/// Both halves are multiplied by sqrt(|factor|), B also by the factor's sign.
void rescale(MergedFactors& merged, double factor);

}  // namespace lego

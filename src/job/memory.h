// How much memory a merge takes, from its plan.
#pragma once

#include <cstdint>

#include "job/plan.h"

namespace lego {

/// Floats between two rows of a factor's units: the length rounded up to whole registers.
size_t unitStride(uint64_t length);

/// Bytes of everything that a merge holds at its fullest moment: file headers, one batch in the core, two
/// being read, its output, and the working memory of the modules in flight. An upper estimate.
uint64_t peakBytes(const Plan& plan, size_t threads);

}  // namespace lego

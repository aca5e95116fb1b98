// How much memory a merge takes, from its plan.
#pragma once

#include <cstdint>

#include "job/plan.h"

namespace lego {

/// Floats of the buffers that one thread works in, large enough for any group of a plan: rows of units and of
/// merged factors.
struct WorkspaceSize {
  uint64_t unitsA = 0, unitsB = 0;
  uint64_t expansion = 0;  ///< doubles in which a delta that is no pair is expanded
  uint64_t part = 0;       ///< bytes of a factor that is a part of a tensor's rows
};
WorkspaceSize workspaceSize(const Plan& plan);

/// Floats between two rows of a factor's units: the length rounded up to whole cache lines, in odd number.
size_t unitStride(uint64_t length);

/// Bytes of everything that a merge holds at its fullest moment: file headers, one batch in the core, two
/// being read, its output, and what each thread works in. The memory of the core and the buffers that it is
/// fed from stay below it (tests/e2e/memory.test.ts); the runtime's own memory comes on top.
uint64_t peakBytes(const Plan& plan, size_t threads);

}  // namespace lego

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

/// Whether a group's units stay as they are stored (job/stored_rows.h): where the plan's footprint says so,
/// it takes less memory, and nothing needs them as a whole: methods on entries, and deltas that are not a
/// pair of whole factors.
bool isStored(const Plan& plan, const PlannedGroup& group);
/// Floats of such a group's panel, which stand in front of the merged rows of A.
uint64_t storedPanelFloats(const Plan& plan, const PlannedGroup& group);

/// Floats between two rows of a factor's units: the length rounded up to whole cache lines, in odd number.
size_t unitStride(uint64_t length);

/// Bytes of everything that a merge holds at its fullest moment: file headers, the batches that are read,
/// worked on and written, and what each thread works in. The memory of the cores and the buffers that they
/// are fed from stay below it (tests/e2e/memory.test.ts); the runtime's own memory comes on top.
uint64_t peakBytes(const Plan& plan, const Footprint& footprint);

/// Cuts the plan into batches, and sets its footprint and peakBytes. Where they would take more than
/// footprint.memoryBytes, or one core more than its addresses reach: batches become smaller, units are
/// unpacked in panels, then fewer threads and lanes work. Errors: out_of_memory, with the bytes that are
/// needed and the module that needs them.
Status fitIntoMemory(Plan& plan, const Footprint& footprint);

}  // namespace lego

// Which modules are worked on together, and which are read and written together.
#pragma once

#include <cstdint>

#include "job/plan.h"

namespace lego {

/// The most factor bytes of one batch where nothing else is asked for, and of all batches in a core: few
/// enough for memory, many enough that a read is long compared with the cost of asking for it (in a browser
/// about a millisecond).
inline constexpr uint64_t kBatchBytes = 16 << 20, kBatchesBytes = 32 << 20;

/// Sets the plan's groups.
void groupModules(Plan& plan);

/// Cuts the plan into batches with their reads, each of at most `largest` factor bytes, or of as few modules
/// as groups and pairs allow.
void layOutBatches(Plan& plan, uint64_t largest);

}  // namespace lego

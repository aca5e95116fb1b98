// How a merge is worked on: what its memory follows from, and never its bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace lego {

struct Footprint {
  size_t threads = 1;      ///< that share one core's memory
  size_t helpers = 0;      ///< further threads, which begin no groups
  size_t slots = 1;        ///< batches in a core at a time: read, worked on, written
  size_t readBuffers = 0;  ///< further batches that are read outside of a core, for each core
  size_t lanes = 1;        ///< cores with a memory of their own, among which batches are shared out
  /// Runs that share the batches among them, each with a footprint of its own. These batches are the same for
  /// any threads, lanes and memory.
  size_t shards = 1;
  bool inPanels = false;     ///< units are unpacked some columns at a time, where that takes less memory
  uint64_t batchBytes = 0;   ///< factor bytes of a batch, unless one module has more; 0: what suits
  uint64_t memoryBytes = 0;  ///< what all of this may take; 0: no limit

  /// Batches that are started at a time. The thread that hands them out works, too, and starts nothing
  /// meanwhile: there must be a batch for each of the others that ends its own in that time, and a batch may
  /// be a single module.
  static constexpr size_t batchesInWork(size_t threads) { return threads > 1 ? threads + 1 : 1; }

  /// The same with fewer threads and as many batches as these need. The others help where a group is large.
  Footprint withFewerThreads(size_t fewer) const {
    Footprint result = *this;
    result.threads = fewer;
    result.helpers += threads - fewer;
    result.slots -= std::min(slots - 1, batchesInWork(threads) - batchesInWork(fewer));
    return result;
  }

  /// Threads that have no group of their own, and help with those of others (Context::share).
  size_t helpersWith(size_t groups) const { return helpers + threads - groupsInWork(groups); }

  /// Groups that one core works on at a time, each with a workspace of its own.
  size_t groupsInWork(size_t groups) const { return std::min(threads, std::max<size_t>(groups, 1)); }
};

}  // namespace lego

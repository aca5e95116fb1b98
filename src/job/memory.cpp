#include "job/memory.h"

#include <algorithm>
#include <limits>

#include "job/batches.h"
#include "job/stored_rows.h"
#include "linalg/gram_panels.h"
#include "linalg/panel_svd.h"
#include "merge/entry_stream.h"

namespace lego {
namespace {

// What the core's memory starts with (Emscripten's default), and what of it code, stacks and small data take.
constexpr uint64_t kInitialBytes = 16 << 20;
constexpr uint64_t kFixedBytes = 8 << 20;

// Batches are not made smaller than this but to the smallest that there are: then each range costs more to
// ask for than to read.
constexpr uint64_t kSmallBatch = 128 << 10;

/// A stream of entries, and the Krylov basis with its images (linalg/panel_svd.h).
uint64_t entryBytes(const PlannedModule& module) {
  const uint64_t sides = std::max(module.in, module.out);
  const uint64_t basis =
      2 * panel_svd::kSteps * (uint64_t{module.rank} + panel_svd::kOversampling) * module.in;
  return EntryStream::bytes(module.sources.size(), sides) +
         (basis + 2 * module.rank * (module.in + module.out)) * sizeof(double);
}

uint64_t feederUnits(const Plan& plan, const PlannedGroup& group) {
  uint64_t units = 0;
  for (const PlannedFeeder& feeder : group.feeders) units += plan.modules[feeder.module].units;
  return units;
}

uint64_t unitsOf(const Plan& plan, const PlannedGroup& group) {
  uint64_t units = feederUnits(plan, group);
  for (const size_t m : group.modules) units += plan.modules[m].units;
  return units;
}

/// What a thread computes (a part of) a group's Gram matrix in: a panel, with four rows that are padded, and
/// four of the result.
uint64_t panelBytes(uint64_t units) {
  return ((units + 4) * (gram_panels::kColumns<float> + 4)) * sizeof(float) +
         4 * (units + 4) * sizeof(double);
}

/// Matrices and coefficients of one group, the panel of its Gram matrices, and what a method on entries
/// holds.
uint64_t matrixBytes(const Plan& plan, const PlannedGroup& group) {
  const uint64_t units = unitsOf(plan, group);
  uint64_t coefficients = 0, largest = 0, entries = 0, gains = 0;
  for (const size_t m : group.modules) {
    const PlannedModule& module = plan.modules[m];
    largest = std::max<uint64_t>(largest, module.units);
    coefficients += 4 * uint64_t{module.units} * module.rank * sizeof(double);
    // Of each source of DoRA, merged, and norms and magnitudes while they are made.
    if (module.base) gains += (module.sources.size() + 3) * module.out * sizeof(double);
    if (std::holds_alternative<EntryMethod>(plan.method->run))
      entries = std::max(entries, entryBytes(module));
  }
  // In the core space there is also one matrix for each adapter, twice while they are thinned out.
  uint64_t matrices = plan.method->matrices * units * units;
  if (std::holds_alternative<CoreMethod>(plan.method->run)) {
    size_t adapters = 0;
    for (const size_t m : group.modules) adapters = std::max(adapters, plan.modules[m].sources.size());
    matrices += 2 * adapters * largest * largest;
  }
  // The sum of Gram matrices beside that of a panel.
  if (isStored(plan, group)) matrices += units * units;
  return panelBytes(units) + matrices * sizeof(double) + coefficients + entries + gains;
}

/// What one core works in, without its batches.
struct CoreBytes {
  uint64_t fixed = 0;    // code, headers, pieces of what is no factor
  uint64_t working = 0;  // of each group in work
  uint64_t helping = 0;  // of each thread that helps with one
};

/// Bytes of the largest batch.
struct BatchBytes {
  uint64_t input = 0, output = 0;
};

/// The memory of one core, and the buffers around it.
uint64_t bytesOfCore(const CoreBytes& core, const BatchBytes& batch, const Footprint& footprint,
                     size_t groups) {
  const uint64_t heap = core.fixed + footprint.slots * (batch.input + batch.output) +
                        footprint.groupsInWork(groups) * core.working +
                        footprint.helpersWith(groups) * core.helping;
  // An output is copied on the way to a Blob.
  return std::max(heap, kInitialBytes) + footprint.readBuffers * batch.input + batch.output;
}

uint64_t bytesOfAll(const CoreBytes& core, const BatchBytes& batch, const Footprint& footprint,
                    size_t groups) {
  // Lanes end their batches in any order: outputs wait for those before them (web/lib/run.ts).
  const uint64_t waiting = footprint.lanes > 1 ? (3 * footprint.lanes + 2) * batch.output : 0;
  return footprint.lanes * bytesOfCore(core, batch, footprint, groups) + waiting;
}

uint64_t bytesOfWorkspace(const WorkspaceSize& size) {
  return (size.unitsA + size.unitsB) * sizeof(float) + size.expansion * sizeof(double) + size.part;
}

CoreBytes coreBytes(const Plan& plan) {
  // Of an adapter's module, in its catalogue and in the plan: paths, two tensors with their names each.
  constexpr uint64_t kSourceBytes = 1024;
  uint64_t matrices = 0, helping = 0, extra = 0, sources = 0;
  for (const PlannedModule& module : plan.modules) sources += module.sources.size();
  for (const PlannedGroup& group : plan.groups) {
    matrices = std::max(matrices, matrixBytes(plan, group));
    const uint64_t units = unitsOf(plan, group);
    if (gram_panels::partsOf(units) > 1) helping = std::max(helping, panelBytes(units));
  }
  // Sums of a piece of what is no factor in binary64, and one adapter's values of it.
  for (const PlannedExtra& piece : plan.extras) {
    if (!piece.isCopied()) extra = std::max(extra, piece.elements * (sizeof(double) + sizeof(float)));
  }
  return {kFixedBytes + 4 * plan.header.size() + kSourceBytes * sources + extra,
          bytesOfWorkspace(workspaceSize(plan)) + matrices, helping};
}

BatchBytes batchBytes(const Plan& plan) {
  BatchBytes largest;
  for (const PlannedBatch& batch : plan.batches) {
    largest.input = std::max(largest.input, batch.inputBytes);
    largest.output = std::max(largest.output, batch.outputEnd - batch.outputBegin);
  }
  return largest;
}

/// Batches as large as they may be, but enough of them that each lane has some, and that reading, work and
/// writing go on beside each other; among shards, that one has little more to do than another.
uint64_t suitableBatch(const Plan& plan, const Footprint& footprint) {
  constexpr uint64_t kBatches = 8;
  uint64_t bytes = 0;
  for (const PlannedModule& module : plan.modules) bytes += module.inputBytes;
  if (footprint.shards > 1) return std::min(bytes / (kBatches * footprint.shards) + 1, kBatchBytes);
  const uint64_t most = std::min(kBatchBytes, kBatchesBytes / footprint.slots);
  return std::clamp(bytes / (kBatches * footprint.lanes), kSmallBatch, most);
}

/// The module whose factors are the largest.
const PlannedModule& largestModule(const Plan& plan) {
  return *std::ranges::max_element(
      plan.modules, {}, [](const PlannedModule& module) { return module.units * (module.in + module.out); });
}

/// What a group needs of the two buffers of WorkspaceSize.
struct RowFloats {
  uint64_t a = 0, b = 0;
};

RowFloats wholeFloats(const Plan& plan, const PlannedGroup& group) {
  uint64_t rowsA = feederUnits(plan, group), rank = 0, floatsB = 0, feederA = 0;
  for (const size_t m : group.modules) {
    const PlannedModule& module = plan.modules[m];
    rowsA += module.units;
    rank = std::max<uint64_t>(rank, module.written);
    floatsB += (uint64_t{module.units} + module.written) * unitStride(module.out);
  }
  for (const PlannedFeeder& feeder : group.feeders) {
    const PlannedModule& module = plan.modules[feeder.module];
    feederA = std::max(feederA, uint64_t{module.units} * unitStride(module.in));
  }
  return {(rowsA + rank) * unitStride(plan.modules[group.modules[0]].in), floatsB + feederA};
}

RowFloats storedFloats(const Plan& plan, const PlannedGroup& group) {
  RowFloats floats;
  for (const size_t m : group.modules) {
    const PlannedModule& module = plan.modules[m];
    floats.a = std::max(floats.a, uint64_t{module.written} * unitStride(module.in));
    floats.b = std::max(floats.b, uint64_t{module.written} * unitStride(module.out));
  }
  floats.a += storedPanelFloats(plan, group);
  return floats;
}

bool canBeStored(const Plan& plan, const PlannedGroup& group) {
  const bool canonical = plan.options.has("canonical") && plan.options.isOn("canonical");
  if (canonical || std::holds_alternative<EntryMethod>(plan.method->run)) return false;
  const auto arePairs = [&](size_t m) {
    const PlannedModule& module = plan.modules[m];
    return !module.base && std::ranges::all_of(module.sources, [](const PlannedSource& source) {
      return !source.expanded && !source.magnitude && source.rowHeads == 0 && source.sliceB.isWhole();
    });
  };
  return std::ranges::all_of(group.modules, arePairs) &&
         std::ranges::all_of(group.feeders, arePairs, &PlannedFeeder::module);
}

/// Not inlined, as what follows: most pages never load what only runs where memory is limited
/// (scripts/split.mjs).
[[gnu::noinline]] bool takesLessStored(const Plan& plan, const PlannedGroup& group) {
  if (!canBeStored(plan, group)) return false;
  const RowFloats stored = storedFloats(plan, group), whole = wholeFloats(plan, group);
  return stored.a + stored.b < whole.a + whole.b;
}

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000) + " MB"; }

[[gnu::noinline]] Error tooLarge(const Plan& plan, uint64_t limit) {
  const bool isLimited = plan.peakBytes > limit;
  return Error{Code::outOfMemory,
               "this merge needs " + megabytes(plan.peakBytes) + ", most of it for '" +
                   largestModule(plan).path + "', and " +
                   (isLimited ? "the limit is " + megabytes(limit) : "WebAssembly can address 4 GB") +
                   "; merge fewer adapters at a time" + (isLimited ? ", or allow more memory" : ""),
               {},
               {},
               {}};
}

}  // namespace

size_t unitStride(uint64_t length) {
  // An odd number of 64-byte lines: rows a power of two apart share cache sets, and evict each other.
  constexpr uint64_t kLine = 16;
  return static_cast<size_t>(((length + kLine - 1) / kLine | 1) * kLine);
}

uint64_t storedPanelFloats(const Plan& plan, const PlannedGroup& group) {
  uint64_t most = unitsOf(plan, group), rank = 0;
  for (const size_t m : group.modules) rank = std::max<uint64_t>(rank, plan.modules[m].written);
  return panelFloats(most + rank);
}

bool isStored(const Plan& plan, const PlannedGroup& group) {
  return plan.footprint.inPanels && takesLessStored(plan, group);
}

WorkspaceSize workspaceSize(const Plan& plan) {
  WorkspaceSize size;
  for (const PlannedGroup& group : plan.groups) {
    for (const size_t m : group.modules) {
      const PlannedModule& module = plan.modules[m];
      for (const PlannedSource& source : module.sources) {
        if (!source.sliceB.isWhole())
          size.part = std::max(size.part, bytesOf(source.b, source.sliceB, module.out * source.rank));
        if (source.expanded) size.expansion = std::max(size.expansion, source.expanded->expansion.scratch);
      }
      if (!module.sliceB.isWhole())
        size.part = std::max(size.part, bytesOf(module.b, module.sliceB, module.out * module.written));
    }
    const RowFloats floats = isStored(plan, group) ? storedFloats(plan, group) : wholeFloats(plan, group);
    size.unitsA = std::max(size.unitsA, floats.a);
    size.unitsB = std::max(size.unitsB, floats.b);
  }
  return size;
}

uint64_t peakBytes(const Plan& plan, const Footprint& footprint) {
  return bytesOfAll(coreBytes(plan), batchBytes(plan), footprint, plan.groups.size());
}

Status fitIntoMemory(Plan& plan, const Footprint& footprint) {
  // What one core can address: in WebAssembly 4 GB.
  constexpr uint64_t kReach = std::numeric_limits<uintptr_t>::max();
  const uint64_t limit =
      footprint.memoryBytes > 0 ? footprint.memoryBytes : std::numeric_limits<uint64_t>::max();
  const uint64_t asked = footprint.batchBytes > 0 ? footprint.batchBytes : suitableBatch(plan, footprint);
  Footprint tried = footprint;
  for (;;) {
    plan.footprint = tried;
    const CoreBytes core = coreBytes(plan);
    // The last try has one group in each batch.
    for (tried.batchBytes = asked;;
         tried.batchBytes = tried.batchBytes > kSmallBatch ? tried.batchBytes / 2 : 1) {
      layOutBatches(plan, tried.batchBytes);
      const BatchBytes batch = batchBytes(plan);
      plan.footprint = tried;
      plan.peakBytes = bytesOfAll(core, batch, tried, plan.groups.size());
      if (plan.peakBytes <= limit && bytesOfCore(core, batch, tried, plan.groups.size()) <= kReach) return {};
      if (tried.batchBytes == 1 || footprint.shards > 1) break;
    }
    if (!tried.inPanels) {
      tried.inPanels = true;
      continue;
    }
    // Refused is what takes the least.
    if (tried.lanes == 1 && tried.threads == 1 && tried.helpers == 0) break;
    tried.inPanels = false;
    if (tried.lanes > 1) {
      tried.lanes = (tried.lanes + 1) / 2;
    } else if (tried.threads > 1) {
      tried = tried.withFewerThreads((tried.threads + 1) / 2);
    } else {
      tried.helpers = 0;
    }
  }
  return tooLarge(plan, limit);
}

}  // namespace lego

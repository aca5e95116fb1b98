#include "job/memory.h"

#include <algorithm>

#include "linalg/gram_panels.h"
#include "linalg/panel_svd.h"
#include "merge/entry_stream.h"

namespace lego {
namespace {

// Code, stacks and small data of the core: its memory starts at 16 MB, of which the rest is used.
constexpr uint64_t kFixedBytes = 8 << 20;

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

/// Matrices and coefficients of one group, the panel of its Gram matrices, and what a method on entries
/// holds.
uint64_t matrixBytes(const Plan& plan, const PlannedGroup& group) {
  uint64_t units = feederUnits(plan, group), coefficients = 0, largest = 0, entries = 0, gains = 0;
  for (const size_t m : group.modules) {
    const PlannedModule& module = plan.modules[m];
    units += module.units;
    largest = std::max<uint64_t>(largest, module.units);
    coefficients += 4 * uint64_t{module.units} * module.rank * sizeof(double);
    // Of each source of DoRA, merged, and norms and magnitudes while they are made.
    if (module.base) gains += (module.sources.size() + 3) * module.out * sizeof(double);
    if (std::holds_alternative<EntryMethod>(plan.method->run))
      entries = std::max(entries, entryBytes(module));
  }
  const uint64_t panel = units * (gram_panels::kColumns<float> + 4) * sizeof(float);
  // Two Gram matrices, their scaled sum, its sorted copy, and as much again for factorisations; in the core
  // space also one matrix for each adapter, twice while they are thinned out.
  uint64_t matrices = 8 * units * units;
  if (std::holds_alternative<CoreMethod>(plan.method->run)) {
    size_t adapters = 0;
    for (const size_t m : group.modules) adapters = std::max(adapters, plan.modules[m].sources.size());
    matrices += 2 * adapters * largest * largest;
  }
  return panel + matrices * sizeof(double) + coefficients + entries + gains;
}

}  // namespace

size_t unitStride(uint64_t length) {
  // An odd number of 64-byte lines: rows a power of two apart share cache sets, and evict each other.
  constexpr uint64_t kLine = 16;
  return static_cast<size_t>(((length + kLine - 1) / kLine | 1) * kLine);
}

WorkspaceSize workspaceSize(const Plan& plan) {
  WorkspaceSize size;
  for (const PlannedGroup& group : plan.groups) {
    uint64_t rowsA = feederUnits(plan, group), rank = 0, floatsB = 0, feederA = 0;
    for (const size_t m : group.modules) {
      const PlannedModule& module = plan.modules[m];
      rowsA += module.units;
      rank = std::max<uint64_t>(rank, module.written);
      for (const PlannedSource& source : module.sources) {
        if (!source.sliceB.isWhole())
          size.part = std::max(size.part, bytesOf(source.b, source.sliceB, module.out * source.rank));
        if (source.expanded) size.expansion = std::max(size.expansion, source.expanded->expansion.scratch);
      }
      if (!module.sliceB.isWhole())
        size.part = std::max(size.part, bytesOf(module.b, module.sliceB, module.out * module.written));
      floatsB += (uint64_t{module.units} + module.written) * unitStride(module.out);
    }
    for (const PlannedFeeder& feeder : group.feeders) {
      const PlannedModule& module = plan.modules[feeder.module];
      feederA = std::max(feederA, uint64_t{module.units} * unitStride(module.in));
    }
    size.unitsA = std::max(size.unitsA, (rowsA + rank) * unitStride(plan.modules[group.modules[0]].in));
    size.unitsB = std::max(size.unitsB, floatsB + feederA);
  }
  return size;
}

uint64_t peakBytes(const Plan& plan, size_t threads) {
  uint64_t input = 0, output = 0, matrices = 0;
  for (const PlannedGroup& group : plan.groups) matrices = std::max(matrices, matrixBytes(plan, group));
  for (const PlannedBatch& batch : plan.batches) {
    input = std::max(input, batch.inputBytes);
    output = std::max(output, batch.outputEnd - batch.outputBegin);
  }
  const auto [unitsA, unitsB, expansion, part] = workspaceSize(plan);
  const uint64_t working = (unitsA + unitsB) * sizeof(float) + expansion * sizeof(double) + part + matrices;
  // Sums of a piece of what is no factor in binary64, and one adapter's values of it.
  uint64_t extra = 0;
  for (const PlannedExtra& piece : plan.extras) {
    if (!piece.isCopied()) extra = std::max(extra, piece.elements * (sizeof(double) + sizeof(float)));
  }
  // A pool never has more groups in flight than there are.
  const uint64_t inFlight = std::min<uint64_t>(threads, plan.groups.size());
  return kFixedBytes + 3 * input + 2 * output + 4 * plan.header.size() + std::max(extra, inFlight * working);
}

}  // namespace lego

#include "job/memory.h"

#include <algorithm>

#include "linalg/gram_panels.h"

namespace lego {
namespace {

// Code, stacks and small data of the core: its memory starts at 16 MB, of which the rest is used.
constexpr uint64_t kFixedBytes = 8 << 20;

/// Matrices and coefficients of one module, and the panel of its Gram matrices.
uint64_t matrixBytes(const PlannedModule& module) {
  const uint64_t panel = uint64_t{module.units} * (gram_panels::kColumns<float> + 4) * sizeof(float);
  // Two Gram matrices, their scaled sum, its sorted copy, and as much again for factorisations.
  const uint64_t matrices = 8 * uint64_t{module.units} * module.units * sizeof(double);
  const uint64_t coefficients = 4 * uint64_t{module.units} * module.rank * sizeof(double);
  return panel + matrices + coefficients;
}

}  // namespace

size_t unitStride(uint64_t length) { return static_cast<size_t>((length + 3) & ~uint64_t{3}); }

WorkspaceSize workspaceSize(const Plan& plan) {
  WorkspaceSize size;
  for (const PlannedModule& module : plan.modules) {
    const uint64_t strideA = unitStride(module.in), strideB = unitStride(module.out);
    size.unitsA = std::max(size.unitsA, module.units * strideA);
    size.unitsB = std::max(size.unitsB, module.units * strideB);
    size.mergedA = std::max(size.mergedA, module.rank * strideA);
    size.mergedB = std::max(size.mergedB, module.rank * strideB);
  }
  return size;
}

uint64_t peakBytes(const Plan& plan, size_t threads) {
  uint64_t input = 0, output = 0, matrices = 0;
  for (const PlannedModule& module : plan.modules) matrices = std::max(matrices, matrixBytes(module));
  for (const PlannedBatch& batch : plan.batches) {
    input = std::max(input, batch.inputBytes);
    output = std::max(output, batch.outputEnd - batch.outputBegin);
  }
  const auto [unitsA, unitsB, mergedA, mergedB] = workspaceSize(plan);
  const uint64_t working = (unitsA + unitsB + mergedA + mergedB) * sizeof(float) + matrices;
  // A pool never has more modules in flight than there are.
  const uint64_t inFlight = std::min<uint64_t>(threads, plan.modules.size());
  return kFixedBytes + 3 * input + 2 * output + 4 * plan.header.size() + inFlight * working;
}

}  // namespace lego

#include "job/memory.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "linalg/gram_panels.h"

namespace lego {
namespace {

// Code, stacks and small data of the core with its threads.
constexpr uint64_t kFixedBytes = 8 << 20;

/// Units, merged rows and matrices of one module.
uint64_t workingBytes(const PlannedModule& module) {
  const uint64_t floatsPerUnit = unitStride(module.in) + unitStride(module.out);
  const uint64_t panel = uint64_t{module.units} * (gram_panels::kColumns<float> + 4) * sizeof(float);
  // Two Gram matrices, their scaled sum, its sorted copy, and as much again for factorisations.
  const uint64_t matrices = 8 * uint64_t{module.units} * module.units * sizeof(double);
  const uint64_t coefficients = 4 * uint64_t{module.units} * module.rank * sizeof(double);
  return (module.units + module.rank) * floatsPerUnit * sizeof(float) + panel + matrices + coefficients;
}

}  // namespace

size_t unitStride(uint64_t length) { return static_cast<size_t>((length + 3) & ~uint64_t{3}); }

uint64_t peakBytes(const Plan& plan, size_t threads) {
  std::vector<uint64_t> working;
  uint64_t input = 0, output = 0;
  for (const PlannedModule& module : plan.modules) working.push_back(workingBytes(module));
  for (const PlannedBatch& batch : plan.batches) {
    input = std::max(input, batch.inputBytes);
    output = std::max(output, batch.outputEnd - batch.outputBegin);
  }
  std::ranges::sort(working, std::greater<>());
  uint64_t total = kFixedBytes + 3 * input + 2 * output + 4 * plan.header.size();
  for (size_t i = 0; i < std::min(threads, working.size()); ++i) total += working[i];
  return total;
}

}  // namespace lego

// Element-wise merging of matrices too large to hold: rows are made, thinned out and joined a few at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/buffer.h"
#include "base/context.h"
#include "linalg/panel_svd.h"
#include "merge/elementwise.h"

namespace lego {

/// One matrix for each adapter, all of one shape, whose rows are made when they are asked for.
struct TaskMatrices {
  size_t count = 0, rows = 0, columns = 0;
  /// Floats between two rows of `target`.
  size_t stride = 0;
  /// Writes rows [first, first + number) of a task's matrix.
  std::function<void(size_t task, size_t first, size_t number, float* target)> fill;
};

/// The merged matrix. Magnitude cuts cost two passes over all tasks, each pass over the result one.
class EntryStream {
 public:
  /// `thinning`: None, Magnitude or Random. `weights`: of the tasks. Errors: out_of_memory, cancelled.
  static Result<EntryStream> open(TaskMatrices tasks, const Thinning& thinning, const Joining& joining,
                                  std::vector<double> weights, uint64_t seed, const Context& context);

  /// Calls `use` with the merged rows, in order, a few at a time. Errors: cancelled.
  Status pass(const std::function<void(size_t first, const Matrix& panel)>& use, const Context& context);

  /// Bytes that a stream over such matrices holds.
  static uint64_t bytes(uint64_t tasks, uint64_t columns);

 private:
  EntryStream() = default;
  Status findCuts(const Context& context);

  TaskMatrices tasks_;
  Thinning thinning_;
  Joining joining_;
  std::vector<double> weights_;
  uint64_t seed_ = 0;
  std::vector<MagnitudeCut> cuts_;
  Buffer<float> panel_;
};

}  // namespace lego

// A matrix that is a part of a larger one: some of its rows, and every so many of its columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lego {

/// Row `at` + i of the larger matrix is row `own` + i of the part, for 0 <= i < count.
struct RowRange {
  uint64_t at = 0;
  uint64_t own = 0;
  uint64_t count = 0;
};

/// Where a part lies in a larger matrix: its column c is the column `column` + c * `step` there.
struct Slice {
  std::vector<RowRange> rows;  ///< together each row of the part once
  uint64_t column = 0;
  uint64_t step = 1;
  uint64_t rowLength = 0;  ///< columns of the larger matrix; 0: the part is all of it

  bool isWhole() const { return rowLength == 0; }
};

/// Copies a part of `columns` columns out of the row-major matrix at `whole` into a row-major one at `part`.
/// `element`: bytes of one element. `slice` is not whole, and lies within both matrices.
void gather(const std::byte* whole, const Slice& slice, size_t element, size_t columns, std::byte* part);

/// The way back; what the part does not have stays as it is.
void scatter(const std::byte* part, const Slice& slice, size_t element, size_t columns, std::byte* whole);

}  // namespace lego

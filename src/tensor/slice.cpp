#include "tensor/slice.h"

#include <cstring>

namespace lego {
namespace {

/// Calls copy(element of the larger matrix, element of the part, elements) for every run of neighbours.
template <typename Copy>
void forEachRun(const Slice& slice, size_t columns, Copy copy) {
  const size_t runs = slice.step == 1 ? 1 : columns, length = columns / runs;
  for (const RowRange& range : slice.rows) {
    for (size_t i = 0; i < range.count; ++i) {
      const size_t at = static_cast<size_t>((range.at + i) * slice.rowLength + slice.column);
      const size_t own = static_cast<size_t>(range.own + i) * columns;
      for (size_t run = 0; run < runs; ++run)
        copy(at + run * static_cast<size_t>(slice.step), own + run, length);
    }
  }
}

}  // namespace

void gather(const std::byte* whole, const Slice& slice, size_t element, size_t columns, std::byte* part) {
  forEachRun(slice, columns, [&](size_t at, size_t own, size_t length) {
    std::memcpy(part + own * element, whole + at * element, length * element);
  });
}

void scatter(const std::byte* part, const Slice& slice, size_t element, size_t columns, std::byte* whole) {
  forEachRun(slice, columns, [&](size_t at, size_t own, size_t length) {
    std::memcpy(whole + at * element, part + own * element, length * element);
  });
}

}  // namespace lego

// Sorting by one piece of code, whatever is sorted: std::sort is compiled anew, 2 to 4 KB each time, for
// every type and every order. For what is sorted once per file or module; what is sorted per weight has its
// own.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace lego {

/// The numbers 0 to count - 1 in order; those of which neither comes before the other, by their size.
std::vector<size_t> orderOf(size_t count, bool (*before)(const void* context, size_t i, size_t j),
                            const void* context);

/// The same with before(i, j) of any type.
template <typename Before>
std::vector<size_t> orderOf(size_t count, const Before& before) {
  return orderOf(
      count,
      [](const void* context, size_t i, size_t j) -> bool {
        return (*static_cast<const Before*>(context))(i, j);
      },
      &before);
}

/// Sorts values by before(value, other); equal ones stay as they are.
template <typename T, typename Before>
void sortStable(std::vector<T>& values, const Before& before) {
  const auto order = orderOf(values.size(), [&](size_t i, size_t j) { return before(values[i], values[j]); });
  std::vector<T> sorted;
  sorted.reserve(values.size());
  for (const size_t i : order) sorted.push_back(std::move(values[i]));
  values = std::move(sorted);
}

/// Largest first.
void sortDescending(std::vector<double>& values);

}  // namespace lego

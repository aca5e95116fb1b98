#include "base/order.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace lego {

std::vector<size_t> orderOf(size_t count, bool (*before)(const void* context, size_t i, size_t j),
                            const void* context) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [before, context](size_t i, size_t j) { return before(context, i, j); });
  return order;
}

void sortDescending(std::vector<double>& values) { sortStable(values, std::greater<>()); }

}  // namespace lego

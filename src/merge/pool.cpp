#include "merge/method.h"

namespace lego {

std::vector<size_t> UnitPool::firstUnits() const {
  std::vector<size_t> first{0};
  for (const uint32_t rank : ranks) first.push_back(first.back() + rank);
  return first;
}

}  // namespace lego

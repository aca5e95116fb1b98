// The order of summation that gram() and gramRef() share.
#pragma once

#include <cstddef>

namespace lego::gram_panels {

/// Columns summed in the working precision before the sum moves on to binary64. 256 floats of 112 rows
/// (7 adapters of rank 16) are 115 KB: a panel stays in any L2 cache.
template <typename T>
inline constexpr size_t kColumns = sizeof(T) == 4 ? 256 : 128;

/// Lanes of a 128-bit register: column c of a panel is summed in lane c mod kLanes.
template <typename T>
inline constexpr size_t kLanes = 16 / sizeof(T);

/// Parts that gram() cuts rows into when threads share them. Each part packs the rows of those before it once
/// more: with 256 rows or more of its own that is one part in a hundred of its time.
constexpr size_t partsOf(size_t rows) { return rows / 256 > 1 ? rows / 256 : 1; }

/// Adds up the lanes, in binary64, in pairs.
template <typename T>
double sumLanes(const T* lanes) {
  if constexpr (kLanes<T> == 4) {
    return (static_cast<double>(lanes[0]) + static_cast<double>(lanes[1])) +
           (static_cast<double>(lanes[2]) + static_cast<double>(lanes[3]));
  } else {
    return static_cast<double>(lanes[0]) + static_cast<double>(lanes[1]);
  }
}

}  // namespace lego::gram_panels

// Units that stay as their files store them, and are unpacked a panel of columns at a time: for modules whose
// units would take more memory as floats than there is. What comes of them is the same to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "job/kernels.h"

namespace lego {

/// Units of equal length, factor by factor.
struct StoredRows {
  /// One adapter's: rank x length, or turned around.
  struct Factor {
    DType dtype;
    const std::byte* data;
    bool isTurned;
    uint32_t rank;
  };
  std::vector<Factor> factors;
  size_t length = 0;
  size_t count = 0;        ///< of units
  float* panel = nullptr;  ///< room for panelFloats(count), and for assembling for those of the merged rows

  void add(const Factor& factor) {
    factors.push_back(factor);
    count += factor.rank;
  }
};

/// Floats of a panel of so many rows.
uint64_t panelFloats(uint64_t rows);

/// Gram matrix of the units, as Kernels::gram has it. magnitude[u] becomes the maxMagnitudeBits of unit u,
/// where they are asked for. Errors: out_of_memory.
Result<Matrix> gramOfStored(const Kernels& kernels, const StoredRows& rows, GramPrecision precision,
                            const Context& context, std::span<uint32_t> magnitude = {});

/// Sums of units, as assembleFolded has them; rows of `target` lie `stride` floats apart.
void assembleStored(const Kernels& kernels, const StoredRows& rows, const Matrix& coefficients,
                    std::span<const uint32_t> row, std::span<const double> fold, float* target,
                    size_t stride);

}  // namespace lego

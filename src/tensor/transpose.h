// Transposition of a block of floats.
#pragma once

#include <cstddef>

namespace lego {

/// target[c * targetStride + r] = source[r * sourceStride + c] for r < rows, c < columns. No overlap.
void transpose(const float* source, size_t rows, size_t columns, size_t sourceStride, float* target,
               size_t targetStride);
void transposeRef(const float* source, size_t rows, size_t columns, size_t sourceStride, float* target,
                  size_t targetStride);

}  // namespace lego

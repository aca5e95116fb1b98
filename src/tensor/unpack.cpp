#include "tensor/unpack.h"

#include <algorithm>
#include <vector>

#include "tensor/convert.h"
#include "tensor/simd.h"
#include "tensor/transpose.h"

namespace lego {
namespace {

// Floats of one intermediate tile: 64 KB, a share of any L2 cache, and rows of it long enough to stream.
constexpr size_t kTileFloats = 16 * 1024;
constexpr size_t kTileColumns = 1024;

/// How a rows x columns matrix is cut for transposition: whole rows where they are short.
struct Tiling {
  size_t rows, columns;
};
Tiling tilingFor(size_t columns) {
  const size_t width = std::clamp<size_t>(columns, 1, kTileColumns);
  return {std::max<size_t>(4, (kTileFloats / width) & ~size_t{3}), width};
}

/// Bytes in front of an element that begins a block. Tiles are cut at multiples of kTileColumns, rows hold
/// whole blocks, and so the kernels meet no others.
size_t bytesBefore(DType dtype, size_t element) { return static_cast<size_t>(*bytesOf(dtype, element)); }

const std::byte* elementAt(const MatrixView& matrix, size_t row, size_t column) {
  return matrix.data + bytesBefore(matrix.dtype, row * matrix.columns + column);
}

LEGO_KERNEL uint32_t scaleBlock(const float* source, size_t count, float factor, float* target) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4)
    (simd::F32x4::load_unaligned(source + i) * simd::F32x4(factor)).store_unaligned(target + i);
  for (; i < count; ++i) target[i] = source[i] * factor;
  return maxMagnitudeBits(target, count);
}

}  // namespace

void unpackRows(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  for (size_t u = 0; u < matrix.rows; ++u) {
    uint32_t largest = 0;
    for (size_t at = 0; at < matrix.columns; at += kTileColumns) {
      const size_t n = std::min(kTileColumns, matrix.columns - at);
      float* target = units + u * stride + at;
      toFloat(matrix.dtype, elementAt(matrix, u, at), n, target);
      largest = std::max(largest, maxMagnitudeBits(target, n));
    }
    magnitude[u] = largest;
  }
}

void unpackColumns(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  const Tiling tiling = tilingFor(matrix.columns);
  std::vector<float> tile(tiling.rows * tiling.columns);
  std::fill_n(magnitude.begin(), matrix.columns, 0u);
  for (size_t row = 0; row < matrix.rows; row += tiling.rows) {
    const size_t rows = std::min(tiling.rows, matrix.rows - row);
    for (size_t column = 0; column < matrix.columns; column += tiling.columns) {
      const size_t columns = std::min(tiling.columns, matrix.columns - column);
      if (columns == matrix.columns) {
        toFloat(matrix.dtype, elementAt(matrix, row, 0), rows * columns, tile.data());
      } else {
        for (size_t r = 0; r < rows; ++r)
          toFloat(matrix.dtype, elementAt(matrix, row + r, column), columns, tile.data() + r * columns);
      }
      transpose(tile.data(), rows, columns, columns, units + column * stride + row, stride);
      for (size_t c = 0; c < columns; ++c) {
        uint32_t& largest = magnitude[column + c];
        largest = std::max(largest, maxMagnitudeBits(units + (column + c) * stride + row, rows));
      }
    }
  }
}

uint32_t packRows(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                  std::span<const float> factors, std::byte* target) {
  std::vector<float> scaled(std::min(columns, kTileColumns));
  uint32_t largest = 0;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t at = 0; at < columns; at += kTileColumns) {
      const size_t n = std::min(kTileColumns, columns - at);
      largest = std::max(largest, scaleBlock(units + r * stride + at, n, factors[r], scaled.data()));
      fromFloat(dtype, scaled.data(), n, target + bytesBefore(dtype, r * columns + at));
    }
  }
  return largest;
}

uint32_t packColumns(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target) {
  // The target is columns x rows: its rows are short (the rank), so tiles hold whole rows where they can.
  const Tiling tiling = tilingFor(rows);
  std::vector<float> scaled(tiling.rows * tiling.columns), tile(tiling.rows * tiling.columns);
  uint32_t largest = 0;
  for (size_t column = 0; column < columns; column += tiling.rows) {
    const size_t height = std::min(tiling.rows, columns - column);
    for (size_t row = 0; row < rows; row += tiling.columns) {
      const size_t width = std::min(tiling.columns, rows - row);
      for (size_t r = 0; r < width; ++r) {
        largest = std::max(largest, scaleBlock(units + (row + r) * stride + column, height, factors[row + r],
                                               scaled.data() + r * height));
      }
      transpose(scaled.data(), width, height, height, tile.data(), width);
      if (width == rows) {
        fromFloat(dtype, tile.data(), height * width, target + bytesBefore(dtype, column * rows));
      } else {
        for (size_t h = 0; h < height; ++h)
          fromFloat(dtype, tile.data() + h * width, width,
                    target + bytesBefore(dtype, (column + h) * rows + row));
      }
    }
  }
  return largest;
}

}  // namespace lego

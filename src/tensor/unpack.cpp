#include "tensor/unpack.h"

#include <algorithm>
#include <array>
#include <vector>

#include "tensor/convert.h"
#include "tensor/formats.h"
#include "tensor/transpose.h"

namespace lego {
namespace {

using namespace formats;

// Floats of one intermediate tile: 64 KB, a share of any L2 cache, and rows of it long enough to stream.
constexpr size_t kTileFloats = 16 * 1024;
constexpr size_t kTileColumns = 1024;

// What a kernel walks over before it comes back for the next columns: half of the smallest L1 cache.
constexpr size_t kTileBytes = 16 * 1024;

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

/// A format with whose elements a matrix can be transposed as it is: some columns of the matrix, those of one
/// register, at a time. `rowBytes`: from one row to the next. `rows` is a multiple of 4.
struct ColumnKernels {
  size_t columns;
  /// Column c of the matrix becomes row c of `target`; largest[c] grows to its largest magnitude's bits.
  void (*unpack)(const std::byte* source, size_t rowBytes, size_t rows, float* target, size_t stride,
                 uint32_t* largest);
  /// Row c of `source`, times factors[c], becomes column c of the matrix; returns the largest magnitude's
  /// bits. May be missing.
  uint32_t (*pack)(const float* source, size_t stride, size_t rows, const float* factors, std::byte* target,
                   size_t rowBytes);
};

/// Lane c of row r becomes lane r of row c.
void transposeLanes(U32x4 (&rows)[4]) {
  const U32x4 even0 = xsimd::zip_lo(rows[0], rows[2]), even1 = xsimd::zip_hi(rows[0], rows[2]);
  const U32x4 odd0 = xsimd::zip_lo(rows[1], rows[3]), odd1 = xsimd::zip_hi(rows[1], rows[3]);
  rows[0] = xsimd::zip_lo(even0, odd0);
  rows[1] = xsimd::zip_hi(even0, odd0);
  rows[2] = xsimd::zip_lo(even1, odd1);
  rows[3] = xsimd::zip_hi(even1, odd1);
}

template <typename Format>
LEGO_KERNEL void unpackColumnBlock(const std::byte* source, size_t rowBytes, size_t rows, float* target,
                                   size_t stride, uint32_t* largest) {
  using Magnitudes = typename Format::Magnitudes;
  constexpr size_t n = Format::kElements;
  Magnitudes magnitudes(typename Magnitudes::value_type{0});
  for (size_t row = 0; row < rows; row += 4) {
    const std::byte* from = source + row * rowBytes;
    U32x4 words[4] = {load(from), load(from + rowBytes), load(from + 2 * rowBytes),
                      load(from + 3 * rowBytes)};
    for (const U32x4& word : words) magnitudes = simd::larger(magnitudes, Format::magnitudes(word));
    transposeLanes(words);
    for (size_t w = 0; w < 4; ++w) {
      F32x4 values[n / 4];
      Format::split(words[w], values);
      for (size_t e = 0; e < n / 4; ++e) values[e].store_unaligned(target + (w * n / 4 + e) * stride + row);
    }
  }
  alignas(16) typename Magnitudes::value_type found[n];
  magnitudes.store_aligned(found);
  for (size_t c = 0; c < n; ++c) {
    largest[c] = std::max(largest[c], Format::magnitudeBits(static_cast<typename Format::Element>(found[c])));
  }
}

template <typename Format>
LEGO_KERNEL uint32_t packColumnBlock(const float* source, size_t stride, size_t rows, const float* factors,
                                     std::byte* target, size_t rowBytes) {
  constexpr size_t n = Format::kElements;
  I32x4 largest(0);
  for (size_t row = 0; row < rows; row += 4) {
    U32x4 words[4];
    for (size_t w = 0; w < 4; ++w) {
      F32x4 values[n / 4];
      for (size_t e = 0; e < n / 4; ++e) {
        const size_t c = w * n / 4 + e;
        values[e] = F32x4::load_unaligned(source + c * stride + row) * F32x4(factors[c]);
        largest = simd::larger(largest, Single::magnitudes(asBits(values[e])));
      }
      words[w] = Format::join(values);
    }
    transposeLanes(words);
    for (size_t r = 0; r < 4; ++r) store(words[r], target + (row + r) * rowBytes);
  }
  return largestOf(largest);
}

const ColumnKernels* columnKernels(DType dtype) {
  static constexpr auto both = []<typename Format>(const Format*) {
    return ColumnKernels{Format::kElements, unpackColumnBlock<Format>, packColumnBlock<Format>};
  };
  static constexpr auto one = []<typename Format>(const Format*) {
    return ColumnKernels{Format::kElements, unpackColumnBlock<Format>, nullptr};
  };
  static constexpr ColumnKernels single = both(static_cast<const Single*>(nullptr)),
                                 half = both(static_cast<const Half*>(nullptr)),
                                 bfloat = both(static_cast<const Bfloat*>(nullptr)),
                                 e4m3 = one(static_cast<const Float8<DType::F8E4M3>*>(nullptr)),
                                 e5m2 = one(static_cast<const Float8<DType::F8E5M2>*>(nullptr));
  switch (dtype) {
    case DType::F32: return &single;
    case DType::F16: return &half;
    case DType::BF16: return &bfloat;
    case DType::F8E4M3: return &e4m3;
    case DType::F8E5M2: return &e5m2;
    default: return nullptr;
  }
}

/// Calls work(row, rows, column) for blocks of `columns` out of `total` columns, in tiles of rows that are
/// used again for the next columns while they are still in the cache. The last block overlaps its neighbour
/// where it has to: what is done twice is the same. Rows: multiples of 4.
template <typename Work>
void forColumnBlocks(size_t rows, size_t rowBytes, size_t total, size_t columns, Work work) {
  const size_t height = std::max<size_t>(64, (kTileBytes / rowBytes) & ~size_t{3});
  for (size_t row = 0; row < rows; row += height) {
    const size_t n = std::min(height, rows - row);
    for (size_t column = 0; column < total; column += columns)
      work(row, n, std::min(column, total - columns));
  }
}

/// By way of a tile of floats: any dtype, any number of columns.
void unpackColumnsByTiles(const MatrixView& matrix, float* units, size_t stride,
                          std::span<uint32_t> magnitude) {
  const Tiling tiling = tilingFor(matrix.columns);
  std::vector<float> tile(tiling.rows * tiling.columns);
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

uint32_t packColumnsByTiles(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
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
        const uint32_t own =
            fromFloat(DType::F32, units + (row + r) * stride + column, height, factors[row + r],
                      reinterpret_cast<std::byte*>(scaled.data() + r * height));
        largest = std::max(largest, own);
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

}  // namespace

void unpackRows(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  for (size_t u = 0; u < matrix.rows; ++u)
    magnitude[u] = toFloat(matrix.dtype, elementAt(matrix, u, 0), matrix.columns, units + u * stride);
}

void unpackColumns(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude) {
  std::fill_n(magnitude.begin(), matrix.columns, 0u);
  const ColumnKernels* kernels = columnKernels(matrix.dtype);
  size_t done = 0;
  if (kernels && matrix.columns >= kernels->columns) {
    done = matrix.rows & ~size_t{3};
    const size_t rowBytes = bytesBefore(matrix.dtype, matrix.columns);
    forColumnBlocks(done, rowBytes, matrix.columns, kernels->columns,
                    [&](size_t row, size_t rows, size_t column) {
                      kernels->unpack(elementAt(matrix, row, column), rowBytes, rows,
                                      units + column * stride + row, stride, &magnitude[column]);
                    });
  }
  if (done == matrix.rows) return;
  unpackColumnsByTiles({matrix.dtype, elementAt(matrix, done, 0), matrix.rows - done, matrix.columns},
                       units + done, stride, magnitude);
}

uint32_t packRows(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                  std::span<const float> factors, std::byte* target) {
  uint32_t largest = 0;
  for (size_t r = 0; r < rows; ++r) {
    std::byte* row = target + bytesBefore(dtype, r * columns);
    largest = std::max(largest, fromFloat(dtype, units + r * stride, columns, factors[r], row));
  }
  return largest;
}

uint32_t packColumns(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target) {
  const ColumnKernels* kernels = columnKernels(dtype);
  size_t done = 0;
  uint32_t largest = 0;
  if (kernels && kernels->pack && rows >= kernels->columns) {
    done = columns & ~size_t{3};
    const size_t rowBytes = bytesBefore(dtype, rows);
    forColumnBlocks(done, rowBytes, rows, kernels->columns, [&](size_t column, size_t count, size_t row) {
      const uint32_t own = kernels->pack(units + row * stride + column, stride, count, &factors[row],
                                         target + bytesBefore(dtype, column * rows + row), rowBytes);
      largest = std::max(largest, own);
    });
  }
  if (done == columns) return largest;
  return std::max(largest, packColumnsByTiles(dtype, units + done, stride, rows, columns - done, factors,
                                              target + bytesBefore(dtype, done * rows)));
}

}  // namespace lego

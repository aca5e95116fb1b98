#include "tensor/unpack.h"

#include <algorithm>
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

// For one call of a kernel that transposes (see LEGO_KERNEL): bytes of a matrix, which any L2 cache holds, or
// rows of floats.
constexpr size_t kCallBytes = 64 << 10, kCallRows = 512;

/// Rows of a matrix that such a kernel works on before it goes on to the next block of columns. Where there
/// are few blocks: a line of the cache in each row of floats, so that the matrix is read in one go (a fifth
/// faster from memory). Where there are more, rows of floats would change so often that their pages'
/// addresses are forgotten each time (a fifth slower).
constexpr size_t groupRows(size_t blocks) { return blocks <= 2 ? 16 : 64; }

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

/// Lane c of row r becomes lane r of row c.
void transposeLanes(U32x4 (&rows)[4]) {
  const U32x4 even0 = xsimd::zip_lo(rows[0], rows[2]), even1 = xsimd::zip_hi(rows[0], rows[2]);
  const U32x4 odd0 = xsimd::zip_lo(rows[1], rows[3]), odd1 = xsimd::zip_hi(rows[1], rows[3]);
  rows[0] = xsimd::zip_lo(even0, odd0);
  rows[1] = xsimd::zip_hi(even0, odd0);
  rows[2] = xsimd::zip_lo(even1, odd1);
  rows[3] = xsimd::zip_hi(even1, odd1);
}

/// The first column of each block of `Format::kElements`: the last one overlaps its neighbour where it has
/// to, and does again what is done already.
template <typename Format>
size_t blockBegin(size_t block, size_t columns) {
  return std::min(block * Format::kElements, columns - Format::kElements);
}

/// Column c of the matrix becomes row c of `target`. `rows` is a multiple of 4, `rowBytes` lie from one to
/// the next. The elements of block b of the columns have their largest magnitudes at magnitudes[b *
/// kElements].
template <typename Format>
LEGO_KERNEL void unpackColumnBlocks(const std::byte* source, size_t rowBytes, size_t rows, size_t columns,
                                    float* target, size_t stride,
                                    typename Format::Magnitudes::value_type* magnitudes) {
  using Magnitudes = typename Format::Magnitudes;
  constexpr size_t n = Format::kElements;
  const size_t group = groupRows((columns + n - 1) / n);
  for (size_t first = 0; first < rows; first += group) {
    const size_t end = std::min(first + group, rows);
    for (size_t block = 0; block * n < columns; ++block) {
      const size_t column = blockBegin<Format>(block, columns);
      const std::byte* from = source + column * sizeof(typename Format::Element);
      float* to = target + column * stride;
      Magnitudes largest = Magnitudes::load_unaligned(magnitudes + block * n);
      for (size_t row = first; row < end; row += 4) {
        U32x4 words[4];
        for (size_t r = 0; r < 4; ++r) {
          words[r] = load(from + (row + r) * rowBytes);
          largest = simd::larger(largest, Format::magnitudes(words[r]));
        }
        transposeLanes(words);
        for (size_t w = 0; w < 4; ++w) {
          F32x4 values[n / 4];
          Format::split(words[w], values);
          for (size_t e = 0; e < n / 4; ++e) values[e].store_unaligned(to + (w * n / 4 + e) * stride + row);
        }
      }
      largest.store_unaligned(magnitudes + block * n);
    }
  }
}

/// Reads a little of each line of the cache, so that all of `bytes` are near when they are used: WebAssembly
/// has no instruction for that. Kernels that transpose jump from row to row and do much with what they load:
/// of their own loads only few are on their way at a time, and here many are (from memory, BF16 twice as
/// fast).
LEGO_KERNEL void fetch(const std::byte* source, size_t bytes) {
  constexpr size_t kLine = 64;
  // To the compiler each of them is wanted.
  for (size_t at = 0; at < bytes; at += kLine) asm volatile("" : : "r"(static_cast<uint32_t>(source[at])));
}

/// The first `rows` rows, a multiple of 4.
template <typename Format>
void unpackColumnsAs(const MatrixView& matrix, size_t rows, float* units, size_t stride,
                     std::span<uint32_t> magnitude) {
  constexpr size_t n = Format::kElements;
  const size_t columns = matrix.columns, blocks = (columns + n - 1) / n;
  std::vector<typename Format::Magnitudes::value_type> largest(blocks * n);
  const size_t rowBytes = columns * sizeof(typename Format::Element);
  const size_t most = std::max<size_t>(kCallBytes / rowBytes & ~size_t{63}, 64);
  for (size_t row = 0; row < rows; row += most) {
    const size_t height = std::min(most, rows - row);
    const std::byte* source = elementAt(matrix, row, 0);
    // With 8-bit floats the work is more than the waiting (a tenth slower).
    if constexpr (sizeof(typename Format::Element) > 1) fetch(source, height * rowBytes);
    unpackColumnBlocks<Format>(source, rowBytes, height, columns, units + row, stride, largest.data());
  }
  for (size_t i = 0; i < largest.size(); ++i) {
    magnitude[blockBegin<Format>(i / n, columns) + i % n] =
        Format::magnitudeBits(static_cast<typename Format::Element>(largest[i]));
  }
}

/// Row c of `source`, times factors[c], becomes column c of the matrix, of which `rows` rows are written, a
/// multiple of 4. Returns the largest magnitude's bits.
template <typename Format>
LEGO_KERNEL uint32_t packColumnBlocks(const float* source, size_t stride, size_t rows, size_t columns,
                                      const float* factors, std::byte* target) {
  constexpr size_t n = Format::kElements;
  const size_t rowBytes = columns * sizeof(typename Format::Element);
  const size_t group = groupRows((columns + n - 1) / n);
  I32x4 largest(0);
  for (size_t first = 0; first < rows; first += group) {
    const size_t end = std::min(first + group, rows);
    for (size_t block = 0; block * n < columns; ++block) {
      const size_t column = blockBegin<Format>(block, columns);
      const float* from = source + column * stride;
      std::byte* to = target + column * sizeof(typename Format::Element);
      for (size_t row = first; row < end; row += 4) {
        U32x4 words[4];
        for (size_t w = 0; w < 4; ++w) {
          F32x4 values[n / 4];
          for (size_t e = 0; e < n / 4; ++e) {
            const size_t c = w * n / 4 + e;
            values[e] = F32x4::load_unaligned(from + c * stride + row) * F32x4(factors[column + c]);
            largest = simd::larger(largest, Single::magnitudes(asBits(values[e])));
          }
          words[w] = Format::join(values);
        }
        transposeLanes(words);
        for (size_t r = 0; r < 4; ++r) store(words[r], to + (row + r) * rowBytes);
      }
    }
  }
  return largestOf(largest);
}

template <typename Format>
uint32_t packColumnsAs(const float* units, size_t stride, size_t rows, size_t columns,
                       std::span<const float> factors, std::byte* target) {
  uint32_t largest = 0;
  for (size_t row = 0; row < rows; row += kCallRows) {
    std::byte* to = target + row * columns * sizeof(typename Format::Element);
    largest = std::max(largest, packColumnBlocks<Format>(units + row, stride, std::min(kCallRows, rows - row),
                                                         columns, factors.data(), to));
  }
  return largest;
}

/// A format whose elements are transposed as they are stored, some columns of a matrix (those in a register)
/// at a time.
struct ColumnKernels {
  size_t leastColumns;
  decltype(&unpackColumnsAs<Single>) unpack;
  decltype(&packColumnsAs<Single>) pack;  // may be missing
};

/// Null where a dtype goes through floats.
const ColumnKernels* columnKernels(DType dtype) {
  static constexpr ColumnKernels single{4, unpackColumnsAs<Single>, packColumnsAs<Single>},
      half{8, unpackColumnsAs<Half>, packColumnsAs<Half>},
      bfloat{8, unpackColumnsAs<Bfloat>, packColumnsAs<Bfloat>},
      e4m3{16, unpackColumnsAs<Float8<DType::F8E4M3>>, nullptr},
      e5m2{16, unpackColumnsAs<Float8<DType::F8E5M2>>, nullptr};
  switch (dtype) {
    case DType::F32: return &single;
    case DType::F16: return &half;
    case DType::BF16: return &bfloat;
    case DType::F8E4M3: return &e4m3;
    case DType::F8E5M2: return &e5m2;
    default: return nullptr;
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
  if (kernels && matrix.columns >= kernels->leastColumns) {
    done = matrix.rows & ~size_t{3};
    kernels->unpack(matrix, done, units, stride, magnitude);
    const bool isFinite = std::ranges::all_of(magnitude, [](uint32_t bits) { return bits < kInfinity; });
    if (!isFinite) done = 0;
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
  if (kernels && kernels->pack && rows >= kernels->leastColumns) {
    done = columns & ~size_t{3};
    largest = kernels->pack(units, stride, done, rows, factors, target);
    if (largest >= overflowBits(dtype)) done = 0;
  }
  if (done == columns) return largest;
  return std::max(largest, packColumnsByTiles(dtype, units + done, stride, rows, columns - done, factors,
                                              target + bytesBefore(dtype, done * rows)));
}

}  // namespace lego

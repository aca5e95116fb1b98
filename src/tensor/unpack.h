// Factors as stored -> units as rows: U_A is P x in, U_B is P x out, in binary32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace lego {

/// A matrix as it lies in a file: row-major, little-endian, of any alignment. Owns nothing. Where the dtype
/// stores blocks (Q8_0), each row must hold whole ones.
struct MatrixView {
  DType dtype = DType::F32;
  const std::byte* data = nullptr;
  size_t rows = 0;
  size_t columns = 0;
};

/// lora_A (rank x in): row u of the matrix becomes row u of `units` (rows `stride` floats apart).
/// Sets magnitude[u] to maxMagnitudeBits of that row.
void unpackRows(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude);
void unpackRowsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude);

/// lora_B (out x rank): column u of the matrix becomes row u of `units`.
void unpackColumns(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude);
void unpackColumnsRef(const MatrixView& matrix, float* units, size_t stride, std::span<uint32_t> magnitude);

/// The way back, with rounding: `rows` rows of `columns` floats, `stride` apart, each multiplied by its
/// factor, become a matrix of `dtype` at `target`: rows x columns, or, transposed, columns x rows. The rows
/// of that matrix must hold whole blocks of the dtype. Returns the maxMagnitudeBits of all that was written,
/// before rounding to `dtype`.
uint32_t packRows(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                  std::span<const float> factors, std::byte* target);
uint32_t packRowsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target);
uint32_t packColumns(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                     std::span<const float> factors, std::byte* target);
uint32_t packColumnsRef(DType dtype, const float* units, size_t stride, size_t rows, size_t columns,
                        std::span<const float> factors, std::byte* target);

}  // namespace lego

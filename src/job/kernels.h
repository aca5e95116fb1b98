// Which implementation of the kernels a merge runs on.
#pragma once

#include "linalg/assemble.h"
#include "linalg/gram.h"
#include "tensor/unpack.h"

namespace lego {

/// The passes over model-sized data. Both sets give the same bytes.
struct Kernels {
  decltype(&lego::unpackRows) unpackRows;
  decltype(&lego::unpackColumns) unpackColumns;
  decltype(&lego::gram) gram;
  decltype(&lego::assemble) assemble;
  decltype(&lego::packRows) packRows;
  decltype(&lego::packColumns) packColumns;
};

/// SIMD.
inline constexpr Kernels kFastKernels{unpackRows, unpackColumns, gram, assemble, packRows, packColumns};
/// The readable truth: for tests, and as the baseline of benchmarks.
inline constexpr Kernels kReferenceKernels{unpackRowsRef, unpackColumnsRef, gramRef,
                                           assembleRef,   packRowsRef,      packColumnsRef};

}  // namespace lego

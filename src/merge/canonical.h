// One adapter's ranks as its singular value decomposition: the form that does not depend on how training
// mixed them.
#pragma once

#include <vector>

#include "base/result.h"
#include "linalg/assemble.h"
#include "linalg/gram.h"

namespace lego {

/// The unit rows of one adapter in one module, which are replaced.
struct AdapterRows {
  float *a, *b;
  size_t strideA, strideB, in, out, rank;
};

/// Largest |entry| of each row.
struct RowMaxima {
  std::vector<double> a, b;
};

/// Replaces the factors by A = sqrt(S) V^T, B = U sqrt(S) of scale * B A: values descending, the largest
/// entry of each joint row positive (tests/golden, lego_svdcanon). Directions that the adapter does not have
/// become zero. Errors: no_convergence, out_of_memory.
Result<RowMaxima> canonicalise(const AdapterRows& rows, double scale, decltype(&gram) gramKernel,
                               decltype(&assemble) assembleKernel, const Context& context);

}  // namespace lego

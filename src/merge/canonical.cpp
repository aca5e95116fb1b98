#include "merge/canonical.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "merge/svd.h"
#include "tensor/convert.h"

namespace lego {
namespace {

// Columns that are copied aside at a time: rows are replaced in place.
constexpr size_t kBlock = 256;

void replaceRows(float* rows, size_t stride, size_t length, const Matrix& coefficients,
                 decltype(&assemble) kernel) {
  const size_t n = coefficients.rows();
  std::vector<std::vector<Term>> terms(n);
  for (size_t q = 0; q < n; ++q) {
    for (size_t u = 0; u < n; ++u)
      terms[q].push_back({static_cast<uint32_t>(u), static_cast<float>(coefficients(q, u))});
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  std::vector<float> old(n * kBlock), combined(n * kBlock);
  for (size_t at = 0; at < length; at += kBlock) {
    const size_t columns = std::min(kBlock, length - at);
    for (size_t u = 0; u < n; ++u) std::copy_n(rows + u * stride + at, columns, old.data() + u * kBlock);
    kernel(old.data(), kBlock, columns, views, combined.data());
    for (size_t u = 0; u < n; ++u) std::copy_n(combined.data() + u * kBlock, columns, rows + u * stride + at);
  }
}

/// The entry of largest magnitude.
float leadingEntry(const float* row, size_t length) {
  return *std::max_element(row, row + length, [](float x, float y) { return std::abs(x) < std::abs(y); });
}

}  // namespace

Result<RowMaxima> canonicalise(const AdapterRows& rows, double scale, decltype(&gram) gramKernel,
                               decltype(&assemble) assembleKernel, const Context& context) {
  auto gramA = gramKernel(rows.a, rows.rank, rows.in, rows.strideA, GramPrecision::Double, context);
  if (!gramA) return gramA.error();
  auto gramB = gramKernel(rows.b, rows.rank, rows.out, rows.strideB, GramPrecision::Double, context);
  if (!gramB) return gramB.error();
  UnitPool pool;
  pool.in = rows.in;
  pool.out = rows.out;
  pool.gramA = std::move(*gramA);
  pool.gramB = std::move(*gramB);
  pool.owner.assign(rows.rank, 0);
  pool.weights = {scale};
  pool.ranks = {static_cast<uint32_t>(rows.rank)};
  const auto factors = sumOfRank(pool, static_cast<uint32_t>(rows.rank));
  if (!factors) return factors.error();
  replaceRows(rows.a, rows.strideA, rows.in, factors->a, assembleKernel);
  replaceRows(rows.b, rows.strideB, rows.out, factors->b, assembleKernel);
  RowMaxima maxima;
  for (size_t q = 0; q < rows.rank; ++q) {
    float *a = rows.a + q * rows.strideA, *b = rows.b + q * rows.strideB;
    const float leadingA = leadingEntry(a, rows.in), leadingB = leadingEntry(b, rows.out);
    maxima.a.push_back(std::abs(leadingA));
    maxima.b.push_back(std::abs(leadingB));
    if ((std::abs(leadingA) >= std::abs(leadingB) ? leadingA : leadingB) >= 0) continue;
    for (size_t c = 0; c < rows.in; ++c) a[c] = -a[c];
    for (size_t o = 0; o < rows.out; ++o) b[o] = -b[o];
  }
  return maxima;
}

}  // namespace lego

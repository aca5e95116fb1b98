#include "linalg/assemble.h"

#include <algorithm>
#include <vector>

#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F32x4;

// Columns per kernel call: 1 KB of each unit that takes part.
constexpr size_t kBlock = 256;
constexpr size_t kStrip = 32;

/// One output row over `length` columns: strips of eight registers, all terms in each.
LEGO_KERNEL void assembleRow(const float* units, size_t stride, size_t length, std::span<const Term> terms,
                             float* target) {
  size_t c = 0;
  for (; c + kStrip <= length; c += kStrip) {
    F32x4 sum[kStrip / 4];
    const auto products = [&](const Term& term, size_t v) {
      return F32x4(term.coefficient) * F32x4::load_unaligned(units + term.unit * stride + c + 4 * v);
    };
    for (size_t v = 0; v < kStrip / 4; ++v) sum[v] = products(terms[0], v);
    for (const Term& term : terms.subspan(1)) {
      for (size_t v = 0; v < kStrip / 4; ++v) sum[v] = sum[v] + products(term, v);
    }
    for (size_t v = 0; v < kStrip / 4; ++v) sum[v].store_unaligned(target + c + 4 * v);
  }
  if (c < length) assembleRef(units + c, stride, length - c, {&terms, 1}, target + c);
}

/// Four output rows that all have the same units in the same order (dense coefficients): each unit is
/// loaded once for four rows.
LEGO_KERNEL void assembleFourRows(const float* units, size_t stride, size_t length,
                                  std::span<const std::span<const Term>> terms, float* target) {
  const size_t count = terms[0].size();
  size_t c = 0;
  for (; c + 8 <= length; c += 8) {
    F32x4 sum[4][2];
    const auto addUnit = [&](size_t t, auto combine) {
      const float* row = units + terms[0][t].unit * stride + c;
      const F32x4 x0 = F32x4::load_unaligned(row), x1 = F32x4::load_unaligned(row + 4);
      for (size_t q = 0; q < 4; ++q) {
        const F32x4 coefficient(terms[q][t].coefficient);
        combine(sum[q][0], coefficient * x0);
        combine(sum[q][1], coefficient * x1);
      }
    };
    addUnit(0, [](F32x4& total, F32x4 product) { total = product; });
    for (size_t t = 1; t < count; ++t)
      addUnit(t, [](F32x4& total, F32x4 product) { total = total + product; });
    for (size_t q = 0; q < 4; ++q) {
      sum[q][0].store_unaligned(target + q * stride + c);
      sum[q][1].store_unaligned(target + q * stride + c + 4);
    }
  }
  if (c < length) assembleRef(units + c, stride, length - c, terms, target + c);
}

bool sameUnits(std::span<const Term> a, std::span<const Term> b) {
  return std::ranges::equal(a, b, {}, &Term::unit, &Term::unit);
}

}  // namespace

void assemble(const float* units, size_t stride, size_t length, std::span<const std::span<const Term>> terms,
              float* target) {
  for (size_t q = 0; q < terms.size();) {
    const bool four = q + 4 <= terms.size() && !terms[q].empty() && sameUnits(terms[q], terms[q + 1]) &&
                      sameUnits(terms[q], terms[q + 2]) && sameUnits(terms[q], terms[q + 3]);
    for (size_t c = 0; c < length; c += kBlock) {
      const size_t n = std::min(kBlock, length - c);
      float* out = target + q * stride + c;
      if (four) {
        assembleFourRows(units + c, stride, n, terms.subspan(q, 4), out);
      } else if (terms[q].empty()) {
        std::fill_n(out, n, 0.0f);
      } else {
        assembleRow(units + c, stride, n, terms[q], out);
      }
    }
    q += four ? 4 : 1;
  }
}

void assembleFolded(decltype(&assemble) kernel, const float* units, size_t stride, size_t length,
                    const Matrix& coefficients, std::span<const uint32_t> row, std::span<const double> fold,
                    float* target) {
  std::vector<std::vector<Term>> terms(coefficients.rows());
  for (size_t q = 0; q < coefficients.rows(); ++q) {
    for (size_t u = 0; u < coefficients.columns(); ++u) {
      const auto coefficient = static_cast<float>(coefficients(q, u) * fold[u]);
      if (coefficient != 0) terms[q].push_back({row[u], coefficient});
    }
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  kernel(units, stride, length, views, target);
}

}  // namespace lego

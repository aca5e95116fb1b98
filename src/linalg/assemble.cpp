#include "linalg/assemble.h"

#include <algorithm>
#include <vector>

#include "tensor/simd.h"

namespace lego {
namespace {

using simd::F32x4;

// Columns per kernel call: 1 KB of each unit that takes part. Where no unit takes part twice, nothing is
// gained by coming back to it, and long rows are fetched sooner.
constexpr size_t kBlock = 256, kLongBlock = 4096;
constexpr size_t kStrip = 32;
// Units per call where all take part: of each a line of the cache at a time, together half of the smallest
// L1.
constexpr size_t kUnits = 256;

/// One output row over `length` columns: strips of eight registers, all terms in each.
LEGO_KERNEL void assembleRow(const float* units, size_t stride, size_t length, std::span<const Term> terms,
                             float* target) {
  size_t c = 0;
  for (; c + kStrip <= length; c += kStrip) {
    F32x4 sum[kStrip / 4];
    // Distances from a pointer that are constant become offsets of WebAssembly's loads.
    const auto addUnit = [&](const Term& term, auto combine) {
      const float* row = units + term.unit * stride + c;
      const F32x4 coefficient(term.coefficient);
      for (size_t v = 0; v < kStrip / 4; ++v)
        combine(sum[v], coefficient * F32x4::load_unaligned(row + 4 * v));
    };
    addUnit(terms[0], [](F32x4& total, F32x4 product) { total = product; });
    for (const Term& term : terms.subspan(1))
      addUnit(term, [](F32x4& total, F32x4 product) { total = total + product; });
    float* out = target + c;
    for (size_t v = 0; v < kStrip / 4; ++v) sum[v].store_unaligned(out + 4 * v);
  }
  if (c < length) assembleRef(units + c, stride, length - c, {&terms, 1}, target + c);
}

/// Four output rows that all have the same units in the same order (dense coefficients): each unit is
/// loaded once for four rows.
struct FourRows {
  std::vector<size_t> offset;       // of each unit's row
  std::vector<float> coefficients;  // four for each unit
};

FourRows fourRows(std::span<const std::span<const Term>> terms, size_t stride) {
  FourRows rows;
  for (size_t t = 0; t < terms[0].size(); ++t) {
    rows.offset.push_back(terms[0][t].unit * stride);
    for (size_t q = 0; q < 4; ++q) rows.coefficients.push_back(terms[q][t].coefficient);
  }
  return rows;
}

/// The part of their sums that units from `first` to `end` are; `length` is a multiple of 8. What earlier
/// units gave is in `target`.
LEGO_KERNEL void assembleFourRows(const float* units, const FourRows& rows, size_t first, size_t end,
                                  size_t stride, size_t length, float* target) {
  const size_t* offset = rows.offset.data();
  for (size_t c = 0; c < length; c += 8) {
    F32x4 sum[4][2];
    const auto addUnit = [&](size_t t, auto combine) {
      const float *row = units + offset[t] + c, *coefficients = rows.coefficients.data() + 4 * t;
      const F32x4 x0 = F32x4::load_unaligned(row), x1 = F32x4::load_unaligned(row + 4);
      for (size_t q = 0; q < 4; ++q) {
        const F32x4 coefficient(coefficients[q]);
        combine(sum[q][0], coefficient * x0);
        combine(sum[q][1], coefficient * x1);
      }
    };
    const auto add = [](F32x4& total, F32x4 product) { total = total + product; };
    if (first == 0) {
      addUnit(0, [](F32x4& total, F32x4 product) { total = product; });
    } else {
      for (size_t q = 0; q < 4; ++q) {
        for (size_t v = 0; v < 2; ++v) sum[q][v] = F32x4::load_unaligned(target + q * stride + c + 4 * v);
      }
      addUnit(first, add);
    }
    for (size_t t = first + 1; t < end; ++t) addUnit(t, add);
    for (size_t q = 0; q < 4; ++q) {
      for (size_t v = 0; v < 2; ++v) sum[q][v].store_unaligned(target + q * stride + c + 4 * v);
    }
  }
}

bool sameUnits(std::span<const Term> a, std::span<const Term> b) {
  return std::ranges::equal(a, b, {}, &Term::unit, &Term::unit);
}

/// Whether each unit is a term of one row at most, as far as their number tells.
bool areDisjoint(std::span<const std::span<const Term>> terms) {
  size_t count = 0, units = 0;
  for (const auto& row : terms) {
    count += row.size();
    for (const Term& term : row) units = std::max<size_t>(units, term.unit + 1);
  }
  return count <= units;
}

}  // namespace

void assemble(const float* units, size_t stride, size_t length, std::span<const std::span<const Term>> terms,
              float* target) {
  // Rows in fours where they have the same units, with their coefficients side by side.
  std::vector<FourRows> fours(terms.size());
  for (size_t q = 0; q + 4 <= terms.size();) {
    const bool four = !terms[q].empty() && sameUnits(terms[q], terms[q + 1]) &&
                      sameUnits(terms[q], terms[q + 2]) && sameUnits(terms[q], terms[q + 3]);
    if (four) fours[q] = fourRows(terms.subspan(q, 4), stride);
    q += four ? 4 : 1;
  }
  const size_t block = areDisjoint(terms) ? kLongBlock : kBlock;
  // Columns outside, so that each unit is fetched from memory once for all rows.
  for (size_t c = 0; c < length; c += block) {
    const size_t n = std::min(block, length - c);
    for (size_t q = 0; q < terms.size();) {
      float* out = target + q * stride + c;
      if (const size_t count = fours[q].offset.size(); count != 0) {
        const size_t whole = n & ~size_t{7};
        for (size_t first = 0; first < count; first += kUnits)
          assembleFourRows(units + c, fours[q], first, std::min(first + kUnits, count), stride, whole, out);
        if (whole < n) assembleRef(units + c + whole, stride, n - whole, terms.subspan(q, 4), out + whole);
        q += 4;
        continue;
      }
      if (terms[q].empty()) {
        std::fill_n(out, n, 0.0f);
      } else {
        assembleRow(units + c, stride, n, terms[q], out);
      }
      ++q;
    }
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

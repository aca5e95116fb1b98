#include "job/stored_rows.h"

#include <algorithm>
#include <array>

#include "linalg/gram_panels.h"

namespace lego {
namespace {

// Columns that are unpacked at a time: whole panels of Gram matrices, which then are summed in the same
// order.
constexpr size_t kColumns = 1024;
static_assert(kColumns % gram_panels::kColumns<float> == 0 && kColumns % gram_panels::kColumns<double> == 0);

// Rows of a panel lie one line further apart than they are long, so that they do not alias in the L1 cache.
constexpr size_t kStride = kColumns + 16;

/// Columns `begin` and following of all units.
struct Panel {
  size_t begin, columns;
};

/// Unpacks a panel; magnitudes, if there are any, grow.
void unpack(const Kernels& kernels, const StoredRows& rows, const Panel& panel,
            std::span<uint32_t> magnitude = {}) {
  const auto [begin, columns] = panel;
  float* target = rows.panel;
  size_t first = 0;
  for (const StoredRows::Factor& factor : rows.factors) {
    const auto at = [&](size_t element) {
      return factor.data + static_cast<size_t>(*bytesOf(factor.dtype, element));
    };
    std::vector<uint32_t> own(factor.rank);
    if (factor.isTurned) {
      kernels.unpackColumns({factor.dtype, at(begin * factor.rank), columns, factor.rank}, target, kStride,
                            own);
    } else {
      for (size_t r = 0; r < factor.rank; ++r) {
        kernels.unpackRows({factor.dtype, at(r * rows.length + begin), 1, columns}, target + r * kStride,
                           kStride, std::span(own).subspan(r, 1));
      }
    }
    for (size_t r = 0; r < factor.rank && !magnitude.empty(); ++r)
      magnitude[first + r] = std::max(magnitude[first + r], own[r]);
    target += factor.rank * kStride;
    first += factor.rank;
  }
}

template <typename Work>
Status forEachPanel(const StoredRows& rows, const Work& work) {
  for (size_t begin = 0; begin < rows.length; begin += kColumns) {
    if (Status done = work(Panel{begin, std::min(kColumns, rows.length - begin)}); !done) return done;
  }
  return {};
}

}  // namespace

uint64_t panelFloats(uint64_t rows) { return rows * kStride; }

Result<Matrix> gramOfStored(const Kernels& kernels, const StoredRows& rows, GramPrecision precision,
                            const Context& context, std::span<uint32_t> magnitude) {
  const size_t step =
      precision == GramPrecision::Single ? gram_panels::kColumns<float> : gram_panels::kColumns<double>;
  std::ranges::fill(magnitude, 0u);
  Matrix sum(rows.count, rows.count);
  const Status done = forEachPanel(rows, [&](const Panel& panel) -> Status {
    unpack(kernels, rows, panel, magnitude);
    for (size_t at = 0; at < panel.columns; at += step) {
      const auto part = kernels.gram(rows.panel + at, rows.count, std::min(step, panel.columns - at), kStride,
                                     precision, context);
      if (!part) return part.error();
      for (size_t i = 0; i < rows.count; ++i) {
        for (size_t j = 0; j < rows.count; ++j) sum(i, j) += (*part)(i, j);
      }
    }
    return {};
  });
  if (!done) return done.error();
  return sum;
}

void assembleStored(const Kernels& kernels, const StoredRows& rows, const Matrix& coefficients,
                    std::span<const uint32_t> row, std::span<const double> fold, float* target,
                    size_t stride) {
  float* const assembled = rows.panel + panelFloats(rows.count);
  (void)forEachPanel(rows, [&](const Panel& panel) -> Status {
    unpack(kernels, rows, panel);
    assembleFolded(kernels.assemble, rows.panel, kStride, panel.columns, coefficients, row, fold, assembled);
    for (size_t q = 0; q < coefficients.rows(); ++q)
      std::copy_n(assembled + q * kStride, panel.columns, target + q * stride + panel.begin);
    return {};
  });
}

}  // namespace lego

#include "merge/tsv_m.h"

#include <algorithm>
#include <cmath>

#include "linalg/multiply.h"

namespace lego {
namespace {

/// The nearest matrix with orthonormal rows: (X X^T)^(-1/2) X. Combinations of rows that vanish stay zero.
Result<Matrix> orthogonalised(const Matrix& rows) {
  const auto eigen = symmetricEigen(multiplyTransposed(rows, rows));
  if (!eigen) return eigen.error();
  const size_t n = rows.rows();
  const double noise = n == 0 ? 0 : roundingShare(n) * std::max(0.0, eigen->values.back());
  Matrix scaled(n, n);
  for (size_t d = 0; d < n; ++d) {
    const double factor = eigen->values[d] > noise ? 1 / std::sqrt(eigen->values[d]) : 0;
    for (size_t i = 0; i < n; ++i) scaled(i, d) = factor * eigen->vectors(i, d);
  }
  return multiply(multiplyTransposed(scaled, eigen->vectors), rows);
}

}  // namespace

Result<Matrix> mergeTsvM(const CoreDeltas& core, const MethodRequest&, const Context& context) {
  std::vector<Singular> tasks;
  size_t total = 0;
  for (const Matrix& delta : core.deltas) {
    if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
    auto singular = truncatedSvd(delta, delta.rows(), coreNoise(core.space, 1));
    if (!singular) return singular.error();
    total += singular->values.size();
    tasks.push_back(std::move(*singular));
  }
  Matrix left(total, core.space.b.size()), right(total, core.space.a.size());
  std::vector<double> values;
  for (size_t i = 0, row = 0; i < tasks.size(); ++i) {
    for (size_t q = 0; q < tasks[i].values.size(); ++q, ++row) {
      std::ranges::copy(tasks[i].left.row(q), left.row(row).begin());
      std::ranges::copy(tasks[i].right.row(q), right.row(row).begin());
      values.push_back(core.weights[i] * tasks[i].values[q]);
    }
  }
  auto u = orthogonalised(left);
  if (!u) return u.error();
  const auto v = orthogonalised(right);
  if (!v) return v.error();
  for (size_t q = 0; q < total; ++q) {
    for (double& x : u->row(q)) x *= values[q];
  }
  return multiply(transposed(*u), *v);
}

}  // namespace lego

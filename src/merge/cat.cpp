#include "merge/cat.h"

#include <cmath>

namespace lego {

Result<MergedFactors> mergeCat(const UnitPool& pool, const MethodRequest&, const Context&) {
  const size_t n = pool.size();
  MergedFactors merged{Matrix(n, n), Matrix(n, n), {}, {}, {}};
  for (size_t u = 0; u < n; ++u) {
    const double weight = pool.weights[pool.owner[u]], half = std::sqrt(std::abs(weight));
    merged.a(u, u) = half;
    merged.b(u, u) = weight < 0 ? -half : half;
  }
  return merged;
}

}  // namespace lego

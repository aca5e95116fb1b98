#include "merge/svd.h"

#include <algorithm>
#include <cmath>

#include "merge/core_space.h"

namespace lego {

Result<MergedFactors> mergeSvd(const UnitPool& pool, const MethodRequest& request, const Context&) {
  const auto space = coreSpace(pool);
  if (!space) return space.error();
  std::vector<double> weights;
  double heaviest = 0;
  for (const uint32_t owner : pool.owner) {
    weights.push_back(pool.weights[owner]);
    heaviest = std::max(heaviest, std::abs(weights.back()));
  }
  // What cancels leaves rounding noise of the summands' size: that is no direction of D*.
  auto singular = truncatedSvd(coreSum(*space, weights), request.rank, coreNoise(*space, heaviest));
  if (!singular) return singular.error();
  for (size_t q = 0; q < singular->values.size(); ++q) {
    for (double& x : singular->left.row(q)) x *= singular->values[q];
  }
  return fromCore(*space, singular->left, singular->right, request.rank);
}

}  // namespace lego

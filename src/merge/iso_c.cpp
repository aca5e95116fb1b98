#include "merge/iso_c.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "linalg/multiply.h"

namespace lego {

Result<Matrix> mergeIsoC(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  double heaviest = 0;
  for (const double weight : core.weights) heaviest = std::max(heaviest, std::abs(weight));
  auto singular =
      truncatedSvd(combination(core, core.weights), request.rank, coreNoise(core.space, heaviest));
  if (!singular) return singular.error();
  const auto& values = singular->values;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) /
                      static_cast<double>(std::max<size_t>(1, values.size()));
  for (size_t q = 0; q < values.size(); ++q) {
    for (double& x : singular->left.row(q)) x *= mean;
  }
  return multiply(transposed(singular->left), singular->right);
}

}  // namespace lego

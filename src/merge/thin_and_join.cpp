#include "merge/thin_and_join.h"

namespace lego {

Matrix thinAndJoin(const CoreDeltas& core, const Thinning& thinning, const Joining& joining, uint64_t seed) {
  Matrix merged(core.space.b.size(), core.space.a.size());
  std::vector<Matrix> thinned = core.deltas;
  std::vector<std::span<const double>> tasks;
  for (size_t i = 0; i < thinned.size(); ++i) {
    const std::span values(thinned[i].data(), merged.rows() * merged.columns());
    thinOut(thinning, values, merged.columns(), maskRandom(seed, i));
    tasks.emplace_back(values);
  }
  joinEntries(joining, tasks, core.weights, {merged.data(), merged.rows() * merged.columns()});
  return merged;
}

}  // namespace lego

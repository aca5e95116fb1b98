#include "merge/prune.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/order.h"

namespace lego {
namespace {

double unitEnergy(const UnitPool& pool, size_t u) {
  return pool.weightOf(u) * pool.weightOf(u) * pool.gramA(u, u) * pool.gramB(u, u);
}

}  // namespace

MergedFactors keepUnits(const UnitPool& pool, std::span<const size_t> units) {
  MergedFactors merged{Matrix(units.size(), pool.size()), Matrix(units.size(), pool.size()), {}, {}, {}, {}};
  for (size_t q = 0; q < units.size(); ++q) {
    const double weight = pool.weightOf(units[q]), half = std::sqrt(std::abs(weight));
    merged.a(q, units[q]) = half;
    merged.b(q, units[q]) = std::copysign(half, weight);
  }
  return merged;
}

Result<MergedFactors> mergePrune(const UnitPool& pool, const MethodRequest& request, const Context&) {
  auto order =
      orderOf(pool.size(), [&](size_t u, size_t v) { return unitEnergy(pool, u) > unitEnergy(pool, v); });
  order.resize(request.rank);
  sortStable(order, std::less<>());
  return keepUnits(pool, order);
}

Result<std::vector<double>> pruneEnergies(const UnitPool& pool, const MethodRequest&, const Context&) {
  std::vector<double> energies;
  for (size_t u = 0; u < pool.size(); ++u) energies.push_back(unitEnergy(pool, u));
  sortDescending(energies);
  return energies;
}

}  // namespace lego

#include "job/group_units.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>

#include "merge/canonical.h"
#include "merge/least_interference.h"

namespace lego {
namespace {

constexpr uint32_t kInfinityBits = 0x7F800000u;

Error notFinite(std::span<const AdapterFile> adapters, const PlannedSource& source, bool isA) {
  return {Code::notFinite,
          "the factor holds NaN or infinity, so its training or conversion went wrong",
          adapters[source.adapter].file,
          isA ? source.a.name : source.b.name,
          {}};
}

/// One adapter's units in one module, as they lie in the workspace.
struct SourceUnits {
  uint32_t first = 0;              // row of the first
  double foldA = 1, foldB = 1;     // all of them are multiplied by this
  std::vector<double> maxA, maxB;  // largest |entry|, folded
};

Status unpackSource(const Kernels& kernels, const PlannedModule& module, const PlannedSource& source,
                    std::span<const AdapterFile> adapters, std::span<const std::byte> input, float* unitsA,
                    float* unitsB, SourceUnits& units) {
  const size_t in = static_cast<size_t>(module.in), out = static_cast<size_t>(module.out);
  const size_t strideA = unitStride(in), strideB = unitStride(out);
  std::vector<uint32_t> magnitudeA(source.rank), magnitudeB(source.rank);
  kernels.unpackRows({source.a.dtype, input.data() + source.atA, source.rank, in},
                     unitsA + units.first * strideA, strideA, magnitudeA);
  kernels.unpackColumns({source.b.dtype, input.data() + source.atB, out, source.rank},
                        unitsB + units.first * strideB, strideB, magnitudeB);
  units.foldA = std::sqrt(std::abs(source.scale));
  units.foldB = std::copysign(units.foldA, source.scale);
  for (uint32_t r = 0; r < source.rank; ++r) {
    if (magnitudeA[r] >= kInfinityBits) return notFinite(adapters, source, true);
    if (magnitudeB[r] >= kInfinityBits) return notFinite(adapters, source, false);
    units.maxA.push_back(units.foldA * std::bit_cast<float>(magnitudeA[r]));
    units.maxB.push_back(units.foldA * std::bit_cast<float>(magnitudeB[r]));
  }
  return {};
}

/// The order in which a group's adapters stand: by their units' largest entries, which no two adapters share
/// unless they are copies; then by weight.
std::vector<uint32_t> adapterOrder(const Plan& plan, std::span<const size_t> group,
                                   const std::vector<std::vector<SourceUnits>>& units) {
  std::map<uint32_t, std::vector<double>> keys;  // by adapter
  for (size_t g = 0; g < group.size(); ++g) {
    const auto& sources = plan.modules[group[g]].sources;
    for (size_t s = 0; s < sources.size(); ++s) {
      auto& key = keys[sources[s].adapter];
      // Where the adapter lacks earlier modules, the others' keys go on with the same ones.
      key.push_back(static_cast<double>(g));
      key.insert(key.end(), units[g][s].maxA.begin(), units[g][s].maxA.end());
      key.insert(key.end(), units[g][s].maxB.begin(), units[g][s].maxB.end());
      key.push_back(sources[s].weight);
    }
  }
  std::vector<uint32_t> order;
  for (const auto& [adapter, key] : keys) order.push_back(adapter);
  std::ranges::stable_sort(
      order, std::ranges::greater(), [&](uint32_t i) -> const auto& { return keys[i]; });
  return order;
}

/// Gram matrix of folded units in their order: gram(row[u], row[v]) fold[u] fold[v].
Matrix foldedGram(const Matrix& gram, std::span<const uint32_t> row, std::span<const double> fold) {
  Matrix result(row.size(), row.size());
  for (size_t u = 0; u < row.size(); ++u) {
    for (size_t v = 0; v < row.size(); ++v) result(u, v) = gram(row[u], row[v]) * fold[u] * fold[v];
  }
  return result;
}

ModuleUnits orderedUnits(const PlannedModule& module, const std::vector<SourceUnits>& units,
                         std::span<const uint32_t> order) {
  ModuleUnits result;
  UnitPool& pool = result.pool;
  pool.in = static_cast<size_t>(module.in);
  pool.out = static_cast<size_t>(module.out);
  for (const uint32_t adapter : order) {
    const auto source = std::ranges::find(module.sources, adapter, &PlannedSource::adapter);
    if (source == module.sources.end()) continue;
    const SourceUnits& own = units[static_cast<size_t>(source - module.sources.begin())];
    for (uint32_t r = 0; r < source->rank; ++r) {
      pool.maxA.push_back(own.maxA[r]);
      pool.maxB.push_back(own.maxB[r]);
      pool.owner.push_back(static_cast<uint32_t>(pool.weights.size()));
      // Sources lie in the workspace in the order of the input list.
      result.rows.row.push_back(own.first + r);
      result.number.push_back(own.first + r);
      result.rows.foldA.push_back(own.foldA);
      result.rows.foldB.push_back(own.foldB);
    }
    pool.weights.push_back(source->weight);
    pool.ranks.push_back(source->rank);
    result.adapter.push_back(adapter);
  }
  return result;
}

/// Fills the group's own matrices and each pool's share in them.
void shareInputs(GroupUnits& group, const Matrix& gramA) {
  std::vector<uint32_t> adapter;  // of each unit, index into the inputs
  uint32_t base = 0;
  for (ModuleUnits& module : group.modules) {
    module.pool.firstInGroup = group.groupRow.size();
    for (size_t u = 0; u < module.pool.size(); ++u) {
      group.groupRow.push_back(base + module.rows.row[u]);
      group.groupFold.push_back(module.rows.foldA[u]);
      adapter.push_back(module.adapter[module.pool.owner[u]]);
    }
    base += static_cast<uint32_t>(module.pool.size());
  }
  const size_t g = group.groupRow.size();
  group.inputs = std::make_unique<InputGroup>(
      InputGroup{foldedGram(gramA, group.groupRow, group.groupFold), Matrix(g, g)});
  for (const ModuleUnits& module : group.modules) {
    const Matrix within = groupOfOne(module.pool).within;
    for (size_t u = 0; u < within.rows(); ++u)
      std::ranges::copy(within.row(u), group.inputs->within.row(module.pool.firstInGroup + u).begin() +
                                           static_cast<std::ptrdiff_t>(module.pool.firstInGroup));
  }
  for (ModuleUnits& module : group.modules) {
    module.pool.inputs = group.inputs.get();
    for (const uint32_t i : adapter) {
      const auto own = std::ranges::find(module.adapter, i);
      module.pool.groupOwner.push_back(own == module.adapter.end()
                                           ? UnitPool::kNobody
                                           : static_cast<uint32_t>(own - module.adapter.begin()));
    }
  }
}

}  // namespace

Status Workspace::reserve(const WorkspaceSize& size) {
  if (Status got = unitsA.reserve(size.unitsA); !got) return got;
  return unitsB.reserve(size.unitsB);
}

Result<GroupUnits> unpackGroup(const Plan& plan, std::span<const size_t> group,
                               std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                               Workspace& workspace, const Kernels& kernels) {
  const bool canonical = plan.options.has("canonical") && plan.options.isOn("canonical");
  const bool single = plan.method->precision == MethodPrecision::Single;
  const GramPrecision precisionA = single ? GramPrecision::Single : GramPrecision::Double;
  const size_t in = static_cast<size_t>(plan.modules[group[0]].in), strideA = unitStride(in);
  std::vector<std::vector<SourceUnits>> units(group.size());
  std::vector<float*> unitsB;
  float *nextA = workspace.unitsA.data(), *nextB = workspace.unitsB.data();
  for (size_t g = 0; g < group.size(); ++g) {
    const PlannedModule& module = plan.modules[group[g]];
    const size_t strideB = unitStride(module.out);
    uint32_t row = 0;
    for (const PlannedSource& source : module.sources) {
      SourceUnits own;
      own.first = row;
      if (Status done = unpackSource(kernels, module, source, adapters, input, nextA, nextB, own); !done)
        return done.error();
      if (canonical) {
        const AdapterRows rows{nextA + row * strideA,
                               nextB + row * strideB,
                               strideA,
                               strideB,
                               in,
                               static_cast<size_t>(module.out),
                               source.rank};
        auto maxima = canonicalise(rows, source.scale, kernels.gram, kernels.assemble);
        if (!maxima) return maxima.error();
        own.foldA = own.foldB = 1;
        own.maxA = std::move(maxima->a);
        own.maxB = std::move(maxima->b);
      }
      row += source.rank;
      units[g].push_back(std::move(own));
    }
    unitsB.push_back(nextB);
    nextA += module.units * strideA;
    nextB += (module.units + module.rank) * strideB;
  }

  GroupUnits result;
  const auto order = adapterOrder(plan, group, units);
  const auto count = static_cast<size_t>(nextA - workspace.unitsA.data()) / strideA;
  const auto gramA = kernels.gram(workspace.unitsA.data(), count, in, strideA, precisionA);
  if (!gramA) return gramA.error();
  size_t base = 0;
  for (size_t g = 0; g < group.size(); ++g) {
    const PlannedModule& module = plan.modules[group[g]];
    ModuleUnits own = orderedUnits(module, units[g], order);
    own.rows.a = workspace.unitsA.data() + base * strideA;
    own.rows.b = unitsB[g];
    own.rows.strideA = strideA;
    own.rows.strideB = unitStride(module.out);
    own.rows.assemble = kernels.assemble;
    own.mergedA = nextA;
    own.mergedB = unitsB[g] + module.units * own.rows.strideB;
    const bool doubleB = plan.method->precision == MethodPrecision::Double;
    if (Status done = computeGramB(own, kernels, doubleB ? GramPrecision::Double : GramPrecision::Single);
        !done)
      return done.error();
    std::vector<uint32_t> rowsA(own.rows.row);
    for (uint32_t& row : rowsA) row += static_cast<uint32_t>(base);
    own.pool.gramA = foldedGram(*gramA, rowsA, own.rows.foldA);
    base += module.units;
    result.modules.push_back(std::move(own));
  }
  if (group.size() > 1) shareInputs(result, *gramA);
  return result;
}

Status computeGramB(ModuleUnits& units, const Kernels& kernels, GramPrecision precision) {
  const auto gram =
      kernels.gram(units.rows.b, units.pool.size(), units.pool.out, units.rows.strideB, precision);
  if (!gram) return gram.error();
  units.pool.gramB = foldedGram(*gram, units.rows.row, units.rows.foldB);
  return {};
}

void assembleRows(decltype(&assemble) kernel, const float* units, size_t stride, size_t length,
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

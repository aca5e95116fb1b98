#include "job/group_units.h"

#include <algorithm>
#include <memory>

#include "job/dora.h"
#include "merge/canonical.h"
#include "merge/least_interference.h"

namespace lego {
namespace {

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

/// Turns a feeder's units around: its B units stand for A's, with `gram` of its A units for B's. The Gram
/// matrix of its B units is left to the caller.
void turnAround(ModuleUnits& feeder, const Matrix& gram) {
  feeder.pool.gramB = foldedGram(gram, feeder.rows.row, feeder.rows.foldA);
  std::swap(feeder.rows.foldA, feeder.rows.foldB);
}

/// A feeder with those of its adapters that are in `group`: others have nothing to do with it.
PlannedModule feederOf(PlannedModule module, std::span<const uint32_t> group) {
  std::erase_if(module.sources, [&](const PlannedSource& source) {
    return std::ranges::find(group, source.adapter) == group.end();
  });
  return module;
}

/// Unpacks a feeder: its B units into `unitsB`. Its A units, in `unitsA`, are needed no longer when this is
/// done.
Result<ModuleUnits> unpackFeeder(const PlannedModule& module, std::span<const uint32_t> order,
                                 std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                                 float* unitsB, float* unitsA, Workspace& workspace, const Kernels& kernels,
                                 GramPrecision precision, const Context& context) {
  const auto units = unpackModule(kernels, module, adapters, input, unitsA, unitsB, workspace);
  if (!units) return units.error();
  ModuleUnits feeder = orderedUnits(module, *units, order);
  const auto gram =
      kernels.gram(unitsA, feeder.pool.size(), feeder.pool.in, unitStride(module.in), precision, context);
  if (!gram) return gram.error();
  turnAround(feeder, *gram);
  return feeder;
}

/// Units that say something about a group's inputs: those of a module that reads them, or, turned around
/// (what it writes takes the place of what it reads), of one that feeds them.
struct InputUnits {
  const ModuleUnits* units;
  double strength;
};

/// Fills the group's own matrices and each pool's share in them.
void shareInputs(GroupUnits& group, std::span<const ModuleUnits> feeders,
                 std::span<const PlannedFeeder> planned, const Matrix& gramA, bool unitCovariance) {
  std::vector<InputUnits> members;
  for (const ModuleUnits& module : group.modules) members.push_back({&module, 1});
  for (size_t f = 0; f < feeders.size(); ++f) members.push_back({&feeders[f], planned[f].strength});
  group.inputs = std::make_unique<InputGroup>();
  InputGroup& inputs = *group.inputs;
  std::vector<uint32_t> adapter;  // of each delta, index into the inputs
  std::vector<size_t> first;      // unit of each member
  for (const auto& [units, strength] : members) {
    const size_t base = group.groupRow.size();
    first.push_back(base);
    for (size_t u = 0; u < units->pool.size(); ++u) {
      group.groupRow.push_back(static_cast<uint32_t>(base) + units->rows.row[u]);
      group.groupFold.push_back(units->rows.foldA[u]);
    }
    for (const size_t unit : units->pool.firstUnits()) inputs.firstUnits.push_back(base + unit);
    // Its end is where the next member begins.
    inputs.firstUnits.pop_back();
    for (Matrix& within : withinDeltas(units->pool, unitCovariance)) {
      for (size_t e = 0; e < within.rows() * within.columns(); ++e) within.data()[e] *= strength;
      inputs.within.push_back(std::move(within));
    }
    adapter.insert(adapter.end(), units->adapter.begin(), units->adapter.end());
  }
  inputs.firstUnits.push_back(group.groupRow.size());
  inputs.gramA = foldedGram(gramA, group.groupRow, group.groupFold);
  for (size_t m = 0; m < group.modules.size(); ++m) {
    ModuleUnits& module = group.modules[m];
    module.pool.inputs = &inputs;
    module.pool.firstInGroup = first[m];
    for (const uint32_t i : adapter) {
      const auto own = std::ranges::find(module.adapter, i);
      module.pool.groupOwner.push_back(own == module.adapter.end()
                                           ? UnitPool::kNobody
                                           : static_cast<uint32_t>(own - module.adapter.begin()));
    }
  }
}

/// Pools of a group's modules, and what they share. `gramA` is that of all the group's A units. `place` says
/// where a module's rows lie, and sets the Gram matrix of its B units.
template <typename Place>
Result<GroupUnits> poolsOf(const Plan& plan, const PlannedGroup& planned,
                           const std::vector<std::vector<SourceUnits>>& units,
                           std::span<const uint32_t> order, std::vector<ModuleUnits> feeders,
                           const Matrix& gramA, const Place& place) {
  GroupUnits result;
  size_t base = 0;
  const auto ownGram = [&](const ModuleUnits& own) {
    std::vector<uint32_t> rows(own.rows.row);
    for (uint32_t& row : rows) row += static_cast<uint32_t>(base);
    base += rows.size();
    return foldedGram(gramA, rows, own.rows.foldA);
  };
  for (size_t g = 0; g < planned.modules.size(); ++g) {
    const PlannedModule& module = plan.modules[planned.modules[g]];
    ModuleUnits own = orderedUnits(module, units[g], order);
    own.rows.strideA = unitStride(module.in);
    own.rows.strideB = unitStride(module.out);
    if (Status done = place(own, g, base); !done) return done.error();
    own.pool.gramA = ownGram(own);
    result.modules.push_back(std::move(own));
  }
  for (ModuleUnits& feeder : feeders) feeder.pool.gramA = ownGram(feeder);
  if (planned.modules.size() + feeders.size() > 1) {
    // Only the plan of a method with this option has such groups.
    const bool unitCovariance = plan.options.choice("covariance") == "unit";
    shareInputs(result, feeders, planned.feeders, gramA, unitCovariance);
  }
  return result;
}

/// Adds one half of a module's units, as they are stored.
void addUnits(StoredRows& rows, const PlannedModule& module, bool isA, std::span<const std::byte> input) {
  for (const PlannedSource& source : module.sources) {
    if (isA)
      rows.add({source.a.dtype, input.data() + source.atA, source.transposedA, source.rank});
    else
      rows.add({source.b.dtype, input.data() + source.atB, !source.transposedB, source.rank});
  }
}

/// unpackGroup for a group whose units stay as they are stored. Not inlined: most pages never load it
/// (scripts/split.mjs).
[[gnu::noinline]] Result<GroupUnits> measureStored(const Plan& plan, const PlannedGroup& planned,
                                                   std::span<const AdapterFile> adapters,
                                                   std::span<const std::byte> input, Workspace& workspace,
                                                   const Kernels& kernels, const Context& context) {
  const Precisions precisions = precisionsOf(plan.method->precision);
  float* const panel = workspace.unitsA.data();
  const auto moduleOf = [&](size_t g) -> const PlannedModule& { return plan.modules[planned.modules[g]]; };
  const auto rowsOf = [&](uint64_t length) {
    StoredRows rows;
    rows.length = static_cast<size_t>(length);
    rows.panel = panel;
    return rows;
  };
  auto stored = std::make_unique<StoredUnits>(StoredUnits{rowsOf(moduleOf(0).in), {}});
  std::vector<uint32_t> present;
  for (size_t g = 0; g < planned.modules.size(); ++g) {
    addUnits(stored->a, moduleOf(g), true, input);
    addUnits(stored->b.emplace_back(rowsOf(moduleOf(g).out)), moduleOf(g), false, input);
    for (const PlannedSource& source : moduleOf(g).sources) present.push_back(source.adapter);
  }
  std::vector<PlannedModule> feeding;
  for (const PlannedFeeder& feeder : planned.feeders) {
    feeding.push_back(feederOf(plan.modules[feeder.module], present));
    addUnits(stored->a, feeding.back(), false, input);
  }
  std::vector<uint32_t> magnitudeA(stored->a.count);
  const auto gramA = gramOfStored(kernels, stored->a, precisions.a, context, magnitudeA);
  if (!gramA) return gramA.error();

  std::vector<std::vector<SourceUnits>> units;
  std::vector<Matrix> gramsB;
  std::span<const uint32_t> nextA = magnitudeA;
  for (size_t g = 0; g < planned.modules.size(); ++g) {
    const StoredRows& rows = stored->b[g];
    std::vector<uint32_t> magnitude(rows.count);
    auto gram = gramOfStored(kernels, rows, precisions.b, context, magnitude);
    if (!gram) return gram.error();
    gramsB.push_back(std::move(*gram));
    auto own = foldModule(moduleOf(g), adapters, nextA.first(rows.count), magnitude);
    if (!own) return own.error();
    nextA = nextA.subspan(rows.count);
    units.push_back(std::move(*own));
  }
  const auto order = adapterOrder(plan, planned.modules, units);
  std::vector<ModuleUnits> feeders;
  for (const PlannedModule& module : feeding) {
    StoredRows rows = rowsOf(module.in);
    addUnits(rows, module, true, input);
    std::vector<uint32_t> magnitude(rows.count);
    const auto gram = gramOfStored(kernels, rows, precisions.a, context, magnitude);
    if (!gram) return gram.error();
    const auto own = foldModule(module, adapters, magnitude, nextA.first(rows.count));
    if (!own) return own.error();
    nextA = nextA.subspan(rows.count);
    turnAround(feeders.emplace_back(orderedUnits(module, *own, order)), *gram);
  }

  const auto place = [&](ModuleUnits& own, size_t g, size_t) -> Status {
    own.storedB = &stored->b[g];
    own.pool.gramB = foldedGram(gramsB[g], own.rows.row, own.rows.foldB);
    own.mergedA = panel + storedPanelFloats(plan, planned);
    own.mergedB = workspace.unitsB.data();
    return {};
  };
  auto result = poolsOf(plan, planned, units, order, std::move(feeders), *gramA, place);
  if (result) result->stored = std::move(stored);
  return result;
}

}  // namespace

Precisions precisionsOf(MethodPrecision precision) {
  const bool single = precision == MethodPrecision::Single, doubleB = precision == MethodPrecision::Double;
  return {single ? GramPrecision::Single : GramPrecision::Double,
          doubleB ? GramPrecision::Double : GramPrecision::Single};
}

Result<GroupUnits> unpackGroup(const Plan& plan, const PlannedGroup& planned,
                               std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                               Workspace& workspace, const Kernels& kernels, const Context& context) {
  if (isStored(plan, planned))
    return measureStored(plan, planned, adapters, input, workspace, kernels, context);
  const std::vector<size_t>& group = planned.modules;
  const bool canonical = plan.options.has("canonical") && plan.options.isOn("canonical");
  const Precisions precisions = precisionsOf(plan.method->precision);
  const size_t in = static_cast<size_t>(plan.modules[group[0]].in), strideA = unitStride(in);
  std::vector<std::vector<SourceUnits>> units(group.size());
  std::vector<float*> unitsB;
  float *nextA = workspace.unitsA.data(), *nextB = workspace.unitsB.data();
  for (size_t g = 0; g < group.size(); ++g) {
    const PlannedModule& module = plan.modules[group[g]];
    const size_t strideB = unitStride(module.out);
    auto unpacked = unpackModule(kernels, module, adapters, input, nextA, nextB, workspace);
    if (!unpacked) return unpacked.error();
    units[g] = std::move(*unpacked);
    for (size_t s = 0; s < module.sources.size() && canonical; ++s) {
      SourceUnits& own = units[g][s];
      const AdapterRows rows{
          nextA + own.first * strideA,     nextB + own.first * strideB, strideA, strideB, in,
          static_cast<size_t>(module.out), module.sources[s].rank};
      auto maxima = canonicalise(rows, module.sources[s].scale, kernels.gram, kernels.assemble, context);
      if (!maxima) return maxima.error();
      own.foldA = own.foldB = 1;
      own.maxA = std::move(maxima->a);
      own.maxB = std::move(maxima->b);
    }
    unitsB.push_back(nextB);
    nextA += module.units * strideA;
    nextB += (module.units + module.written) * strideB;
  }
  const auto order = adapterOrder(plan, group, units);
  std::vector<ModuleUnits> feeders;
  for (const PlannedFeeder& feeder : planned.feeders) {
    auto own = unpackFeeder(feederOf(plan.modules[feeder.module], order), order, adapters, input, nextA,
                            nextB, workspace, kernels, precisions.a, context);
    if (!own) return own.error();
    nextA += own->pool.size() * strideA;
    feeders.push_back(std::move(*own));
  }

  const auto count = static_cast<size_t>(nextA - workspace.unitsA.data()) / strideA;
  const auto gramA = kernels.gram(workspace.unitsA.data(), count, in, strideA, precisions.a, context);
  if (!gramA) return gramA.error();
  const auto place = [&](ModuleUnits& own, size_t g, size_t base) -> Status {
    const PlannedModule& module = plan.modules[group[g]];
    own.rows.a = workspace.unitsA.data() + base * strideA;
    own.rows.b = unitsB[g];
    own.rows.assemble = kernels.assemble;
    own.mergedA = nextA;
    own.mergedB = unitsB[g] + module.units * own.rows.strideB;
    if (module.base) {
      std::vector<std::vector<double>> gains;
      for (SourceUnits& source : units[g]) gains.push_back(std::move(source.gains));
      auto merged = mergedGains(plan, module, gains);
      if (!merged) return merged.error();
      own.rowGains = std::move(*merged);
    }
    return computeGramB(own, kernels, precisions.b, context);
  };
  return poolsOf(plan, planned, units, order, std::move(feeders), *gramA, place);
}

Status computeGramB(ModuleUnits& units, const Kernels& kernels, GramPrecision precision,
                    const Context& context) {
  const auto gram = units.storedB ? gramOfStored(kernels, *units.storedB, precision, context)
                                  : kernels.gram(units.rows.b, units.pool.size(), units.pool.out,
                                                 units.rows.strideB, precision, context);
  if (!gram) return gram.error();
  units.pool.gramB = foldedGram(*gram, units.rows.row, units.rows.foldB);
  return {};
}

}  // namespace lego

#include "job/step.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "adapter/ggml_names.h"
#include "base/order.h"
#include "job/dora.h"
#include "merge/rescale.h"
#include "tensor/convert.h"
#include "tensor/unpack.h"

namespace lego {
namespace {

Status checkOverflow(const TensorInfo& tensor, uint32_t magnitude) {
  if (magnitude < overflowBits(tensor.dtype)) return {};
  const bool isWidest = tensor.dtype == DType::F32 || tensor.dtype == DType::F64;
  return Error{Code::valueOverflow,
               "a merged value is too large for " + std::string(nameOf(tensor.dtype)) + "; " +
                   (isWidest ? "" : "write bf16 or f32, or ") + "lower scale or weights",
               {},
               tensor.name,
               {}};
}

/// Turns target magnitudes into the factors they ask for, now that the rows can be looked at, and folds
/// the factors into the coefficients so that the report sees what is written.
std::vector<float> finalFactors(const ModuleUnits& units, uint32_t rank, MergedFactors& merged) {
  std::vector<float> factors(rank, 1.0f);
  for (size_t q = 0; q < merged.targetMagnitude.size(); ++q) {
    const double target = merged.targetMagnitude[q];
    if (target == 0) continue;
    const uint32_t bits = std::max(maxMagnitudeBits(units.mergedA + q * units.rows.strideA, units.pool.in),
                                   maxMagnitudeBits(units.mergedB + q * units.rows.strideB, units.pool.out));
    const double magnitude = std::bit_cast<float>(bits);
    if (magnitude < kNearZero * target) {
      merged.nearZero.push_back(static_cast<uint32_t>(q));
      continue;
    }
    factors[q] = static_cast<float>(target / magnitude);
    for (double& coefficient : merged.a.row(q)) coefficient *= factors[q];
    for (double& coefficient : merged.b.row(q)) coefficient *= factors[q];
  }
  sortStable(merged.nearZero, std::less<>());
  return factors;
}

/// Inner products of merged rows that lie behind the units, and so belong to one Gram matrix with them.
Result<MergedGrams> gramsOfRows(const Kernels& kernels, const ModuleUnits& units, uint32_t rank,
                                GramPrecision precision, const Context& context) {
  const size_t n = units.pool.size();
  const auto gramA =
      kernels.gram(units.rows.a, n + rank, units.pool.in, units.rows.strideA, precision, context);
  if (!gramA) return gramA.error();
  const auto gramB =
      kernels.gram(units.rows.b, n + rank, units.pool.out, units.rows.strideB, precision, context);
  if (!gramB) return gramB.error();
  MergedGrams grams{Matrix(rank, rank), Matrix(rank, rank), Matrix(rank, n), Matrix(rank, n)};
  for (size_t q = 0; q < rank; ++q) {
    for (size_t p = 0; p < rank; ++p) {
      grams.ownA(q, p) = (*gramA)(n + q, n + p);
      grams.ownB(q, p) = (*gramB)(n + q, n + p);
    }
    for (size_t u = 0; u < n; ++u) {
      grams.withA(q, u) = units.rows.foldA[u] * (*gramA)(n + q, units.rows.row[u]);
      grams.withB(q, u) = units.rows.foldB[u] * (*gramB)(n + q, units.rows.row[u]);
    }
  }
  return grams;
}

/// What a method has decided or made, ready to be written.
struct Outcome {
  std::vector<float> factors;  // of the merged rows, when they are written
  MergedGrams grams;
  std::optional<Clustering> clustering;
  std::vector<double> centroidNorm;
  std::vector<uint32_t> nearZero;
};

Result<MergedFactors> decide(const MethodInfo& method, const UnitPool& pool, const MethodRequest& request,
                             const Context& context) {
  if (const auto* core = std::get_if<CoreMethod>(&method.run))
    return mergeInCore(*core, pool, request, context);
  return std::get<UnitMethod>(method.run)(pool, request, context);
}

/// Merged rows of units that are stored. Not inlined: most pages never load it (scripts/split.mjs).
[[gnu::noinline]] void assembleUnits(const Kernels& kernels, const GroupUnits& group,
                                     const ModuleUnits& units, const MergedFactors& merged) {
  const bool shared = units.pool.inputs != nullptr;
  const UnitRows& rows = units.rows;
  assembleStored(kernels, group.stored->a, merged.a, shared ? group.groupRow : rows.row,
                 shared ? group.groupFold : rows.foldA, units.mergedA, rows.strideA);
  assembleStored(kernels, *units.storedB, merged.b, rows.row, rows.foldB, units.mergedB, rows.strideB);
}

Result<Outcome> mergeCoefficients(const Plan& plan, const GroupUnits& group, const ModuleUnits& units,
                                  const float* groupRows, const MethodRequest& request,
                                  const Kernels& kernels, const Context& context) {
  auto merged = decide(*plan.method, units.pool, request, context);
  if (!merged) return merged.error();
  rescale(*merged, plan.recipe.scale);
  if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
  const bool shared = units.pool.inputs != nullptr;
  if (group.stored) {
    assembleUnits(kernels, group, units, *merged);
  } else {
    assembleFolded(kernels.assemble, shared ? groupRows : units.rows.a, units.rows.strideA, units.pool.in,
                   merged->a, shared ? group.groupRow : units.rows.row,
                   shared ? group.groupFold : units.rows.foldA, units.mergedA);
    assembleFolded(kernels.assemble, units.rows.b, units.rows.strideB, units.pool.out, merged->b,
                   units.rows.row, units.rows.foldB, units.mergedB);
  }
  Outcome outcome;
  outcome.factors = finalFactors(units, request.rank, *merged);
  outcome.grams = gramsOf(units.pool, *merged);
  outcome.clustering = std::move(merged->clustering);
  outcome.centroidNorm = std::move(merged->centroidNorm);
  outcome.nearZero = std::move(merged->nearZero);
  return outcome;
}

Result<Outcome> mergeEntries(const Plan& plan, const ModuleUnits& units, EntryMethod method,
                             const MethodRequest& request, const Kernels& kernels, const Context& context) {
  if (Status done = method(units.pool, units.rows, request, context, {units.mergedA, units.mergedB}); !done)
    return done.error();
  const double scale = plan.recipe.scale, half = std::sqrt(std::abs(scale));
  for (uint32_t q = 0; q < request.rank && scale != 1; ++q) {
    float *a = units.mergedA + q * units.rows.strideA, *b = units.mergedB + q * units.rows.strideB;
    for (size_t c = 0; c < units.pool.in; ++c) a[c] = static_cast<float>(half * a[c]);
    for (size_t o = 0; o < units.pool.out; ++o) b[o] = static_cast<float>(std::copysign(half, scale) * b[o]);
  }
  const GramPrecision precision = precisionsOf(plan.method->precision).a;
  auto grams = gramsOfRows(kernels, units, request.rank, precision, context);
  if (!grams) return grams.error();
  return Outcome{std::vector<float>(request.rank, 1.0f), std::move(*grams), {}, {}, {}};
}

/// Copies a matrix of binary64, `factor` times, turned around where one side of the copy is.
void copyDoubles(const TensorInfo& tensor, const std::byte* source, double factor, bool isTurned,
                 std::byte* target) {
  const auto rows = static_cast<size_t>(tensor.shape[0]);
  const size_t columns = static_cast<size_t>(tensor.end - tensor.begin) / sizeof(double) / rows;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) {
      double value;
      std::memcpy(&value, source + (r * columns + c) * sizeof value, sizeof value);
      value *= factor;
      std::memcpy(target + (isTurned ? c * rows + r : r * columns + c) * sizeof value, &value, sizeof value);
    }
  }
}

/// Factors in binary64 that are only converted: written as they are, where the way through binary32 rounds
/// them.
void keepDoubles(const Plan& plan, const PlannedModule& module, std::span<const std::byte> input,
                 const ModuleOutput& output) {
  const PlannedSource& source = module.sources.front();
  const bool isPlain = !source.expanded && source.rowHeads == 0 && module.rowHeads == 0 &&
                       source.sliceB.isWhole() && module.sliceB.isWhole() && module.written == source.rank &&
                       (source.scale == 1 || source.foldIntoB);
  if (!plan.recipe.keepScales || !isPlain) return;
  if (source.a.dtype == DType::F64 && module.a.dtype == DType::F64)
    copyDoubles(source.a, input.data() + source.atA, 1, source.transposedA != module.turnedA,
                output.a.data());
  if (source.b.dtype == DType::F64 && module.b.dtype == DType::F64)
    copyDoubles(source.b, input.data() + source.atB, source.scale, source.transposedB != module.turnedB,
                output.b.data());
}

/// Writes the merged rows, each multiplied by its factor, as the output's dialect has them.
Status packModule(const Kernels& kernels, const PlannedModule& module, ModuleUnits& units,
                  std::vector<float> factors, std::span<const std::byte> input, const ModuleOutput& output,
                  Workspace& workspace) {
  const size_t in = units.pool.in, out = units.pool.out;
  const size_t strideA = units.rows.strideA, strideB = units.rows.strideB;
  for (size_t q = module.rank; q < module.written; ++q) {
    std::fill_n(units.mergedA + q * strideA, in, 0.0f);
    std::fill_n(units.mergedB + q * strideB, out, 0.0f);
  }
  factors.resize(module.written, 1.0f);
  if (module.base) {
    if (Status done = writeDora(module, units, factors, input, output.magnitude); !done) return done;
  }
  if (module.rowHeads > 0) {
    std::vector<float> scratch(out / module.rowHeads);
    for (size_t q = 0; q < module.rank; ++q)
      permuteHeads({units.mergedB + q * strideB, out}, module.rowHeads, scratch);
  }
  const auto packA = module.turnedA ? kernels.packColumns : kernels.packRows;
  const auto packB = module.turnedB ? kernels.packRows : kernels.packColumns;
  const uint32_t a =
      packA(module.a.dtype, units.mergedA, strideA, module.written, in, factors, output.a.data());
  const bool isWhole = module.sliceB.isWhole();
  std::byte* const targetB = isWhole ? output.b.data() : workspace.part.data();
  const uint32_t b = packB(module.b.dtype, units.mergedB, strideB, module.written, out, factors, targetB);
  if (!isWhole) scatter(targetB, module.sliceB, bitsOf(module.b.dtype) / 8, module.written, output.b.data());
  if (Status fits = checkOverflow(module.a, a); !fits) return fits;
  return checkOverflow(module.b, b);
}

/// Whether so little of the sum is left out that the rounding of binary32 Gram matrices would show in it.
bool keepsNearlyAll(const ModuleUnits& units, const Outcome& outcome, double scale) {
  constexpr double kNothing = 1e-4;
  return measure(units.pool, outcome.grams, scale).retainedEnergy() > 1 - kNothing;
}

/// The pool's adapters by their index in the input list.
std::vector<size_t> inputOrder(const ModuleUnits& units) {
  return orderOf(units.adapter.size(),
                 [&](size_t i, size_t j) { return units.adapter[i] < units.adapter[j]; });
}

template <typename T>
std::vector<T> reordered(const std::vector<T>& values, std::span<const size_t> order) {
  std::vector<T> result;
  for (const size_t i : order) result.push_back(values[i]);
  return result;
}

Relation reordered(const Relation& relation, std::span<const size_t> order) {
  return {reordered(relation.norm, order), reordered(relation.inner, order),
          reordered(relation.cosine, order), relation.conflict};
}

/// The report in the users' numbering.
ModuleReport describe(const Plan& plan, const PlannedModule& module, size_t adapters,
                      const ModuleUnits& units, Outcome outcome) {
  const auto order = inputOrder(units);
  ModuleReport report;
  report.quality = measure(units.pool, outcome.grams, plan.recipe.scale);
  rescale(report.quality, module.scale);
  report.adapter = reordered(units.adapter, order);
  report.quality.relation = reordered(report.quality.relation, order);
  report.quality.inputError = reordered(report.quality.inputError, order);
  report.quality.inputCosine = reordered(report.quality.inputCosine, order);
  for (uint32_t q = 0; q < module.rank; ++q)
    report.mergedNorm.push_back(
        std::abs(module.scale) *
        std::sqrt(std::max(0.0, outcome.grams.ownA(q, q) * outcome.grams.ownB(q, q))));
  report.nearZero = std::move(outcome.nearZero);
  if (!outcome.clustering) return report;
  report.inertia = outcome.clustering->inertia;
  report.centroidNorm = std::move(outcome.centroidNorm);
  report.labels.resize(units.pool.size());
  report.clusters.assign(module.rank, std::vector<uint32_t>(adapters, 0));
  for (size_t u = 0; u < units.pool.size(); ++u) {
    const uint32_t label = outcome.clustering->label[u];
    report.labels[units.number[u]] = label;
    ++report.clusters[label][units.adapter[units.pool.owner[u]]];
  }
  return report;
}

/// A recipe's first units, as the pool numbers them.
std::vector<uint32_t> startInPool(const Recipe& recipe, const ModuleUnits& units) {
  std::vector<uint32_t> start;
  for (const uint32_t number : recipe.start) {
    const auto unit = std::ranges::find(units.number, number);
    start.push_back(static_cast<uint32_t>(unit - units.number.begin()));
  }
  return start;
}

}  // namespace

Result<std::vector<ModuleReport>> runStep(const Plan& plan, const PlannedGroup& group,
                                          std::span<const AdapterFile> adapters,
                                          std::span<const std::byte> input,
                                          std::span<const ModuleOutput> outputs, Workspace& workspace,
                                          const Kernels& kernels, const Context& context) {
  const Error cancelled{Code::cancelled, {}, {}, {}, {}};
  if (context.cancelled()) return cancelled;
  auto begin = std::chrono::steady_clock::now();
  auto unpacked = unpackGroup(plan, group, adapters, input, workspace, kernels, context);
  if (!unpacked) return unpacked.error();
  std::vector<ModuleReport> reports;
  for (size_t g = 0; g < group.modules.size(); ++g) {
    if (context.cancelled()) return cancelled;
    const PlannedModule& module = plan.modules[group.modules[g]];
    ModuleUnits& units = unpacked->modules[g];
    const std::vector<uint32_t> start = startInPool(plan.recipe, units);
    const MethodRequest request{module.rank, module.seed, start, plan.options};
    const auto* entries = std::get_if<EntryMethod>(&plan.method->run);
    const auto merge = [&] {
      return entries ? mergeEntries(plan, units, *entries, request, kernels, context)
                     : mergeCoefficients(plan, *unpacked, units, workspace.unitsA.data(), request, kernels,
                                         context);
    };
    auto outcome = merge();
    if (outcome && plan.method->precision == MethodPrecision::Mixed &&
        keepsNearlyAll(units, *outcome, plan.recipe.scale)) {
      if (Status done = computeGramB(units, kernels, GramPrecision::Double, context); !done)
        return done.error();
      outcome = merge();
    }
    if (!outcome) return outcome.error();
    Status packed =
        packModule(kernels, module, units, std::move(outcome->factors), input, outputs[g], workspace);
    if (!packed) return packed.error();
    keepDoubles(plan, module, input, outputs[g]);
    reports.push_back(describe(plan, module, adapters.size(), units, std::move(*outcome)));
    const auto end = std::chrono::steady_clock::now();
    reports.back().seconds = std::chrono::duration<double>(end - begin).count();
    begin = end;
  }
  return reports;
}

Result<std::vector<ModuleSurvey>> surveyStep(const Plan& plan, const PlannedGroup& group,
                                             std::span<const AdapterFile> adapters,
                                             std::span<const std::byte> input, Workspace& workspace,
                                             const Kernels& kernels, const Context& context) {
  const auto unpacked = unpackGroup(plan, group, adapters, input, workspace, kernels, context);
  if (!unpacked) return unpacked.error();
  std::vector<ModuleSurvey> surveys;
  for (const ModuleUnits& units : unpacked->modules) {
    if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
    const PlannedModule& module = plan.modules[group.modules[surveys.size()]];
    const MethodRequest request{module.units, module.seed, {}, plan.options};
    const auto* core = std::get_if<CoreMethod>(&plan.method->run);
    auto energies = core ? coreEnergies(*core, units.pool, request, context)
                         : plan.method->energies(units.pool, request, context);
    if (!energies) return energies.error();
    const auto order = inputOrder(units);
    const SharedSpaces shared = sharedSpaces(units.pool);
    surveys.push_back({reordered(units.adapter, order),
                       reordered(relate(units.pool), order),
                       {reordered(shared.input, order), reordered(shared.output, order)},
                       std::move(*energies)});
  }
  return surveys;
}

}  // namespace lego

#include "job/step.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "linalg/assemble.h"
#include "merge/rescale.h"
#include "tensor/convert.h"
#include "tensor/unpack.h"

namespace lego {
namespace {

constexpr uint32_t kInfinityBits = 0x7F800000u;

/// Smallest magnitude (as binary32 bits) that becomes infinite when rounded to the dtype.
uint32_t overflowBits(DType dtype) {
  switch (dtype) {
    case DType::F16: return 0x477FF000u;   // 65520
    case DType::BF16: return 0x7F7F8000u;  // half-way between the largest bfloat16 and 2^128
    default: return kInfinityBits;
  }
}

Error notFinite(std::span<const AdapterFile> adapters, const PlannedSource& source, bool isA) {
  return {Code::notFinite,
          "the factor holds NaN or infinity, so its training or conversion went wrong",
          adapters[source.adapter].file,
          isA ? source.a.name : source.b.name,
          {}};
}

/// Unpacks every source's factors and fills all of the pool but its Grams.
Status unpackUnits(const Kernels& kernels, const PlannedModule& module, std::span<const AdapterFile> adapters,
                   std::span<const std::byte> input, Workspace& workspace, UnitPool& pool,
                   std::vector<double>& foldA, std::vector<double>& foldB) {
  const size_t in = static_cast<size_t>(module.in), out = static_cast<size_t>(module.out);
  const size_t strideA = unitStride(in), strideB = unitStride(out);
  pool.in = in;
  pool.out = out;
  size_t unit = 0;
  for (const PlannedSource& source : module.sources) {
    std::vector<uint32_t> magnitudeA(source.rank), magnitudeB(source.rank);
    kernels.unpackRows({source.a.dtype, input.data() + source.atA, source.rank, in},
                       workspace.unitsA.data() + unit * strideA, strideA, magnitudeA);
    kernels.unpackColumns({source.b.dtype, input.data() + source.atB, out, source.rank},
                          workspace.unitsB.data() + unit * strideB, strideB, magnitudeB);
    const double fold = std::sqrt(std::abs(source.scale));
    for (uint32_t r = 0; r < source.rank; ++r) {
      if (magnitudeA[r] >= kInfinityBits) return notFinite(adapters, source, true);
      if (magnitudeB[r] >= kInfinityBits) return notFinite(adapters, source, false);
      pool.maxA.push_back(fold * std::bit_cast<float>(magnitudeA[r]));
      pool.maxB.push_back(fold * std::bit_cast<float>(magnitudeB[r]));
      pool.owner.push_back(static_cast<uint32_t>(pool.weights.size()));
      foldA.push_back(fold);
      foldB.push_back(source.scale < 0 ? -fold : fold);
    }
    pool.weights.push_back(source.weight);
    pool.ranks.push_back(source.rank);
    unit += source.rank;
  }
  return {};
}

/// Gram matrix of the folded units: row scalings of the Gram matrix of the stored ones.
Result<Matrix> foldedGram(const Kernels& kernels, const float* units, size_t stride, size_t length,
                          std::span<const double> fold, GramPrecision precision) {
  auto result = kernels.gram(units, fold.size(), length, stride, precision);
  if (!result) return result;
  for (size_t u = 0; u < fold.size(); ++u) {
    for (size_t v = 0; v < fold.size(); ++v) (*result)(u, v) *= fold[u] * fold[v];
  }
  return result;
}

/// Rows of A* or B*^T before the last rescaling. `coefficients` are on folded units.
void assembleRows(const Kernels& kernels, const Buffer<float>& units, size_t stride, size_t length,
                    const Matrix& coefficients, std::span<const double> fold, Buffer<float>& rows) {
  std::vector<std::vector<Term>> terms(coefficients.rows());
  for (size_t q = 0; q < coefficients.rows(); ++q) {
    for (size_t u = 0; u < coefficients.columns(); ++u) {
      const auto coefficient = static_cast<float>(coefficients(q, u) * fold[u]);
      if (coefficient != 0) terms[q].push_back({static_cast<uint32_t>(u), coefficient});
    }
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  kernels.assemble(units.data(), stride, length, views, rows.data());
}

/// Turns target magnitudes into the factors they ask for, now that the rows can be looked at, and folds
/// the factors into the coefficients so that the report sees what is written.
std::vector<float> finalFactors(const PlannedModule& module, const Workspace& workspace,
                                MergedFactors& merged) {
  std::vector<float> factors(module.rank, 1.0f);
  for (size_t q = 0; q < merged.targetMagnitude.size(); ++q) {
    const double target = merged.targetMagnitude[q];
    if (target == 0) continue;
    const uint32_t bits =
        std::max(maxMagnitudeBits(workspace.mergedA.data() + q * unitStride(module.in), module.in),
                 maxMagnitudeBits(workspace.mergedB.data() + q * unitStride(module.out), module.out));
    const double magnitude = std::bit_cast<float>(bits);
    if (magnitude < kNearZero * target) {
      merged.nearZero.push_back(static_cast<uint32_t>(q));
      continue;
    }
    factors[q] = static_cast<float>(target / magnitude);
    for (double& coefficient : merged.a.row(q)) coefficient *= factors[q];
    for (double& coefficient : merged.b.row(q)) coefficient *= factors[q];
  }
  std::ranges::sort(merged.nearZero);
  return factors;
}

Status checkOverflow(const TensorInfo& tensor, uint32_t magnitude) {
  if (magnitude < overflowBits(tensor.dtype)) return {};
  return Error{Code::valueOverflow,
               "a merged value is too large for " + std::string(nameOf(tensor.dtype)) +
                   "; write bf16 or f32, or lower scale or weights",
               {},
               tensor.name,
               {}};
}

void describeClusters(const PlannedModule& module, size_t adapters, const UnitPool& pool,
                      const Clustering& clustering, ModuleReport& report) {
  report.inertia = clustering.inertia;
  report.labels = clustering.label;
  report.clusters.assign(module.rank, std::vector<uint32_t>(adapters, 0));
  for (size_t u = 0; u < pool.size(); ++u)
    ++report.clusters[clustering.label[u]][module.sources[pool.owner[u]].adapter];
}

}  // namespace

Status Workspace::reserve(const WorkspaceSize& size) {
  for (const auto& [buffer, floats] : {std::pair{&unitsA, size.unitsA}, std::pair{&unitsB, size.unitsB},
                                       std::pair{&mergedA, size.mergedA}, std::pair{&mergedB, size.mergedB}}) {
    if (Status got = buffer->reserve(floats); !got) return got;
  }
  return {};
}

Result<ModuleReport> runStep(const Plan& plan, const PlannedModule& module,
                             std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                             std::span<std::byte> a, std::span<std::byte> b, Workspace& workspace,
                             const Kernels& kernels, const Context& context) {
  const Error cancelled{Code::cancelled, {}, {}, {}, {}};
  if (context.cancelled()) return cancelled;
  const size_t strideA = unitStride(module.in), strideB = unitStride(module.out);
  UnitPool pool;
  std::vector<double> foldA, foldB;
  if (Status unpacked = unpackUnits(kernels, module, adapters, input, workspace, pool, foldA, foldB);
      !unpacked)
    return unpacked.error();
  if (context.cancelled()) return cancelled;

  auto gramA =
      foldedGram(kernels, workspace.unitsA.data(), strideA, module.in, foldA, plan.method->precision);
  if (!gramA) return gramA.error();
  auto gramB =
      foldedGram(kernels, workspace.unitsB.data(), strideB, module.out, foldB, plan.method->precision);
  if (!gramB) return gramB.error();
  pool.gramA = std::move(*gramA);
  pool.gramB = std::move(*gramB);
  if (context.cancelled()) return cancelled;

  auto merged = plan.method->run(pool, {module.rank, module.seed, plan.recipe.start, plan.options}, context);
  if (!merged) return merged.error();
  rescale(*merged, plan.recipe.scale);
  if (context.cancelled()) return cancelled;

  assembleRows(kernels, workspace.unitsA, strideA, module.in, merged->a, foldA, workspace.mergedA);
  assembleRows(kernels, workspace.unitsB, strideB, module.out, merged->b, foldB, workspace.mergedB);
  const auto factors = finalFactors(module, workspace, *merged);
  const uint32_t magnitudeA = kernels.packRows(plan.dtype, workspace.mergedA.data(), strideA, module.rank,
                                               module.in, factors, a.data());
  const uint32_t magnitudeB = kernels.packColumns(plan.dtype, workspace.mergedB.data(), strideB, module.rank,
                                                  module.out, factors, b.data());
  if (Status fits = checkOverflow(module.a, magnitudeA); !fits) return fits.error();
  if (Status fits = checkOverflow(module.b, magnitudeB); !fits) return fits.error();

  ModuleReport report;
  report.quality = measure(pool, *merged, plan.recipe.scale);
  report.nearZero = merged->nearZero;
  if (merged->clustering) describeClusters(module, adapters.size(), pool, *merged->clustering, report);
  return report;
}

}  // namespace lego

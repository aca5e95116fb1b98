#include "merge/core_space.h"

#include <algorithm>
#include <cmath>

#include "linalg/multiply.h"
#include "merge/pico.h"

namespace lego {
namespace {

double norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

double heaviestWeight(const UnitPool& pool) {
  double heaviest = 0;
  for (const double weight : pool.weights) heaviest = std::max(heaviest, std::abs(weight));
  return heaviest;
}

/// The method's delta with all of its directions above rounding, at most `rank`.
struct Factored {
  CoreSpace space;
  Singular singular;
};
Result<Factored> factorInCore(CoreMethod method, const UnitPool& pool, size_t rank,
                              const MethodRequest& request, const Context& context) {
  auto core = coreDeltas(pool);
  if (!core) return core.error();
  if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
  const bool pico = request.options.isOn("pico");
  const double meanNorm = pico ? meanDeltaNorm(*core) : 0;
  if (pico) dampSharedOutputs(*core);
  auto merged = method(*core, request, context);
  if (!merged) return merged.error();
  if (pico) restoreNorm(*merged, meanNorm);
  auto singular = truncatedSvd(*merged, rank, coreNoise(core->space, heaviestWeight(pool)));
  if (!singular) return singular.error();
  return Factored{std::move(core->space), std::move(*singular)};
}

}  // namespace

Result<CoreSpace> principalSpace(const UnitPool& pool) {
  auto a = principalRoot(pool.gramA);
  if (!a) return a.error();
  auto b = principalRoot(pool.gramB);
  if (!b) return b.error();
  return CoreSpace{std::move(*a), std::move(*b)};
}

Matrix coreSum(const CoreSpace& space, size_t first, size_t end, std::span<const double> weights) {
  Matrix left(space.b.size(), end - first), right(space.a.size(), end - first);
  for (size_t u = first; u < end; ++u) {
    for (size_t i = 0; i < left.rows(); ++i) left(i, u - first) = weights[u - first] * space.b.root(i, u);
    for (size_t j = 0; j < right.rows(); ++j) right(j, u - first) = space.a.root(j, u);
  }
  return multiplyTransposed(left, right);
}

double coreNoise(const CoreSpace& space, double heaviest) {
  return roundingShare(space.a.root.columns()) * heaviest * space.a.largest * space.b.largest;
}

void fixSigns(MergedFactors& merged) {
  for (size_t q = 0; q < merged.a.rows(); ++q) {
    const auto row = merged.a.row(q);
    if (row.empty() || *std::ranges::max_element(row, {}, [](double x) { return std::abs(x); }) >= 0)
      continue;
    for (double& x : merged.a.row(q)) x = -x;
    for (double& x : merged.b.row(q)) x = -x;
  }
}

MergedFactors fromBases(const GramRoot& a, const GramRoot& b, const Matrix& left, const Matrix& right,
                        uint32_t rank) {
  Matrix rowsA(rank, a.size()), rowsB(rank, b.size());
  for (size_t q = 0; q < left.rows(); ++q) {
    const double normA = norm(right.row(q)), normB = norm(left.row(q));
    if (normA == 0 || normB == 0) continue;
    const double factorA = std::sqrt(normB / normA), factorB = std::sqrt(normA / normB);
    for (size_t j = 0; j < right.columns(); ++j) rowsA(q, j) = factorA * right(q, j);
    for (size_t i = 0; i < left.columns(); ++i) rowsB(q, i) = factorB * left(q, i);
  }
  MergedFactors merged{multiply(rowsA, a.inverse), multiply(rowsB, b.inverse), {}, {}, {}, {}};
  fixSigns(merged);
  return merged;
}

MergedFactors fromCore(const CoreSpace& space, Singular singular, uint32_t rank) {
  for (size_t q = 0; q < singular.values.size(); ++q) {
    for (double& x : singular.left.row(q)) x *= singular.values[q];
  }
  return fromBases(space.a, space.b, singular.left, singular.right, rank);
}

Result<CoreDeltas> coreDeltas(const UnitPool& pool) {
  auto space = principalSpace(pool);
  if (!space) return space.error();
  CoreDeltas core{std::move(*space), {}, pool.weights};
  const auto first = pool.firstUnits();
  for (size_t i = 0; i < pool.adapters(); ++i)
    core.deltas.push_back(
        coreSum(core.space, first[i], first[i + 1], std::vector<double>(pool.ranks[i], 1.0)));
  return core;
}

Matrix combination(const CoreDeltas& core, std::span<const double> coefficients) {
  Matrix result(core.space.b.size(), core.space.a.size());
  const size_t size = result.rows() * result.columns();
  for (size_t i = 0; i < core.deltas.size(); ++i) {
    for (size_t e = 0; e < size; ++e) result.data()[e] += coefficients[i] * core.deltas[i].data()[e];
  }
  return result;
}

Result<MergedFactors> mergeInCore(CoreMethod method, const UnitPool& pool, const MethodRequest& request,
                                  const Context& context) {
  auto factored = factorInCore(method, pool, request.rank, request, context);
  if (!factored) return factored.error();
  return fromCore(factored->space, std::move(factored->singular), request.rank);
}

Result<std::vector<double>> coreEnergies(CoreMethod method, const UnitPool& pool,
                                         const MethodRequest& request, const Context& context) {
  const auto factored = factorInCore(method, pool, pool.size(), request, context);
  if (!factored) return factored.error();
  std::vector<double> energies;
  for (const double value : factored->singular.values) energies.push_back(value * value);
  return energies;
}

}  // namespace lego

#include "merge/elementwise.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lego {
namespace {

/// Magnitudes in descending order, as indices; ties by index.
std::vector<size_t> byMagnitude(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return std::abs(values[i]); });
  return order;
}

void keepLargest(std::span<double> values, uint64_t count) {
  MagnitudeCut cut = cutForLargest(values, count);
  for (double& value : values) {
    if (!cut.keeps(std::abs(value))) value = 0;
  }
}

void keepBand(std::span<double> values, double density, double gamma) {
  const uint64_t kept = keptCount(density, values.size());
  // What the density leaves no room for is not dropped from the top.
  const uint64_t dropped = std::min(keptCount(gamma, values.size()), values.size() - kept);
  const auto order = byMagnitude(values);
  for (size_t i = 0; i < order.size(); ++i) {
    if (i < dropped || i >= dropped + kept) values[order[i]] = 0;
  }
}

/// Keeps with this probability, scaled so that the expectation stays.
void keepWith(double probability, double& value, Random& random) {
  value = random.uniform() < probability ? value / probability : 0;
}

void thinByRank(const Thinning& thinning, std::span<double> values, size_t rowLength, Random& random) {
  for (size_t at = 0; at < values.size(); at += rowLength) {
    const auto row = values.subspan(at, rowLength);
    const auto order = byMagnitude(row);
    std::vector<double> probability(rowLength);
    for (size_t i = 0; i < rowLength; ++i) {
      // 1 for the largest, -1 for the smallest; the middle where there is only one.
      const double place =
          rowLength > 1 ? 1 - 2 * static_cast<double>(i) / static_cast<double>(rowLength - 1) : 0;
      probability[order[i]] = std::clamp(thinning.density + place * thinning.spread, 0.0, 1.0);
    }
    for (size_t i = 0; i < rowLength; ++i) keepWith(probability[i], row[i], random);
  }
}

}  // namespace

uint64_t keptCount(double density, uint64_t n) {
  return std::min(n, static_cast<uint64_t>(density * static_cast<double>(n)));
}

MagnitudeCut cutForLargest(std::span<const double> values, uint64_t count) {
  if (count == 0) return {std::numeric_limits<double>::infinity(), 0};
  std::vector<double> magnitudes(values.size());
  std::ranges::transform(values, magnitudes.begin(), [](double x) { return std::abs(x); });
  const auto last = magnitudes.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(magnitudes.begin(), last, magnitudes.end(), std::greater<>());
  const double threshold = *last;
  const auto above = std::count_if(magnitudes.begin(), last, [&](double x) { return x > threshold; });
  return {threshold, count - static_cast<uint64_t>(above)};
}

void thinOut(const Thinning& thinning, std::span<double> values, size_t rowLength, Random random) {
  switch (thinning.kind) {
    case Thinning::Kind::None: break;
    case Thinning::Kind::Magnitude: keepLargest(values, keptCount(thinning.density, values.size())); break;
    case Thinning::Kind::Random:
      for (double& value : values) keepWith(thinning.density, value, random);
      break;
    case Thinning::Kind::RankedRandom: thinByRank(thinning, values, rowLength, random); break;
    case Thinning::Kind::Band: keepBand(values, thinning.density, thinning.gamma); break;
  }
}

void joinEntries(const Joining& joining, std::span<const std::span<const double>> tasks,
                 std::span<const double> weights, std::span<double> result) {
  const size_t n = tasks.size();
  for (size_t e = 0; e < result.size(); ++e) {
    if (joining.rule == Joining::Rule::Sum) {
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += weights[i] * tasks[i][e];
      result[e] = sum;
      continue;
    }
    const bool weighted = joining.rule == Joining::Rule::Mergekit;
    double election = 0;
    for (size_t i = 0; i < n; ++i) {
      const double vote =
          weighted ? weights[i] * tasks[i][e] : std::copysign(tasks[i][e], weights[i] * tasks[i][e]);
      election += joining.frequency ? static_cast<double>((vote > 0) - (vote < 0)) : vote;
    }
    double sum = 0, divisor = 0;
    for (size_t i = 0; i < n; ++i) {
      const double value = weights[i] * tasks[i][e];
      if (election >= 0 ? value <= 0 : value >= 0) continue;
      sum += value;
      divisor += weighted ? std::abs(weights[i]) : 1;
    }
    result[e] = divisor > 0 ? sum / divisor : 0;
  }
}

Random maskRandom(uint64_t moduleSeed, size_t adapter) {
  return Random(Random(moduleSeed ^ (adapter + 1)).next());
}

Thinning thinningOf(Thinning::Kind kind, const Options& options) {
  Thinning thinning{kind, options.number("density"), 0, 0};
  if (kind == Thinning::Kind::RankedRandom) {
    // Probabilities stay between 0 and 1, and their mean is the density.
    thinning.spread = std::min({options.number("epsilon"), 1 - thinning.density, thinning.density});
  }
  if (kind == Thinning::Kind::Band) thinning.gamma = options.number("gamma");
  return thinning;
}

Joining joiningOf(const Options& options) {
  return {options.choice("convention") == "mergekit" ? Joining::Rule::Mergekit : Joining::Rule::Peft,
          options.choice("sign") == "frequency"};
}

}  // namespace lego

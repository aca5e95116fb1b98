#include "merge/angle.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lego {
namespace {

constexpr double kHalfPi = std::numbers::pi / 2;

/// Taylor series on [0, pi / 2]: the term with x^27 is below 1e-21.
double sineSeries(double x) {
  double term = x, sum = x;
  for (int n = 2; n <= 26; n += 2) {
    term *= -x * x / (n * (n + 1));
    sum += term;
  }
  return sum;
}

/// Arc tangent of t in [0, 1]: three halvings of the angle bring t below 0.1, where the series is short.
double arcTangent(double t) {
  for (int i = 0; i < 3; ++i) t = t / (1 + std::sqrt(1 + t * t));
  double power = t, sum = t;
  for (int n = 3; n <= 17; n += 2) {
    power *= -t * t;
    sum += power / n;
  }
  return 8 * sum;
}

}  // namespace

double sine(double x) { return sineSeries(std::min(x, std::numbers::pi - x)); }

double cosineOf(double x) { return x <= kHalfPi ? sineSeries(kHalfPi - x) : -sineSeries(x - kHalfPi); }

double arcCosine(double c) {
  // tan(angle / 2) = sqrt((1 - c) / (1 + c))
  const double opposite = std::sqrt(std::max(0.0, 1 - c)), adjacent = std::sqrt(std::max(0.0, 1 + c));
  return 2 *
         (opposite <= adjacent ? arcTangent(opposite / adjacent) : kHalfPi - arcTangent(adjacent / opposite));
}

}  // namespace lego

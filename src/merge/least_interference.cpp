#include "merge/least_interference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "linalg/multiply.h"
#include "merge/core_space.h"
#include "merge/relation.h"

namespace lego {
namespace {

/// The solution T, seen through the metric that its error is measured in: with H = R^T R, |X|^2 there is
/// |X R^T|^2, as it is with the symmetric square root, at a tenth of the cost.
struct Solution {
  std::shared_ptr<const InputMetric> metric;
  GramRoot b;        // basis of the module's b_u; its root ends with the equation
  Matrix whitened;   // T R^T: b.size() x a basis vector each
  double noise = 0;  // rounding, in singular values of `whitened`
};

/// Of sum of w_i S_i, over the inputs' basis.
double meanEigenvalue(const InputMetric& metric) {
  return metric.trace / static_cast<double>(metric.basis.size());
}

/// Share of each adapter in D, which is the sum of the deltas, each times its share.
std::vector<double> priorShares(const UnitPool& pool, bool isMean) {
  const size_t n = pool.adapters();
  std::vector<double> shares(pool.weights);
  const auto divide = [](std::vector<double>& values, double by) {
    for (double& value : values) value /= by;
  };
  if (isMean) {
    divide(shares, std::accumulate(shares.begin(), shares.end(), 0.0));
    return shares;
  }
  // The heaviest counts in full. Those that are alike share the weight of the heaviest of them.
  divide(shares, *std::ranges::max_element(shares));
  const Relation relation = relate(pool);
  std::vector<double> counted(n);
  for (size_t i = 0; i < n; ++i) {
    double alike = 0, heaviest = 0;
    for (size_t j = 0; j < n; ++j) {
      const double share = shares[j] * relation.cosine(i, j) * relation.cosine(i, j);
      alike += share;
      heaviest = std::max(heaviest, share);
    }
    counted[i] = alike > 0 ? shares[i] * heaviest / alike : 0;
  }
  return counted;
}

/// The group that a module makes up alone.
InputGroup groupOfOne(const UnitPool& pool, bool unitCovariance) {
  return {pool.gramA, pool.firstUnits(), withinDeltas(pool, unitCovariance), {}};
}

/// Weight of each of the group's deltas in this module's equation.
std::vector<double> weightsInGroup(const UnitPool& pool) {
  if (!pool.inputs) return pool.weights;
  std::vector<double> weights;
  for (const uint32_t owner : pool.groupOwner)
    weights.push_back(owner == UnitPool::kNobody ? 0 : pool.weights[owner]);
  return weights;
}

/// left times the matrix that has each delta's `within`, times its weight, on its diagonal: with the group's
/// units on both sides, that is sum of w_i S_i.
Matrix timesCovariance(const Matrix& left, const InputGroup& group, std::span<const double> weights) {
  Matrix result(left.rows(), left.columns());
  for (size_t d = 0; d < group.within.size(); ++d) {
    const size_t first = group.firstUnits[d], r = group.within[d].rows();
    if (weights[d] == 0) continue;
    Matrix own(left.rows(), r), weighted(r, r);
    for (size_t i = 0; i < own.rows(); ++i)
      std::ranges::copy(left.row(i).subspan(first, r), own.row(i).begin());
    for (size_t e = 0; e < r * r; ++e) weighted.data()[e] = weights[d] * group.within[d].data()[e];
    const Matrix part = multiply(own, weighted);
    for (size_t i = 0; i < own.rows(); ++i)
      std::ranges::copy(part.row(i), result.row(i).begin() + static_cast<std::ptrdiff_t>(first));
  }
  return result;
}

/// `eps`: what the eigenvalues are raised by, in their mean. None is then below rounding.
InputMetric metricOf(const InputGroup& group, std::vector<double> weights, double eps) {
  InputMetric metric{std::move(weights), triangularRoot(group.gramA), 0, {}};
  const Matrix& root = metric.basis.root;
  Matrix h = multiplySymmetric(timesCovariance(root, group, metric.weights), transposed(root));
  for (size_t j = 0; j < h.rows(); ++j) metric.trace += h(j, j);
  if (metric.trace <= 0) return metric;
  const double pull = eps * meanEigenvalue(metric);
  for (size_t j = 0; j < h.rows(); ++j) h(j, j) += pull;
  metric.inverse = triangularRoot(h).inverse;
  return metric;
}

/// sum of w_i D_i S_i, in the bases' coordinates. On the module's units and the group's it has coefficients:
/// D_i S_i = sum over u of i here, l and v of i anywhere, of b_u <a_u, a_l> within(l, v) a_v^T.
Matrix responseOf(const UnitPool& pool, const InputGroup& group, const InputMetric& metric,
                  const GramRoot& b) {
  const size_t n = pool.size(), own = pool.firstInGroup;
  Matrix response(n, group.gramA.rows());
  for (size_t d = 0; d < group.within.size(); ++d) {
    const uint32_t owner = pool.inputs ? pool.groupOwner[d] : static_cast<uint32_t>(d);
    for (size_t u = 0; u < n; ++u) {
      if (pool.owner[u] != owner) continue;
      for (size_t v = group.firstUnits[d]; v < group.firstUnits[d + 1]; ++v)
        response(u, v) = group.gramA(own + u, v);
    }
  }
  response = timesCovariance(response, group, metric.weights);
  response = multiply(b.root, response);
  return multiplyTransposed(response, metric.basis.root);
}

/// Adds the pull towards D, the sum of the deltas, each times its share.
void addPrior(const UnitPool& pool, double pull, bool isMean, const Solution& solution, Matrix& right) {
  const std::vector<double> shares = priorShares(pool, isMean);
  const size_t n = pool.size(), own = pool.firstInGroup;
  const Matrix& root = solution.metric->basis.root;
  Matrix ownRoot(n, root.rows());
  for (size_t u = 0; u < n; ++u) {
    for (size_t j = 0; j < root.rows(); ++j) ownRoot(u, j) = pull * shares[pool.owner[u]] * root(j, own + u);
  }
  const Matrix prior = multiply(solution.b.root, ownRoot);
  for (size_t j = 0; j < prior.columns(); ++j) {
    for (size_t i = 0; i < prior.rows(); ++i) right(i, j) += prior(i, j);
  }
}

/// Empty where the adapters do nothing here. Matrices are as large as the Gram matrices, and each ends as
/// soon as it can: MethodInfo::matrices counts them.
Result<std::optional<Solution>> solve(const UnitPool& pool, const Options& options) {
  const double eps = options.number("eps");
  Solution solution{{}, triangularRoot(pool.gramB), {}, 0};
  Matrix right;
  {
    InputGroup alone;
    if (!pool.inputs) alone = groupOfOne(pool, options.choice("covariance") == "unit");
    InputGroup& group = pool.inputs ? *pool.inputs : alone;
    std::vector<double> weights = weightsInGroup(pool);
    if (!group.metric || group.metric->weights != weights) {
      group.metric = {};
      group.metric = std::make_shared<const InputMetric>(metricOf(group, std::move(weights), eps));
    }
    solution.metric = group.metric;
    if (solution.metric->trace <= 0 || solution.b.size() == 0) return std::optional<Solution>();
    right = responseOf(pool, group, *solution.metric, solution.b);
  }
  addPrior(pool, eps * meanEigenvalue(*solution.metric), options.choice("prior") == "mean", solution, right);
  // T R^T = right H^-1 R^T = right R^-1.
  solution.b.root = {};
  solution.whitened = multiplyTransposed(right, solution.metric->inverse);
  solution.noise = roundingShare(solution.metric->basis.root.columns()) * solution.metric->basis.largest *
                   solution.b.largest * std::sqrt(solution.metric->trace);
  return std::optional(std::move(solution));
}

}  // namespace

std::vector<Matrix> withinDeltas(const UnitPool& pool, bool unitCovariance) {
  std::vector<Matrix> deltas;
  const auto first = pool.firstUnits();
  for (size_t i = 0; i < pool.adapters(); ++i) {
    Matrix& within = deltas.emplace_back(pool.ranks[i], pool.ranks[i]);
    double energy = 0;  // |D_i|^2
    for (size_t u = first[i]; u < first[i + 1]; ++u) {
      for (size_t v = first[i]; v < first[i + 1]; ++v) energy += pool.gramA(u, v) * pool.gramB(u, v);
    }
    // An adapter of zeros here saw nothing that it would not leave alone.
    const double divisor = unitCovariance ? energy : 1;
    for (size_t u = 0; u < within.rows() && energy > 0; ++u) {
      for (size_t v = 0; v < within.columns(); ++v)
        within(u, v) = pool.gramB(first[i] + u, first[i] + v) / divisor;
    }
  }
  return deltas;
}

Result<MergedFactors> mergeLeastInterference(const UnitPool& pool, const MethodRequest& request,
                                             const Context&) {
  const auto solved = solve(pool, request.options);
  if (!solved) return solved.error();
  const size_t g = pool.inputs ? pool.inputs->gramA.rows() : pool.size();
  MergedFactors merged{Matrix(request.rank, g), Matrix(request.rank, pool.size()), {}, {}, {}, {}};
  if (!*solved) return merged;
  const Solution& solution = **solved;
  auto singular = truncatedSvd(solution.whitened, request.rank, solution.noise);
  if (!singular) return singular.error();
  // Rows of A* are v_q R^-T, rows of B*^T the left vectors times the values, both then balanced.
  for (size_t q = 0; q < singular->values.size(); ++q) {
    for (double& x : singular->left.row(q)) x *= singular->values[q];
  }
  return fromBases(solution.metric->basis, solution.b, singular->left,
                   multiply(singular->right, solution.metric->inverse), request.rank);
}

Result<std::vector<double>> leastInterferenceEnergies(const UnitPool& pool, const MethodRequest& request,
                                                      const Context&) {
  const auto solved = solve(pool, request.options);
  if (!solved) return solved.error();
  std::vector<double> energies;
  if (!*solved) return energies;
  const Solution& solution = **solved;
  const auto singular = truncatedSvd(
      solution.whitened, std::min(solution.metric->basis.size(), solution.b.size()), solution.noise);
  if (!singular) return singular.error();
  for (const double value : singular->values)
    energies.push_back(value * value / meanEigenvalue(*solution.metric));
  return energies;
}

}  // namespace lego

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
  GramRoot a, b;     // bases of the group's a_u and of the module's b_u; their roots end with the equation
  Matrix whitened;   // T R^T: b.size() x a.size()
  Matrix inverse;    // transposed inverse of R
  double mean = 0;   // eigenvalue of sum of w_i S_i, over the inputs' basis
  double noise = 0;  // rounding, in singular values of `whitened`
};

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

/// What the solution solves, in the bases' coordinates: T H = right.
struct Equation {
  Matrix h, right;
};

/// sum of w_i S_i and sum of w_i D_i S_i. On the group's units the first has the coefficients `covariance`,
/// the second, on the module's units and the group's, `response`: D_i S_i = sum over u of i here, l and v of
/// i anywhere, of b_u <a_u, a_l> within(l, v) a_v^T.
Equation equationOf(const UnitPool& pool, bool unitCovariance, const Solution& solution) {
  Matrix covariance, response;
  {
    const InputGroup alone = pool.inputs ? InputGroup{} : groupOfOne(pool, unitCovariance);
    const InputGroup& group = pool.inputs ? *pool.inputs : alone;
    const std::vector<uint32_t>& owner = pool.inputs ? pool.groupOwner : pool.owner;
    const size_t n = pool.size(), g = owner.size(), own = pool.firstInGroup;
    covariance = Matrix(g, g);
    Matrix meeting(n, g);
    for (size_t v = 0; v < g; ++v) {
      if (owner[v] == UnitPool::kNobody) continue;
      for (size_t l = 0; l < g; ++l) covariance(l, v) = pool.weights[owner[v]] * group.within(l, v);
      for (size_t u = 0; u < n; ++u) meeting(u, v) = owner[v] == pool.owner[u] ? group.gramA(own + u, v) : 0;
    }
    response = multiply(meeting, covariance);
  }
  Equation equation{sandwich(solution.a.root, covariance, solution.a.root), {}};
  covariance = {};
  equation.right = sandwich(solution.b.root, response, solution.a.root);
  return equation;
}

/// Adds the pull towards D, the sum of the deltas, each times its share: to all of H's eigenvalues, and on
/// the right.
void addPrior(const UnitPool& pool, double pull, bool isMean, const Solution& solution, Equation& equation) {
  const std::vector<double> shares = priorShares(pool, isMean);
  const size_t n = pool.size(), own = pool.firstInGroup;
  Matrix ownRoot(solution.a.size(), n);
  for (size_t j = 0; j < ownRoot.rows(); ++j) {
    for (size_t u = 0; u < n; ++u) ownRoot(j, u) = pull * shares[pool.owner[u]] * solution.a.root(j, own + u);
  }
  const Matrix prior = multiplyTransposed(solution.b.root, ownRoot);
  for (size_t j = 0; j < prior.columns(); ++j) {
    equation.h(j, j) += pull;
    for (size_t i = 0; i < prior.rows(); ++i) equation.right(i, j) += prior(i, j);
  }
}

/// Empty where the adapters do nothing here. Matrices are as large as the Gram matrices, and each ends as
/// soon as it can: MethodInfo::matrices counts them.
Result<std::optional<Solution>> solve(const UnitPool& pool, const Options& options) {
  const bool unitCovariance = options.choice("covariance") == "unit";
  const InputGroup* const inputs = pool.inputs;
  Solution solution{
      triangularRoot(inputs ? inputs->gramA : pool.gramA), triangularRoot(pool.gramB), {}, {}, 0, 0};
  if (solution.a.size() == 0 || solution.b.size() == 0) return std::optional<Solution>();

  Equation equation = equationOf(pool, unitCovariance, solution);
  double trace = 0;
  for (size_t j = 0; j < solution.a.size(); ++j) trace += equation.h(j, j);
  if (trace <= 0) return std::optional<Solution>();
  solution.mean = trace / static_cast<double>(solution.a.size());
  addPrior(pool, options.number("eps") * solution.mean, options.choice("prior") == "mean", solution,
           equation);

  // T R^T = right h^-1 R^T = right R^-1. All eigenvalues of h are at least `pull`, so that none is below
  // rounding.
  const size_t g = pool.inputs ? pool.groupOwner.size() : pool.size();
  solution.a.root = solution.b.root = {};
  solution.inverse = triangularRoot(equation.h).inverse;
  equation.h = {};
  solution.whitened = multiplyTransposed(equation.right, solution.inverse);
  solution.noise = roundingShare(g) * solution.a.largest * solution.b.largest * std::sqrt(trace);
  return std::optional(std::move(solution));
}

}  // namespace

InputGroup groupOfOne(const UnitPool& pool, bool unitCovariance) {
  const size_t n = pool.size();
  InputGroup group{pool.gramA, Matrix(n, n)};
  const auto first = pool.firstUnits();
  for (size_t i = 0; i < pool.adapters(); ++i) {
    double energy = 0;  // |D_i|^2
    for (size_t u = first[i]; u < first[i + 1]; ++u) {
      for (size_t v = first[i]; v < first[i + 1]; ++v) energy += pool.gramA(u, v) * pool.gramB(u, v);
    }
    // An adapter of zeros here saw nothing that it would not leave alone.
    const double divisor = unitCovariance ? energy : 1;
    for (size_t u = first[i]; u < first[i + 1] && energy > 0; ++u) {
      for (size_t v = first[i]; v < first[i + 1]; ++v) group.within(u, v) = pool.gramB(u, v) / divisor;
    }
  }
  return group;
}

Result<MergedFactors> mergeLeastInterference(const UnitPool& pool, const MethodRequest& request,
                                             const Context&) {
  const auto solved = solve(pool, request.options);
  if (!solved) return solved.error();
  const size_t g = pool.inputs ? pool.groupOwner.size() : pool.size();
  MergedFactors merged{Matrix(request.rank, g), Matrix(request.rank, pool.size()), {}, {}, {}, {}};
  if (!*solved) return merged;
  const Solution& solution = **solved;
  auto singular = truncatedSvd(solution.whitened, request.rank, solution.noise);
  if (!singular) return singular.error();
  // Rows of A* are v_q R^-T, rows of B*^T the left vectors times the values, both then balanced.
  for (size_t q = 0; q < singular->values.size(); ++q) {
    for (double& x : singular->left.row(q)) x *= singular->values[q];
  }
  return fromBases(solution.a, solution.b, singular->left, multiply(singular->right, solution.inverse),
                   request.rank);
}

Result<std::vector<double>> leastInterferenceEnergies(const UnitPool& pool, const MethodRequest& request,
                                                      const Context&) {
  const auto solved = solve(pool, request.options);
  if (!solved) return solved.error();
  std::vector<double> energies;
  if (!*solved) return energies;
  const Solution& solution = **solved;
  const auto singular =
      truncatedSvd(solution.whitened, std::min(solution.a.size(), solution.b.size()), solution.noise);
  if (!singular) return singular.error();
  for (const double value : singular->values) energies.push_back(value * value / solution.mean);
  return energies;
}

}  // namespace lego

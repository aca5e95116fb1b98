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
  GramRoot a, b;     // bases of the group's a_u and of the module's b_u
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

/// Empty where the adapters do nothing here.
Result<std::optional<Solution>> solve(const UnitPool& pool, const Options& options) {
  const InputGroup alone =
      pool.inputs ? InputGroup{} : groupOfOne(pool, options.choice("covariance") == "unit");
  const InputGroup& group = pool.inputs ? *pool.inputs : alone;
  const std::vector<uint32_t>& owner = pool.inputs ? pool.groupOwner : pool.owner;
  const size_t n = pool.size(), g = owner.size(), own = pool.firstInGroup;
  Solution solution{triangularRoot(group.gramA), triangularRoot(pool.gramB), {}, {}, 0, 0};
  const size_t inputs = solution.a.size(), outputs = solution.b.size();
  if (inputs == 0 || outputs == 0) return std::optional<Solution>();

  // On the group's units, sum of w_i S_i has the coefficients `covariance`, and sum of w_i D_i S_i, on the
  // module's units and the group's, `response`: D_i S_i = sum over u of i here, l and v of i anywhere, of
  // b_u <a_u, a_l> within(l, v) a_v^T.
  Matrix covariance(g, g), meeting(n, g);
  for (size_t v = 0; v < g; ++v) {
    if (owner[v] == UnitPool::kNobody) continue;
    for (size_t l = 0; l < g; ++l) covariance(l, v) = pool.weights[owner[v]] * group.within(l, v);
    for (size_t u = 0; u < n; ++u) meeting(u, v) = owner[v] == pool.owner[u] ? group.gramA(own + u, v) : 0;
  }
  const Matrix response = multiply(meeting, covariance);
  Matrix h = sandwich(solution.a.root, covariance, solution.a.root);
  Matrix t = sandwich(solution.b.root, response, solution.a.root);
  double trace = 0;
  for (size_t j = 0; j < inputs; ++j) trace += h(j, j);
  if (trace <= 0) return std::optional<Solution>();
  solution.mean = trace / static_cast<double>(inputs);
  const double pull = options.number("eps") * solution.mean;
  const std::vector<double> shares = priorShares(pool, options.choice("prior") == "mean");

  Matrix ownRoot(inputs, n);
  for (size_t j = 0; j < inputs; ++j) {
    for (size_t u = 0; u < n; ++u) ownRoot(j, u) = pull * shares[pool.owner[u]] * solution.a.root(j, own + u);
  }
  const Matrix prior = multiplyTransposed(solution.b.root, ownRoot);
  for (size_t j = 0; j < inputs; ++j) {
    h(j, j) += pull;
    for (size_t i = 0; i < outputs; ++i) t(i, j) += prior(i, j);
  }

  // T R^T = t h^-1 R^T = t R^-1. All eigenvalues of h are at least `pull`, so that none is below rounding.
  solution.inverse = triangularRoot(h).inverse;
  solution.whitened = multiplyTransposed(t, solution.inverse);
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

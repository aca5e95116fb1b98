#include "merge/least_interference.h"

#include <cmath>

#include "linalg/factorise.h"
#include "merge/core_space.h"

namespace lego {
namespace {

/// First unit of each adapter, and P.
std::vector<size_t> firstUnits(const UnitPool& pool) {
  std::vector<size_t> first{0};
  for (const uint32_t rank : pool.ranks) first.push_back(first.back() + rank);
  return first;
}

/// What the least-squares problem is made of, as P x P coefficients on the units: block i, with G_A and G_B
/// of adapter i alone, says in the units' basis what D_i^T D_i = A_i^T G_B A_i and D_i D_i^T D_i = B_i G_A
/// G_B A_i say in the model's.
struct Problem {
  Matrix covariance;  ///< sum of w_i S_i
  Matrix response;    ///< sum of w_i D_i S_i
};

Problem problemOf(const UnitPool& pool) {
  const size_t n = pool.size();
  Problem problem{Matrix(n, n), Matrix(n, n)};
  const auto first = firstUnits(pool);
  for (size_t i = 0; i < pool.ranks.size(); ++i) {
    double energy = 0;  // |D_i|^2
    for (size_t u = first[i]; u < first[i + 1]; ++u) {
      for (size_t v = first[i]; v < first[i + 1]; ++v) energy += pool.gramA(u, v) * pool.gramB(u, v);
    }
    // An adapter of zeros here saw nothing that it would not leave alone.
    if (energy <= 0) continue;
    const double share = pool.weights[i] / energy;
    for (size_t u = first[i]; u < first[i + 1]; ++u) {
      for (size_t v = first[i]; v < first[i + 1]; ++v) {
        problem.covariance(u, v) = share * pool.gramB(u, v);
        double product = 0;
        for (size_t l = first[i]; l < first[i + 1]; ++l) product += pool.gramA(u, l) * pool.gramB(l, v);
        problem.response(u, v) = share * product;
      }
    }
  }
  return problem;
}

/// left (x x P) * middle (P x P) * right^T (P x y)
Matrix sandwich(const Matrix& left, const Matrix& middle, const Matrix& right) {
  Matrix half(left.rows(), middle.columns()), result(left.rows(), right.rows());
  for (size_t i = 0; i < left.rows(); ++i) {
    for (size_t u = 0; u < middle.rows(); ++u) {
      const double value = left(i, u);
      for (size_t v = 0; v < middle.columns(); ++v) half(i, v) += value * middle(u, v);
    }
    for (size_t j = 0; j < right.rows(); ++j) {
      for (size_t v = 0; v < right.columns(); ++v) result(i, j) += half(i, v) * right(j, v);
    }
  }
  return result;
}

}  // namespace

Result<MergedFactors> mergeLeastInterference(const UnitPool& pool, const MethodRequest& request,
                                             const Context& context) {
  const auto space = coreSpace(pool);
  if (!space) return space.error();
  if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
  const size_t inputs = space->a.size(), outputs = space->b.size();
  if (inputs == 0 || outputs == 0) return fromCore(*space, {}, {}, request.rank);

  const Problem problem = problemOf(pool);
  Matrix h = sandwich(space->a.root, problem.covariance, space->a.root);
  Matrix response = sandwich(space->b.root, problem.response, space->a.root);
  double trace = 0, weights = 0;
  for (size_t j = 0; j < inputs; ++j) trace += h(j, j);
  for (const double weight : pool.weights) weights += weight;
  // No adapter does anything: neither does the result.
  if (trace <= 0) return fromCore(*space, {}, {}, request.rank);
  const double pull = request.options.number("eps") * trace / static_cast<double>(inputs);

  std::vector<double> shares;
  for (const uint32_t owner : pool.owner) shares.push_back(pull * pool.weights[owner] / weights);
  const Matrix prior = coreSum(*space, shares);
  for (size_t j = 0; j < inputs; ++j) {
    h(j, j) += pull;
    for (size_t i = 0; i < outputs; ++i) response(i, j) += prior(i, j);
  }

  // T = response h^-1, so T h^(1/2) = response Q L^(-1/2) in the eigenvectors Q of h: all of L is at least
  // `pull`.
  const auto eigen = symmetricEigen(h);
  if (!eigen) return eigen.error();
  Matrix whitened(outputs, inputs);
  std::vector<double> roots;
  for (size_t d = 0; d < inputs; ++d) {
    roots.push_back(std::sqrt(std::max(eigen->values[d], pull)));
    for (size_t i = 0; i < outputs; ++i) {
      for (size_t j = 0; j < inputs; ++j) whitened(i, d) += response(i, j) * eigen->vectors(j, d);
      whitened(i, d) /= roots[d];
    }
  }
  const double noise = coreNoise(*space, 1) * std::sqrt(trace);
  auto singular = truncatedSvd(whitened, request.rank, noise);
  if (!singular) return singular.error();
  Matrix right(singular->values.size(), inputs);
  for (size_t q = 0; q < right.rows(); ++q) {
    for (double& x : singular->left.row(q)) x *= singular->values[q];
    for (size_t d = 0; d < inputs; ++d) {
      const double value = singular->right(q, d) / roots[d];
      for (size_t j = 0; j < inputs; ++j) right(q, j) += value * eigen->vectors(j, d);
    }
  }
  return fromCore(*space, singular->left, right, request.rank);
}

}  // namespace lego

// The lossless core space: orthonormal bases of all rows of A and of all columns of B, in which every delta
// of a module is a small matrix (Core Space, arXiv 2509.17786). Methods work there at the cost of the rank.
#pragma once

#include <span>
#include <vector>

#include "linalg/factorise.h"
#include "merge/method.h"

namespace lego {

struct CoreSpace {
  GramRoot a, b;
};

/// In principal directions, the heaviest first: where single entries mean something. Fails with
/// no_convergence.
Result<CoreSpace> principalSpace(const UnitPool& pool);

/// The delta sum over units u in [first, end) of weight[u - first] b_u a_u^T, as a matrix of b.size() x
/// a.size().
Matrix coreSum(const CoreSpace& space, size_t first, size_t end, std::span<const double> weights);

/// Rounding noise of a sum of deltas whose largest weight is `heaviest`, in its singular values.
double coreNoise(const CoreSpace& space, double heaviest);

/// The factors whose rows q are right(q) and left(q) in two bases, as coefficients on the units of each. Each
/// pair of rows is balanced, |a_q| = |b_q|, and has the sign that makes the leading coefficient of a_q
/// positive. Rows from left.rows() to `rank` are zero.
MergedFactors fromBases(const GramRoot& a, const GramRoot& b, const Matrix& left, const Matrix& right,
                        uint32_t rank);

/// The same from triples of a singular value decomposition in the core space.
MergedFactors fromCore(const CoreSpace& space, Singular singular, uint32_t rank);

/// Turns each pair of rows so that the leading (largest) coefficient of A's is positive: a method's result
/// then does not depend on signs that its solver is free to choose.
void fixSigns(MergedFactors& merged);

/// All deltas of a module in one core space.
struct CoreDeltas {
  CoreSpace space;              ///< in principal directions
  std::vector<Matrix> deltas;   ///< D_i, unweighted, b.size() x a.size()
  std::vector<double> weights;  ///< w_i
};
Result<CoreDeltas> coreDeltas(const UnitPool& pool);

/// sum of coefficient_i D_i, in the core space
Matrix combination(const CoreDeltas& core, std::span<const double> coefficients);

/// A method on deltas: the merged delta, in the same core space, of any rank.
using CoreMethod = Result<Matrix> (*)(const CoreDeltas&, const MethodRequest&, const Context&);

/// Runs a method in the core space and factors its result: the best approximation of rank `request.rank`.
/// With the option pico on, shared output directions are damped first (merge/pico.h).
Result<MergedFactors> mergeInCore(CoreMethod method, const UnitPool& pool, const MethodRequest& request,
                                  const Context& context);

/// Squared singular values of what a core method gives: what each further rank keeps of it.
Result<std::vector<double>> coreEnergies(CoreMethod method, const UnitPool& pool,
                                         const MethodRequest& request, const Context& context);

}  // namespace lego

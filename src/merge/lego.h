// LoRA-LEGO (arXiv 2409.16167): units are clustered, and the reweighted centroids are the merged units.
#pragma once

#include "merge/method.h"

namespace lego {

/// The units as LEGO clusters them: joint vectors [a ; b], their weights relative (|w_i|), a negative
/// weight turning b around. In the balanced gauge each unit is first scaled to |a| = |b| (same outer
/// product), and x and -x count as the same point; a unit whose product is zero becomes zero.
struct LegoUnits {
  Matrix gram;                    ///< P x P, of the joint vectors
  std::vector<double> weights;    ///< P, positive
  std::vector<double> factorA;    ///< P, what a_u is multiplied by
  std::vector<double> factorB;    ///< P, what b_u is multiplied by
  std::vector<double> magnitude;  ///< P, largest |entry| of the joint vector
  bool signless = false;

  Points points() const { return {gram, weights, signless}; }
};
LegoUnits legoUnits(const UnitPool& pool, bool balanced);

/// Centroids of a clustering into k groups, reweighted as the options say (methods.md section 1.2):
/// - parameter_reweight: each centroid is scaled so that its norm is the weighted mean of its members'
///   norms; `linf` is the largest |entry| of the joint vector (the published form), `l2` the Euclidean norm;
/// - output_reweight: the delta is multiplied by sqrt(r / k), r the weighted mean rank of the adapters
///   that have the module, evenly over both halves.
MergedFactors legoCentroids(const UnitPool& pool, const LegoUnits& units, const Options& options,
                            Clustering clustering, uint32_t k);

/// What each further cluster explains (kmeans.h, wardGains).
Result<std::vector<double>> legoEnergies(const UnitPool&, const MethodRequest&, const Context&);

/// The method: options restarts, parameter_reweight, output_reweight, gauge.
Result<MergedFactors> mergeLego(const UnitPool& pool, const MethodRequest& request, const Context& context);

}  // namespace lego

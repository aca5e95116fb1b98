// The best approximation of rank k to the exact weighted sum, without ever forming it.
#pragma once

#include "merge/method.h"

namespace lego {

/// Truncated singular value decomposition of D* = sum of w_i D_i through its P x P core (methods.md
/// section 7): with G_A = V_A L_A V_A^T and G_B = V_B L_B V_B^T, the core is
/// M = L_B^(1/2) V_B^T W V_A L_A^(1/2), its singular values are those of D*, and each factor gets
/// sqrt(S). The right singular vectors v of M come from the eigenvectors of M^T M, the left ones from M v:
/// D* is projected onto span(v), so an error in v shows only squared. Needs Gram matrices in double
/// precision: they square the condition number, so directions of either factor below 3e-7 of the largest are
/// rounding noise and left out. Rows beyond the rank of D* are zero. Signs: the largest coefficient of each
/// row of A* is positive.
Result<MergedFactors> mergeSvd(const UnitPool& pool, const MethodRequest& request, const Context& context);

}  // namespace lego

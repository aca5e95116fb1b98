// KnOTS (arXiv 2410.19735): TIES or DARE-TIES on the adapters' own coordinates in a shared output basis.
#pragma once

#include "merge/method.h"

namespace lego {

// The singular value decomposition of all deltas side by side, [D_1 ... D_N] = U S [V_1 ... V_N]^T, gives
// each adapter the matrix E_i = S V_i^T = U^T D_i; these are merged entry by entry, and U times the result is
// the merged delta, cut to rank k. Here a module is merged by itself (published: thresholds over the whole
// model).

/// Options density, sign, convention.
Status mergeKnotsTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                      const MergedRows&);
/// Options density, sign, convention.
Status mergeKnotsDareTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                          const MergedRows&);

}  // namespace lego

// What PEFT's add_weighted_adapter does to the factors' own entries, for those who need its results. The
// delta of such a merge has cross terms B_i A_j; all other methods of this library work on deltas.
#pragma once

#include "merge/method.h"

namespace lego {

// All need equal ranks. With v_i = w_i s_i (s_i the adapter's scale), adapter i's A counts sgn(v_i) sqrt|v_i|
// times and its B sqrt|v_i| times; thinning and election look at the stored values. Source: peft
// `add_weighted_adapter`, methods.md section 2.

/// Sums A's and B's.
Status mergePeftLinear(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                       const MergedRows&);
/// Keeps the largest entries of each A and of each B, then sums. Option density.
Status mergePeftMagnitudePrune(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                               const MergedRows&);
/// TIES on the A's and on the B's. Options density, sign.
Status mergePeftTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                     const MergedRows&);
/// DARE on the A's and on the B's. Option density; PEFT has no seed, this has.
Status mergePeftDareLinear(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                           const MergedRows&);
/// DARE and TIES' election on the A's and on the B's. Options density, sign.
Status mergePeftDareTies(const UnitPool&, const UnitRows&, const MethodRequest&, const Context&,
                         const MergedRows&);

}  // namespace lego

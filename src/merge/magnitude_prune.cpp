#include "merge/magnitude_prune.h"

#include "merge/thin_and_join.h"

namespace lego {

Result<Matrix> mergeMagnitudePrune(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::Magnitude, request.options), {}, request.seed);
}

}  // namespace lego

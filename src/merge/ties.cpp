#include "merge/ties.h"

#include "merge/thin_and_join.h"

namespace lego {

Result<Matrix> mergeTies(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::Magnitude, request.options), joiningOf(request.options),
                     request.seed);
}

}  // namespace lego

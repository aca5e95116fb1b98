#include "merge/della.h"

#include "merge/thin_and_join.h"

namespace lego {

Result<Matrix> mergeDella(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::RankedRandom, request.options),
                     joiningOf(request.options), request.seed);
}

}  // namespace lego

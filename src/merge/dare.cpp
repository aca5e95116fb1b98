#include "merge/dare.h"

#include "merge/thin_and_join.h"

namespace lego {

Result<Matrix> mergeDareLinear(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::Random, request.options), {}, request.seed);
}

Result<Matrix> mergeDareTies(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::Random, request.options), joiningOf(request.options),
                     request.seed);
}

}  // namespace lego

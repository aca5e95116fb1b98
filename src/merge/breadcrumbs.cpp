#include "merge/breadcrumbs.h"

#include "merge/thin_and_join.h"

namespace lego {

Result<Matrix> mergeBreadcrumbs(const CoreDeltas& core, const MethodRequest& request, const Context&) {
  return thinAndJoin(core, thinningOf(Thinning::Kind::Band, request.options), {}, request.seed);
}

}  // namespace lego

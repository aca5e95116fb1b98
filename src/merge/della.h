// DELLA (arXiv 2406.11617) in the core space: as DARE with TIES, but larger entries are dropped less often.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// Options density, epsilon, sign, convention.
Result<Matrix> mergeDella(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

// Breadcrumbs (arXiv 2312.06795) in the core space: the largest and the smallest entries are left out.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// The weighted sum of what is left. Options density, gamma.
Result<Matrix> mergeBreadcrumbs(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

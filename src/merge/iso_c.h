// Iso-C (arXiv 2502.04959): the sum of the adapters with all its directions made equally strong.
#pragma once

#include "merge/core_space.h"

namespace lego {

/// The best approximation of the asked rank to sum w_i D_i, its singular values replaced by their mean. An
/// adapter alone does not come back: that is the point. The published form takes the mean over all of a dense
/// matrix's values, most of which are zero for LoRA; here it is over those that are kept.
Result<Matrix> mergeIsoC(const CoreDeltas&, const MethodRequest&, const Context&);

}  // namespace lego

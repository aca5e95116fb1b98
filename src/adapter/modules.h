// From the tensors of a file to modules: which are a pair, and whether their shapes agree.
#pragma once

#include <span>
#include <vector>

#include "adapter/dialect.h"
#include "base/result.h"

namespace lego {

/// Whether a module's name says that it is an embedding, where a dialect's keys do not tell these from linear
/// layers.
bool namesEmbedding(std::string_view path);

/// Pairs the tensors that `dialect` names; each expert of a stack is a module. Scales are left to the caller;
/// tensors that cannot be carried are listed in `unsupported`, not refused: inspect() shows them. Errors:
/// no_factors, unsupported_dtype, duplicate_module, unpaired_factor, rank_zero, rank_mismatch,
/// shape_mismatch.
Result<Catalogue> collectModules(const Header& header, Dialect dialect);

/// Puts modules in order, by path. Errors: duplicate_module.
Status sortModules(std::vector<AdapterModule>& modules);

/// Values of the catalogue's alpha tensors, in their order: sets alpha and scale = alpha / rank of their
/// modules, and empties the list. Errors: bad_alpha, for values that are zero, infinite or NaN.
Status setAlphas(Catalogue& catalogue, std::span<const double> values);

}  // namespace lego

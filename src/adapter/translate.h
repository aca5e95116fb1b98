// Modules under names that mean the same in every dialect: those of transformers for language models, those of
// diffusers for image models.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "adapter/catalogue.h"
#include "base/result.h"

namespace lego {

/// The catalogue's modules under canonical names. A module that is several canonical ones (Flux's fused q, k
/// and v) becomes as many: they share A, and each has its rows of B. Errors: mixed_dialects, for a module
/// whose name no table has.
Result<std::vector<AdapterModule>> canonicalModules(const Catalogue& catalogue);

/// A canonical name as `dialect` has it; nothing where it has none.
std::optional<std::string> nameIn(Dialect dialect, const std::string& canonical);

}  // namespace lego

// Globs on module paths, for weights and ranks of parts of a model.
#pragma once

#include <string_view>

namespace lego {

/// Whether `glob` matches all of `path`: `*` stands for any number of bytes, dots included, `?` for one, all
/// else for itself. Takes at most glob times path steps.
bool globMatches(std::string_view glob, std::string_view path);

}  // namespace lego

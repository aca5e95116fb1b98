// What several adapters have in common: the union of their modules, and what their configs agree about.
#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "job/naming.h"
#include "job/plan.h"

namespace lego {

/// An error about an adapter's file.
Error failAt(Code code, std::string detail, const AdapterFile& adapter, const std::string& tensor);

/// "1 module", "3 modules"
std::string counted(size_t count, const std::string& noun);

/// Indices of the adapters that take part in at least one module.
std::set<uint32_t> participants(std::span<const PlannedModule> modules);

/// The recipe's weights, one for each adapter, checked. Errors: bad_weights.
Result<std::vector<double>> readWeights(const Recipe& recipe, const MethodInfo& method,
                                        std::span<const AdapterFile> adapters);

/// The union of modules, by path, with all adapters that take part in each (weight not 0) and their weights.
/// Those that share a pair of tensors in the result stand side by side.
/// Errors: shape_mismatch, rank_above_units, no_common_module, bad_weights, bad_format, base_missing.
Result<std::vector<PlannedModule>> uniteModules(std::span<const AdapterFile> adapters,
                                                const NamedModules& named, const Recipe& recipe,
                                                std::span<const double> weights,
                                                std::vector<std::string>& notices);

/// What the merged adapter's config repeats from the adapters that take part. Errors: layout_mismatch,
/// mixed_dialects.
Result<AdapterInfo> uniteInfo(std::span<const AdapterFile> adapters, std::span<const PlannedModule> modules,
                              std::vector<std::string>& notices);

}  // namespace lego

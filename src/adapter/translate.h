// Modules under names that mean the same in every dialect: those of transformers for language models, those
// of diffusers for image models.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adapter/base_model.h"
#include "adapter/catalogue.h"
#include "adapter/diffusion_names.h"
#include "adapter/ggml_names.h"
#include "base/result.h"

namespace lego {

/// An adapter's modules under canonical names.
struct CanonicalModules {
  std::vector<AdapterModule> modules;  ///< by path
  /// Image models that have all of these modules; all families for an adapter of a language model.
  DiffusionFamilies families = 0;
};

/// A module that is several canonical ones (Flux's fused q, k and v) becomes as many: they share A, and each
/// has its rows of B. `keepsFused`: it stays whole, under a name that nameIn() knows for the dialects that
/// have it; for adapters of those. `base`: of GGUF adapters, nullptr where it is not known. Errors:
/// mixed_dialects, for a module whose name no table has, for one of a stack of PEFT's, and where the modules
/// belong to no one model; base_missing; shape_mismatch, for rows that are no whole heads; duplicate_module.
Result<CanonicalModules> canonicalModules(const Catalogue& catalogue, const BaseModel* base, bool keepsFused);

/// Whether a dialect of image models names modules as the original code has them, fused where that does.
bool hasFusedModules(Dialect dialect);

/// Heads in whose order llama.cpp's converter puts the rows of a module (its ggml name) of `rows` rows; 0
/// where they stay as they are. Errors: base_missing, bad_format (an architecture that is not known),
/// shape_mismatch.
Result<uint32_t> rowHeadsOf(std::string_view ggmlName, uint64_t rows, const std::string& architecture,
                            const BaseModel* base);

/// The stack that a canonical module is an expert of in `dialect`; nothing where it is a module by itself
/// there.
std::optional<ExpertName> stackIn(Dialect dialect, std::string_view canonical);

/// Rows of a module that is several canonical ones.
struct FusedRows {
  std::string name;            ///< of the fused module, as the dialect has it
  std::vector<RowRange> rows;  ///< those of the canonical module; `at` is the row in the fused one
  uint64_t total = 0;          ///< rows of the fused module
};
/// Where `dialect` has the canonical module, of `in` inputs and `out` outputs, only as rows of another;
/// nothing where it does not, or where not all families are those that do.
std::optional<FusedRows> fusedIn(Dialect dialect, const std::string& canonical, uint64_t in, uint64_t out,
                                 DiffusionFamilies families);

/// A canonical name as `dialect` has it in each of the families; nothing where it has none, or where the
/// families disagree.
std::optional<std::string> nameIn(Dialect dialect, const std::string& canonical, DiffusionFamilies families);

}  // namespace lego

// The PEFT dialect: keys and config -> catalogue, and the keys of what is written.
// Source: peft `LoraConfig`, `get_peft_model_state_dict`; docs/formats.md.
#pragma once

#include <string>

#include "adapter/catalogue.h"
#include "adapter/peft_config.h"
#include "base/result.h"

namespace lego::peft {

/// Whether a file has a LoRA factor under a key of this dialect.
bool hasFactors(const Header& header);

/// Resolves the tensors of adapter_model.safetensors with the settings of its adapter_config.json.
/// Tensors that cannot be carried are listed in `unsupported`, not refused: inspect() shows them.
/// Errors: no_factors, unsupported_dtype, duplicate_module, unpaired_factor, rank_zero, rank_mismatch,
/// shape_mismatch.
Result<Catalogue> readAdapter(const Header& header, const Config& config);

/// The keys under which a merged module's factors are written.
std::string keyOfA(const std::string& path, ModuleKind kind);
std::string keyOfB(const std::string& path, ModuleKind kind);

}  // namespace lego::peft

// Header and config -> catalogue, whatever the dialect.
#pragma once

#include <optional>
#include <string_view>
#include <variant>

#include "adapter/catalogue.h"
#include "adapter/mlx_config.h"
#include "adapter/peft_config.h"
#include "base/result.h"
#include "format/container.h"

namespace lego {

using AdapterConfig = std::variant<peft::Config, mlx::Config>;

/// An adapter_config.json, whosever it is. Errors: bad_config, bad_pattern, rank_zero, unsupported_adapter.
Result<AdapterConfig> readAdapterConfig(std::string_view text);

/// Tells the dialect from the tensors' names, and resolves them. Where the dialect keeps alphas as tensors,
/// scales are final only after setAlphas().
/// Errors: no_factors, ambiguous_dialect, config_missing, bad_config (diffusers' own metadata),
/// unsupported_adapter (a GGUF file that is no LoRA), those of collectModules, rank_mismatch.
Result<Catalogue> readAdapter(const Container& file, const std::optional<AdapterConfig>& config);

}  // namespace lego

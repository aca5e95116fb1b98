// adapter_config.json of MLX: text <-> settings. Source: mlx-lm mlx_lm/tuner/utils.py, docs/formats.md.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "adapter/catalogue.h"
#include "base/result.h"
#include "format/json.h"

namespace lego::mlx {

struct Config {
  std::string model;  ///< name or path of the base model
  double scale = 20;  ///< mlx-lm's default; multiplies B A as it is, whatever the rank
  std::vector<Unsupported> unsupported;
};

/// Whether a config is one of MLX.
bool isConfig(const Json& json);

/// Errors: bad_config, unsupported_adapter (weights trained in full).
Result<Config> readConfig(const Json& json);

/// The config of an adapter with modules `paths`. All of them have `rank` and `scale`, because MLX makes
/// every pair with those that stand here.
std::string writeConfig(const std::string& model, std::span<const std::string> paths, uint64_t rank,
                        double scale);

}  // namespace lego::mlx

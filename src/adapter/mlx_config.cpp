#include "adapter/mlx_config.h"

#include <algorithm>
#include <set>

#include "adapter/config_fields.h"

namespace lego::mlx {

bool isConfig(const Json& json) {
  return json.is_object() && !json.contains("peft_type") &&
         (json.contains("lora_parameters") || json.contains("fine_tune_type"));
}

Result<Config> readConfig(const Json& json) {
  ConfigFields fields(json);
  Config config;
  config.model = fields.text("model");
  const std::string type = fields.text("fine_tune_type", "lora");
  const Json* parameters = fields.find("lora_parameters");
  if (parameters && !parameters->is_object()) fields.wrong("lora_parameters", "an object");
  const Json empty = Json::object();
  ConfigFields lora(parameters && parameters->is_object() ? *parameters : empty);
  config.scale = lora.number("scale", config.scale);
  for (const std::string& problem : {fields.problem, lora.problem}) {
    if (!problem.empty()) return Error{Code::badConfig, problem, {}, {}, {}};
  }
  if (type == "dora")
    config.unsupported.push_back({{}, "DoRA: its magnitudes need the base model's weights", ExtraKind::Dora});
  if (type != "lora" && type != "dora")
    return Error{
        Code::unsupportedAdapter, "its fine_tune_type is " + shownName(type) + ", not lora", {}, {}, {}};
  return config;
}

namespace {

/// What mlx-lm calls a module: its path within the block, or, outside of all blocks, its whole path.
std::string keyOf(const std::string& path) {
  constexpr std::string_view kLayers = "layers.";
  const size_t at = path.find(kLayers);
  const size_t dot = at == std::string::npos ? at : path.find('.', at + kLayers.size());
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

}  // namespace

std::string writeConfig(const std::string& model, std::span<const std::string> paths, uint64_t rank,
                        double scale) {
  std::set<std::string> keys;
  for (const std::string& path : paths) keys.insert(keyOf(path));
  Json config = Json::object();
  config["fine_tune_type"] = "lora";
  if (!model.empty()) config["model"] = model;
  // All blocks: the loader counts from the last one, and what the file lacks stays zero.
  config["num_layers"] = -1;
  config["lora_parameters"] = {{"rank", rank}, {"scale", scale}, {"dropout", 0.0}, {"keys", keys}};
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lego::mlx

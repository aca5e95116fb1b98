// Any text as adapter_config.json, up to the first byte 0xFF; the rest are modules of a merged adapter, whose
// config is written and read again.

#include <cmath>
#include <map>

#include "adapter/mlx_config.h"
#include "adapter/peft_config.h"
#include "adapter/read_adapter.h"
#include "base/limits.h"
#include "format/json.h"
#include "fuzz.h"

namespace lego::fuzz {
namespace {

/// An alpha, by number; 0 makes the scale 1.
double alphaOf(size_t number, uint64_t rank) {
  constexpr double kAlphas[] = {1,    2,     4,     8,      16,    32,  64,  0.5, 1.5,  -1,    0,
                                1e-3, 1e-30, 1e-10, 1e-300, 1e300, 3.3, 0.1, 7,   1e20, 5e-324};
  return number == 0 ? static_cast<double>(rank) : kAlphas[number % std::size(kAlphas)];
}

/// One line for each module, its first byte the rank (three bits) and alpha. Paths are printable ASCII of
/// ordinary length: in regular expressions a line feed is special, and longer ones than
/// limits::kPatternBytes are refused.
std::vector<peft::MergedRank> modulesOf(Bytes text) {
  std::map<std::string, std::pair<uint64_t, double>> modules;
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<uint8_t>(text[at++]);
    const uint64_t rank = first % 8 + 1;
    std::string path;
    for (; at < text.size() && text[at] != std::byte{'\n'} && path.size() < 100; ++at)
      path += static_cast<char>(' ' + static_cast<int>(text[at]) % 95);
    ++at;
    if (!path.empty() && modules.size() < 50) modules[path] = {rank, alphaOf(first / 8, rank)};
  }
  std::vector<peft::MergedRank> result;
  for (const auto& [path, module] : modules) result.push_back({path, module.first, module.second});
  return result;
}

void checkMlx(const mlx::Config& config, const std::vector<peft::MergedRank>& modules) {
  require(std::isfinite(config.scale), "a scale is a number");
  if (modules.empty()) return;
  std::vector<std::string> paths;
  for (const auto& module : modules) paths.push_back(module.path);
  const auto text = mlx::writeConfig(config.model, paths, modules.front().rank, config.scale);
  const auto back = readAdapterConfig(text);
  requireOk(back, "what was written can be read");
  const auto* written = std::get_if<mlx::Config>(&*back);
  require(written && written->unsupported.empty(), "a merged adapter is an ordinary one");
  require(written->scale == config.scale && written->model == config.model, "scale and model come back");
}

void checkRoundTrip(const AdapterInfo& info, const std::vector<peft::MergedRank>& modules) {
  const auto read = readAdapterConfig(peft::textOf(peft::mergedConfig(info, modules)));
  requireOk(read, "what was written can be read");
  const auto* back = std::get_if<peft::Config>(&*read);
  require(back, "a PEFT config is one");
  // Modules trained in full, DoRA and biases of lora_B go along where the recipe says so.
  const size_t kept = (info.modulesToSave.empty() ? 0 : 1) + (info.dora ? 1 : 0) + (info.loraBias ? 1 : 0);
  require(back->unsupported.size() == kept && back->notices.empty(), "a merged adapter is an ordinary one");
  require(back->info.dora == info.dora && back->info.loraBias == info.loraBias, "its kind comes back");
  require(back->info.modulesToSave == info.modulesToSave, "modules trained in full come back");
  require(back->info.baseModel == info.baseModel && back->info.taskType == info.taskType &&
              back->info.revision == info.revision && back->info.fanInFanOut == info.fanInFanOut,
          "what the input said comes back");
  require(!back->info.rslora, "a merged adapter has its scale in its factors");
  if (info.targetSuffixes) require(back->info.targetSuffixes == info.targetSuffixes, "suffixes come back");
  for (const auto& module : modules) {
    require(back->rankOf(module.path) == module.rank, "each module's rank comes back");
    require(back->alphaOf(module.path) == module.alpha, "each module's alpha comes back");
  }
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego::fuzz;
  const Bytes bytes = std::as_bytes(std::span(data, size));
  const Bytes text = pieces(bytes).front();
  const auto modules = modulesOf(bytes.subspan(std::min(size, text.size() + 1)));
  const auto read = lego::readAdapterConfig(textOf(text));
  if (!read) {
    checkError(read.error());
    return 0;
  }
  if (const auto* mlx = std::get_if<lego::mlx::Config>(&*read)) {
    checkMlx(*mlx, modules);
    return 0;
  }
  const auto* config = std::get_if<lego::peft::Config>(&*read);
  require(config, "a config is PEFT's or MLX'");
  for (const auto& module : modules) {
    const uint64_t rank = config->rankOf(module.path);
    require(rank >= 1 && rank <= lego::limits::kFactorSide, "a rank is one");
    require(std::isfinite(config->alphaOf(module.path)), "alpha is a number");
  }
  if (!modules.empty()) checkRoundTrip(config->info, modules);
  return 0;
}

// Any text as adapter_config.json, up to the first byte 0xFF; the rest are modules of a merged adapter, whose
// config is written and read again.

#include <cmath>
#include <map>

#include "adapter/peft_config.h"
#include "base/limits.h"
#include "fuzz.h"

namespace lego::fuzz {
namespace {

/// One line for each module, its first byte the rank. Paths are printable ASCII of ordinary length: in
/// regular expressions a line feed is special, and longer ones than limits::kPatternBytes are refused.
std::vector<peft::MergedModule> modulesOf(Bytes text) {
  std::map<std::string, uint64_t> ranks;
  for (size_t at = 0; at < text.size();) {
    const uint64_t rank = static_cast<uint64_t>(text[at++]) % 8 + 1;
    std::string path;
    for (; at < text.size() && text[at] != std::byte{'\n'} && path.size() < 100; ++at)
      path += static_cast<char>(' ' + static_cast<int>(text[at]) % 95);
    ++at;
    if (!path.empty() && ranks.size() < 50) ranks[path] = rank;
  }
  std::vector<peft::MergedModule> modules;
  for (const auto& [path, rank] : ranks) modules.push_back({path, rank});
  return modules;
}

void checkRoundTrip(const AdapterInfo& info, const std::vector<peft::MergedModule>& modules) {
  const std::string text = peft::writeConfig(info, modules);
  const auto back = peft::readConfig(text);
  requireOk(back, "what was written can be read");
  require(back->unsupported.empty() && back->notices.empty(), "a merged adapter is an ordinary one");
  require(back->info.baseModel == info.baseModel && back->info.taskType == info.taskType &&
              back->info.revision == info.revision && back->info.fanInFanOut == info.fanInFanOut,
          "what the input said comes back");
  require(!back->info.rslora, "a merged adapter has its scale in its factors");
  if (info.targetSuffixes) require(back->info.targetSuffixes == info.targetSuffixes, "suffixes come back");
  for (const auto& module : modules) {
    require(back->rankOf(module.path) == module.rank, "each module's rank comes back");
    require(back->alphaOf(module.path) == static_cast<double>(module.rank), "each module's scale is 1");
  }
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego::fuzz;
  const Bytes bytes = std::as_bytes(std::span(data, size));
  const Bytes text = pieces(bytes).front();
  const auto modules = modulesOf(bytes.subspan(std::min(size, text.size() + 1)));
  const auto config = lego::peft::readConfig(textOf(text));
  if (!config) {
    checkError(config.error());
    return 0;
  }
  for (const auto& module : modules) {
    const uint64_t rank = config->rankOf(module.path);
    require(rank >= 1 && rank <= lego::limits::kFactorSide, "a rank is one");
    require(std::isfinite(config->alphaOf(module.path)), "alpha is a number");
  }
  if (!modules.empty()) checkRoundTrip(config->info, modules);
  return 0;
}

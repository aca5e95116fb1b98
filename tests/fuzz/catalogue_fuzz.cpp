// Headers and configs, divided by bytes 0xFF, as adapters of any size; behind them a recipe. What can be
// planned is laid out whole, and what it would write is an adapter again.

#include <cmath>

#include "base/checked.h"
#include "base/limits.h"
#include "base/random.h"
#include "format/json.h"
#include "job/session.h"
#include "recipe.h"

namespace lego::fuzz {
namespace {

/// Bytes of a tensor as a header's entry describes it; nothing where it does not, or they are not whole.
std::optional<uint64_t> bytesOfEntry(const Json& entry) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape")) return std::nullopt;
  const Json &name = entry["dtype"], &shape = entry["shape"];
  const auto dtype = name.is_string() ? dtypeOf(*name.get_ptr<const std::string*>()) : std::nullopt;
  if (!dtype || !shape.is_array()) return std::nullopt;
  std::optional<uint64_t> bits = bitsOf(*dtype);
  for (const Json& side : shape) {
    if (!side.is_number_unsigned()) return std::nullopt;
    bits = bits ? checkedMultiply(*bits, side.get<uint64_t>()) : bits;
  }
  return bits && *bits % 8 == 0 ? std::optional(*bits / 8) : std::nullopt;
}

/// The header with its tensors one after the other; as it stands where it is no JSON.
std::string withOffsets(Bytes text) {
  Json header = Json::parse(textOf(text), nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return std::string(textOf(text));
  uint64_t position = 0;
  for (auto& [name, entry] : header.items()) {
    const auto bytes = bytesOfEntry(entry);
    const auto end = bytes ? checkedAdd(position, *bytes) : bytes;
    if (!end) continue;
    entry["data_offsets"] = {position, *end};
    position = *end;
  }
  return header.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Status addTo(Session& session, Bytes json, Bytes configText) {
  const auto header = withPrefix(json);
  const auto config = configText.empty() ? std::nullopt : std::optional(textOf(configText));
  const Status added = session.addAdapter({"adapter", "file", "config"}, header,
                                          wholeSize(header).value_or(header.size()), config);
  if (!added) checkError(added.error());
  return added;
}

void checkCatalogue(const AdapterFile& adapter) {
  require(!adapter.catalogue.modules.empty(), "an adapter has modules");
  for (const AdapterModule& module : adapter.catalogue.modules) {
    require(module.rank >= 1 && module.in >= 1 && module.out >= 1, "sides are at least 1");
    require(module.in <= limits::kFactorSide && module.out <= limits::kFactorSide, "sides are bounded");
    require(std::isfinite(module.scale), "a scale is a number");
    for (const auto& [factor, side] : {std::pair(&module.a, module.in), std::pair(&module.b, module.out)}) {
      require(factor->end <= adapter.fileSize, "a factor lies in its file");
      require(static_cast<unsigned __int128>(module.rank) * side * bitsOf(factor->dtype) ==
                  static_cast<unsigned __int128>(factor->end - factor->begin) * 8,
              "a factor is rank times side elements");
    }
  }
}

/// Batches follow each other through modules, groups and the output file; reads lie in files and buffers.
void checkLayout(const Plan& plan, std::span<const AdapterFile> adapters) {
  size_t module = 0, group = 0;
  uint64_t written = plan.header.size(), largest = 0;
  for (const PlannedBatch& batch : plan.batches) {
    require(batch.firstModule == module && batch.endModule > module, "batches follow each other");
    require(batch.firstGroup == group && batch.endGroup > group, "groups follow each other");
    require(batch.outputBegin == written && batch.outputEnd >= written, "outputs follow each other");
    module = batch.endModule, group = batch.endGroup, written = batch.outputEnd;
    for (const ReadRange& read : batch.reads) {
      require(read.length <= adapters[read.adapter].fileSize &&
                  read.offset <= adapters[read.adapter].fileSize - read.length,
              "reads lie in their files");
      require(read.length <= batch.inputBytes && read.at <= batch.inputBytes - read.length,
              "reads have room");
    }
    for (size_t g = batch.firstGroup; g < batch.endGroup; ++g) {
      for (const size_t m : plan.groups[g].modules)
        require(m >= batch.firstModule && m < batch.endModule, "groups stay in their batch");
      for (const PlannedFeeder& feeder : plan.groups[g].feeders)
        require(feeder.module >= batch.firstModule && feeder.module < batch.endModule,
                "feeders stay in the batch");
    }
    for (size_t m = batch.firstModule; m < batch.endModule; ++m) {
      for (const PlannedSource& source : plan.modules[m].sources) {
        require(
            source.atA <= batch.inputBytes && source.a.end - source.a.begin <= batch.inputBytes - source.atA,
            "A lies in the input buffer");
        require(
            source.atB <= batch.inputBytes && source.b.end - source.b.begin <= batch.inputBytes - source.atB,
            "B lies in the input buffer");
      }
    }
    largest = std::max(largest, batch.inputBytes);
  }
  require(module == plan.modules.size() && group == plan.groups.size(), "every module is in a batch");
  require(written == plan.outputBytes, "batches fill the output");
  require(plan.peakBytes >= largest, "the input counts as memory");
}

/// The output's header and config are an adapter whose modules are those of the plan, at scale 1.
void checkOutput(const Plan& plan) {
  for (const PlannedModule& module : plan.modules) {
    // A pattern longer than limits::kPatternBytes is not read; with escapes a path takes up to two bytes for
    // one.
    if (module.path.size() > limits::kPatternBytes / 2) return;
  }
  Session session(1);
  requireOk(
      session.addAdapter({"merged", "merged", "config"}, bytesOf(plan.header), plan.outputBytes, plan.config),
      "a merged adapter can be merged again");
  const Catalogue& catalogue = session.adapters()[0].catalogue;
  require(catalogue.unsupported.empty(), "a merged adapter is an ordinary one");
  require(catalogue.modules.size() == plan.modules.size(), "modules come back");
  for (size_t m = 0; m < plan.modules.size(); ++m) {
    const AdapterModule& back = catalogue.modules[m];
    const PlannedModule& planned = plan.modules[m];
    require(back.path == planned.path && back.kind == planned.kind && back.rank == planned.rank &&
                back.in == planned.in && back.out == planned.out,
            "a module comes back");
    require(back.scale == 1, "a merged adapter has its scale in its factors");
    require(back.a.begin == planned.a.begin && back.b.begin == planned.b.begin,
            "factors lie where the plan says");
  }
}

}  // namespace
}  // namespace lego::fuzz

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t maxSize);

/// Changes one piece, or gives an adapter a twin: of adapters that are all changed at once, none is left
/// whole.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t maxSize, unsigned seed) {
  using namespace lego::fuzz;
  lego::Random random(seed);
  std::vector<std::vector<uint8_t>> parts;
  for (const Bytes part : pieces(std::as_bytes(std::span(data, size)))) {
    const auto* begin = reinterpret_cast<const uint8_t*>(part.data());
    parts.emplace_back(begin, begin + part.size());
  }
  const uint64_t choice = random.below(8);
  if (choice == 0) return LLVMFuzzerMutate(data, size, maxSize);
  if (choice == 1 && parts.size() > 2) {
    const auto pair = static_cast<std::ptrdiff_t>(2 * random.below((parts.size() - 1) / 2));
    const std::vector<std::vector<uint8_t>> twin(parts.begin() + pair, parts.begin() + pair + 2);
    parts.insert(parts.begin(), twin.begin(), twin.end());
  } else {
    auto& part = choice < 4 ? parts.back() : parts[random.below(parts.size())];
    const size_t length = part.size();
    part.resize(length + maxSize - size);
    if (part.empty()) return LLVMFuzzerMutate(data, size, maxSize);  // nothing to change, and no room
    part.resize(LLVMFuzzerMutate(part.data(), length, part.size()));
  }
  std::vector<uint8_t> result;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) result.push_back(0xFF);
    result.insert(result.end(), parts[i].begin(), parts[i].end());
  }
  if (result.empty() || result.size() > maxSize) return LLVMFuzzerMutate(data, size, maxSize);
  std::ranges::copy(result, data);
  return result.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego;
  using namespace lego::fuzz;
  const auto parts = pieces(std::as_bytes(std::span(data, size)));
  if (parts.size() > 11) return 0;
  Session session(2);
  for (size_t i = 0; i + 1 < parts.size(); i += 2) {
    if (!addTo(session, parts[i], parts[i + 1]))
      (void)addTo(session, bytesOf(withOffsets(parts[i])), parts[i + 1]);
  }
  for (const AdapterFile& adapter : session.adapters()) checkCatalogue(adapter);

  Input input(parts.size() % 2 == 1 ? parts.back() : Bytes());
  std::vector<std::string> globs{"*", "*q_proj", "?*.v_proj"};
  if (!session.adapters().empty()) globs.push_back(session.adapters()[0].catalogue.modules[0].path);
  const Status planned = session.makePlan(takeRecipe(input, session.adapters().size(), globs));
  if (!planned) {
    checkError(planned.error());
    return 0;
  }
  checkLayout(session.plan(), session.adapters());
  checkOutput(session.plan());
  return 0;
}

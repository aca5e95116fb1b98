#include "job/layout.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "adapter/peft.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "job/rank_rule.h"
#include "job/shared_inputs.h"

#ifndef LORA_LEGO_VERSION
#error "the build passes the version of package.json"
#endif

namespace lego {
namespace {

// Factor bytes of one batch: few enough for memory, many enough that a read is long compared with the cost
// of asking for it (in a browser about a millisecond).
constexpr uint64_t kBatchBytes = 16 << 20;

// Gaps up to this size are read along rather than asked for around.
constexpr uint64_t kReadGap = 64 << 10;

/// What was done, for the output's metadata: everything that decides the bytes but the inputs themselves.
std::string provenance(const Plan& plan, std::span<const double> weights) {
  Json json = Json::object();
  json["version"] = LORA_LEGO_VERSION;
  json["method"] = plan.method->name;
  if (plan.recipe.rank != 0) json["rank"] = plan.recipe.rank;
  if (plan.recipe.rule.kind != RankRule::Kind::Fixed)
    json["rank_rule"] = {{nameOf(plan.recipe.rule.kind), plan.recipe.rule.value}};
  for (const ModuleRank& entry : plan.recipe.moduleRanks) json["module_ranks"][entry.glob] = entry.rank;
  json["weights"] = std::vector<double>(weights.begin(), weights.end());
  for (const ModuleWeight& entry : plan.recipe.moduleWeights)
    json["module_weights"][std::to_string(entry.adapter)][entry.glob] = entry.weight;
  json["seed"] = plan.recipe.seed;
  json["scale"] = plan.recipe.scale;
  Json options = Json::object();
  for (const OptionInfo& info : plan.method->options) {
    switch (info.type) {
      case OptionInfo::Type::Integer:
        options[info.name] = static_cast<uint64_t>(plan.options.number(info.name));
        break;
      case OptionInfo::Type::Number: options[info.name] = plan.options.number(info.name); break;
      case OptionInfo::Type::Choice: options[info.name] = plan.options.choice(info.name); break;
    }
  }
  json["options"] = std::move(options);
  return json.dump();
}

/// The ranges that hold a batch's factors, joined where they touch or nearly do.
void layOutReads(std::span<PlannedModule> modules, PlannedBatch& batch) {
  struct Piece {
    uint32_t adapter;
    const TensorInfo* tensor;
    uint64_t* at;
  };
  std::vector<Piece> pieces;
  for (PlannedModule& module : modules) {
    for (PlannedSource& source : module.sources) {
      pieces.push_back({source.adapter, &source.a, &source.atA});
      pieces.push_back({source.adapter, &source.b, &source.atB});
    }
  }
  std::ranges::sort(pieces, {},
                    [](const Piece& piece) { return std::pair(piece.adapter, piece.tensor->begin); });
  for (const Piece& piece : pieces) {
    const uint64_t begin = piece.tensor->begin, end = piece.tensor->end;
    ReadRange* last = batch.reads.empty() ? nullptr : &batch.reads.back();
    if (!last || last->adapter != piece.adapter || begin - (last->offset + last->length) > kReadGap) {
      batch.reads.push_back({piece.adapter, begin, 0, (batch.inputBytes + 15) & ~uint64_t{15}});
      last = &batch.reads.back();
    }
    last->length = end - last->offset;
    *piece.at = last->at + (begin - last->offset);
    batch.inputBytes = last->at + last->length;
  }
}

/// Modules that write what a module reads.
std::vector<PlannedFeeder> feedersOf(const Plan& plan, const PlannedModule& reader) {
  std::vector<PlannedFeeder> feeders;
  for (const auto& [path, strength] : feedingModules(reader.path)) {
    const auto module = std::ranges::find(plan.modules, path, &PlannedModule::path);
    if (module == plan.modules.end() || module->kind != ModuleKind::Linear || module->out != reader.in)
      continue;
    feeders.push_back({static_cast<size_t>(module - plan.modules.begin()), strength});
  }
  return feeders;
}

/// Modules that are merged together, by the place of the first: those that read one input, where the method
/// looks at that; each by itself otherwise.
std::vector<PlannedGroup> groupModules(const Plan& plan) {
  std::vector<PlannedGroup> groups;
  const bool shared = plan.options.has("shared_inputs") && plan.options.isOn("shared_inputs");
  std::map<std::pair<std::string, uint64_t>, size_t> known;
  for (size_t m = 0; m < plan.modules.size(); ++m) {
    const PlannedModule& module = plan.modules[m];
    std::vector<PlannedFeeder> feeders;
    if (shared && module.kind == ModuleKind::Linear) {
      const auto [entry, isNew] = known.try_emplace({sharedInputKey(module.path), module.in}, groups.size());
      if (!isNew) {
        groups[entry->second].modules.push_back(m);
        continue;
      }
      feeders = feedersOf(plan, module);
    }
    groups.push_back({{m}, std::move(feeders)});
  }
  return groups;
}

}  // namespace

Status layOutOutput(Plan& plan, const AdapterInfo& info, std::span<const double> weights) {
  Header header;
  header.metadata = {{"format", "pt"}, {"lora_lego", provenance(plan, weights)}};
  std::vector<peft::MergedModule> merged;
  for (PlannedModule& module : plan.modules) {
    const PlannedSource& first = module.sources.front();
    module.a = {peft::keyOfA(module.path, module.kind), plan.dtype, first.a.shape, 0, 0};
    module.b = {peft::keyOfB(module.path, module.kind), plan.dtype, first.b.shape, 0, 0};
    module.a.shape[0] = module.rank;
    module.b.shape[1] = module.rank;
    header.tensors.push_back(module.a);
    header.tensors.push_back(module.b);
    merged.push_back({module.path, module.rank});
  }
  auto bytes = safetensors::writeHeader(header);
  if (!bytes) return bytes.error();
  plan.header = std::move(*bytes);
  for (size_t i = 0; i < plan.modules.size(); ++i) {
    plan.modules[i].a = std::move(header.tensors[2 * i]);
    plan.modules[i].b = std::move(header.tensors[2 * i + 1]);
  }
  plan.outputBytes = plan.modules.back().b.end;
  plan.config = peft::writeConfig(info, merged);
  return {};
}

void layOutBatches(Plan& plan) {
  plan.groups = groupModules(plan);
  // Groups stay whole: a batch may end behind a module only if none before it has members further on.
  std::vector<size_t> reach(plan.modules.size());
  for (const PlannedGroup& group : plan.groups) {
    std::vector<size_t> members(group.modules);
    for (const PlannedFeeder& feeder : group.feeders) members.push_back(feeder.module);
    const size_t last = std::ranges::max(members);
    for (const size_t m : members) reach[m] = std::max(reach[m], last);
  }
  size_t first = 0, firstGroup = 0;
  while (first < plan.modules.size()) {
    size_t end = first;
    uint64_t bytes = 0;
    // The next stretch of modules that no group leaves, and its bytes.
    const auto stretch = [&] {
      size_t last = end;
      for (size_t m = end; m <= last; ++m) last = std::max(last, reach[m]);
      const auto modules = std::span(plan.modules).subspan(end, last + 1 - end);
      return std::pair(last + 1, std::accumulate(modules.begin(), modules.end(), uint64_t{0},
                                                 [](uint64_t sum, const PlannedModule& module) {
                                                   return sum + module.inputBytes;
                                                 }));
    };
    do {
      const auto [next, more] = stretch();
      if (end > first && bytes + more > kBatchBytes) break;
      bytes += more;
      end = next;
    } while (end < plan.modules.size());
    PlannedBatch batch{
        first, end, firstGroup, firstGroup, {}, 0, plan.modules[first].a.begin, plan.modules[end - 1].b.end};
    while (batch.endGroup < plan.groups.size() && plan.groups[batch.endGroup].modules.front() < end)
      ++batch.endGroup;
    layOutReads(std::span(plan.modules).subspan(first, end - first), batch);
    plan.inputBytes += bytes;
    first = end;
    firstGroup = batch.endGroup;
    plan.batches.push_back(std::move(batch));
  }
}

}  // namespace lego

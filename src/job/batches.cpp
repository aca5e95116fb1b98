#include "job/batches.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/order.h"
#include "job/shared_inputs.h"

namespace lego {
namespace {

// Gaps up to this size are read along rather than asked for around.
constexpr uint64_t kReadGap = 64 << 10;

/// A tensor, or a part of one, that a batch reads, and where its place in the input buffer is kept.
struct ReadPiece {
  uint32_t adapter;
  const TensorInfo* tensor;
  uint64_t* at;
};

std::vector<ReadPiece> piecesOf(std::span<PlannedModule> modules) {
  std::vector<ReadPiece> pieces;
  for (PlannedModule& module : modules) {
    for (PlannedSource& source : module.sources) {
      source.forEachTensor([&](const TensorInfo& tensor, uint64_t& at) {
        pieces.push_back({source.adapter, &tensor, &at});
      });
    }
    if (module.base) pieces.push_back({module.base->file, &module.base->tensor, &module.base->at});
  }
  return pieces;
}

std::vector<ReadPiece> piecesOf(PlannedExtra& extra) {
  std::vector<ReadPiece> pieces;
  for (PlannedExtra::Source& source : extra.sources)
    pieces.push_back({source.adapter, &source.tensor, &source.at});
  return pieces;
}

/// The ranges that hold a batch's tensors, joined where they touch or nearly do.
void layOutReads(std::vector<ReadPiece> pieces, PlannedBatch& batch) {
  sortStable(pieces, [](const ReadPiece& x, const ReadPiece& y) {
    return x.adapter != y.adapter ? x.adapter < y.adapter : x.tensor->begin < y.tensor->begin;
  });
  for (const ReadPiece& piece : pieces) {
    const uint64_t begin = piece.tensor->begin, end = piece.tensor->end;
    ReadRange* last = batch.reads.empty() ? nullptr : &batch.reads.back();
    const bool isNear =
        last && last->adapter == piece.adapter && begin <= last->offset + last->length + kReadGap;
    if (!isNear) {
      batch.reads.push_back({piece.adapter, begin, 0, (batch.inputBytes + 15) & ~uint64_t{15}});
      last = &batch.reads.back();
    }
    // Modules may share a factor.
    last->length = std::max(last->length, end - last->offset);
    *piece.at = last->at + (begin - last->offset);
    batch.inputBytes = last->at + last->length;
  }
}

/// Modules that write what a module reads. `numbers`: of the modules, by path.
std::vector<PlannedFeeder> feedersOf(const Plan& plan, const PlannedModule& reader,
                                     const std::map<std::string_view, size_t>& numbers) {
  std::vector<PlannedFeeder> feeders;
  for (const auto& [path, strength] : feedingModules(reader.path)) {
    const auto number = numbers.find(path);
    if (number == numbers.end()) continue;
    const PlannedModule& module = plan.modules[number->second];
    if (module.kind == ModuleKind::Linear && module.out == reader.in)
      feeders.push_back({number->second, strength});
  }
  return feeders;
}

/// Modules that are merged together, by the place of the first: those that read one input, where the method
/// looks at that; each by itself otherwise.
std::vector<PlannedGroup> groupsOf(const Plan& plan) {
  std::vector<PlannedGroup> groups;
  const bool shared = plan.options.has("shared_inputs") && plan.options.isOn("shared_inputs");
  std::map<std::pair<std::string, uint64_t>, size_t> known;
  std::map<std::string_view, size_t> numbers;
  for (size_t m = 0; m < plan.modules.size() && shared; ++m) numbers.emplace(plan.modules[m].path, m);
  for (size_t m = 0; m < plan.modules.size(); ++m) {
    const PlannedModule& module = plan.modules[m];
    std::vector<PlannedFeeder> feeders;
    if (shared && module.kind == ModuleKind::Linear) {
      const auto [entry, isNew] = known.try_emplace({sharedInputKey(module.path), module.in}, groups.size());
      if (!isNew) {
        groups[entry->second].modules.push_back(m);
        continue;
      }
      feeders = feedersOf(plan, module, numbers);
    }
    groups.push_back({{m}, std::move(feeders)});
  }
  return groups;
}

}  // namespace

void groupModules(Plan& plan) { plan.groups = groupsOf(plan); }

void layOutBatches(Plan& plan, uint64_t largest) {
  plan.batches.clear();
  plan.inputBytes = 0;
  // Groups stay whole: a batch may end behind a module only if none before it has members further on.
  std::vector<size_t> reach(plan.modules.size());
  for (const PlannedGroup& group : plan.groups) {
    std::vector<size_t> members(group.modules);
    for (const PlannedFeeder& feeder : group.feeders) members.push_back(feeder.module);
    const size_t last = std::ranges::max(members);
    for (const size_t m : members) reach[m] = std::max(reach[m], last);
  }
  // So do pairs.
  for (const PlannedPair& pair : plan.pairs) {
    for (size_t m = pair.firstModule; m < pair.endModule; ++m)
      reach[m] = std::max(reach[m], pair.endModule - 1);
  }
  size_t first = 0, firstGroup = 0, firstPair = 0;
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
      if (end > first && bytes + more > largest) break;
      bytes += more;
      end = next;
    } while (end < plan.modules.size());
    PlannedBatch batch;
    batch.firstModule = first;
    batch.endModule = end;
    batch.firstGroup = batch.endGroup = firstGroup;
    batch.firstPair = batch.endPair = firstPair;
    while (batch.endPair < plan.pairs.size() && plan.pairs[batch.endPair].firstModule < end) ++batch.endPair;
    batch.outputBegin = plan.pairs[firstPair].a.begin;
    // With what stands between its tensors and the next.
    batch.outputEnd = batch.endPair < plan.pairs.size() ? plan.pairs[batch.endPair].a.begin
                      : plan.extras.empty()             ? plan.outputBytes
                                                        : plan.extras.front().out.begin;
    while (batch.endGroup < plan.groups.size() && plan.groups[batch.endGroup].modules.front() < end)
      ++batch.endGroup;
    layOutReads(piecesOf(std::span(plan.modules).subspan(first, end - first)), batch);
    plan.inputBytes += bytes;
    first = end;
    firstGroup = batch.endGroup;
    firstPair = batch.endPair;
    plan.batches.push_back(std::move(batch));
  }
  for (size_t e = 0; e < plan.extras.size(); ++e) {
    PlannedBatch batch;
    batch.firstModule = first;
    batch.endModule = first;
    batch.firstPair = batch.endPair = firstPair;
    batch.firstGroup = batch.endGroup = firstGroup;
    batch.firstExtra = e;
    batch.endExtra = e + 1;
    batch.outputBegin = plan.extras[e].out.begin;
    batch.outputEnd = e + 1 < plan.extras.size() ? plan.extras[e + 1].out.begin : plan.outputBytes;
    layOutReads(piecesOf(plan.extras[e]), batch);
    plan.batches.push_back(std::move(batch));
  }
}

}  // namespace lego

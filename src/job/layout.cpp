#include "job/layout.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "adapter/dialect.h"
#include "adapter/stack.h"
#include "adapter/write_adapter.h"
#include "base/order.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/onnx_adapter.h"
#include "format/safetensors.h"
#include "job/extras.h"
#include "job/rank_rule.h"
#include "job/shared_inputs.h"
#include "job/unite.h"
#include "tensor/convert.h"

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
  if (!plan.recipe.inputHashes.empty()) json["input_sha256"] = plan.recipe.inputHashes;
  return json.dump();
}

/// Names and shapes as a graph's inputs have them, where the recipe says how.
void nameForGraph(const Recipe& recipe, PlannedModule& module, TensorInfo& a, TensorInfo& b) {
  constexpr std::string_view kModule = "{module}";
  for (const auto& [pattern, tensor] : {std::pair(&recipe.onnxNameA, &a), std::pair(&recipe.onnxNameB, &b)}) {
    if (pattern->empty()) continue;
    tensor->name = *pattern;
    if (const size_t at = tensor->name.find(kModule); at != std::string::npos)
      tensor->name.replace(at, kModule.size(), module.name);
  }
  if (recipe.onnxMatMul) return;
  module.turnedA = module.turnedB = false;
  std::swap(a.shape[0], a.shape[1]);
  std::swap(b.shape[0], b.shape[1]);
}

/// Source of the keys: llama.cpp, gguf-py/gguf/constants.py and convert_lora_to_gguf.py.
std::vector<std::pair<std::string, gguf::Value>> ggufMetadata(const Plan& plan, const AdapterInfo& info,
                                                              const std::string& origin) {
  std::vector<std::pair<std::string, gguf::Value>> metadata = {{"general.architecture", plan.architecture},
                                                               {"general.type", std::string("adapter")},
                                                               {"adapter.type", std::string("lora")},
                                                               // Scales are in the factors.
                                                               {"adapter.lora.alpha", 0.0f}};
  if (plan.dtype == DType::Q8_0) metadata.emplace_back("general.quantization_version", uint32_t{2});
  if (!origin.empty()) {
    if (!info.baseModel.empty()) {
      metadata.emplace_back("general.base_model.count", uint32_t{1});
      metadata.emplace_back("general.base_model.0.name", info.baseModel);
    }
    metadata.emplace_back("lora_lego", origin);
  }
  return metadata;
}

constexpr std::string_view kModelHash = "sshs_model_hash", kLegacyHash = "sshs_legacy_hash";

/// Of a header, written as `text`, that has placeholders for both hashes.
Result<PlannedHashes> hashesIn(Header header, std::string_view text) {
  const auto placeOf = [&](std::string_view key) {
    // Nothing else looks like this: within other strings, the quotes are escaped.
    const std::string start = "\"" + std::string(key) + "\":\"";
    return text.find(start) + start.size();
  };
  PlannedHashes hashes{text.size(), placeOf(kModelHash), placeOf(kLegacyHash), {}};
  std::erase_if(header.metadata, [](const auto& entry) { return !entry.first.starts_with("ss_"); });
  auto legacy = safetensors::writeHeader(header);
  if (!legacy) return legacy.error();
  hashes.legacyHeader = std::move(*legacy);
  return hashes;
}

/// Metadata of the files that take part.
std::vector<const Metadata*> metadataOf(std::span<const AdapterFile> adapters,
                                        std::span<const PlannedModule> modules) {
  std::vector<const Metadata*> metadata;
  for (const uint32_t i : participants(modules)) metadata.push_back(&adapters[i].catalogue.metadata);
  return metadata;
}

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
std::vector<PlannedGroup> groupModules(const Plan& plan) {
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

namespace {

/// The dtype of DoRA's magnitudes, whose rounding acts on the whole base weight: binary32, where the factors
/// behind them stay aligned.
DType magnitudeDtype(const Plan& plan) {
  const bool areAligned = std::ranges::all_of(plan.modules, [&](const PlannedModule& module) {
    return module.written * (module.in + module.out) * bitsOf(plan.dtype) % bitsOf(DType::F32) == 0;
  });
  if (plan.dtype == DType::F64) return DType::F64;
  return areAligned ? DType::F32 : plan.dtype;
}

/// What the config says of trained modules and biases, where these are written.
AdapterInfo withExtras(AdapterInfo info, const Plan& plan) {
  if (!keepsExtras(plan, ExtraKind::ModulesToSave)) info.modulesToSave.clear();
  if (!keepsExtras(plan, ExtraKind::Bias)) info.bias.clear();
  info.dora = keepsExtras(plan, ExtraKind::Dora);
  info.loraBias = keepsExtras(plan, ExtraKind::LoraBias);
  return info;
}

std::span<PlannedModule> modulesOf(Plan& plan, const PlannedPair& pair) {
  return std::span(plan.modules).subspan(pair.firstModule, pair.endModule - pair.firstModule);
}

/// Modules of one name are one pair.
std::vector<PlannedPair> pairsOf(std::span<const PlannedModule> modules) {
  std::vector<PlannedPair> pairs;
  for (size_t m = 0; m < modules.size(); ++m) {
    if (m == 0 || modules[m].name != modules[m - 1].name) pairs.push_back({{}, {}, m, m, false});
    pairs.back().endModule = m + 1;
    pairs.back().isShared = modules[m].experts > 0 || modules[m].fusedRows > 0;
  }
  return pairs;
}

/// The pair as the dialect's writer takes it: all modules together.
MergedModule mergedOf(std::span<const PlannedModule> modules) {
  const PlannedModule& first = modules.front();
  if (first.fusedRows > 0) {
    uint64_t rank = 0;
    for (const PlannedModule& module : modules) rank += module.written;
    return {first.name, first.kind, first.in, first.fusedRows, first.kernel, rank, first.scale, 0};
  }
  return {first.name,   first.kind,    first.in,    first.out,
          first.kernel, first.written, first.scale, first.experts};
}

/// Sets which parts of a pair are the modules'.
void placeModules(std::span<PlannedModule> modules, const PlannedPair& pair, Dialect dialect) {
  uint64_t rank = 0;
  for (PlannedModule& module : modules) {
    module.a = pair.a;
    module.b = pair.b;
    if (module.fusedRows > 0) {
      // Ranks of its own, which write to its own rows only: B is block-diagonal.
      const uint64_t bytes = (pair.a.end - pair.a.begin) / pair.a.shape[0];
      module.a.shape[0] = module.written;
      module.a.begin += rank * bytes;
      module.a.end = module.a.begin + module.written * bytes;
      module.sliceB = {module.fused, rank, 1, pair.b.shape[1]};
      rank += module.written;
    }
    if (module.experts == 0) continue;
    auto [a, b, slice] =
        expertOf(layoutOf(dialect, module.kind), pair.a, pair.b, module.expert, module.experts);
    module.a = std::move(a);
    module.b = std::move(b);
    module.sliceB = std::move(slice);
  }
}

}  // namespace

std::string nameOfScale(const PlannedModule& module) {
  return module.experts > 0 ? unwrapped(module.name) : module.name;
}

std::vector<size_t> groupsOfEqualRank(const Plan& plan) {
  std::vector<size_t> groups(plan.modules.size(), 0);
  if (infoOf(plan.dialect).hasOneRank) return groups;
  std::map<std::string, size_t> stacks;
  for (size_t m = 0; m < groups.size(); ++m) {
    const PlannedModule& module = plan.modules[m];
    groups[m] = module.experts > 0 ? stacks.try_emplace(nameOfScale(module), m).first->second : m;
  }
  return groups;
}

Status layOutOutput(Plan& plan, const AdapterInfo& united, std::span<const AdapterFile> adapters,
                    std::span<const double> weights) {
  const AdapterInfo info = withExtras(united, plan);
  const DialectInfo& dialect = infoOf(plan.dialect);
  const std::vector<size_t> groups = groupsOfEqualRank(plan);
  std::vector<uint32_t> largest(groups.size(), 0);
  for (size_t m = 0; m < groups.size(); ++m)
    largest[groups[m]] = std::max(largest[groups[m]], plan.modules[m].rank);
  for (size_t m = 0; m < groups.size(); ++m) plan.modules[m].written = largest[groups[m]];
  plan.pairs = pairsOf(plan.modules);
  std::vector<MergedModule> merged;
  for (const PlannedPair& pair : plan.pairs) merged.push_back(mergedOf(modulesOf(plan, pair)));
  Header header;
  if (dialect.alphaTensors) {
    // Wide enough for any rank, and as wide as the factors may be, so that these stay aligned.
    const DType dtype = plan.dtype == DType::F64 ? DType::F64 : DType::F32;
    for (const MergedModule& module : merged)
      header.tensors.push_back({keyOf(plan.dialect, module.path, module.kind, Part::Alpha), dtype, {}, 0, 0});
  }
  const size_t constants = header.tensors.size();
  const DType magnitudes = magnitudeDtype(plan);
  for (size_t p = 0; p < merged.size(); ++p) {
    auto [a, b] = factorsOf(plan.dialect, merged[p], plan.dtype);
    for (PlannedModule& module : modulesOf(plan, plan.pairs[p])) {
      if (module.experts == 0)
        std::tie(module.turnedA, module.turnedB) = turnedFactors(plan.dialect, module.kind);
      if (dialect.file == FileKind::OnnxAdapter) nameForGraph(plan.recipe, module, a, b);
    }
    header.tensors.push_back(std::move(a));
    header.tensors.push_back(std::move(b));
    for (PlannedModule& module : modulesOf(plan, plan.pairs[p])) {
      if (!module.magnitude) continue;
      module.magnitude->dtype = magnitudes;
      header.tensors.push_back(*module.magnitude);
    }
  }
  for (const TensorInfo& tensor : plan.extraTensors) header.tensors.push_back(tensor);
  std::string origin = plan.recipe.metadata ? provenance(plan, weights) : std::string();
  if (dialect.file == FileKind::Gguf) {
    auto bytes = gguf::writeHeader(header, ggufMetadata(plan, info, origin));
    if (!bytes) return bytes.error();
    plan.header = std::move(*bytes);
    for (const TensorInfo& tensor : header.tensors) {
      const uint64_t padding = gguf::paddingAfter(tensor.end - tensor.begin);
      if (padding > 0) plan.fillers.push_back({tensor.end, std::string(static_cast<size_t>(padding), '\0')});
    }
  } else if (dialect.file == FileKind::OnnxAdapter) {
    // The format has two version numbers for its users, and nothing else to say where a file comes from.
    auto bytes = onnx_adapter::writeHeader(header, 1, 1);
    if (!bytes) return bytes.error();
    plan.header = std::move(*bytes);
    for (size_t t = 1; t < header.tensors.size(); ++t) {
      const uint64_t end = header.tensors[t - 1].end;
      plan.fillers.push_back({end, onnx_adapter::bytesBetween(end, header.tensors[t])});
    }
  } else {
    header.metadata = formatMetadata(plan.dialect, info, merged);
    if (plan.recipe.metadata) {
      for (auto& entry : uniteMetadata(metadataOf(adapters, plan.modules)))
        header.metadata.push_back(std::move(entry));
      header.metadata.emplace_back("lora_lego", std::move(origin));
      if (plan.dialect == Dialect::Kohya) {
        header.metadata.emplace_back(kModelHash, std::string(64, '0'));
        header.metadata.emplace_back(kLegacyHash, std::string(8, '0'));
      }
    }
    auto bytes = safetensors::writeHeader(header);
    if (!bytes) return bytes.error();
    plan.header = std::move(*bytes);
    if (plan.recipe.metadata && plan.dialect == Dialect::Kohya) {
      auto hashes = hashesIn(header, plan.header);
      if (!hashes) return hashes.error();
      plan.hashes = std::move(*hashes);
    }
  }
  for (size_t i = 0; i < constants; ++i) {
    const auto alpha = static_cast<float>(merged[i].alpha());
    std::byte value[sizeof(double)];
    fromFloat(header.tensors[i].dtype, &alpha, 1, value);
    plan.header.append(reinterpret_cast<const char*>(value), bitsOf(header.tensors[i].dtype) / 8);
  }
  plan.constants.assign(header.tensors.begin(),
                        header.tensors.begin() + static_cast<std::ptrdiff_t>(constants));
  plan.outputBytes = header.tensors.back().end;
  for (const PlannedFiller& filler : plan.fillers)
    plan.outputBytes = std::max(plan.outputBytes, filler.at + filler.bytes.size());
  size_t next = constants;
  for (PlannedPair& pair : plan.pairs) {
    pair.a = std::move(header.tensors[next++]);
    pair.b = std::move(header.tensors[next++]);
    placeModules(modulesOf(plan, pair), pair, plan.dialect);
    for (PlannedModule& module : modulesOf(plan, pair)) {
      if (module.magnitude) module.magnitude = std::move(header.tensors[next++]);
    }
  }
  for (TensorInfo& tensor : plan.extraTensors) tensor = std::move(header.tensors[next++]);
  for (PlannedExtra& piece : plan.extras) {
    const TensorInfo& whole = plan.extraTensors[piece.tensor];
    const unsigned bytes = bitsOf(whole.dtype) / 8;
    piece.out.begin = whole.begin + piece.firstElement * bytes;
    piece.out.end = bitsOf(whole.dtype) % 8 == 0 ? piece.out.begin + piece.elements * bytes : whole.end;
  }
  plan.config = configOf(plan.dialect, info, merged);
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
      if (end > first && bytes + more > kBatchBytes) break;
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

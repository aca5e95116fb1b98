// What holds of every adapter that is accepted and of every plan, whatever the dialects.
#pragma once

#include <cmath>
#include <map>
#include <set>

#include "adapter/dialect.h"
#include "adapter/stack.h"
#include "base/limits.h"
#include "format/container.h"
#include "fuzz.h"
#include "job/session.h"

namespace lego::fuzz {

using Wide = unsigned __int128;

inline Wide elementsOf(const TensorInfo& tensor) {
  Wide elements = 1;
  for (const uint64_t side : tensor.shape) elements *= side;
  return elements;
}

inline void checkPlace(const TensorInfo& tensor, uint64_t fileSize) {
  require(tensor.begin <= tensor.end && tensor.end <= fileSize, "a tensor lies in its file");
  require(bytesOf(tensor.dtype, tensor.shape) == tensor.end - tensor.begin, "a tensor has its bytes");
}

inline void checkFactor(const TensorInfo& factor, uint64_t rank, uint64_t side, uint64_t fileSize) {
  checkPlace(factor, fileSize);
  require(elementsOf(factor) == Wide{rank} * side, "a factor is rank times side elements");
}

/// Every tensor of a file is a factor, an alpha, or listed as neither.
inline void checkTensors(const Header& header, const Catalogue& catalogue) {
  std::set<std::string> factors, others;
  for (const AdapterModule& module : catalogue.modules) {
    factors.insert({module.a.name, module.b.name});
    for (size_t i = 0; module.expanded && i < module.expanded->tensors.size(); ++i) {
      if (const auto& tensor = module.expanded->tensors[i]) factors.insert(tensor->name);
    }
  }
  for (const Unsupported& item : catalogue.unsupported) {
    if (!item.tensor.empty()) require(others.insert(item.tensor).second, "a tensor is listed once");
    require(!item.place || item.place->name == item.tensor, "it is known where a tensor lies");
  }
  for (const TensorInfo& tensor : header.tensors) {
    const bool isFactor = factors.contains(tensor.name), isOther = others.contains(tensor.name);
    require(!isFactor || !isOther, "a factor is nothing else");
    if (isFactor || isOther) continue;
    const auto key = parseKey(catalogue.dialect, tensor.name);
    require(key && key->part == Part::Alpha &&
                std::ranges::count(catalogue.modules, key->path, &AdapterModule::path) == 1,
            "what is not listed is the alpha of a module");
  }
  require(factors.size() + others.size() <= header.tensors.size(), "what is listed is in the file");
}

/// A B that is a part of a tensor.
inline void checkPart(const TensorInfo& whole, const Slice& slice, uint64_t rank, uint64_t rows,
                      uint64_t fileSize) {
  checkPlace(whole, fileSize);
  require(blockOf(whole.dtype) == 1, "single elements have places");
  require(slice.column + Wide{rank - 1} * slice.step < slice.rowLength, "columns lie in their rows");
  const Wide elements = elementsOf(whole);
  uint64_t own = 0;
  for (const RowRange& range : slice.rows) {
    require((Wide{range.at} + range.count) * slice.rowLength <= elements, "rows lie in the tensor");
    require(range.own <= rows && range.count <= rows - range.own, "rows lie in the part");
    own += range.count;
  }
  require(own == rows, "every row has a place");
}

inline void checkB(const TensorInfo& b, const Slice& slice, uint64_t rank, uint64_t rows, uint64_t fileSize) {
  if (slice.isWhole()) {
    checkFactor(b, rank, rows, fileSize);
  } else {
    checkPart(b, slice, rank, rows, fileSize);
  }
}

/// `alphasAreRead`: whether scales are final.
inline void checkCatalogue(const AdapterFile& adapter, bool alphasAreRead) {
  const Catalogue& catalogue = adapter.catalogue;
  require(!catalogue.modules.empty() || !catalogue.unsupported.empty(), "an adapter has modules");
  require(!catalogue.reason.empty(), "it is known how the dialect was told");
  for (size_t m = 0; m < catalogue.modules.size(); ++m) {
    const AdapterModule& module = catalogue.modules[m];
    require(m == 0 || catalogue.modules[m - 1].path < module.path, "modules stand by path");
    require(module.rank >= 1 && module.in >= 1 && module.out >= 1, "sides are at least 1");
    require(module.in <= limits::kFactorSide && module.out <= limits::kFactorSide, "sides are bounded");
    require(std::isfinite(module.scale) && std::isfinite(module.alpha), "a scale is a number");
    if (module.expanded) {
      for (const auto& tensor : module.expanded->tensors) {
        if (tensor) checkPlace(*tensor, adapter.fileSize);
      }
    } else {
      checkFactor(module.a, module.rank, module.in, adapter.fileSize);
      checkB(module.b, module.sliceB, module.rank, module.out, adapter.fileSize);
    }
    require(module.experts == 0 || module.expert < module.experts, "an expert is one of its stack");
    uint64_t kernel = 1;
    for (const uint64_t side : module.kernel) kernel *= side;
    require(module.in % kernel == 0, "the kernel is a part of the inputs");
    require(module.kernel.empty() || module.kind == ModuleKind::Convolution,
            "only convolutions have kernels");
  }
  require(!alphasAreRead || catalogue.alphas.empty(), "every alpha has been read");
  for (const AlphaTensor& alpha : catalogue.alphas) {
    require(infoOf(catalogue.dialect).naming == Naming::Diffusion, "some dialects have alphas");
    require(alpha.module < catalogue.modules.size(), "an alpha belongs to a module");
    require(alpha.tensor.end <= adapter.fileSize &&
                alpha.tensor.end - alpha.tensor.begin == bytesOf(alpha.tensor.dtype, 1),
            "an alpha is one element of its file");
  }
}

/// Tensors and fillers cover the output without gap or overlap, each within its batch.
inline void checkCover(const Plan& plan) {
  std::map<uint64_t, uint64_t> pieces;  // end by begin
  const auto add = [&](uint64_t begin, uint64_t end) {
    require(begin < end, "no piece of the output is empty");
    require(pieces.emplace(begin, end).second, "pieces of the output begin in different places");
  };
  size_t module = 0;
  for (const PlannedPair& pair : plan.pairs) {
    for (const TensorInfo* tensor : {&pair.a, &pair.b}) {
      require(bytesOf(tensor->dtype, tensor->shape) == tensor->end - tensor->begin,
              "a written tensor is as large as its shape asks for");
      add(tensor->begin, tensor->end);
    }
    require(pair.firstModule == module && pair.endModule > module, "every module is written into a pair");
    for (; module < pair.endModule; ++module) {
      const PlannedModule& own = plan.modules[module];
      checkFactor(own.a, own.written, own.in, plan.outputBytes);
      checkB(own.b, own.sliceB, own.written, own.out, plan.outputBytes);
      require(own.a.begin >= pair.a.begin && own.a.end <= pair.a.end, "A lies in its pair's");
      require(own.b.begin >= pair.b.begin && own.b.end <= pair.b.end, "B lies in its pair's");
      require(pair.isShared || (own.a.begin == pair.a.begin && own.a.end == pair.a.end),
              "a pair is one's own");
    }
  }
  require(module == plan.modules.size(), "every module is written");
  for (const PlannedExtra& extra : plan.extras) {
    // A tensor may have no elements.
    if (extra.elements > 0) add(extra.out.begin, extra.out.end);
  }
  for (const PlannedFiller& filler : plan.fillers) {
    add(filler.at, filler.at + filler.bytes.size());
    const auto holds = [&](const PlannedBatch& batch) {
      return filler.at >= batch.outputBegin && filler.at + filler.bytes.size() <= batch.outputEnd;
    };
    require(std::ranges::count_if(plan.batches, holds) == 1, "a filler is written with one batch");
  }
  uint64_t position = plan.header.size();
  for (const auto& [begin, end] : pieces) {
    require(begin == position, "the output has neither gaps nor overlaps");
    position = end;
  }
  require(position == plan.outputBytes, "the output ends with its last piece");
  for (const PlannedBatch& batch : plan.batches) {
    for (size_t m = batch.firstModule; m < batch.endModule; ++m) {
      for (const TensorInfo* tensor : {&plan.modules[m].a, &plan.modules[m].b})
        require(tensor->begin >= batch.outputBegin && tensor->end <= batch.outputEnd,
                "a module is written with its batch");
    }
  }
  uint64_t constant = plan.constants.empty() ? 0 : plan.constants.front().begin;
  for (const TensorInfo& tensor : plan.constants) {
    require(tensor.begin == constant && tensor.end - tensor.begin == bytesOf(tensor.dtype, 1),
            "constants follow each other");
    constant = tensor.end;
  }
  require(plan.constants.empty() || constant == plan.header.size(), "constants are the header's end");
}

/// A kohya file that tells where it comes from has places for hashes in its header.
inline void checkHashes(const Plan& plan) {
  require(plan.hashes.has_value() == (plan.dialect == Dialect::Kohya && plan.recipe.metadata),
          "kohya's files have hashes");
  if (!plan.hashes) return;
  const auto& [dataBegin, modelAt, legacyAt, legacyHeader] = *plan.hashes;
  require(dataBegin <= plan.header.size(), "alphas stand behind the header");
  for (const auto& [at, digits] : {std::pair(modelAt, 64), std::pair(legacyAt, 8)}) {
    require(at < dataBegin && plan.header.substr(static_cast<size_t>(at), static_cast<size_t>(digits) + 1) ==
                                  std::string(static_cast<size_t>(digits), '0') + '"',
            "zeros stand where a hash will");
  }
  requireOk(
      safetensors::readHeader(bytesOf(legacyHeader), plan.outputBytes - dataBegin + legacyHeader.size()),
      "the header without other metadata is one");
}

/// Every tensor and setting that is no factor has a fate; those that are kept are made of whole pieces.
inline void checkExtras(const Plan& plan, std::span<const AdapterFile> adapters) {
  size_t fate = 0;
  std::set<std::string> kept;
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    for (const Unsupported& item : adapters[i].catalogue.unsupported) {
      require(fate < plan.extraFates.size(), "what is no factor has a fate");
      const ExtraFate& own = plan.extraFates[fate++];
      require(own.adapter == i && own.tensor == item.tensor && own.kind == item.kind, "fates stand in order");
      require(own.policy != Policy::Refuse, "what is refused is not planned");
      require(infoOf(own.kind).allows(own.policy), "each kind has its policies");
      if (own.policy != Policy::Drop && item.place) kept.insert(item.tensor);
    }
  }
  require(fate == plan.extraFates.size(), "nothing else has a fate");
  require(plan.extraTensors.size() <= kept.size(), "what is written was kept");
  size_t piece = 0;
  for (size_t t = 0; t < plan.extraTensors.size(); ++t) {
    const TensorInfo& whole = plan.extraTensors[t];
    require(kept.contains(whole.name), "what is written was kept");
    Wide planned = 0;
    uint64_t at = whole.begin;
    for (; piece < plan.extras.size() && plan.extras[piece].tensor == t; ++piece) {
      const PlannedExtra& extra = plan.extras[piece];
      require(extra.firstElement == planned && extra.out.begin == at, "pieces follow each other");
      require(!extra.sources.empty(), "a piece is made from something");
      planned += extra.elements;
      at = extra.out.end;
    }
    require(planned == elementsOf(whole) && at == whole.end, "pieces are the whole tensor");
  }
  require(piece == plan.extras.size(), "pieces are of tensors");
}

/// Batches follow each other through modules, groups and the output file; reads lie in files and buffers.
inline void checkLayout(const Plan& plan, std::span<const AdapterFile> adapters) {
  size_t module = 0, group = 0, extra = 0;
  uint64_t written = plan.header.size(), largest = 0;
  for (const PlannedBatch& batch : plan.batches) {
    const bool hasModules = module < plan.modules.size();
    require(batch.firstModule == module && (batch.endModule > module) == hasModules,
            "batches follow each other");
    require(batch.firstGroup == group && (batch.endGroup > group) == hasModules, "groups follow each other");
    require(hasModules ? batch.endExtra == batch.firstExtra
                       : batch.firstExtra == extra && batch.endExtra == extra + 1,
            "extras stand behind modules");
    require(batch.outputBegin == written && batch.outputEnd >= written, "outputs follow each other");
    module = batch.endModule, group = batch.endGroup, written = batch.outputEnd;
    for (const ReadRange& read : batch.reads) {
      require(read.length <= adapters[read.adapter].fileSize &&
                  read.offset <= adapters[read.adapter].fileSize - read.length,
              "reads lie in their files");
      require(read.length <= batch.inputBytes && read.at <= batch.inputBytes - read.length,
              "reads have room");
    }
    for (; extra < batch.endExtra; ++extra) {
      const PlannedExtra& piece = plan.extras[extra];
      require(piece.out.begin >= batch.outputBegin && piece.out.end <= batch.outputEnd,
              "an extra is written with its batch");
      for (const PlannedExtra::Source& source : piece.sources)
        require(source.at <= batch.inputBytes &&
                    source.tensor.end - source.tensor.begin <= batch.inputBytes - source.at,
                "an extra lies in the input buffer");
    }
    for (size_t g = batch.firstGroup; g < batch.endGroup; ++g) {
      for (const size_t m : plan.groups[g].modules)
        require(m >= batch.firstModule && m < batch.endModule, "groups stay in their batch");
      for (const PlannedFeeder& feeder : plan.groups[g].feeders)
        require(feeder.module >= batch.firstModule && feeder.module < batch.endModule,
                "feeders stay in the batch");
    }
    for (size_t m = batch.firstModule; m < batch.endModule; ++m) {
      const PlannedModule& planned = plan.modules[m];
      require(planned.written >= planned.rank, "no rank is left out");
      for (PlannedSource source : planned.sources) {
        const uint64_t fileSize = adapters[source.adapter].fileSize;
        source.forEachTensor([&](const TensorInfo& tensor, uint64_t at) {
          checkPlace(tensor, fileSize);
          const uint64_t bytes = tensor.end - tensor.begin;
          require(at <= batch.inputBytes && bytes <= batch.inputBytes - at,
                  "a factor lies in the input buffer");
        });
        // Of a fused module a source has its rows only.
        if (!source.expanded) {
          checkFactor(source.a, source.rank, planned.in, fileSize);
          checkB(source.b, source.sliceB, source.rank, planned.out, fileSize);
        }
        require(source.rowHeads == 0 || planned.out % source.rowHeads == 0, "rows are whole heads");
      }
      require(planned.rowHeads == 0 || planned.out % planned.rowHeads == 0, "rows are whole heads");
    }
    largest = std::max(largest, batch.inputBytes);
  }
  require(module == plan.modules.size() && group == plan.groups.size(), "every module is in a batch");
  require(extra == plan.extras.size(), "every extra is in a batch");
  require(written == plan.outputBytes, "batches fill the output");
  require(plan.peakBytes >= largest, "the input counts as memory");
  checkExtras(plan, adapters);
  checkHashes(plan);
  checkCover(plan);
}

/// Whether the dialect can say a scale only with the precision of its alphas, which are binary32.
inline bool isScale(double back, double planned, Dialect dialect) {
  const double rounding = infoOf(dialect).alphaTensors ? 1e-7 : 1e-15;
  return std::abs(back - planned) <= rounding * std::abs(planned);
}

/// An adapter that was written: its first bytes, with all alphas.
inline void addWritten(Session& session, Bytes start, uint64_t fileSize, const std::string& config) {
  const auto needed = headerNeeds(start, fileSize);
  requireOk(needed, "a written header can be told");
  require(*needed <= start.size(), "a written header is whole");
  const auto text = config.empty() ? std::nullopt : std::optional<std::string_view>(config);
  requireOk(session.addAdapter({"merged", "merged", "config"}, start.first(*needed), fileSize, text),
            "a merged adapter can be merged again");
  std::vector<std::byte> alphas;
  for (const ReadRange& read : session.alphaReads()) {
    require(read.offset + read.length <= start.size(), "alphas stand in front");
    const Bytes bytes = start.subspan(read.offset, read.length);
    alphas.insert(alphas.end(), bytes.begin(), bytes.end());
  }
  requireOk(session.setAlphas(alphas), "written alphas are alphas");
}

/// The output's header and config are an adapter of the planned dialect, where that is read, with the modules
/// and scales of the plan.
inline void checkOutput(const Plan& plan) {
  const DialectInfo& dialect = infoOf(plan.dialect);
  if (!dialect.isRead) return;
  for (const PlannedModule& module : plan.modules) {
    // Where there are patterns, one longer than limits::kPatternBytes is not read; with escapes a path takes
    // up to two bytes for one.
    const bool hasPatterns = plan.dialect == Dialect::Peft || plan.dialect == Dialect::Diffusers;
    if (hasPatterns && module.name.size() > limits::kPatternBytes / 2) return;
  }
  Session session(1);
  addWritten(session, bytesOf(plan.header), plan.outputBytes, plan.config);
  checkCatalogue(session.adapters()[0], true);
  const Catalogue& catalogue = session.adapters()[0].catalogue;
  require(catalogue.dialect == plan.dialect, "a merged adapter is of the planned dialect");
  size_t kept = 0;
  for (const Unsupported& item : catalogue.unsupported) {
    const bool isKept = std::ranges::count(plan.extraTensors, item.tensor, &TensorInfo::name) == 1;
    require(isKept || (item.tensor.empty() && !plan.extraFates.empty()),
            "a merged adapter has no more than was kept");
    kept += isKept ? 1 : 0;
  }
  require(kept == plan.extraTensors.size(), "what was kept comes back");
  size_t written = 0;
  std::map<std::string, uint64_t> ranks;
  for (const PlannedPair& pair : plan.pairs) {
    written += std::max<size_t>(1, plan.modules[pair.firstModule].experts);
    for (size_t m = pair.firstModule; m < pair.endModule; ++m)
      ranks[plan.modules[m].name] += plan.modules[m].written;
  }
  require(catalogue.modules.size() == written, "modules come back, all experts with them");
  require(plan.architecture == catalogue.info.architecture, "the architecture comes back");
  for (const PlannedModule& planned : plan.modules) {
    const std::string name = planned.experts > 0 ? expertPath(planned.name, planned.expert) : planned.name;
    const auto back = std::ranges::find(catalogue.modules, name, &AdapterModule::path);
    require(back != catalogue.modules.end(), "a module comes back under its name");
    const bool isFused = planned.fusedRows > 0;
    require(back->rank == (isFused ? ranks[planned.name] : planned.written) && back->in == planned.in &&
                back->out == (isFused ? planned.fusedRows : planned.out),
            "a module comes back");
    require(!dialect.keysTellEmbeddings || back->kind == planned.kind, "a module is what it was");
    require(isScale(back->scale, planned.scale, plan.dialect), "a module's scale comes back");
    require(back->b.begin == planned.b.begin && back->b.end == planned.b.end &&
                (isFused || (back->a.begin == planned.a.begin && back->a.end == planned.a.end)),
            "factors lie where the plan says");
  }
}

}  // namespace lego::fuzz

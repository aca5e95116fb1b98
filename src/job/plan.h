// What a merge will do, known before a single weight is read.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapter/catalogue.h"
#include "base/result.h"
#include "job/footprint.h"
#include "job/recipe.h"
#include "merge/registry.h"

namespace lego {

/// One adapter, as opened.
struct AdapterFile {
  std::string label;  ///< what the user calls it
  std::string file;   ///< name of its tensor file, for messages
  uint64_t fileSize = 0;
  Catalogue catalogue;
};

/// One adapter's part in a module.
struct PlannedSource {
  uint32_t adapter = 0;                             ///< index into the inputs
  TensorInfo a, b;                                  ///< places in the adapter's file
  bool transposedA = false, transposedB = false;    ///< as in AdapterModule
  Slice sliceB;                                     ///< as in AdapterModule
  uint32_t rowHeads = 0;                            ///< as in AdapterModule
  std::shared_ptr<const ExpandedFactors> expanded;  ///< as in AdapterModule
  std::array<uint64_t, 8> atExpanded{};             ///< places of its tensors in the batch's input buffer
  std::optional<TensorInfo> magnitude;              ///< of DoRA, where it is merged (job/dora.h)
  uint64_t atMagnitude = 0;                         ///< place in the batch's input buffer
  bool foldIntoB = false;                           ///< scale goes into B alone, and A stays as it is
  uint64_t atA = 0, atB = 0;                        ///< places in the batch's input buffer
  uint32_t rank = 0;
  double scale = 1;
  double weight = 1;

  /// Calls work(tensor, place in the batch's input buffer) for each tensor.
  template <typename Work>
  void forEachTensor(Work work) {
    if (magnitude) work(*magnitude, atMagnitude);
    if (!expanded) {
      work(a, atA);
      work(b, atB);
      return;
    }
    for (size_t i = 0; i < atExpanded.size(); ++i) {
      if (expanded->tensors[i]) work(*expanded->tensors[i], atExpanded[i]);
    }
  }
};

/// A module's own weight, which DoRA needs.
struct PlannedWeight {
  uint32_t file = 0;  ///< index into the adapters and the base model's files behind them
  TensorInfo tensor;  ///< (out, in), or a kernel
  uint64_t at = 0;    ///< place in the batch's input buffer
};

struct PlannedModule {
  std::string path;             ///< under which the adapters' modules were found to be the same
  std::string name;             ///< in the output; modules of one name are written into one pair of tensors
  uint32_t expert = 0;          ///< which one of a stack in the output (adapter/stack.h) ...
  uint32_t experts = 0;         ///< ... of how many; 0: it is in none
  std::vector<RowRange> fused;  ///< rows of a module in the output that are this one's: `at` is the row there
  uint64_t fusedRows = 0;       ///< rows of that module; 0: this one is none of its parts
  ModuleKind kind = ModuleKind::Linear;
  uint64_t in = 0, out = 0;
  std::vector<uint64_t> kernel;        ///< as AdapterModule::kernel
  std::vector<PlannedSource> sources;  ///< by adapter
  uint32_t units = 0;                  ///< P: sum of the sources' ranks
  uint32_t rank = 0;                   ///< k
  uint32_t written = 0;   ///< ranks in the output: k, and zeros where several modules must have equal ranks
  double scale = 1;       ///< of what is written: the output's delta is scale * B A
  uint32_t rowHeads = 0;  ///< the output's rows of B are put into llama.cpp's order of so many heads
  bool turnedA = false, turnedB = false;  ///< whether A is written in x rank, and B rank x out
  uint64_t seed = 0;
  uint64_t inputBytes = 0;  ///< factor bytes of all sources
  /// What is written: keys, shapes, places in the output file. Of tensors that several modules share, the
  /// part that is this one's, but of a B of which it has no rows of its own, the whole.
  TensorInfo a, b;
  Slice sliceB;                         ///< which elements of `b` are this module's
  std::optional<PlannedWeight> base;    ///< of a result that is DoRA
  std::optional<TensorInfo> magnitude;  ///< what is written of it
};

/// Two tensors of the output, and the modules that are written into them: mostly one.
struct PlannedPair {
  TensorInfo a, b;
  size_t firstModule = 0, endModule = 0;
  bool isShared = false;  ///< the modules may leave elements out, which are zero
};

/// A range of one adapter's file, or of one of the base model's, which are counted on behind the adapters;
/// and where in the batch's input buffer its bytes go.
struct ReadRange {
  uint32_t adapter = 0;
  uint64_t offset = 0, length = 0, at = 0;
};

/// Modules that are read, merged and written together: the unit of I/O. Modules within a batch are
/// independent of each other, so the result does not depend on how they are batched.
struct PlannedBatch {
  size_t firstModule = 0, endModule = 0;
  size_t firstPair = 0, endPair = 0;
  size_t firstGroup = 0, endGroup = 0;
  size_t firstExtra = 0, endExtra = 0;      ///< none in a batch that has modules
  std::vector<ReadRange> reads;             ///< by adapter and offset
  uint64_t inputBytes = 0;                  ///< size of the input buffer
  uint64_t outputBegin = 0, outputEnd = 0;  ///< range of the output file that the batch fills
};

/// Bytes of the output file that stand between tensors.
struct PlannedFiller {
  uint64_t at = 0;
  std::string bytes;
};

/// A piece of a tensor that is no factor (job/extras.h).
struct PlannedExtra {
  struct Source {
    uint32_t adapter = 0;
    TensorInfo tensor;  ///< `begin` and `end` are those of the piece
    uint64_t at = 0;    ///< place in the batch's input buffer
    double weight = 1;
  };
  Policy policy = Policy::First;
  std::vector<Source> sources;
  size_t tensor = 0;  ///< index into Plan::extraTensors
  uint64_t firstElement = 0, elements = 0;
  TensorInfo out;  ///< `begin` and `end` are those of the piece

  /// Whether its bytes are the first source's own.
  bool isCopied() const { return policy == Policy::First && sources.front().weight == 1; }
};

/// What happens to a tensor, or a setting, that is no factor.
struct ExtraFate {
  uint32_t adapter = 0;
  std::string tensor;  ///< empty: a setting of the config
  ExtraKind kind = ExtraKind::Other;
  Policy policy = Policy::Refuse;
};

/// A module that writes what the inputs of a group are made from.
struct PlannedFeeder {
  size_t module = 0;
  double strength = 1;  ///< weight of what it tells about the group's inputs (job/shared_inputs.h)
};

/// Modules that are worked on together, by index, sorted.
struct PlannedGroup {
  std::vector<size_t> modules;
  std::vector<PlannedFeeder> feeders;  ///< in the same batch
};

/// What a kohya file says its own tensors hash to, which is known only once they are written: until then
/// zeros stand in the header. Source: kohya-ss/sd-scripts, library/train_util.py,
/// precalculate_safetensors_hashes.
struct PlannedHashes {
  uint64_t dataBegin = 0;    ///< of the file: the first byte behind the header
  uint64_t modelAt = 0;      ///< of the file: 64 hexadecimal digits, SHA-256 of all from dataBegin on
  uint64_t legacyAt = 0;     ///< of the file: 8 such digits, the first of the SHA-256 of 0x10000 bytes from
                             ///< 0x100000 on of what follows `legacyHeader`, and of it
  std::string legacyHeader;  ///< the header if its metadata were only what the training says of itself
};

struct Plan {
  const MethodInfo* method = nullptr;
  Recipe recipe;
  Options options;
  DType dtype = DType::F32;
  Dialect dialect = Dialect::Peft;       ///< of the output
  std::string architecture;              ///< of a GGUF output's base model
  std::vector<PlannedModule> modules;    ///< in file order
  std::vector<PlannedPair> pairs;        ///< in file order
  std::vector<PlannedGroup> groups;      ///< by their first module
  bool ranksAreKnown = true;             ///< false: the ranks are the most that may come out of a survey
  std::vector<PlannedBatch> batches;     ///< in file order
  std::vector<PlannedFiller> fillers;    ///< by place; those in a batch's range are written with it
  std::vector<PlannedExtra> extras;      ///< in file order, behind the modules
  std::vector<TensorInfo> extraTensors;  ///< the tensors that they are pieces of
  std::vector<ExtraFate> extraFates;     ///< by adapter
  std::string header;                    ///< first bytes of the output's tensor file, alphas included
  std::optional<PlannedHashes> hashes;   ///< of a kohya file that tells where it comes from
  std::vector<TensorInfo> constants;     ///< tensors that lie in `header`: alphas
  std::string config;                    ///< text of the output's config; empty where the dialect has none
  uint64_t inputBytes = 0;               ///< factor bytes that will be read
  uint64_t outputBytes = 0;              ///< size of the output's tensor file
  uint64_t peakBytes = 0;                ///< data of the merge at its peak, beside the runtime's own memory
  Footprint footprint;                   ///< with which that is so: as asked for, or less
  std::vector<std::string> notices;      ///< for people: what is left out, capped or doubtful
};

/// Checks that the adapters can be merged without loss, and lays out the work.
/// `footprint`: the most that the work may take; where its memory is limited, batches become smaller, and
/// then fewer of them are worked on at a time. `ranks`: of each module, once they have been chosen from the
/// data (ranksByRule); empty: as the recipe says. Errors: no_inputs, unknown_method, bad_option, bad_weights,
/// bad_rank, rank_above_units, bad_dtype, bad_format, bad_policy, mixed_dialects, unsupported_tensors,
/// unsupported_adapter, shape_mismatch, layout_mismatch, no_common_module, too_many_adapters, size_overflow,
/// out_of_memory.
Result<Plan> makePlan(std::span<const AdapterFile> adapters, const Recipe& recipe, const Footprint& footprint,
                      std::span<const uint32_t> ranks = {});

}  // namespace lego

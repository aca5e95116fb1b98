// What the user asks for: everything that, besides the input files, decides the output bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter/base_model.h"
#include "adapter/base_weights.h"
#include "adapter/extra.h"
#include "merge/options.h"

namespace lego {

/// How the rank of each module is found.
struct RankRule {
  enum class Kind : uint8_t {
    Fixed,       ///< Recipe::rank everywhere
    Energy,      ///< as few ranks as keep this share of the energy (squared singular values)
    Cumulative,  ///< as few as keep this share of the sum of singular values (sd-scripts sv_cumulative)
    Ratio,       ///< the singular values above the largest divided by this (sd-scripts sv_ratio)
    Frobenius,   ///< as few as keep this share of the Frobenius norm (sd-scripts sv_fro)
    Size,        ///< an output file of at most this many bytes, ranks given to where they keep most
    Automatic,   ///< what the adapters themselves suggest (job/rank_rule.h)
  };
  Kind kind = Kind::Fixed;
  double value = 0;
};

/// A weight, or a rank, for the modules whose path a glob matches. Later entries override earlier ones.
struct ModuleWeight {
  uint32_t adapter = 0;  ///< index into the inputs
  std::string glob;
  double weight = 1;
};
struct ModuleRank {
  std::string glob;
  uint32_t rank = 0;
};

struct Recipe {
  std::string method = "lego";
  std::vector<double> weights;  ///< one per adapter; empty: all 1
  std::vector<ModuleWeight> moduleWeights;
  /// Fixed: the rank, 0: the largest rank among the adapters. Other rules: the most that a module may get, 0:
  /// no limit.
  uint32_t rank = 0;
  RankRule rule;
  std::vector<ModuleRank> moduleRanks;
  uint64_t seed = 0;
  double scale = 1;
  std::string dtype = "same";   ///< "same", "f64", "f32", "f16", "bf16"
  std::string format = "same";  ///< "same", or the name of a dialect
  /// Converting, which is `cat` of one adapter: factors stay as they are, and scales are written beside them
  /// where the dialect can say them. Otherwise a result's scales are 1.
  bool keepScales = false;
  /// Of .onnx_adapter files: names of a module's factors, "{module}" standing for its path, and whether they
  /// are (in x rank) and (rank x out), as MatMul takes them, or as PEFT has them. Empty: the dialect's own.
  std::string onnxNameA, onnxNameB;
  bool onnxMatMul = true;
  std::optional<BaseModel> base;                   ///< of GGUF adapters, where it must be known
  std::shared_ptr<const BaseWeights> baseWeights;  ///< of DoRA; null: not given
  std::vector<std::pair<ExtraKind, Policy>>
      policies;                          ///< later ones count; otherwise what is no factor is refused
  std::vector<std::string> inputHashes;  ///< SHA-256 of the tensor files, for the metadata; empty: not known
  bool metadata = true;                  ///< whether the file tells where it comes from
  /// So many runs share the batches among them, which are then small enough for equal shares. Decides no
  /// byte of the output, and stands nowhere in it.
  uint32_t shards = 1;
  std::vector<OptionValue> options;
  /// Units that are the first centroids of every module (LEGO): Lloyd's algorithm alone then runs from
  /// them, as in the reference implementations. For reproducing published runs; empty: search.
  std::vector<uint32_t> start;
};

}  // namespace lego

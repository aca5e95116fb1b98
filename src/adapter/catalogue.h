// An adapter as modules: what every dialect is resolved to.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "format/header.h"

namespace lego {

/// What kind of layer a pair belongs to. Decides the suffix of its keys and how shapes are read.
enum class ModuleKind : uint8_t { Linear, Convolution, Embedding };

/// "linear", "convolution", "embedding".
const char* nameOf(ModuleKind kind);

/// One LoRA pair: delta = scale * B A, with A rank x in and B out x rank once all but the first axis of
/// A, and all but the first two of B, are flattened.
struct AdapterModule {
  std::string path;  ///< the module's path in the base model, the dialect's prefix and suffix removed
  ModuleKind kind = ModuleKind::Linear;
  TensorInfo a;
  TensorInfo b;
  uint64_t rank = 0;
  uint64_t in = 0;   ///< columns of A: input features, or channels x kernel, or the vocabulary
  uint64_t out = 0;  ///< rows of B
  double alpha = 0;
  double scale = 0;  ///< alpha / rank, or alpha / sqrt(rank) with rsLoRA
};

/// A tensor, or a setting, that this version would lose.
struct Unsupported {
  std::string tensor;  ///< empty where the config alone says so
  std::string reason;
};

/// What an output config repeats. Absent where the input did not say.
struct AdapterInfo {
  std::string baseModel;
  std::string taskType;
  std::string revision;
  bool fanInFanOut = false;
  bool rslora = false;
  uint64_t rank = 0;  ///< `r` of the config
  double alpha = 0;   ///< `lora_alpha` of the config
  /// Last path components that name every module of the adapter and no others of its base model; absent
  /// where the config chose modules in another way.
  std::optional<std::vector<std::string>> targetSuffixes;
};

struct Catalogue {
  AdapterInfo info;
  std::vector<AdapterModule> modules;    ///< by path
  std::vector<Unsupported> unsupported;  ///< empty where the adapter can be merged without loss
  std::vector<std::string> notices;      ///< for people: what they should know about this adapter
};

}  // namespace lego

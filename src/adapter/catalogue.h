// An adapter as modules: what every dialect is resolved to.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter/extra.h"
#include "format/header.h"
#include "tensor/expand.h"
#include "tensor/slice.h"

namespace lego {

/// How an adapter's files are named (adapter/dialect.h).
enum class Dialect : uint8_t { Peft, Kohya, Diffusers, Comfy, XLabs, ControlLora, Mlx, Gguf, OnnxAdapter };

/// Whose modules a dialect's paths name. Paths of one naming can be told to be the same module.
enum class Naming : uint8_t {
  Transformers,  ///< language models, as the transformers library calls their modules
  Diffusion,     ///< image and video models
};

/// What kind of layer a pair belongs to. Decides the suffix of its keys and how shapes are read.
enum class ModuleKind : uint8_t { Linear, Convolution, Embedding };

/// "linear", "convolution", "embedding".
const char* nameOf(ModuleKind kind);

/// Tensors of a delta that is stored otherwise than as one pair (LoHa, LoKr, a core, a full difference):
/// first and second factor, each full, up, down, mid, in the order of FactorTensors.
struct ExpandedFactors {
  Expansion expansion;
  std::array<std::optional<TensorInfo>, 8> tensors;
};

/// One LoRA pair: delta = scale * B A, with A rank x in and B out x rank once all but the first axis of
/// A, and all but the first two of B, are flattened.
struct AdapterModule {
  std::string path;  ///< the module's path in the base model, the dialect's suffix removed
  ModuleKind kind = ModuleKind::Linear;
  TensorInfo a;
  TensorInfo b;
  bool transposedA = false;  ///< A is stored in x rank
  bool transposedB = false;  ///< B is stored rank x out
  Slice sliceB;              ///< which elements of `b` are this module's
  uint32_t expert = 0;       ///< which one of a stack (adapter/stack.h) ...
  uint32_t experts = 0;      ///< ... of how many; 0: it is in none
  uint32_t rowHeads = 0;     ///< rows of B are those of so many heads in llama.cpp's order; 0: as everywhere
  uint64_t rank = 0;
  uint64_t in = 0;               ///< columns of A: input features, or channels x kernel, or the vocabulary
  uint64_t out = 0;              ///< rows of B
  std::vector<uint64_t> kernel;  ///< sides of a convolution's kernel, {3, 3}; `in` has them as factors
  /// Where the delta is stored in another way: how. `a` and `b` are then two of its tensors, for messages,
  /// and `rank` is the number of units that it is expanded into.
  std::shared_ptr<const ExpandedFactors> expanded;
  std::optional<TensorInfo> magnitude;  ///< DoRA's, `out` values
  double alphaRank = 0;                 ///< what alpha is divided by; 0: the scale is 1 whatever alpha says
  double alpha = 0;
  double scale = 0;  ///< alpha / rank, or alpha / sqrt(rank) with rsLoRA
};

/// Bytes of all of a module's factors in its file.
uint64_t bytesOf(const AdapterModule& module);
/// Bytes of the elements of a tensor that are a module's: `elements` where it is a part, all otherwise.
uint64_t bytesOf(const TensorInfo& tensor, const Slice& slice, uint64_t elements);

/// A module's alpha, where a file keeps it as a tensor: readAlphas() needs its value.
struct AlphaTensor {
  size_t module = 0;  ///< index into the catalogue's modules
  TensorInfo tensor;
};

/// A tensor, or a setting, that is no LoRA factor: what becomes of it is the recipe's to say (job/extras.h).
struct Unsupported {
  std::string tensor;  ///< empty where the config alone says so
  std::string reason;
  ExtraKind kind = ExtraKind::Other;
  std::optional<TensorInfo> place = {};  ///< of the tensor
};

/// What an output config repeats. Absent where the input did not say.
struct AdapterInfo {
  std::string baseModel;
  std::string taskType;
  std::string revision;
  bool fanInFanOut = false;
  bool rslora = false;
  bool dora = false;
  bool loraBias = false;                      ///< PEFT: whether lora_B have biases
  std::vector<std::string> modulesToSave;     ///< PEFT: modules trained in full
  std::vector<std::string> targetParameters;  ///< PEFT: ends of the paths of adapted parameters, sorted
  std::string bias;                           ///< PEFT: which biases are trained; "none" or empty: no
  std::string architecture;                   ///< GGUF: general.architecture of the base model
  uint64_t rank = 0;                          ///< `r` of the config
  double alpha = 0;                           ///< `lora_alpha` of the config
  /// Last path components that name every module of the adapter and no others of its base model; absent
  /// where the config chose modules in another way.
  std::optional<std::vector<std::string>> targetSuffixes;
};

struct Catalogue {
  Dialect dialect = Dialect::Peft;
  std::string reason;  ///< how the dialect was told, for people
  AdapterInfo info;
  std::vector<AdapterModule> modules;    ///< by path
  std::vector<AlphaTensor> alphas;       ///< by place in the file; until they are read, scales are not final
  std::vector<Unsupported> unsupported;  ///< what is no factor, or needs more than factors
  std::vector<std::string> notices;      ///< for people: what they should know about this adapter
  std::vector<std::pair<std::string, std::string>> metadata;  ///< of the tensor file
};

}  // namespace lego

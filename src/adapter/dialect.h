// The dialects: how adapters of one kind name their tensors and files. Each entry of the table below feeds
// detection, help, docs and the library's types. Sources: docs/formats.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "adapter/catalogue.h"

namespace lego {

/// What a tensor is to its module.
enum class Part : uint8_t {
  A,          ///< lora_A, lora_down
  B,          ///< lora_B, lora_up
  Alpha,      ///< a scalar; the module's scale is it over the rank
  Magnitude,  ///< DoRA's, one for each output (job/dora.h)
  // LyCORIS (tensor/expand.h)
  Mid,   ///< Tucker's core between A and B
  Diff,  ///< the whole difference
  HadaW1A,
  HadaW1B,
  HadaT1,
  HadaW2A,
  HadaW2B,
  HadaT2,
  LokrW1,
  LokrW1A,
  LokrW1B,
  LokrW2,
  LokrW2A,
  LokrW2B,
  LokrT2,
};
inline constexpr size_t kParts = static_cast<size_t>(Part::LokrT2) + 1;

/// A tensor's name, taken apart.
struct Key {
  std::string path;  ///< of the module
  Part part = Part::A;
  bool isEmbedding = false;
};

/// Where a dialect can say that a module's scale is not 1.
enum class ScalePlace : uint8_t { Nowhere, Config, EachModule };
/// "nowhere", "config", "each module".
const char* nameOf(ScalePlace place);

/// What a dialect's tensors lie in.
enum class FileKind : uint8_t { Safetensors, Gguf, OnnxAdapter };
/// "safetensors", "gguf", "onnx_adapter".
const char* nameOf(FileKind kind);

/// How a dialect holds the factors of all experts of a mixture in one pair of tensors (adapter/stack.h).
enum class StackLayout : uint8_t {
  None,
  Rows,    ///< A (experts r x in), B (out x r experts)
  Axis,    ///< A (experts x r x in), B (experts x out x r)
  Groups,  ///< of a convolution's groups in place of experts: A (groups r x in), B (groups out x r)
};

/// What a dialect is called, and what its files are.
struct DialectInfo {
  Dialect dialect;
  const char* name;                  ///< for people and recipes: "peft"
  const char* sentence;              ///< whose files these are
  Naming naming;                     ///< which modules its paths can be known to be the same as
  const char* tensorFile;            ///< what a written file is called where the user does not say
  const char* configFile = nullptr;  ///< nullptr: the tensor file says it all
  FileKind file = FileKind::Safetensors;
  /// Whether A is stored in x rank and B rank x out, the other way round than everywhere else.
  bool transposed = false;
  bool hasEmbeddings = false;      ///< whether it can hold the factors of an embedding
  bool keysTellEmbeddings = true;  ///< whether these have keys of their own; or else the module's name tells
  bool hasConvolutions = false;    ///< whether factors may be kernels
  StackLayout stacks = StackLayout::None;
  ScalePlace scales = ScalePlace::Nowhere;  ///< Config: one for all modules
  bool alphaTensors = false;                ///< whether a module's alpha is a tensor beside its factors
  bool isRead = true;                       ///< false: it is only written
  bool hasOneRank = false;                  ///< whether all modules must have the same rank, the config's
};

std::span<const DialectInfo> dialects();
const DialectInfo& infoOf(Dialect dialect);
std::optional<Dialect> dialectOf(std::string_view name);

/// How the dialect holds the parts of a module of this kind that are modules of their own. PEFT's
/// convolutions have groups: outputs of a group see its own ranks only, so that lora_B, which is grouped
/// itself, has 1 / groups of lora_A's ranks. Source: huggingface/peft src/peft/tuners/lora/layer.py,
/// _ConvNd.update_layer.
StackLayout layoutOf(Dialect dialect, ModuleKind kind);

/// A tensor's name as `dialect` reads it; nothing where it is none of its factors, alphas and the like.
std::optional<Key> parseKey(Dialect dialect, std::string_view name);

/// Whether the magnitudes of DoRA have PEFT's meaning in the dialect: norms of the rows of base weight and
/// delta together.
bool hasMagnitudes(Dialect dialect);

/// A tensor that is no factor of the dialect: what it is, by its name.
struct ExtraText {
  ExtraKind kind = ExtraKind::Other;
  const char* reason = "";
};
ExtraText extraOf(Dialect dialect, std::string_view name);

/// The keys under which a module's factors are written. `path` as the dialect has it. Of .onnx_adapter files,
/// which are named after a graph's inputs, the ones that are used unless a recipe names others.
std::string keyOf(Dialect dialect, const std::string& path, ModuleKind kind, Part part);

}  // namespace lego

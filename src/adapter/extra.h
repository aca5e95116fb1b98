// What an adapter may hold beside factors, and what can be done with it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lego {

enum class ExtraKind : uint8_t {
  Dora,           ///< DoRA magnitudes
  LoraBias,       ///< biases of lora_B
  Bias,           ///< trained biases
  ModulesToSave,  ///< weights trained in full
  Diff,           ///< differences of biases and normalisations
  Norm,           ///< trained normalisations
  Embedding,      ///< embeddings that come along
  Other,
};

enum class Policy : uint8_t {
  Refuse,   ///< the merge is refused: leaving it out would change what the adapter does
  Drop,     ///< left out
  First,    ///< that of the first adapter that has it
  Average,  ///< weighted mean over the adapters that have it
  Sum,      ///< weighted sum
  Merge,    ///< merged with the factors that it belongs to (job/dora.h)
};

/// A kind as recipes name it, and what can be asked for.
struct ExtraInfo {
  ExtraKind kind;
  const char* name;
  const char* sentence;
  std::span<const Policy> policies;  ///< what can be asked for

  bool allows(Policy policy) const;
};

std::span<const ExtraInfo> extraKinds();
const ExtraInfo& infoOf(ExtraKind kind);
std::optional<ExtraKind> extraKindOf(std::string_view name);

const char* nameOf(Policy policy);
std::optional<Policy> policyOf(std::string_view name);

}  // namespace lego

// The table of methods: help texts, types of the TypeScript library, docs and checks are all made from it.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "merge/core_space.h"
#include "merge/method.h"

namespace lego {

/// What weights mean.
enum class MethodFamily : uint8_t {
  ExactSum,   ///< weights as they are: 0.5 + 0.5 of an adapter is the adapter, 1 - 1 is nothing
  Consensus,  ///< weights as they are, but what adapters share counts once: copies at weight 1 give the
              ///< adapter
  Mean,       ///< weights are relative: copies of an adapter, however weighted, give the adapter
  Factors,    ///< PEFT's: square roots of the weights on both factors, with cross terms between adapters
};

/// How many ranks a method's result has.
enum class RankKind : uint8_t {
  UpToUnits,  ///< as asked, at most the sum of the adapters' ranks
  UpToSides,  ///< as asked, at most the shorter side of the module
  AllUnits,   ///< the sum of the adapters' ranks
  Equal,      ///< that of every adapter; they must be equal
};

/// How Gram matrices are computed (linalg/gram.h) for a method.
enum class MethodPrecision : uint8_t {
  Single,
  Double,
  /// A's in binary64. B's in binary32 first: its rounding only decides which directions are kept, and shows
  /// where less than 1e-4 of the energy is left out; then everything is done again with B's in binary64.
  Mixed,
};

struct MethodInfo {
  const char* name;
  std::span<const char* const> aliases = {};  ///< other names under which people know it
  MethodFamily family;
  const char* sentence;  ///< what it does, for people
  const char* source;
  RankKind rank = RankKind::UpToUnits;
  bool takesNegativeWeights = true;
  size_t mostAdapters = SIZE_MAX;
  bool reshapes = false;  ///< an adapter alone does not come back, by design
  MethodPrecision precision = MethodPrecision::Double;
  /// P x P matrices in binary64 that are there at a time: two Gram matrices, and what is made of them.
  size_t matrices = 8;
  std::span<const OptionInfo> options = {};
  std::variant<UnitMethod, CoreMethod, EntryMethod> run;
  RankEnergies energies = nullptr;  ///< of unit methods that can choose a rank; core methods all can

  bool takesRank() const { return rank == RankKind::UpToUnits || rank == RankKind::UpToSides; }
  /// Whether a rank can be chosen from the data, module by module.
  bool choosesRank() const { return energies != nullptr || std::holds_alternative<CoreMethod>(run); }
};

std::span<const MethodInfo> methods();
/// By its name or one of its aliases.
const MethodInfo* findMethod(std::string_view name);
/// "exact sum", "consensus", "mean", "factors".
const char* nameOf(MethodFamily family);
/// "up to units", "up to sides", "all units", "equal".
const char* nameOf(RankKind rank);

}  // namespace lego

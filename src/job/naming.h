// Which dialect a result is written in, and the names under which modules of several dialects are the same.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "adapter/translate.h"
#include "job/plan.h"

namespace lego {

/// What a module is in the result: a pair of tensors, or a part of one.
struct WrittenName {
  enum class Kind : uint8_t {
    Whole,
    Expert,  ///< one of a stack (adapter/stack.h)
    Fused,   ///< some rows of a module that is several elsewhere
  };
  Kind kind = Kind::Whole;
  std::string name;      ///< of the pair
  uint32_t expert = 0;   ///< which one ...
  uint32_t experts = 0;  ///< ... of how many; 0: not known
  std::vector<RowRange> rows =
      {};                  ///< of a fused module that are this one's: `at` is the row in the fused one
  uint64_t fusedRows = 0;  ///< rows of the fused module
};

/// The adapters' modules under names that can be compared.
struct NamedModules {
  Dialect dialect = Dialect::Peft;  ///< of the result
  /// Whether the names are the dialect's own: where all adapters are of the dialect that is written.
  bool areNative = true;
  std::vector<std::vector<AdapterModule>> modules;  ///< for each adapter, by path
  DiffusionFamilies families = 0;                   ///< where the names are canonical: models that have all

  std::string architecture;         ///< of a GGUF result
  const BaseModel* base = nullptr;  ///< of the recipe

  /// A module in the result, but for its name. Errors: bad_format.
  Result<WrittenName> writtenName(const PlannedModule& module) const;
  /// Heads in whose order its rows of B are to be put, given its name in the result; 0: none. Errors:
  /// base_missing, bad_format, shape_mismatch.
  Result<uint32_t> writtenHeads(const std::string& name, uint64_t rows) const;
};

/// Chooses the dialect as the recipe's format says: "same" is that of the adapters, or, where they are of
/// several, the one that all of them can be written in. Errors: bad_format, mixed_dialects, base_missing.
Result<NamedModules> nameModules(std::span<const AdapterFile> adapters, const Recipe& recipe,
                                 std::vector<std::string>& notices);

}  // namespace lego

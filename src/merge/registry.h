// The table of methods: help texts, types of the TypeScript library and checks are all made from it.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "merge/method.h"

namespace lego {

/// How weights and rank are understood.
enum class MethodFamily {
  ExactSum,  ///< weights as they are: 0.5 + 0.5 of an adapter is the adapter, 1 - 1 is nothing
  Mean,      ///< weights are relative: copies of an adapter, however weighted, give the adapter
};

struct MethodInfo {
  const char* name;
  MethodFamily family;
  const char* sentence;  ///< what it does, for people
  const char* source;
  bool takesRank;  ///< false: the result has as many ranks as the inputs together
  bool takesNegativeWeights;
  GramPrecision precision;
  std::span<const OptionInfo> options;
  Method run;
};

std::span<const MethodInfo> methods();
const MethodInfo* findMethod(std::string_view name);
const char* nameOf(MethodFamily family);

}  // namespace lego

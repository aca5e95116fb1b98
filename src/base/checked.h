// Sizes from untrusted files: arithmetic that tells when it does not fit.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

namespace lego {

inline std::optional<uint64_t> checkedMultiply(uint64_t a, uint64_t b) {
  if (a != 0 && b > std::numeric_limits<uint64_t>::max() / a) return std::nullopt;
  return a * b;
}

inline std::optional<uint64_t> checkedAdd(uint64_t a, uint64_t b) {
  if (b > std::numeric_limits<uint64_t>::max() - a) return std::nullopt;
  return a + b;
}

}  // namespace lego

// The seeded generator of every random choice, so that a seed means the same on every platform.
#pragma once

#include <cstdint>
#include <string_view>

namespace lego {

/// SplitMix64 (Steele, Lea, Flood 2014): a 64-bit counter and a mixing function; integer arithmetic only.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;  // 2^64 divided by the golden ratio
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  /// Uniform in [0, bound), bound >= 1. The bias of the modulo is below bound / 2^64.
  uint64_t below(uint64_t bound) { return next() % bound; }

 private:
  uint64_t state_;
};

/// The seed of one module: depends on the recipe's seed and the module's path alone, so that a module's
/// result does not depend on which others are merged or in which order. FNV-1a, then one SplitMix64 step.
inline uint64_t moduleSeed(uint64_t seed, std::string_view path) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : path) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return Random(seed ^ hash).next();
}

}  // namespace lego

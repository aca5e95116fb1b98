// The regular expressions of rank_pattern and alpha_pattern, matched in linear time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lego {

/// One key of rank_pattern or alpha_pattern (PEFT `get_pattern_key`): matches a module path if
/// `^(.*\.)?(key)$` does, read as a Python regular expression.
///
/// Supported: literals, `.`, classes `[...]`, `\d \D \w \W \s \S`, groups `( )` and `(?: )`, `|`, `^`, `$`,
/// `* + ?` and `{m,n}` with or without a lazy `?`. Whether a lazy or a greedy match is found makes no
/// difference to a match of the whole path. Back-references, look-around and flags are refused with
/// bad_pattern: they cannot be matched in linear time, and no known tool writes them.
///
/// Works on bytes: a class or `.` matches one byte of a multi-byte character.
class Pattern {
 public:
  static Result<Pattern> compile(std::string_view key);

  /// Time is proportional to states times path length, whatever the pattern (Thompson's construction).
  bool matches(std::string_view path) const;

 private:
  friend class PatternCompiler;

  struct State {
    enum class Kind : uint8_t { Bytes, Split, Begin, End, Accept } kind;
    uint32_t next = 0;   // state after this one
    uint32_t other = 0;  // Split: the second way; Bytes: index of the class
  };
  using ByteClass = std::vector<bool>;  // 256 entries

  std::vector<State> states_;
  std::vector<ByteClass> classes_;
  uint32_t start_ = 0;
};

}  // namespace lego

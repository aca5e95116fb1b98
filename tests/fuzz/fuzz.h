// What the fuzz targets share: choices and values out of a fuzzer's bytes, and checks that end the process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "format/safetensors.h"

namespace lego::fuzz {

using Bytes = std::span<const std::byte>;

/// Ends the process, which the fuzzer takes for a finding, unless `holds`.
inline void require(bool holds, const char* invariant) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", invariant);
  std::abort();
}

/// As above, naming the error that stands in the way.
template <typename Outcome>
void requireOk(const Outcome& outcome, const char* invariant) {
  if (!outcome)
    std::fprintf(stderr, "%s: %s\n", codeInfo(outcome.error().code).name, describe(outcome.error()).c_str());
  require(static_cast<bool>(outcome), invariant);
}

/// What holds of every error: it can be shown, and it is not the program's own mistake.
inline void checkError(const Error& error) {
  require(error.code != Code::internal, "no input leads to an internal error");
  require(!error.detail.empty() && !describe(error).empty(), "an error says what is wrong");
}

inline Bytes bytesOf(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }
inline std::string_view textOf(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Reads a fuzzer's bytes from the front. Where they have run out everything is zero.
class Input {
 public:
  explicit Input(Bytes bytes) : bytes_(bytes) {}

  template <typename T>
  T take() {
    T value{};
    const size_t n = std::min(sizeof(T), bytes_.size());
    if (n > 0) std::memcpy(&value, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
    return value;
  }
  /// Below `bound`, which is at least 1.
  size_t below(size_t bound) { return bound > 256 ? take<uint16_t>() % bound : take<uint8_t>() % bound; }
  size_t between(size_t least, size_t most) { return least + below(most - least + 1); }
  bool flag() { return below(2) == 1; }
  template <typename T, size_t N>
  const T& oneOf(const T (&values)[N]) {
    return values[below(N)];
  }
  Bytes rest() const { return bytes_; }

 private:
  Bytes bytes_;
};

/// `count` bytes: those of `source` again and again.
inline std::vector<std::byte> repeated(Bytes source, size_t count) {
  std::vector<std::byte> bytes(count);
  if (source.empty()) return bytes;
  for (size_t at = 0; at < count; at += source.size())
    std::memcpy(bytes.data() + at, source.data(), std::min(source.size(), count - at));
  return bytes;
}

/// The pieces of an input between bytes 0xFF, which no UTF-8 text has.
inline std::vector<Bytes> pieces(Bytes bytes) {
  std::vector<Bytes> result;
  for (;;) {
    const auto end = std::ranges::find(bytes, std::byte{0xFF});
    const auto length = static_cast<size_t>(end - bytes.begin());
    result.push_back(bytes.first(length));
    if (length == bytes.size()) return result;
    bytes = bytes.subspan(length + 1);
  }
}

/// The first bytes of a safetensors file whose header is `json`.
inline std::vector<std::byte> withPrefix(Bytes json) {
  std::vector<std::byte> bytes(safetensors::kPrefixBytes);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(uint64_t{json.size()} >> (8 * i));
  bytes.insert(bytes.end(), json.begin(), json.end());
  return bytes;
}

/// How many bytes a file must have for its header, here whole, to be accepted; none where no size will do.
inline std::optional<uint64_t> wholeSize(Bytes header) {
  const auto read = safetensors::readHeader(header, UINT64_MAX);
  if (read) return UINT64_MAX;
  if (read.error().code != Code::trailingBytes) return std::nullopt;
  return read.error().offset;
}

}  // namespace lego::fuzz

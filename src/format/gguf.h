// The GGUF container: bytes <-> header and typed metadata. Reads versions 2 and 3, little-endian, as strictly
// as ggml's own reader. Sources: ggml/docs/gguf.md, ggml/src/gguf.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "format/header.h"

namespace lego::gguf {

/// Type numbers of metadata values.
enum class ValueType : uint32_t {
  UInt8,
  Int8,
  UInt16,
  Int16,
  UInt32,
  Int32,
  Float32,
  Bool,
  String,
  Array,
  UInt64,
  Int64,
  Float64,
};

/// An array of metadata. Values are kept only of short arrays of integers of up to 32 bits (heads per layer,
/// tokens that switch an adapter on): a base model's vocabulary is passed over.
struct Array {
  ValueType element = ValueType::UInt32;
  uint64_t count = 0;
  std::vector<int64_t> integers;  ///< `count` of them, or none

  bool operator==(const Array&) const = default;
};

/// A metadata value, with the type it has in a file. Integers of 8 and 16 bits are read as 32.
using Value = std::variant<uint32_t, int32_t, uint64_t, int64_t, float, double, bool, std::string, Array>;
using Metadata = std::map<std::string, Value, std::less<>>;

/// What stands under `key`: text; a non-negative integer of any width; a number of any kind. Nothing where
/// the key is missing or has another type.
const std::string* textOf(const Metadata& metadata, std::string_view key);
std::optional<uint64_t> integerOf(const Metadata& metadata, std::string_view key);
std::optional<double> numberOf(const Metadata& metadata, std::string_view key);
const Array* arrayOf(const Metadata& metadata, std::string_view key);

/// A header that was read. Shapes are row-major, i.e. GGUF's dimensions reversed. `header.metadata`, which is
/// safetensors' strings, stays empty.
struct File {
  Header header;
  Metadata metadata;
};

/// The header, or how many of the file's first bytes readHeader() wants to see next time.
struct ReadProgress {
  uint64_t needed = 0;  ///< more than were given, at most the file's size; 0 once there is a header
  std::optional<File> file;
};

/// Parses the header at the start of a file of `fileSize` bytes, of which `bytes` are the first: any number,
/// such as 64 KB. A header's length stands nowhere, so the caller reads on until there is a header. `needed`
/// at least doubles where the file allows it, so that repeated parsing stays linear.
///
/// Refused beyond what ggml refuses: metadata strings, keys and names that are no UTF-8 or hold NUL; keys
/// that are not printable ASCII; empty tensors; booleans other than 0 and 1; alignments that are no multiple
/// of 8. Tensor names may have 64 bytes, as the format says; ggml loads 63. Bytes behind the last tensor are
/// ignored, as ggml does. Errors: unknown_format, file_truncated, header_too_large, bad_header,
/// unknown_dtype, duplicate_tensor, size_overflow, size_mismatch, bad_offsets, tensor_overlap, tensor_hole.
Result<ReadProgress> readHeader(std::span<const std::byte> bytes, uint64_t fileSize);

/// Alignment of what writeHeader() lays out: the format's default.
inline constexpr uint64_t kAlignment = 32;

/// Zero bytes that follow a tensor of `bytes` bytes, the last one too: ggml reads the data section whole.
constexpr uint64_t paddingAfter(uint64_t bytes) { return (kAlignment - bytes % kAlignment) % kAlignment; }

/// The longest name that loads: ggml's GGML_MAX_NAME is 64 and includes the terminating NUL.
inline constexpr size_t kNameBytes = 63;

/// A version 3 header, padded to where the data begins, for tensors that lie one after the other in the given
/// order with paddingAfter() zeros behind each; sets their begin and end. Key/values keep their order; an
/// Array needs its integers. Errors: not_expressible (a name of more than kNameBytes or that readHeader()
/// would refuse, text that is no UTF-8 or holds NUL, more than four dimensions, a side of 0, a dtype that
/// ggml lacks, rows of no whole blocks), duplicate_tensor, size_overflow, internal (metadata that cannot be
/// written).
Result<std::string> writeHeader(Header& header, const std::vector<std::pair<std::string, Value>>& metadata);

}  // namespace lego::gguf

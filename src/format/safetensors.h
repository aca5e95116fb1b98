// The safetensors container: bytes <-> header. Reads strictly: everything that the reference reader
// refuses, and duplicate names. Source: safetensors/src/tensor.rs and README "Format".
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"
#include "format/header.h"

namespace lego::safetensors {

/// Bytes that must be read to know the header's size.
inline constexpr size_t kPrefixBytes = 8;

/// Size of prefix and header together, from a file's first bytes (up to kPrefixBytes, fewer only where the
/// file is shorter) and its size in bytes.
/// Errors: pickle_file, unknown_format, file_truncated, header_too_large.
Result<uint64_t> headerSize(std::span<const std::byte> prefix, uint64_t fileSize);

/// Parses prefix and header (exactly headerSize() bytes) of a file of `fileSize` bytes.
/// Errors: bad_header, unknown_dtype, duplicate_tensor, size_overflow, size_mismatch, bad_offsets,
/// tensor_overlap, tensor_hole, file_truncated, trailing_bytes.
Result<Header> readHeader(std::span<const std::byte> bytes, uint64_t fileSize);

/// Prefix and header for tensors that lie one after the other in the given order; sets their begin and end.
/// Metadata first, padded with spaces to a multiple of 8.
/// Errors: size_overflow; size_mismatch where elements of less than a byte do not fill whole bytes;
/// bad_dtype.
Result<std::string> writeHeader(Header& header);

}  // namespace lego::safetensors

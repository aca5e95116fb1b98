// ONNX Runtime's .onnx_adapter container, a FlatBuffer: bytes <-> header. Sources:
// onnxruntime/lora/adapter_format/adapter_schema.fbs and what flatc makes of it, adapter_schema.fbs.h;
// onnxruntime/lora/adapter_format_utils.cc; flatbuffers/include/flatbuffers/verifier.h and table.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "format/header.h"

namespace lego::onnx_adapter {

/// Bytes that tell the format: an offset, then the identifier.
inline constexpr size_t kPrefixBytes = 8;
bool hasIdentifier(std::span<const std::byte> prefix);

/// The largest file that loads: FlatBuffers' verifier takes less than FLATBUFFERS_MAX_BUFFER_SIZE, 2^31 - 1.
inline constexpr uint64_t kFileBytes = 0x7FFFFFFE;

/// The only version of the format (adapter_format_version.h).
inline constexpr int32_t kFormatVersion = 1;

/// A header that was read. `header.metadata` stays empty: the format has none but the two versions, which
/// mean what the file's author wants.
struct File {
  Header header;
  int32_t adapterVersion = 0;
  int32_t modelVersion = 0;
};

/// Parses a whole file: the parts of a FlatBuffer refer to each other and may lie anywhere. Tensors come out
/// in the order of their data. Of dtypes, all of the format's but strings and complex numbers of 128 bits are
/// known.
///
/// Refused beyond what ONNX Runtime refuses, which does not look at all of it: absent names, dims, data or
/// list of parameters; two parameters of one name; names that are empty, no UTF-8, hold NUL or are longer
/// than limits::kOnnxNameBytes; negative or more than limits::kDimensions dims; data that does not fit dims
/// and dtype, or shares bytes with anything else. Data is aligned to 4 bytes only: the schema wants 8, but
/// ONNX Runtime's own writer does not keep to that. Errors: unknown_format, file_truncated, size_overflow,
/// bad_header, header_too_large, unknown_dtype, duplicate_tensor, size_mismatch, tensor_overlap.
Result<File> readHeader(std::span<const std::byte> file);

/// Alignment of the tensors that writeHeader() lays out: the schema's.
inline constexpr uint64_t kAlignment = 8;

/// What stands between the data of a tensor that ends at `previousEnd` and that of `tensor`, the next one:
/// zeros, then the number of its bytes. 4 to 11 bytes, known as soon as writeHeader() has set the tensors'
/// places.
std::string bytesBetween(uint64_t previousEnd, const TensorInfo& tensor);

/// Everything in front of the first tensor's data, for tensors that lie in the given order with
/// bytesBetween() in front of each but the first; sets their begin and end. The last tensor's data ends the
/// file. The format has no place for `header.metadata`. Errors: not_expressible (a name or shape that
/// readHeader() would refuse, a dtype that is none of F32, F16, BF16, F64 and the four of 8 bits, more than
/// limits::kOnnxParameters tensors), duplicate_tensor, size_overflow (a file of more than kFileBytes).
Result<std::string> writeHeader(Header& header, int32_t adapterVersion, int32_t modelVersion);

}  // namespace lego::onnx_adapter

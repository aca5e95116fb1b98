#include "format/container.h"

#include <algorithm>
#include <cstring>

#include "format/onnx_adapter.h"
#include "format/safetensors.h"

namespace lego {
namespace {

bool isGguf(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
}

}  // namespace

Result<uint64_t> headerNeeds(std::span<const std::byte> prefix, uint64_t fileSize) {
  // First: where .onnx_adapter has its identifier, GGUF has its version.
  if (isGguf(prefix)) {
    const auto progress = gguf::readHeader(prefix, fileSize);
    if (!progress) return progress.error();
    return progress->file ? uint64_t{prefix.size()} : progress->needed;
  }
  if (onnx_adapter::hasIdentifier(prefix)) {
    return Error{Code::unknownFormat,
                 "this is an .onnx_adapter file, which is written but not read; give the adapter that it was "
                 "made from",
                 {},
                 {},
                 {}};
  }
  return safetensors::headerSize(prefix.first(std::min(prefix.size(), safetensors::kPrefixBytes)), fileSize);
}

Result<Container> readContainer(std::span<const std::byte> bytes, uint64_t fileSize) {
  if (!isGguf(bytes)) {
    auto header = safetensors::readHeader(bytes, fileSize);
    if (!header) return header.error();
    return Container{std::move(*header), {}};
  }
  auto progress = gguf::readHeader(bytes, fileSize);
  if (!progress) return progress.error();
  if (!progress->file) return Error{Code::internal, "the header was not read whole", {}, {}, {}};
  return Container{std::move(progress->file->header), std::move(progress->file->metadata)};
}

}  // namespace lego

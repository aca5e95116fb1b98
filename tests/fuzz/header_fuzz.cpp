// Any bytes as the beginning of a safetensors file; once more with a length in front that is right.

#include <set>

#include "base/limits.h"
#include "fuzz.h"

namespace lego::fuzz {
namespace {

/// The table as the format defines it: each byte of the data belongs to one tensor, whose shape asks for it.
void checkTable(const Header& header, uint64_t headerBytes, uint64_t fileSize) {
  std::set<std::string> names;
  uint64_t position = headerBytes;
  for (const TensorInfo& tensor : header.tensors) {
    require(names.insert(tensor.name).second, "a name occurs once");
    require(tensor.begin == position && tensor.end >= tensor.begin,
            "a tensor begins where the last one ended");
    unsigned __int128 bits = bitsOf(tensor.dtype);
    require(tensor.shape.size() <= limits::kDimensions, "shapes are short");
    for (const uint64_t side : tensor.shape) {
      bits *= side;
      require(bits <= UINT64_MAX, "sizes fit 64 bits");
    }
    require(bits == static_cast<unsigned __int128>(tensor.end - tensor.begin) * 8,
            "bytes are as many as the shape asks for");
    position = tensor.end;
  }
  require(position == fileSize, "the last tensor ends with the file");
}

void checkRoundTrip(const Header& header) {
  Header copy = header;
  const auto text = safetensors::writeHeader(copy);
  if (!text) {
    // A longer header in front of the same data may reach beyond 64 bits.
    require(text.error().code == Code::sizeOverflow && header.tensors.back().end > UINT64_MAX / 2,
            "what was read can be written");
    return;
  }
  const uint64_t fileSize = copy.tensors.empty() ? text->size() : copy.tensors.back().end;
  const auto back = safetensors::readHeader(bytesOf(*text), fileSize);
  requireOk(back, "what was written can be read");
  checkTable(*back, text->size(), fileSize);
  require(back->metadata == header.metadata, "metadata come back");
  require(back->tensors.size() == header.tensors.size(), "tensors come back");
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorInfo &before = header.tensors[i], &written = copy.tensors[i], &after = back->tensors[i];
    require(after.name == before.name && after.dtype == before.dtype && after.shape == before.shape,
            "a tensor comes back");
    require(after.begin == written.begin && after.end == written.end, "the writer knows where tensors lie");
  }
}

/// Whether the file is accepted.
bool checkFile(Bytes start, uint64_t fileSize) {
  const auto size =
      safetensors::headerSize(start.first(std::min(start.size(), safetensors::kPrefixBytes)), fileSize);
  if (!size) return checkError(size.error()), false;
  require(*size >= safetensors::kPrefixBytes && *size <= fileSize, "a header lies in its file");
  require(*size <= safetensors::kPrefixBytes + limits::kHeaderBytes, "a header is not too large");
  if (*size > start.size()) return false;
  const auto header = safetensors::readHeader(start.first(*size), fileSize);
  if (!header) return checkError(header.error()), false;
  checkTable(*header, *size, fileSize);
  checkRoundTrip(*header);
  return true;
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego::fuzz;
  const Bytes bytes = std::as_bytes(std::span(data, size));
  checkFile(bytes, size);
  const auto header = withPrefix(bytes.subspan(std::min(size, lego::safetensors::kPrefixBytes)));
  checkFile(header, header.size());
  if (const auto whole = wholeSize(header)) {
    require(checkFile(header, *whole), "a file of the size that its header asks for is accepted");
    require(!checkFile(header, *whole - 1), "a file that is cut off is refused");
  }
  return 0;
}

// Any container of tensors, told by its first bytes: header and metadata, whatever the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "format/gguf.h"
#include "format/header.h"

namespace lego {

/// What a file's header says.
struct Container {
  Header header;
  std::optional<gguf::Metadata> gguf;  ///< typed metadata, where the file is a GGUF
};

/// How many of a file's first bytes readContainer() needs, of which `prefix` are some, 8 or more unless the
/// file is shorter: more than were given, or exactly as many. In the second case they are enough.
/// Errors: those of safetensors::headerSize and gguf::readHeader.
Result<uint64_t> headerNeeds(std::span<const std::byte> prefix, uint64_t fileSize);

/// Parses a header. `bytes`: as many as headerNeeds() asked for. Errors: those of safetensors::readHeader and
/// gguf::readHeader.
Result<Container> readContainer(std::span<const std::byte> bytes, uint64_t fileSize);

}  // namespace lego

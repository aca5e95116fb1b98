// What must be known of a base model to write, or to undo, the order of rows and the names of GGUF adapters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "format/gguf.h"

namespace lego {

struct BaseModel {
  std::string architecture;  ///< as in general.architecture: "llama", "qwen2"
  uint32_t heads = 0;        ///< attention heads; 0 where the file does not say
  uint32_t keyHeads = 0;     ///< key-value heads
  bool tiedOutput = false;   ///< whether the output layer is the token embedding
  uint32_t experts = 0;      ///< of each mixture; 0: the file does not say
};

/// A Hugging Face config.json. Errors: bad_config, for one that names no architecture which is known.
Result<BaseModel> readBaseConfig(std::string_view text);

/// A base model's GGUF file, from its header. Errors: bad_config.
Result<BaseModel> readBaseGguf(const gguf::Metadata& metadata, const Header& header);

}  // namespace lego

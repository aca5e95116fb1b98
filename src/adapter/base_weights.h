// Where the weights of a base model's modules lie in its safetensors files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "format/header.h"

namespace lego {

class BaseWeights {
 public:
  struct Place {
    uint32_t file = 0;  ///< in the order of add()
    TensorInfo tensor;
  };

  /// Adds a file (a shard, or a component of a pipeline). Errors: none; its tensors were checked when its
  /// header was read.
  void add(const std::string& name, const Header& header);

  /// The weight of a module, out x in once all but its first axis are flattened: the tensor `<path>.weight`,
  /// or the only one of that shape whose name is the path's end, or ends with it: adapters name modules from
  /// the model's or pipeline's top, files from theirs. Errors: base_missing.
  Result<Place> find(const std::string& path, uint64_t out, uint64_t in) const;

 private:
  std::vector<std::string> files_;             // their names, for messages
  std::multimap<std::string, Place> weights_;  // by module
};

}  // namespace lego

// What a container's header says: a table of tensors. The same for every container format.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/order.h"
#include "tensor/dtype.h"

namespace lego {

/// One tensor of a file. `begin` and `end` are byte offsets in the whole file.
struct TensorInfo {
  std::string name;
  DType dtype = DType::F32;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct Header {
  std::vector<TensorInfo> tensors;                            ///< in file order
  std::vector<std::pair<std::string, std::string>> metadata;  ///< in the header's order
};

/// By where the tensors lie.
inline void sortByPlace(std::vector<TensorInfo>& tensors) {
  sortStable(tensors, [](const TensorInfo& x, const TensorInfo& y) {
    return x.begin != y.begin ? x.begin < y.begin : x.end < y.end;
  });
}

/// A shape as messages show it: "[8, 64]".
inline std::string shapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace lego

#include "adapter/catalogue.h"

namespace lego {

const char* nameOf(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::Linear: return "linear";
    case ModuleKind::Convolution: return "convolution";
    case ModuleKind::Embedding: return "embedding";
  }
  return "";
}

uint64_t bytesOf(const AdapterModule& module) {
  const auto size = [](const TensorInfo& tensor) { return tensor.end - tensor.begin; };
  if (!module.expanded) return size(module.a) + size(module.b);
  uint64_t bytes = 0;
  for (const auto& tensor : module.expanded->tensors) bytes += tensor ? size(*tensor) : 0;
  return bytes;
}

}  // namespace lego

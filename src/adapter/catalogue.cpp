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

uint64_t bytesOf(const TensorInfo& tensor, const Slice& slice, uint64_t elements) {
  if (slice.isWhole()) return tensor.end - tensor.begin;
  return elements * (bitsOf(tensor.dtype) / 8);
}

uint64_t bytesOf(const AdapterModule& module) {
  const auto size = [](const TensorInfo& tensor) { return tensor.end - tensor.begin; };
  if (!module.expanded) return size(module.a) + bytesOf(module.b, module.sliceB, module.out * module.rank);
  uint64_t bytes = 0;
  for (const auto& tensor : module.expanded->tensors) bytes += tensor ? size(*tensor) : 0;
  return bytes;
}

}  // namespace lego

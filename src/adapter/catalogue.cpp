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

}  // namespace lego

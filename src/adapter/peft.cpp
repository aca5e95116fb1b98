#include "adapter/peft.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/checked.h"
#include "base/limits.h"

namespace lego::peft {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";

Error fail(Code code, std::string detail, const std::string& tensor) {
  return {code, std::move(detail), {}, tensor, {}};
}

std::string shapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/// Endings of factor keys, after the module's path. Saved files carry no adapter name; some third-party
/// ones keep PEFT's default one.
struct Suffix {
  std::string_view text;
  bool isA;
  bool isEmbedding;
};
constexpr Suffix kSuffixes[] = {
    {".lora_A.weight", true, false},           {".lora_B.weight", false, false},
    {".lora_A.default.weight", true, false},   {".lora_B.default.weight", false, false},
    {".lora_embedding_A", true, true},         {".lora_embedding_B", false, true},
    {".lora_embedding_A.default", true, true}, {".lora_embedding_B.default", false, true},
};

/// The suffix of a factor's key, or nullptr where the key is none of this dialect.
const Suffix* suffixOf(std::string_view name) {
  for (const Suffix& suffix : kSuffixes) {
    const bool fits = name.starts_with(kPrefix) && name.ends_with(suffix.text) &&
                      name.size() > kPrefix.size() + suffix.text.size();
    if (fits) return &suffix;
  }
  return nullptr;
}

/// Why a key that is no factor would be lost.
std::string reasonFor(std::string_view name) {
  if (name.find("lora_magnitude_vector") != std::string_view::npos)
    return "a DoRA magnitude, which needs the base model's norms";
  if (name.ends_with(".bias") && name.find(".lora_B.") != std::string_view::npos) return "a bias of lora_B";
  if (name.ends_with(".bias")) return "a trained bias";
  if (name.find("modules_to_save") != std::string_view::npos)
    return "a fully trained module (modules_to_save)";
  if (!name.starts_with(kPrefix)) return "not a key of PEFT (its keys begin with 'base_model.model.')";
  if (name.ends_with(".weight")) return "a full weight (modules_to_save or a resized embedding)";
  return "not a LoRA factor";
}

uint64_t product(const std::vector<uint64_t>& shape, size_t from) {
  uint64_t result = 1;
  // The header reader has checked that the product of all sides fits 64 bits, unless one of them is 0.
  for (size_t i = from; i < shape.size(); ++i)
    result = checkedMultiply(result, shape[i]).value_or(UINT64_MAX);
  return result;
}

/// Fills rank, in, out and kind from the two shapes.
Status readShapes(AdapterModule& module) {
  const auto &a = module.a.shape, &b = module.b.shape;
  const auto wrong = [&](const std::string& why) {
    return fail(Code::shapeMismatch,
                "the factors have shapes " + shapeText(a) + " and " + shapeText(b) + ": " + why,
                module.a.name);
  };
  if (a.size() < 2 || b.size() < 2) return wrong("a factor needs two dimensions");
  if (module.kind == ModuleKind::Embedding) {
    if (a.size() != 2 || b.size() != 2) return wrong("an embedding's factors are matrices");
  } else if (a.size() != b.size()) {
    return wrong("one is a matrix and one is a kernel");
  } else if (a.size() > 2) {
    if (a.size() > 5) return wrong("a convolution has at most five dimensions");
    module.kind = ModuleKind::Convolution;
    for (size_t i = 2; i < b.size(); ++i) {
      if (b[i] != 1) return wrong("lora_B of a convolution must be 1 x 1");
    }
  }
  module.rank = a[0];
  module.in = product(a, 1);
  module.out = b[0];
  if (module.rank == 0 || b[1] == 0)
    return fail(Code::rankZero, "the factor has rank zero", module.rank == 0 ? module.a.name : module.b.name);
  if (b[1] != module.rank) {
    return fail(Code::rankMismatch,
                "lora_A has rank " + std::to_string(module.rank) + ", lora_B has " + std::to_string(b[1]),
                module.b.name);
  }
  if (module.in == 0 || module.out == 0) return wrong("a side is zero");
  if (module.in > limits::kFactorSide || module.out > limits::kFactorSide)
    return wrong("a side exceeds " + std::to_string(limits::kFactorSide));
  return {};
}

Status checkDtype(const TensorInfo& tensor) {
  if (isFactorDtype(tensor.dtype)) return {};
  return fail(Code::unsupportedDtype,
              "the factor is stored as " + std::string(nameOf(tensor.dtype)) +
                  "; F64, F32, F16, BF16 and F8 can be read",
              tensor.name);
}

}  // namespace

bool hasFactors(const Header& header) {
  return std::ranges::any_of(header.tensors,
                             [](const TensorInfo& tensor) { return suffixOf(tensor.name) != nullptr; });
}

Result<Catalogue> readAdapter(const Header& header, const Config& config) {
  struct Pair {
    const TensorInfo* a = nullptr;
    const TensorInfo* b = nullptr;
    bool isEmbedding = false;
  };
  std::map<std::string, Pair> pairs;  // by path
  Catalogue catalogue;
  for (const TensorInfo& tensor : header.tensors) {
    const std::string_view name = tensor.name;
    const Suffix* suffix = suffixOf(name);
    if (!suffix) {
      catalogue.unsupported.push_back({tensor.name, reasonFor(name)});
      continue;
    }
    const std::string path(name.substr(kPrefix.size(), name.size() - kPrefix.size() - suffix->text.size()));
    Pair& pair = pairs[path];
    const TensorInfo*& factor = suffix->isA ? pair.a : pair.b;
    if (factor)
      return fail(Code::duplicateModule,
                  "the module already has this factor in tensor " + shownName(factor->name), tensor.name);
    const bool first = !pair.a && !pair.b;
    if (!first && pair.isEmbedding != suffix->isEmbedding) {
      return fail(Code::unpairedFactor, "the module has one factor of a linear layer and one of an embedding",
                  tensor.name);
    }
    factor = &tensor;
    pair.isEmbedding = suffix->isEmbedding;
  }
  if (pairs.empty()) {
    const std::string first = header.tensors.empty() ? std::string() : header.tensors.front().name;
    return fail(
        Code::noFactors,
        "the file holds no PEFT LoRA factors (keys such as 'base_model.model.<module>.lora_A.weight')",
        first);
  }

  for (auto& [path, pair] : pairs) {
    if (!pair.a || !pair.b) {
      const TensorInfo* present = pair.a ? pair.a : pair.b;
      return fail(Code::unpairedFactor,
                  std::string("the module has no ") + (pair.a ? "lora_B" : "lora_A") + " to go with it",
                  present->name);
    }
    AdapterModule module;
    module.path = path;
    module.kind = pair.isEmbedding ? ModuleKind::Embedding : ModuleKind::Linear;
    module.a = *pair.a;
    module.b = *pair.b;
    for (const TensorInfo* factor : {pair.a, pair.b}) {
      if (Status read = checkDtype(*factor); !read) return read.error();
    }
    if (Status read = readShapes(module); !read) return read.error();
    if (const uint64_t expected = config.rankOf(path);
        expected != module.rank && config.unsupported.empty()) {
      return fail(Code::rankMismatch,
                  "the factor has rank " + std::to_string(module.rank) + ", but the config says " +
                      std::to_string(expected),
                  module.a.name);
    }
    module.alpha = config.alphaOf(path);
    const auto rank = static_cast<double>(module.rank);
    module.scale = module.alpha / (config.info.rslora ? std::sqrt(rank) : rank);
    catalogue.modules.push_back(std::move(module));
  }
  catalogue.info = config.info;
  catalogue.unsupported.insert(catalogue.unsupported.end(), config.unsupported.begin(),
                               config.unsupported.end());
  catalogue.notices = config.notices;
  return catalogue;
}

std::string keyOfA(const std::string& path, ModuleKind kind) {
  return std::string(kPrefix) + path +
         (kind == ModuleKind::Embedding ? ".lora_embedding_A" : ".lora_A.weight");
}

std::string keyOfB(const std::string& path, ModuleKind kind) {
  return std::string(kPrefix) + path +
         (kind == ModuleKind::Embedding ? ".lora_embedding_B" : ".lora_B.weight");
}

}  // namespace lego::peft

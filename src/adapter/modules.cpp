#include "adapter/modules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <tuple>

#include "adapter/stack.h"
#include "adapter/write_adapter.h"
#include "base/checked.h"
#include "base/limits.h"
#include "base/order.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail, const std::string& tensor) {
  return {code, std::move(detail), {}, tensor, {}};
}

uint64_t product(const std::vector<uint64_t>& shape, size_t from) {
  uint64_t result = 1;
  // The header reader has checked that the product of all sides fits 64 bits, unless one of them is 0.
  for (size_t i = from; i < shape.size(); ++i)
    result = checkedMultiply(result, shape[i]).value_or(UINT64_MAX);
  return result;
}

/// The tensors of one module.
struct Parts {
  std::array<const TensorInfo*, kParts> tensors{};
  bool isEmbedding = false;

  const TensorInfo*& operator[](Part part) { return tensors[static_cast<size_t>(part)]; }
  const TensorInfo* operator[](Part part) const { return tensors[static_cast<size_t>(part)]; }
  bool hasAny(Part first, Part last) const {
    const auto at = [&](Part part) { return tensors.begin() + static_cast<std::ptrdiff_t>(part); };
    return std::any_of(at(first), at(last) + 1, [](const TensorInfo* tensor) { return tensor != nullptr; });
  }
  /// Any but an alpha.
  bool hasFactors() const { return hasAny(Part::A, Part::B) || hasAny(Part::Mid, Part::LokrT2); }
  const TensorInfo* firstFactor() const {
    return *std::ranges::find_if(tensors, [&](const TensorInfo* tensor) {
      return tensor && tensor != (*this)[Part::Alpha] && tensor != (*this)[Part::Magnitude];
    });
  }
};

/// Whether the dialect keeps a mixture's experts on an axis of their own, and the factors have it.
bool isStack(const AdapterModule& module, const DialectInfo& dialect) {
  return dialect.stacks == StackLayout::Axis && (module.a.shape.size() == 3 || module.b.shape.size() == 3);
}

/// Fills rank, in and out of one expert from a stack's shapes.
Status readStack(AdapterModule& module) {
  const auto &a = module.a.shape, &b = module.b.shape;
  const auto wrong = [&](Code code, const std::string& why) {
    return fail(code, "the factors have shapes " + shapeText(a) + " and " + shapeText(b) + ": " + why,
                module.a.name);
  };
  if (module.kind == ModuleKind::Embedding) return wrong(Code::shapeMismatch, "an embedding has no experts");
  if (a.size() != b.size())
    return wrong(Code::shapeMismatch, "one is a matrix and one is a stack of them, one for each expert");
  if (a[0] != b[0]) return wrong(Code::shapeMismatch, "they have different numbers of experts");
  if (a[0] == 0) return wrong(Code::shapeMismatch, "there are no experts");
  if (a[1] == 0 || b[2] == 0) return wrong(Code::rankZero, "the rank is zero");
  if (a[1] != b[2]) return wrong(Code::rankMismatch, "the ranks differ");
  if (a[2] == 0 || b[1] == 0) return wrong(Code::shapeMismatch, "a side is zero");
  if (a[2] > limits::kFactorSide || b[1] > limits::kFactorSide)
    return wrong(Code::shapeMismatch, "a side exceeds " + std::to_string(limits::kFactorSide));
  module.transposedA = module.transposedB = false;
  module.rank = a[1];
  module.in = a[2];
  module.out = b[1];
  return {};
}

/// Fills rank, in, out, kernel and kind from the two shapes.
Status readShapes(AdapterModule& module, const DialectInfo& dialect) {
  if (isStack(module, dialect)) return readStack(module);
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
    if (!dialect.hasConvolutions) return wrong(std::string(dialect.name) + " knows no convolutions");
    if (a.size() > 5) return wrong("a convolution has at most five dimensions");
    module.kind = ModuleKind::Convolution;
    module.kernel.assign(a.begin() + 2, a.end());
    for (size_t i = 2; i < b.size(); ++i) {
      if (b[i] != 1) return wrong("lora_B of a convolution must be 1 x 1");
    }
  }
  const uint64_t rankOfB = module.transposedB ? b[0] : b[1];
  module.rank = module.transposedA ? a[1] : a[0];
  module.in = module.transposedA ? a[0] : product(a, 1);
  module.out = module.transposedB ? b[1] : b[0];
  if (module.rank == 0 || rankOfB == 0)
    return fail(Code::rankZero, "the factor has rank zero", module.rank == 0 ? module.a.name : module.b.name);
  if (layoutOf(dialect.dialect, module.kind) == StackLayout::Groups && rankOfB < module.rank &&
      module.rank % rankOfB == 0 && module.out % (module.rank / rankOfB) == 0 &&
      module.rank / rankOfB <= limits::kStackExperts) {
    // The config says what all ranks are; applyPeft() then makes a module of each group.
    module.experts = static_cast<uint32_t>(module.rank / rankOfB);
  } else if (rankOfB != module.rank) {
    return fail(Code::rankMismatch,
                "lora_A has rank " + std::to_string(module.rank) + ", lora_B has " + std::to_string(rankOfB),
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

Result<AdapterModule> pairOf(const std::string& path, const Parts& parts, const DialectInfo& dialect) {
  const TensorInfo *a = parts[Part::A], *b = parts[Part::B];
  if (!a || !b)
    return fail(Code::unpairedFactor,
                std::string("the module has no ") + (a ? "lora_B" : "lora_A") + " to go with it",
                (a ? a : b)->name);
  AdapterModule module;
  module.path = path;
  const bool isEmbedding = parts.isEmbedding || (!dialect.keysTellEmbeddings && namesEmbedding(path));
  module.kind = isEmbedding ? ModuleKind::Embedding : ModuleKind::Linear;
  module.a = *a;
  module.b = *b;
  std::tie(module.transposedA, module.transposedB) = turnedFactors(dialect.dialect, module.kind);
  for (const TensorInfo* factor : {a, b}) {
    if (Status read = checkDtype(*factor); !read) return read.error();
  }
  if (Status read = readShapes(module, dialect); !read) return read.error();
  module.alphaRank = static_cast<double>(module.rank);
  return module;
}

/// A delta that is no plain pair.
Result<AdapterModule> expandedOf(const std::string& path, const Parts& parts) {
  const bool isHada = parts.hasAny(Part::HadaW1A, Part::HadaT2),
             isLokr = parts.hasAny(Part::LokrW1, Part::LokrT2);
  const bool isTucker = parts.hasAny(Part::A, Part::B) || parts[Part::Mid], isDiff = parts[Part::Diff];
  if (isHada + isLokr + isTucker + isDiff > 1)
    return fail(Code::unpairedFactor, "the module has tensors of several factorisations",
                parts.firstFactor()->name);
  FactorTensors first{parts[Part::Diff], parts[Part::B], parts[Part::A], parts[Part::Mid]}, second;
  Composition composition = Composition::Single;
  if (isHada) {
    composition = Composition::Hadamard;
    first = {nullptr, parts[Part::HadaW1A], parts[Part::HadaW1B], parts[Part::HadaT1]};
    second = {nullptr, parts[Part::HadaW2A], parts[Part::HadaW2B], parts[Part::HadaT2]};
  } else if (isLokr) {
    composition = Composition::Kronecker;
    first = {parts[Part::LokrW1], parts[Part::LokrW1A], parts[Part::LokrW1B], nullptr};
    second = {parts[Part::LokrW2], parts[Part::LokrW2A], parts[Part::LokrW2B], parts[Part::LokrT2]};
  }
  const auto expansion = planExpansion(composition, first, second);
  if (!expansion) return expansion.error();
  ExpandedFactors factors{*expansion, {}};
  size_t slot = 0;
  for (const FactorTensors& factor : {first, second}) {
    for (const TensorInfo* tensor : {factor.full, factor.up, factor.down, factor.mid}) {
      if (tensor) factors.tensors[slot] = *tensor;
      ++slot;
    }
  }
  AdapterModule module;
  module.path = path;
  module.kind = expansion->kernel.empty() ? ModuleKind::Linear : ModuleKind::Convolution;
  module.kernel = expansion->kernel;
  module.a = *parts.firstFactor();
  module.b = module.a;
  module.rank = expansion->units;
  module.in = expansion->in;
  module.out = expansion->out;
  module.alphaRank = static_cast<double>(expansion->alphaRank);
  if (expansion->alphaRankDisputed && parts[Part::Alpha]) {
    return fail(Code::badAlpha, "programs disagree about the rank that this alpha is divided by",
                parts[Part::Alpha]->name);
  }
  module.expanded = std::make_shared<const ExpandedFactors>(std::move(factors));
  return module;
}

Status checkAlpha(const TensorInfo& alpha) {
  if (product(alpha.shape, 0) != 1)
    return fail(Code::shapeMismatch, "an alpha of shape " + shapeText(alpha.shape) + " is no single number",
                alpha.name);
  return checkDtype(alpha);
}

}  // namespace

bool namesEmbedding(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('.') + 1);
  constexpr std::string_view kNames[] = {"embed_tokens",    "wte",      "wpe",       "tok_embeddings",
                                         "word_embeddings", "embed_in", "token_embd"};
  return std::ranges::find(kNames, name) != std::end(kNames);
}

Status sortModules(std::vector<AdapterModule>& modules) {
  sortStable(modules, [](const AdapterModule& x, const AdapterModule& y) { return x.path < y.path; });
  const auto twice = std::ranges::adjacent_find(modules, {}, &AdapterModule::path);
  if (twice == modules.end()) return {};
  return fail(Code::duplicateModule, "its module is also that of tensor " + shownName(twice->a.name),
              (twice + 1)->a.name);
}

Result<Catalogue> collectModules(const Header& header, Dialect dialect) {
  const DialectInfo& info = infoOf(dialect);
  std::map<std::string, Parts> modules;  // by path
  Catalogue catalogue;
  catalogue.dialect = dialect;
  catalogue.metadata = header.metadata;
  for (const TensorInfo& tensor : header.tensors) {
    const auto key = parseKey(dialect, tensor.name);
    if (!key) {
      const auto [kind, reason] = extraOf(dialect, tensor.name);
      catalogue.unsupported.push_back({tensor.name, reason, kind, tensor});
      continue;
    }
    // Of a bias, or a normalisation: no matrix, so no units.
    if (key->part == Part::Diff && tensor.shape.size() < 2) {
      const auto [kind, reason] = extraOf(dialect, tensor.name);
      catalogue.unsupported.push_back({tensor.name, reason, kind, tensor});
      continue;
    }
    if (key->part == Part::Magnitude) {
      const auto [kind, reason] = extraOf(dialect, tensor.name);
      catalogue.unsupported.push_back({tensor.name, reason, kind, tensor});
    }
    Parts& parts = modules[key->path];
    if (const TensorInfo* other = parts[key->part]) {
      return fail(Code::duplicateModule,
                  "the module already has this factor in tensor " + shownName(other->name), tensor.name);
    }
    const bool isFactor = key->part != Part::Alpha && key->part != Part::Magnitude;
    if (parts.hasAny(Part::A, Part::B) && parts.isEmbedding != key->isEmbedding && isFactor) {
      return fail(Code::unpairedFactor, "the module has one factor of a linear layer and one of an embedding",
                  tensor.name);
    }
    parts[key->part] = &tensor;
    if (isFactor) parts.isEmbedding = key->isEmbedding;
  }
  for (const auto& [path, parts] : modules) {
    const TensorInfo* alpha = parts[Part::Alpha];
    if (!parts.hasFactors()) {
      if (alpha) catalogue.unsupported.push_back({alpha->name, "an alpha whose module has no LoRA factors"});
      continue;
    }
    auto module = parts.hasAny(Part::Mid, Part::LokrT2) ? expandedOf(path, parts) : pairOf(path, parts, info);
    if (!module) return module.error();
    if (alpha) {
      if (Status sound = checkAlpha(*alpha); !sound) return sound.error();
      if (module->alphaRank > 0) catalogue.alphas.push_back({catalogue.modules.size(), *alpha});
    }
    if (const TensorInfo* magnitude = parts[Part::Magnitude]) module->magnitude = *magnitude;
    if (!module->expanded && isStack(*module, info)) {
      if (Status added = addExperts(catalogue, *module, info.stacks, module->a.shape[0]); !added)
        return added.error();
    } else {
      catalogue.modules.push_back(std::move(*module));
    }
  }
  // Experts were added by number. The dialects that have them keep no alphas, which go by index.
  if (info.stacks == StackLayout::Axis) {
    if (Status sorted = sortModules(catalogue.modules); !sorted) return sorted.error();
  }
  if (catalogue.modules.empty() && catalogue.unsupported.empty())
    return fail(Code::noFactors, "the file holds no LoRA factors of this dialect, " + std::string(info.name),
                header.tensors.empty() ? std::string() : header.tensors.front().name);
  sortStable(catalogue.alphas,
             [](const AlphaTensor& x, const AlphaTensor& y) { return x.tensor.begin < y.tensor.begin; });
  return catalogue;
}

Status setAlphas(Catalogue& catalogue, std::span<const double> values) {
  for (size_t i = 0; i < catalogue.alphas.size(); ++i) {
    const auto& [index, tensor] = catalogue.alphas[i];
    // Tools disagree about zero: sd-scripts takes the rank in its place, others a scale of zero.
    if (!std::isfinite(values[i]) || values[i] == 0)
      return fail(Code::badAlpha, "an alpha of " + std::to_string(values[i]) + " gives no scale",
                  tensor.name);
    AdapterModule& module = catalogue.modules[index];
    module.alpha = values[i];
    module.scale = module.alpha / module.alphaRank;
  }
  catalogue.alphas.clear();
  return {};
}

}  // namespace lego

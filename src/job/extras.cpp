#include "job/extras.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "adapter/dialect.h"
#include "adapter/stack.h"
#include "base/limits.h"
#include "job/unite.h"
#include "tensor/convert.h"

namespace lego {
namespace {

// Elements of one piece: a few megabytes for each adapter, whatever the size of an embedding.
constexpr uint64_t kPieceElements = 1 << 20;

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

/// Whether a conversion leaves DoRA's magnitudes as they are: the product that they belong to stays the same,
/// and the format says nothing else about them than these tensors and the setting use_dora.
bool isKept(const Recipe& recipe, Dialect dialect) { return recipe.keepScales && dialect != Dialect::Mlx; }

/// What the recipe says, or else what loses nothing: DoRA comes through a conversion as it is, and can be
/// merged where the base model's weights are given.
Policy policyFor(const Recipe& recipe, ExtraKind kind, Dialect dialect, bool areNative) {
  const bool isMerged = recipe.baseWeights && hasMagnitudes(dialect);
  Policy policy = kind == ExtraKind::Dora && areNative && (isMerged || isKept(recipe, dialect))
                      ? Policy::Merge
                      : Policy::Refuse;
  for (const auto& [asked, wanted] : recipe.policies) {
    if (asked == kind) policy = wanted;
  }
  return policy;
}

Error refusal(const AdapterFile& adapter, std::span<const Unsupported* const> refused) {
  std::string text;
  for (const Unsupported* item : refused.first(std::min<size_t>(refused.size(), 3)))
    text += (text.empty() ? "" : "; ") + (item->tensor.empty() ? "" : shownName(item->tensor) + ": ") +
            item->reason;
  if (refused.size() > 3) text += "; and " + std::to_string(refused.size() - 3) + " more";
  const Unsupported& first = *refused.front();
  return failAt(first.tensor.empty() ? Code::unsupportedAdapter : Code::unsupportedTensors,
                "merging would lose what is no LoRA factor: " + text + " (a policy for '" +
                    infoOf(first.kind).name + "' says what to do with it)",
                adapter, first.tensor);
}

/// A tensor of one adapter.
struct KeptSource {
  uint32_t adapter = 0;
  const TensorInfo* tensor = nullptr;
  double scale = 1;  // its values are multiplied by this before anything else
};

/// One tensor of the output, from those of the same name.
struct Kept {
  ExtraKind kind = ExtraKind::Other;
  Policy policy = Policy::Drop;
  std::vector<KeptSource> sources;  // by adapter
};

/// What a bias of lora_B is multiplied by, which goes through its module's scale as the factor does: the
/// result's own scale is 1, unless a conversion keeps it.
Result<double> biasScale(const std::string& tensor, const AdapterFile& adapter, bool keepScales) {
  constexpr std::string_view kBias = "bias";
  const auto key =
      parseKey(adapter.catalogue.dialect, tensor.substr(0, tensor.size() - kBias.size()) + "weight");
  const auto& modules = adapter.catalogue.modules;
  // Of a module, or of one whose parts are modules of their own.
  for (const std::string& path :
       key ? std::vector{key->path, expertPath(key->path, 0)} : std::vector<std::string>()) {
    const auto module = std::ranges::lower_bound(modules, path, {}, &AdapterModule::path);
    if (module != modules.end() && module->path == path)
      return keepScales && module->scale != 0 ? 1.0 : module->scale;
  }
  return failAt(Code::unpairedFactor, "a bias of a lora_B that is not there", adapter, tensor);
}

Status addPieces(Plan& plan, const std::string& name, const Kept& kept, std::span<const AdapterFile> adapters,
                 std::span<const double> weights) {
  const bool isFirst = kept.policy == Policy::First;
  const uint32_t firstAdapter = kept.sources.front().adapter;
  const TensorInfo* first = kept.sources.front().tensor;
  const auto sources = std::span(kept.sources).first(isFirst ? 1 : kept.sources.size());
  const bool isCopied = isFirst && sources.front().scale == 1;
  double sum = 0;
  DType dtype = first->dtype;
  for (const auto& [adapter, tensor, scale] : sources) {
    if (tensor->shape != first->shape)
      return failAt(Code::shapeMismatch,
                    "has another shape than in " + shownName(adapters[firstAdapter].file), adapters[adapter],
                    name);
    if (!isCopied && !isFactorDtype(tensor->dtype))
      return failAt(Code::unsupportedDtype,
                    "values of " + std::string(nameOf(tensor->dtype)) + " cannot be averaged or added",
                    adapters[adapter], name);
    if (tensor->dtype != dtype) dtype = DType::F32;
    sum += weights[adapter];
  }
  if (!isCopied && isFloat8(dtype)) dtype = DType::F16;
  if (kept.policy == Policy::Average && (sum == 0 || !std::isfinite(sum)))
    return fail(Code::badWeights,
                "the weights of the adapters that have " + shownName(name) + " add up to zero");

  PlannedExtra whole;
  whole.policy = kept.policy;
  whole.out = {name, dtype, first->shape, 0, 0};
  uint64_t elements = 1;
  for (const uint64_t side : first->shape) elements *= side;
  plan.extraTensors.push_back(whole.out);
  // Pieces need elements of whole bytes; those of 4 and 6 bits go through as one.
  const bool canBeCut = bitsOf(dtype) % 8 == 0 && bitsOf(first->dtype) % 8 == 0;
  const uint64_t step = canBeCut ? kPieceElements : std::max<uint64_t>(elements, 1);
  if (elements / step >= limits::kExtraPieces - plan.extras.size())
    return failAt(Code::sizeOverflow,
                  "the tensors that are no LoRA factors have more elements than can be kept",
                  adapters[firstAdapter], name);
  for (uint64_t at = 0; at == 0 || at < elements; at += step) {
    PlannedExtra piece = whole;
    piece.tensor = plan.extraTensors.size() - 1;
    piece.firstElement = at;
    piece.elements = std::min(step, elements - at);
    for (const auto& [adapter, tensor, scale] : sources) {
      const double weight = isFirst                          ? 1
                            : kept.policy == Policy::Average ? weights[adapter] / sum
                                                             : weights[adapter];
      PlannedExtra::Source source{adapter, *tensor, 0, weight * scale};
      if (canBeCut) {
        source.tensor.begin += at * (bitsOf(tensor->dtype) / 8);
        source.tensor.end = source.tensor.begin + piece.elements * (bitsOf(tensor->dtype) / 8);
      }
      plan.inputBytes += source.tensor.end - source.tensor.begin;
      piece.sources.push_back(std::move(source));
    }
    plan.extras.push_back(std::move(piece));
  }
  return {};
}

}  // namespace

Status planExtras(Plan& plan, std::span<const AdapterFile> adapters, std::span<const double> weights,
                  bool areNative) {
  for (const auto& [kind, policy] : plan.recipe.policies) {
    if (policy == Policy::Merge && !isKept(plan.recipe, plan.dialect) &&
        !(areNative && hasMagnitudes(plan.dialect))) {
      return fail(Code::badPolicy,
                  "DoRA can be merged only where all adapters and the result are of one of the "
                  "formats peft and diffusers");
    }
    if (infoOf(kind).allows(policy)) continue;
    return fail(Code::badPolicy,
                std::string(infoOf(kind).name) + " cannot be dealt with by the policy " + nameOf(policy));
  }
  std::map<std::string, Kept> kept;
  for (uint32_t i = 0; i < adapters.size(); ++i) {
    std::vector<const Unsupported*> refused;
    size_t dropped = 0;
    for (const Unsupported& item : adapters[i].catalogue.unsupported) {
      const Policy policy = policyFor(plan.recipe, item.kind, plan.dialect, areNative);
      plan.extraFates.push_back({i, item.tensor, item.kind, policy});
      if (policy == Policy::Refuse) refused.push_back(&item);
      if (policy == Policy::Drop) ++dropped;
      if (policy == Policy::Refuse || policy == Policy::Drop || !item.place || weights[i] == 0) continue;
      // Merged with the modules, unless there is only one of it and nothing to do.
      if (policy == Policy::Merge && !plan.recipe.keepScales) continue;
      Kept& own = kept[item.tensor];
      own.kind = item.kind;
      own.policy = policy == Policy::Merge ? Policy::First : policy;
      double scale = 1;
      if (item.kind == ExtraKind::LoraBias) {
        const auto found = biasScale(item.tensor, adapters[i], plan.recipe.keepScales);
        if (!found) return found.error();
        scale = *found;
      }
      own.sources.push_back({i, &*item.place, scale});
    }
    if (!refused.empty()) return refusal(adapters[i], refused);
    if (adapters[i].catalogue.modules.empty())
      return failAt(Code::noFactors, "nothing is left of it: it holds no LoRA factors that can be merged",
                    adapters[i], {});
    if (dropped > 0)
      plan.notices.push_back(counted(dropped, "tensor or setting") + " of " + shownName(adapters[i].label) +
                             ", none of them LoRA factors, left out as asked");
  }
  if (keepsExtras(plan, ExtraKind::Dora) && keepsExtras(plan, ExtraKind::LoraBias))
    return fail(Code::badPolicy, "PEFT has no adapters with DoRA and biases of lora_B: drop one of them");
  for (const auto& [name, own] : kept) {
    if (!areNative || infoOf(plan.dialect).file != FileKind::Safetensors)
      return fail(Code::badFormat, "the tensor " + shownName(name) + " has no known name in the format " +
                                       infoOf(plan.dialect).name + "; drop it, or keep the adapters' format");
    if (Status added = addPieces(plan, name, own, adapters, weights); !added) return added;
  }
  return {};
}

bool keepsExtras(const Plan& plan, ExtraKind kind) {
  return std::ranges::any_of(plan.extraFates, [&](const ExtraFate& fate) {
    return fate.kind == kind && fate.policy != Policy::Refuse && fate.policy != Policy::Drop;
  });
}

Status mergeExtra(const PlannedExtra& extra, std::span<const AdapterFile> adapters,
                  std::span<const std::byte> input, std::span<std::byte> output) {
  if (extra.isCopied()) {
    if (!output.empty()) std::memcpy(output.data(), input.data() + extra.sources.front().at, output.size());
    return {};
  }
  const auto count = static_cast<size_t>(extra.elements);
  std::vector<double> sum(count, 0.0);
  std::vector<float> values(count);
  for (const PlannedExtra::Source& source : extra.sources) {
    toFloat(source.tensor.dtype, input.data() + source.at, count, values.data());
    for (size_t i = 0; i < count; ++i) sum[i] += source.weight * values[i];
  }
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(sum[i]);
  const AdapterFile& first = adapters[extra.sources.front().adapter];
  const uint32_t largest = maxMagnitudeBits(values.data(), count);
  if (largest >= overflowBits(DType::F32))
    return failAt(Code::notFinite, "the tensor, averaged or added up, holds NaN or infinity", first,
                  extra.out.name);
  if (largest >= overflowBits(extra.out.dtype))
    return failAt(
        Code::valueOverflow,
        "the tensor, averaged or added up, has a value too large for " + std::string(nameOf(extra.out.dtype)),
        first, extra.out.name);
  fromFloat(extra.out.dtype, values.data(), count, output.data());
  return {};
}

}  // namespace lego

#include "job/dora.h"

#include <algorithm>
#include <cmath>

#include "adapter/dialect.h"
#include "job/unite.h"
#include "linalg/row_norms.h"
#include "tensor/convert.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

bool isMerged(const Plan& plan) {
  return !plan.recipe.keepScales && std::ranges::any_of(plan.extraFates, [](const ExtraFate& fate) {
    return fate.policy == Policy::Merge && !fate.tensor.empty();
  });
}

Status addMagnitude(PlannedModule& module, PlannedSource& source, const AdapterFile& adapter) {
  const auto& modules = adapter.catalogue.modules;
  const auto own = std::ranges::lower_bound(modules, module.path, {}, &AdapterModule::path);
  if (own == modules.end() || own->path != module.path || !own->magnitude) {
    if (!adapter.catalogue.info.dora) return {};
    return failAt(Code::unpairedFactor, "the adapter is DoRA, but the module has no magnitude", adapter,
                  source.a.name);
  }
  const TensorInfo& magnitude = *own->magnitude;
  uint64_t values = 1;
  for (const uint64_t side : magnitude.shape) values *= side;
  if (values != module.out)
    return failAt(Code::shapeMismatch,
                  "a magnitude of shape " + shapeText(magnitude.shape) + " for a module of " +
                      std::to_string(module.out) + " outputs",
                  adapter, magnitude.name);
  if (!isFactorDtype(magnitude.dtype))
    return failAt(Code::unsupportedDtype,
                  "the magnitude is stored as " + std::string(nameOf(magnitude.dtype)), adapter,
                  magnitude.name);
  source.magnitude = magnitude;
  module.inputBytes += magnitude.end - magnitude.begin;
  return {};
}

/// What the merged c - 1 of a module is divided by, where single ones are multiplied by their weights.
double divisorOf(MethodFamily family, const PlannedModule& module) {
  double weights = 0;
  for (const PlannedSource& source : module.sources) weights += source.weight;
  switch (family) {
    case MethodFamily::Mean: return weights;
    case MethodFamily::Consensus: return static_cast<double>(module.sources.size());
    default: return 1;
  }
}

}  // namespace

Status planDora(Plan& plan, std::span<const AdapterFile> adapters) {
  if (!isMerged(plan)) return {};
  if (plan.method->family == MethodFamily::Factors) {
    return fail(Code::unsupportedAdapter, "the method " + std::string(plan.method->name) +
                                              " merges factors, not what they do, so it cannot merge DoRA");
  }
  const BaseWeights* weights = plan.recipe.baseWeights.get();
  if (!weights) {
    return fail(Code::baseMissing,
                "DoRA is relative to the base model's weights: give its safetensors files too");
  }
  for (PlannedModule& module : plan.modules) {
    for (PlannedSource& source : module.sources) {
      const AdapterFile& adapter = adapters[source.adapter];
      if (adapter.catalogue.info.fanInFanOut)
        return failAt(Code::unsupportedAdapter,
                      "DoRA cannot be merged where weights are stored in x out (fan_in_fan_out)", adapter,
                      source.a.name);
      if (module.kind == ModuleKind::Embedding || module.experts > 0)
        return failAt(Code::unsupportedAdapter,
                      "DoRA cannot be merged with factors of an embedding, of a mixture's experts or of a "
                      "convolution's groups",
                      adapter, source.a.name);
      if (Status added = addMagnitude(module, source, adapter); !added) return added;
    }
    const auto place = weights->find(module.path, module.out, module.in);
    if (!place) return place.error();
    module.base = PlannedWeight{static_cast<uint32_t>(adapters.size()) + place->file, place->tensor, 0};
    module.inputBytes += place->tensor.end - place->tensor.begin;
    module.magnitude = TensorInfo{
        keyOf(plan.dialect, module.name, module.kind, Part::Magnitude), DType::F32, {module.out}, 0, 0};
    // As PEFT shapes those of convolutions.
    if (module.kind == ModuleKind::Convolution) {
      module.magnitude->shape = {1, module.out};
      module.magnitude->shape.insert(module.magnitude->shape.end(), module.kernel.size(), 1);
    }
  }
  return {};
}

Result<std::vector<double>> doraGains(const PlannedModule& module, const PlannedSource& source,
                                      std::span<const AdapterFile> adapters, std::span<const std::byte> input,
                                      const float* unitsA, const float* unitsB) {
  const auto in = static_cast<size_t>(module.in), out = static_cast<size_t>(module.out);
  std::vector<double> gains(out);
  const std::vector<double> scales(source.rank, source.scale);
  rowNorms(module.base->tensor.dtype, input.data() + module.base->at, in,
           {unitsA, unitStride(in), unitsB, unitStride(out), scales}, gains);
  std::vector<float> magnitude(out);
  toFloat(source.magnitude->dtype, input.data() + source.atMagnitude, out, magnitude.data());
  for (size_t o = 0; o < out; ++o) {
    gains[o] = magnitude[o] / gains[o];
    if (!std::isfinite(gains[o]))
      return failAt(Code::notFinite,
                    "the magnitude, or the weight that it belongs to, is not finite or all zeros in output " +
                        std::to_string(o),
                    adapters[source.adapter], source.magnitude->name);
  }
  return gains;
}

Result<std::vector<double>> mergedGains(const Plan& plan, const PlannedModule& module,
                                        std::span<const std::vector<double>> gains) {
  const double divisor = divisorOf(plan.method->family, module);
  std::vector<double> merged(static_cast<size_t>(module.out), 1.0);
  for (size_t s = 0; s < module.sources.size(); ++s) {
    const double weight = plan.recipe.scale * module.sources[s].weight / divisor;
    for (size_t o = 0; o < gains[s].size(); ++o) merged[o] += weight * (gains[s][o] - 1);
  }
  for (size_t o = 0; o < merged.size(); ++o) {
    if (std::isfinite(merged[o]) && merged[o] != 0) continue;
    Error error = fail(Code::valueOverflow, "the weights leave nothing of output " + std::to_string(o) +
                                                " of the base weight, which DoRA cannot say");
    error.tensor = module.magnitude->name;
    return error;
  }
  return merged;
}

Status writeDora(const PlannedModule& module, const ModuleUnits& units, std::span<const float> factors,
                 std::span<const std::byte> input, std::span<std::byte> magnitude) {
  const auto in = static_cast<size_t>(module.in), out = static_cast<size_t>(module.out);
  const std::vector<double>& gains = units.rowGains;
  std::vector<double> scales;
  for (size_t q = 0; q < factors.size(); ++q) {
    float* b = units.mergedB + q * units.rows.strideB;
    for (size_t o = 0; o < out; ++o) b[o] = static_cast<float>(b[o] / gains[o]);
    scales.push_back(module.scale * factors[q] * factors[q]);
  }
  std::vector<double> norms(out);
  rowNorms(module.base->tensor.dtype, input.data() + module.base->at, in,
           {units.mergedA, units.rows.strideA, units.mergedB, units.rows.strideB, scales}, norms);
  std::vector<float> values(out);
  for (size_t o = 0; o < out; ++o) values[o] = static_cast<float>(gains[o] * norms[o]);
  if (maxMagnitudeBits(values.data(), out) >= 0x7F800000u) {
    Error error = fail(Code::notFinite, "the base model's weight holds NaN or infinity");
    error.tensor = module.base->tensor.name;
    return error;
  }
  fromFloat(module.magnitude->dtype, values.data(), out, magnitude.data());
  return {};
}

}  // namespace lego

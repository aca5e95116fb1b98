#include "adapter/stack.h"

#include "base/limits.h"

namespace lego {
namespace {

constexpr std::string_view kBaseLayer = ".base_layer";

/// One of `parts` equal parts of a tensor whose first axis these are, or divide.
TensorInfo partOf(const TensorInfo& whole, uint64_t part, uint64_t parts, std::vector<uint64_t> shape) {
  const uint64_t bytes = (whole.end - whole.begin) / parts;
  return {whole.name, whole.dtype, std::move(shape), whole.begin + part * bytes,
          whole.begin + (part + 1) * bytes};
}

}  // namespace

std::string expertPath(std::string_view stack, uint32_t expert) {
  return std::string(stack) + '[' + std::to_string(expert) + ']';
}

std::string stackOf(std::string_view expertPath) {
  return std::string(expertPath.substr(0, expertPath.rfind('[')));
}

std::string unwrapped(std::string path) {
  for (size_t at; (at = path.find(kBaseLayer)) != std::string::npos;) path.erase(at, kBaseLayer.size());
  return path;
}

ExpertFactors expertOf(StackLayout layout, const TensorInfo& a, const TensorInfo& b, uint32_t expert,
                       uint32_t experts) {
  if (layout == StackLayout::Axis)
    return {partOf(a, expert, experts, {a.shape[1], a.shape[2]}),
            partOf(b, expert, experts, {b.shape[1], b.shape[2]}),
            {}};
  if (layout == StackLayout::Groups) {
    auto shapeA = a.shape, shapeB = b.shape;
    shapeA[0] /= experts;
    shapeB[0] /= experts;
    return {partOf(a, expert, experts, std::move(shapeA)), partOf(b, expert, experts, std::move(shapeB)), {}};
  }
  ExpertFactors factors{partOf(a, expert, experts, {a.shape[0] / experts, a.shape[1]}), b, {}};
  factors.sliceB = {{{0, 0, b.shape[0]}}, expert, experts, b.shape[1]};
  return factors;
}

Status addExperts(Catalogue& catalogue, const AdapterModule& stack, StackLayout layout, uint64_t experts) {
  if (experts > limits::kStackExperts || catalogue.modules.size() + experts > limits::kExperts) {
    return Error{Code::shapeMismatch,
                 "the factors have shapes " + shapeText(stack.a.shape) + " and " + shapeText(stack.b.shape) +
                     ": " + std::to_string(experts) + " experts are more than the " +
                     std::to_string(limits::kStackExperts) + " of one stack, or " +
                     std::to_string(limits::kExperts) + " of one adapter, that are read",
                 {},
                 stack.a.name,
                 {}};
  }
  const auto count = static_cast<uint32_t>(experts);
  for (uint32_t e = 0; e < count; ++e) {
    AdapterModule module = stack;
    module.path = expertPath(stack.path, e);
    auto [a, b, slice] = expertOf(layout, stack.a, stack.b, e, count);
    module.a = std::move(a);
    module.b = std::move(b);
    module.sliceB = std::move(slice);
    module.expert = e;
    module.experts = count;
    catalogue.modules.push_back(std::move(module));
  }
  return {};
}

}  // namespace lego

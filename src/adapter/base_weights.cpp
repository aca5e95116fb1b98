#include "adapter/base_weights.h"

#include <string_view>

#include "base/checked.h"

namespace lego {
namespace {

constexpr std::string_view kEnding = ".weight";

bool isMatrix(const TensorInfo& tensor, uint64_t out, uint64_t in) {
  if (tensor.shape.size() < 2 || tensor.shape[0] != out || !isFactorDtype(tensor.dtype)) return false;
  uint64_t columns = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i)
    columns = checkedMultiply(columns, tensor.shape[i]).value_or(UINT64_MAX);
  return columns == in;
}

/// Whether `name` is `end`, or ends with it behind a dot.
bool endsWithPath(std::string_view name, std::string_view end) {
  return name.ends_with(end) && (name.size() == end.size() || name[name.size() - end.size() - 1] == '.');
}

}  // namespace

void BaseWeights::add(const std::string& name, const Header& header) {
  const auto file = static_cast<uint32_t>(files_.size());
  files_.push_back(name);
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name.size() > kEnding.size() && tensor.name.ends_with(kEnding))
      weights_.emplace(tensor.name.substr(0, tensor.name.size() - kEnding.size()), Place{file, tensor});
  }
}

Result<BaseWeights::Place> BaseWeights::find(const std::string& path, uint64_t out, uint64_t in) const {
  const auto missing = [&](const std::string& why) {
    return Error{Code::baseMissing,
                 "DoRA needs the base model's weight of module " + shownName(path) + ", " + why,
                 files_.front(),
                 {},
                 {}};
  };
  std::vector<const Place*> named, fitting;
  const auto [begin, end] = weights_.equal_range(path);
  for (auto entry = begin; entry != end; ++entry) named.push_back(&entry->second);
  if (named.empty()) {
    for (const auto& [module, place] : weights_) {
      if (endsWithPath(module, path) || endsWithPath(path, module)) named.push_back(&place);
    }
  }
  for (const Place* place : named) {
    if (isMatrix(place->tensor, out, in)) fitting.push_back(place);
  }
  if (named.empty()) return missing("which the files given do not have");
  if (fitting.empty()) {
    Error error = missing("but that has the shape " + shapeText(named.front()->tensor.shape) + " and dtype " +
                          std::string(lego::nameOf(named.front()->tensor.dtype)) + ", not " +
                          shapeText({out, in}) + " in F64, F32, F16, BF16 or F8");
    error.file = files_[named.front()->file];
    error.tensor = named.front()->tensor.name;
    return error;
  }
  if (fitting.size() > 1)
    return missing("and several tensors of the files given could be it: " +
                   shownName(fitting[0]->tensor.name) + ", " + shownName(fitting[1]->tensor.name));
  return *fitting.front();
}

}  // namespace lego

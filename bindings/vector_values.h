// std::vector<T> as a plain JavaScript array, by value. Embind's own register_vector() gives handles that
// the caller must delete; these are arrays like any other.
#pragma once

#include <emscripten/bind.h>

#include <vector>

namespace emscripten::internal {

template <typename T>
struct BindingType<std::vector<T>> {
  using ArrayBinding = BindingType<val>;
  using WireType = ArrayBinding::WireType;

  static WireType toWireType(const std::vector<T>& values, rvp::default_tag) {
    val array = val::array();
    for (size_t i = 0; i < values.size(); ++i) array.set(i, values[i]);
    return ArrayBinding::toWireType(array, rvp::default_tag{});
  }
  static std::vector<T> fromWireType(WireType array) {
    return vecFromJSArray<T>(ArrayBinding::fromWireType(array));
  }
};

}  // namespace emscripten::internal

// Values that shape.h describes, as JavaScript values and back.
#pragma once

#include <emscripten/val.h>

#include "shape.h"

namespace lego::bindings {

/// A JavaScript value whose type in TypeScript is that of T.
template <typename T>
struct Js : emscripten::val {
  explicit Js(const emscripten::val& value) : emscripten::val(value) {}
};

emscripten::val toJs(const void* from, const Shape& shape);
void fromJs(const emscripten::val& from, const Shape& shape, void* to);

/// The bytes of a Uint8Array.
std::string bytesFrom(const emscripten::val& array);

template <typename T>
Js<T> toJs(const T& value) {
  return Js<T>(toJs(&value, ShapeOf<T>::shape));
}
template <typename T>
T fromJs(const Js<T>& value) {
  T result;
  fromJs(value, ShapeOf<T>::shape, &result);
  return result;
}

}  // namespace lego::bindings

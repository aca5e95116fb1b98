#include "convert.h"

#include <emscripten/bind.h>
#include <emscripten/em_js.h>

namespace lego::bindings {

using emscripten::val;

// Embind reads and writes texts byte by byte, which with shared memory asks for each byte whether the memory
// has grown: half of the time of opening an adapter.
// clang-format off
EM_JS_DEPS(lego_text, "$Emval");
EM_JS(emscripten::EM_VAL, lego_text, (const char* text, size_t length), {
  return Emval.toHandle(new TextDecoder().decode(HEAPU8.slice(text, text + length)));
});
// clang-format on

namespace {

val textOf(const char* text, size_t length) { return val::take_ownership(lego_text(text, length)); }

/// The name of a field, made once. What outlives a session is kept without memory of its own: allocated
/// between the large buffers of a merge, it would keep their places apart for the next one.
val nameOf(const Field& field) {
  if (!field.jsName) field.jsName = val(field.name).release_ownership();
  val kept = val::take_ownership(field.jsName);
  val name = kept;
  (void)kept.release_ownership();
  return name;
}

/// A plain array, with numbers of its own.
template <typename T>
val arrayOf(const T* first, size_t count) {
  return val::global("Array").call<val>("from", val(emscripten::typed_memory_view(count, first)));
}

}  // namespace

val toJs(const void* from, const Shape& shape) {
  switch (shape.kind) {
    case Shape::Kind::Text: {
      const auto& text = *static_cast<const std::string*>(from);
      return textOf(text.data(), text.size());
    }
    case Shape::Kind::Number: return val(*static_cast<const double*>(from));
    case Shape::Kind::Count: return val(*static_cast<const uint32_t*>(from));
    case Shape::Kind::Flag: return val(*static_cast<const bool*>(from));
    case Shape::Kind::Bytes: return *static_cast<const val*>(from);
    case Shape::Kind::List: {
      // Looked at only.
      const auto [first, count] = shape.items(const_cast<void*>(from));
      // Reports have thousands of numbers: one call for a whole list.
      if (shape.item->kind == Shape::Kind::Number)
        return arrayOf(reinterpret_cast<const double*>(first), count);
      if (shape.item->kind == Shape::Kind::Count)
        return arrayOf(reinterpret_cast<const uint32_t*>(first), count);
      val list = val::array();
      for (size_t i = 0; i < count; ++i) list.set(i, toJs(first + i * shape.item->size, *shape.item));
      return list;
    }
    case Shape::Kind::Object: break;
  }
  val object = val::object();
  for (const Field& field : shape.fields)
    object.set(nameOf(field), toJs(static_cast<const std::byte*>(from) + field.offset, *field.shape));
  return object;
}

void fromJs(const val& from, const Shape& shape, void* to) {
  switch (shape.kind) {
    case Shape::Kind::Text: *static_cast<std::string*>(to) = from.as<std::string>(); return;
    case Shape::Kind::Number: *static_cast<double*>(to) = from.as<double>(); return;
    case Shape::Kind::Count: *static_cast<uint32_t*>(to) = from.as<uint32_t>(); return;
    case Shape::Kind::Flag: *static_cast<bool*>(to) = from.as<bool>(); return;
    case Shape::Kind::Bytes: *static_cast<val*>(to) = from; return;
    case Shape::Kind::List: {
      shape.resize(to, from["length"].as<uint32_t>());
      const auto [first, count] = shape.items(to);
      for (size_t i = 0; i < count; ++i) fromJs(from[i], *shape.item, first + i * shape.item->size);
      return;
    }
    case Shape::Kind::Object: break;
  }
  for (const Field& field : shape.fields)
    fromJs(from[nameOf(field)], *field.shape, static_cast<std::byte*>(to) + field.offset);
}

std::string bytesFrom(const val& array) {
  std::string bytes(array["length"].as<size_t>(), '\0');
  val(emscripten::typed_memory_view(bytes.size(), reinterpret_cast<uint8_t*>(bytes.data())))
      .call<void>("set", array);
  return bytes;
}

}  // namespace lego::bindings

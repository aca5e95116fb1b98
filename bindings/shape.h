// What a struct looks like to JavaScript, as a table: one piece of code then converts them all, and the
// build's tables.cpp writes their TypeScript. Embind's own value_object makes two functions and a
// registration of every field, which were a tenth of the module.
#pragma once

#include <emscripten/val.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lego::bindings {

struct Shape;

struct Field {
  const char* name;
  const Shape* shape;
  size_t offset;
  mutable emscripten::EM_VAL jsName = nullptr;  ///< the name as JavaScript has it, once that was asked for
};

/// How one type crosses.
struct Shape {
  enum class Kind : uint8_t {
    Text,    ///< std::string
    Number,  ///< double
    Count,   ///< uint32_t
    Flag,    ///< bool
    Bytes,   ///< BytesView
    List,    ///< std::vector
    Object,  ///< a struct that LEGO_VALUE describes
  };
  struct Items {
    std::byte* first;
    size_t count;
  };

  Kind kind;
  size_t size;                                   ///< of the type
  const char* name = "";                         ///< object: its name in TypeScript
  std::span<const Field> fields = {};            ///< object
  const Shape* item = nullptr;                   ///< list
  Items (*items)(void* list) = nullptr;          ///< list
  void (*resize)(void* list, size_t) = nullptr;  ///< list
};

template <typename T>
struct ShapeOf;
template <>
struct ShapeOf<std::string> {
  static constexpr Shape shape{Shape::Kind::Text, sizeof(std::string)};
};
template <>
struct ShapeOf<double> {
  static constexpr Shape shape{Shape::Kind::Number, sizeof(double)};
};
template <>
struct ShapeOf<uint32_t> {
  static constexpr Shape shape{Shape::Kind::Count, sizeof(uint32_t)};
};
template <>
struct ShapeOf<bool> {
  static constexpr Shape shape{Shape::Kind::Flag, sizeof(bool)};
};
template <typename T>
struct ShapeOf<std::vector<T>> {
  static Shape::Items items(void* list) {
    auto& values = *static_cast<std::vector<T>*>(list);
    return {reinterpret_cast<std::byte*>(values.data()), values.size()};
  }
  static void resize(void* list, size_t count) { static_cast<std::vector<T>*>(list)->resize(count); }
  static constexpr Shape shape{
      Shape::Kind::List, sizeof(std::vector<T>), "", {}, &ShapeOf<T>::shape, items, resize};
};

// LEGO_VALUE(Struct, field, ...) describes a struct; its name in TypeScript is its own.
#define LEGO_FIELD(T, field) {#field, &ShapeOf<decltype(T::field)>::shape, offsetof(T, field)},
#define LEGO_AGAIN ()
#define LEGO_EACH_AGAIN() LEGO_EACH
#define LEGO_EACH(T, field, ...) LEGO_FIELD(T, field) __VA_OPT__(LEGO_EACH_AGAIN LEGO_AGAIN(T, __VA_ARGS__))
// Each level reads what it is given twice more: enough for 80 fields.
#define LEGO_READ(...) LEGO_READ1(LEGO_READ1(LEGO_READ1(__VA_ARGS__)))
#define LEGO_READ1(...) LEGO_READ2(LEGO_READ2(LEGO_READ2(__VA_ARGS__)))
#define LEGO_READ2(...) LEGO_READ3(LEGO_READ3(LEGO_READ3(__VA_ARGS__)))
#define LEGO_READ3(...) __VA_ARGS__
#define LEGO_VALUE(T, ...)                                                      \
  template <>                                                                   \
  struct ShapeOf<T> {                                                           \
    static constexpr Field fields[] = {LEGO_READ(LEGO_EACH(T, __VA_ARGS__))};   \
    static constexpr Shape shape{Shape::Kind::Object, sizeof(T), #T, {fields}}; \
  };

}  // namespace lego::bindings

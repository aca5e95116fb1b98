// Values or errors: how every function that can fail says so. Nothing in the core throws.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace lego {

enum class Code : uint8_t {
#define LEGO_CODE(enumerator, name, sentence) enumerator,
#include "base/codes.def"
#undef LEGO_CODE
};

/// One line of codes.def.
struct CodeInfo {
  const char* name;
  const char* sentence;
};

/// Number of codes; they are numbered from 0.
size_t codeCount();
CodeInfo codeInfo(Code code);

/// What went wrong and where. `file` and `tensor` are empty, and `offset` absent, where they make no sense.
struct Error {
  Code code = Code::internal;
  std::string detail;  ///< what is wrong and what to do, without file and tensor
  std::string file;
  std::string tensor;
  std::optional<uint64_t> offset;  ///< byte offset in the file
};

/// The sentence for people: file, tensor, offset, detail. Over-long names are cut.
std::string describe(const Error& error);

/// A name as a message may show it: quoted, control bytes escaped, cut after 160 bytes.
std::string shownName(const std::string& name);

/// Nothing, or an error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}

  explicit operator bool() const { return !error_; }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

/// A value, or an error. Read the value only after testing.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return content_.index() == 0; }
  T& operator*() { return *std::get_if<0>(&content_); }
  const T& operator*() const { return *std::get_if<0>(&content_); }
  T* operator->() { return std::get_if<0>(&content_); }
  const T* operator->() const { return std::get_if<0>(&content_); }
  const Error& error() const { return *std::get_if<1>(&content_); }

 private:
  std::variant<T, Error> content_;
};

}  // namespace lego

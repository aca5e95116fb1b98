// Values or errors: how every function that can fail says so. Nothing in the core throws.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

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

/// An error or none, of one pointer's size: what calls pass on, test and throw away is then next to no code.
class ErrorSlot {
 public:
  ErrorSlot() = default;
  ErrorSlot(Error error);
  ErrorSlot(const ErrorSlot& other);
  ErrorSlot(ErrorSlot&& other) noexcept : error_(std::exchange(other.error_, nullptr)) {}
  ErrorSlot& operator=(ErrorSlot other) noexcept {
    std::swap(error_, other.error_);
    return *this;
  }
  ~ErrorSlot() {
    if (error_) release();
  }

  explicit operator bool() const { return error_ != nullptr; }
  const Error& operator*() const { return *error_; }

 private:
  void release();

  Error* error_ = nullptr;
};

/// Nothing, or an error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}

  explicit operator bool() const { return !error_; }
  const Error& error() const { return *error_; }

 private:
  ErrorSlot error_;
};

/// A value, or an error. Read the value only after testing.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::move(error)) {}

  explicit operator bool() const { return value_.has_value(); }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  const Error& error() const { return *error_; }

 private:
  std::optional<T> value_;
  ErrorSlot error_;
};

}  // namespace lego

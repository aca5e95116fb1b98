// Memory for model-sized data: asked for without exceptions, so that running out is an ordinary error.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>

#include "base/result.h"

namespace lego {

/// Uninitialised, 64-byte aligned elements of a trivial type. Grows, never shrinks.
template <typename T>
class Buffer {
 public:
  /// Makes room for `count` elements; what was there is lost if the buffer has to grow.
  /// Fails with out_of_memory, and then still has its old memory.
  /// The count is 64 bits wide on every target, so that products of sizes can be passed as they are.
  Status reserve(uint64_t count) {
    if (count <= capacity_) return {};
    if (count <= std::numeric_limits<size_t>::max() / sizeof(T)) {
      if (void* memory = ::operator new(static_cast<size_t>(count) * sizeof(T), kAlignment, std::nothrow)) {
        memory_.reset(static_cast<T*>(memory));
        capacity_ = static_cast<size_t>(count);
        return {};
      }
    }
    return Error{Code::outOfMemory,
                 "could not get " + std::to_string(count) + " x " + std::to_string(sizeof(T)) + " bytes",
                 {},
                 {},
                 {}};
  }

  T* data() { return memory_.get(); }
  const T* data() const { return memory_.get(); }
  size_t capacity() const { return capacity_; }
  std::span<T> span(size_t count) { return {memory_.get(), count}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<T, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace lego

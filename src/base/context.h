// What running work shares with whoever started it: a cancel flag, and threads that can help.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "base/parallel.h"

namespace lego {

/// One per session. Any thread may cancel and read.
///
/// Precedence: work that meets an invalid value and a cancel in the same module reports the cancel; an
/// error found before the flag was set stands.
class Context {
 public:
  void cancel() { cancelled_.store(1, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed) != 0; }

  /// Address of the flag, for a thread that shares this memory but cannot call in: 0 runs, 1 cancels.
  const std::atomic<uint32_t>* cancelFlag() const { return &cancelled_; }

  /// The pool whose bodies run this work.
  void useThreads(ThreadPool& threads) { threads_ = &threads; }
  /// Threads that may take part in share(), the caller included.
  size_t threads() const { return threads_ ? threads_->size() : 1; }
  /// As ThreadPool::share().
  void share(size_t count, const std::function<void(size_t index)>& body) const {
    if (threads_) return threads_->share(count, body);
    for (size_t i = 0; i < count; ++i) body(i);
  }

 private:
  std::atomic<uint32_t> cancelled_{0};
  ThreadPool* threads_ = nullptr;
};

}  // namespace lego

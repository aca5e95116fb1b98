// What running work shares with whoever started it: a cancel flag.
#pragma once

#include <atomic>
#include <cstdint>

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

 private:
  std::atomic<uint32_t> cancelled_{0};
};

}  // namespace lego

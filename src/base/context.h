// What running work shares with whoever started it: a cancel flag and a progress counter.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace lego {

/// One per session. Any thread may cancel and read; the threads that work advance.
///
/// Precedence: work that meets an invalid value and a cancel in the same module reports the cancel; an
/// error found before the flag was set stands.
class Context {
 public:
  void cancel() { cancelled_.store(1, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed) != 0; }

  /// Address of the flag, for a thread that shares this memory but cannot call in: 0 runs, 1 cancels.
  const std::atomic<uint32_t>* cancelFlag() const { return &cancelled_; }

  /// Starts counting: `total` units of work lie ahead.
  void begin(uint64_t total) {
    total_ = total;
    done_.store(0, std::memory_order_relaxed);
  }
  void advance(uint64_t units) { done_.fetch_add(units, std::memory_order_relaxed); }

  /// Share of the work done, 0 to 1, never decreasing; exactly 1 only when all of it is done.
  double fraction() const {
    const uint64_t done = std::min(done_.load(std::memory_order_relaxed), total_);
    return total_ == 0 ? 0.0 : static_cast<double>(done) / static_cast<double>(total_);
  }

 private:
  std::atomic<uint32_t> cancelled_{0};
  std::atomic<uint64_t> done_{0};
  uint64_t total_ = 0;
};

}  // namespace lego

// A fixed set of threads that share out the indices of a loop. Knows nothing of what they do.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace lego {

/// `threads` counts the caller: with 1, or in a build without threads, everything runs inline.
/// Threads are started once and wait for work; a call blocks until its last index is done, so call it
/// from a worker, never from a page's main thread.
class ThreadPool {
 public:
  explicit ThreadPool(size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Threads that really run, the caller included.
  size_t size() const;

  /// Calls body(index, thread) once for each index below `count`, thread in [0, size()). The order is not
  /// fixed: results must not depend on it.
  void forEach(size_t count, const std::function<void(size_t index, size_t thread)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lego

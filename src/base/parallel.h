// A fixed set of threads that share out the indices of loops, and of loops within them. Knows nothing of what
// they do.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace lego {

/// A loop: body(index, thread) is called once for each index below `count`, thread in [0, size() of the
/// pool). The order is not fixed: results must not depend on it.
struct Loop {
  size_t count = 0;
  std::function<void(size_t index, size_t thread)> body;

 private:
  friend class ThreadPool;
  size_t next = 0, done = 0;
  bool isInner = false;  // begun by a body of another loop
};

/// `threads` counts the caller: with 1, or in a build without threads, everything runs in finish().
/// Threads are started once and wait for work.
class ThreadPool {
 public:
  explicit ThreadPool(size_t threads);
  /// Loops that are not finished end where they are: no index is begun any more.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Threads that really run, the caller included.
  size_t size() const;

  /// From now on only so many threads take part in loops, at least 1: those with the lowest numbers. So many
  /// others help with share().
  void limit(size_t threads, size_t helpers);

  /// Puts a loop behind those that were started before; the other threads begin with it when nothing is left
  /// to begin of these. It must stay where it is until it is finished, or the pool is gone.
  void start(Loop& loop);
  /// Takes part in the loops, in their order, until this one is done. Blocks: call it from a worker, never
  /// from a page's main thread, and always from the same one.
  void finish(Loop& loop);

  /// For a loop's body: calls body(index) once for each index below `count`, in any order, and returns when
  /// all are done. Threads that have nothing else to begin take part. The bodies must not wait for anything.
  void share(size_t count, const std::function<void(size_t index)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lego

#include "base/parallel.h"

#include <condition_variable>
#include <deque>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

// Emscripten without -pthread has <thread> but cannot start one.
#if defined(__EMSCRIPTEN__) && !defined(__EMSCRIPTEN_PTHREADS__)
#define LEGO_HAS_THREADS 0
#else
#define LEGO_HAS_THREADS 1
#endif

namespace lego {

// A lock for each index: an index is a group of modules, which takes a millisecond or more.
struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;      // for the other threads: there is something to begin
  std::condition_variable finished;  // for the caller: a loop is done
  std::deque<Loop*> begun;           // loops with indices to begin
  bool stopping = false;
  size_t limit = std::numeric_limits<size_t>::max();
  std::vector<std::thread> threads;

  /// Runs the first index that is left to begin, with the lock released meanwhile.
  void runNext(std::unique_lock<std::mutex>& lock, size_t thread) {
    Loop& loop = *begun.front();
    const size_t index = loop.next++;
    if (loop.next == loop.count) begun.pop_front();
    lock.unlock();
    loop.body(index, thread);
    lock.lock();
    if (++loop.done == loop.count) finished.notify_one();
  }

  void serve(size_t thread) {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stopping || (!begun.empty() && thread < limit); });
      if (stopping) return;
      runNext(lock, thread);
    }
  }
};

ThreadPool::ThreadPool(size_t threads) : state_(std::make_unique<State>()) {
#if LEGO_HAS_THREADS
  for (size_t i = 1; i < threads; ++i)
    state_->threads.emplace_back([state = state_.get(), i] { state->serve(i); });
#else
  (void)threads;
#endif
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  for (auto& thread : state_->threads) thread.join();
}

size_t ThreadPool::size() const { return state_->threads.size() + 1; }

void ThreadPool::limit(size_t threads) {
  const std::lock_guard lock(state_->mutex);
  state_->limit = threads;
}

void ThreadPool::start(Loop& loop) {
  loop.next = loop.done = 0;
  if (loop.count == 0) return;
  {
    std::lock_guard lock(state_->mutex);
    state_->begun.push_back(&loop);
  }
  state_->wake.notify_all();
}

void ThreadPool::finish(Loop& loop) {
  std::unique_lock lock(state_->mutex);
  while (loop.done < loop.count) {
    if (state_->begun.empty()) {
      state_->finished.wait(lock, [&] { return loop.done == loop.count || !state_->begun.empty(); });
    } else {
      state_->runNext(lock, 0);
    }
  }
}

}  // namespace lego

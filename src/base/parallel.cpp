#include "base/parallel.h"

#include <condition_variable>
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

// A lock for each index: an index is a group of modules or a part of one, which takes a millisecond or more.
struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;      // for the other threads: there is something to begin
  std::condition_variable finished;  // for who waits for a loop: one is done
  std::vector<Loop*> begun;          // loops with indices to begin, inner ones first
  bool stopping = false;
  // Threads with lower numbers begin loops, or help with inner ones.
  size_t looping = std::numeric_limits<size_t>::max(), helping = std::numeric_limits<size_t>::max();
  std::vector<std::thread> threads;

  /// The first loop of which a thread may begin an index, or null.
  Loop* loopFor(size_t thread) const {
    for (Loop* loop : begun) {
      if (thread < (loop->isInner ? helping : looping)) return loop;
    }
    return nullptr;
  }

  /// Runs the next index of a loop that has one left to begin, with the lock released meanwhile.
  void runNext(std::unique_lock<std::mutex>& lock, Loop& loop, size_t thread) {
    const size_t index = loop.next++;
    if (loop.next == loop.count) std::erase(begun, &loop);
    lock.unlock();
    loop.body(index, thread);
    lock.lock();
    if (++loop.done == loop.count) finished.notify_all();
  }

  void serve(size_t thread) {
    std::unique_lock lock(mutex);
    for (;;) {
      Loop* loop = nullptr;
      wake.wait(lock, [&] { return stopping || (loop = loopFor(thread)) != nullptr; });
      if (stopping) return;
      runNext(lock, *loop, thread);
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

void ThreadPool::limit(size_t threads, size_t helpers) {
  const std::lock_guard lock(state_->mutex);
  state_->looping = threads;
  state_->helping = threads + helpers;
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
    if (Loop* const next = state_->loopFor(0)) {
      state_->runNext(lock, *next, 0);
    } else {
      state_->finished.wait(lock);
    }
  }
}

void ThreadPool::share(size_t count, const std::function<void(size_t)>& body) {
  if (count == 0) return;
  Loop loop;
  loop.count = count;
  loop.body = [&](size_t index, size_t) { body(index); };
  loop.isInner = true;
  std::unique_lock lock(state_->mutex);
  state_->begun.insert(state_->begun.begin(), &loop);
  // The caller of finish() may be waiting, too.
  state_->wake.notify_all();
  state_->finished.notify_all();
  while (loop.next < loop.count) state_->runNext(lock, loop, 0);
  while (loop.done < loop.count) state_->finished.wait(lock);
}

}  // namespace lego

#include "base/parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
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

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
  const std::function<void(size_t, size_t)>* body = nullptr;
  size_t count = 0;
  std::atomic<size_t> next{0};
  uint64_t round = 0;  // counts forEach calls, so that no thread takes part in one twice
  size_t busy = 0;
  bool stopping = false;
  std::vector<std::thread> threads;

  void takeIndices(size_t thread) {
    for (size_t index = next.fetch_add(1); index < count; index = next.fetch_add(1)) (*body)(index, thread);
  }

  void serve(size_t thread) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stopping || round != seen; });
      if (stopping) return;
      seen = round;
      lock.unlock();
      takeIndices(thread);
      lock.lock();
      if (--busy == 0) finished.notify_one();
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

void ThreadPool::forEach(size_t count, const std::function<void(size_t, size_t)>& body) {
  if (count <= 1 || state_->threads.empty()) {
    for (size_t index = 0; index < count; ++index) body(index, 0);
    return;
  }
  {
    std::lock_guard lock(state_->mutex);
    state_->body = &body;
    state_->count = count;
    state_->next.store(0);
    state_->busy = state_->threads.size();
    ++state_->round;
  }
  state_->wake.notify_all();
  state_->takeIndices(0);
  std::unique_lock lock(state_->mutex);
  state_->finished.wait(lock, [&] { return state_->busy == 0; });
}

}  // namespace lego

// Errors, limits, the generator, the context and the thread pool.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/context.h"
#include "base/parallel.h"
#include "base/random.h"
#include "base/result.h"

namespace lego {
namespace {

TEST(Codes, NamesAreUniqueAndLowerCase) {
  std::set<std::string> names;
  for (size_t i = 0; i < codeCount(); ++i) {
    const CodeInfo info = codeInfo(static_cast<Code>(i));
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_EQ(std::string(info.name).find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos)
        << info.name;
    EXPECT_TRUE(std::string(info.sentence).ends_with('.')) << info.sentence;
  }
}

TEST(Errors, MessageNamesFileTensorAndOffset) {
  const Error error{Code::tensorHole, "something is missing", "a.safetensors", "layer.lora_A", 64};
  EXPECT_EQ(describe(error), "'a.safetensors': tensor 'layer.lora_A': something is missing (byte 64)");
  EXPECT_EQ(describe(Error{Code::noInputs, {}, {}, {}, {}}), codeInfo(Code::noInputs).sentence);
}

TEST(Errors, NamesAreCutAndControlBytesShown) {
  EXPECT_EQ(shownName(std::string("a\0b\n", 4)), "'a\\x00b\\x0a'");
  const std::string shown = shownName(std::string(1'000'000, 'x'));
  EXPECT_LT(shown.size(), 200u);
  EXPECT_TRUE(shown.ends_with("...'"));
  // Never cut inside a character: 159 bytes, then a two-byte one.
  const std::string text = std::string(159, 'x') + "\xC3\xA9" + "y";
  EXPECT_EQ(shownName(text), "'" + std::string(159, 'x') + "\xC3\xA9...'");
}

TEST(Checked, TellsOverflow) {
  EXPECT_EQ(checkedMultiply(UINT64_MAX, 1), UINT64_MAX);
  EXPECT_EQ(checkedMultiply(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(checkedMultiply(0, UINT64_MAX), 0u);
  EXPECT_EQ(checkedAdd(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(checkedAdd(UINT64_MAX, 0), UINT64_MAX);
}

TEST(Buffer, RefusesWhatCannotBeHad) {
  Buffer<double> buffer;
  EXPECT_TRUE(buffer.reserve(100));
  const Status huge = buffer.reserve(SIZE_MAX / 4);
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, Code::outOfMemory);
  EXPECT_GE(buffer.capacity(), 100u);
}

// The published test vector of SplitMix64 for seed 1234567.
TEST(Random, IsSplitMix64) {
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, ModulesGetSeedsOfTheirOwn) {
  EXPECT_EQ(moduleSeed(0, "a.b"), moduleSeed(0, "a.b"));
  EXPECT_NE(moduleSeed(0, "a.b"), moduleSeed(0, "a.c"));
  EXPECT_NE(moduleSeed(0, "a.b"), moduleSeed(1, "a.b"));
}

class Threads : public ::testing::TestWithParam<size_t> {};

void runLoop(ThreadPool& pool, size_t count, std::function<void(size_t, size_t)> body) {
  Loop loop;
  loop.count = count;
  loop.body = std::move(body);
  pool.start(loop);
  pool.finish(loop);
}

TEST_P(Threads, EveryIndexOnceAcrossManyRounds) {
  ThreadPool pool(GetParam());
  EXPECT_GE(pool.size(), 1u);
  for (size_t count : {0, 1, 2, 3, 7, 100}) {
    for (int round = 0; round < 50; ++round) {
      std::vector<std::atomic<int>> visits(count);
      std::atomic<bool> sound{true};
      runLoop(pool, count, [&](size_t index, size_t thread) {
        ++visits[index];
        if (thread >= pool.size()) sound = false;
      });
      for (auto& visit : visits) ASSERT_EQ(visit.load(), 1);
      ASSERT_TRUE(sound);
    }
  }
}

TEST_P(Threads, NoTwoIndicesShareAThreadAtOnce) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> inside(pool.size());
  std::atomic<bool> alone{true};
  runLoop(pool, 200, [&](size_t, size_t thread) {
    if (++inside[thread] != 1) alone = false;
    std::this_thread::yield();
    --inside[thread];
  });
  EXPECT_TRUE(alone);
}

TEST_P(Threads, GoOnWithTheNextLoop) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> visits(3);
  std::vector<Loop> loops(3);
  for (size_t i = 0; i < loops.size(); ++i) {
    loops[i].count = 20 + i;
    loops[i].body = [&visits, i](size_t, size_t) { ++visits[i]; };
    pool.start(loops[i]);
  }
  for (size_t i = 0; i < loops.size(); ++i) {
    pool.finish(loops[i]);
    EXPECT_EQ(visits[i].load(), 20 + static_cast<int>(i));
  }
}

TEST_P(Threads, AreLimited) {
  ThreadPool pool(GetParam());
  pool.limit(2, 1);
  std::atomic<bool> sound{true};
  runLoop(pool, 200, [&](size_t, size_t thread) {
    if (thread >= 2) sound = false;
  });
  EXPECT_TRUE(sound);
  std::mutex mutex;
  std::set<std::thread::id> helpers;
  runLoop(pool, 4, [&](size_t, size_t) {
    pool.share(50, [&](size_t) {
      const std::lock_guard lock(mutex);
      helpers.insert(std::this_thread::get_id());
    });
  });
  EXPECT_LE(helpers.size(), 3u);
}

TEST_P(Threads, ShareWhatIsWithinALoop) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    constexpr size_t kOuter = 6, kInner = 40;
    std::vector<std::atomic<int>> visits(kOuter * kInner);
    std::atomic<bool> whole{true};
    runLoop(pool, kOuter, [&](size_t index, size_t) {
      pool.share(kInner, [&](size_t inner) { ++visits[index * kInner + inner]; });
      for (size_t inner = 0; inner < kInner; ++inner) {
        if (visits[index * kInner + inner] != 1) whole = false;
      }
      pool.share(0, [&](size_t) { whole = false; });
    });
    EXPECT_TRUE(whole);
  }
}

// Each waits for the other: neither could go on alone.
TEST_P(Threads, HelpFromOutsideOfTheLoop) {
  ThreadPool pool(GetParam());
  if (pool.size() == 1) return;
  pool.limit(1, pool.size() - 1);
  std::atomic<int> arrived{0};
  runLoop(pool, 1, [&](size_t, size_t) {
    pool.share(2, [&](size_t) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST_P(Threads, EndWithLoopsThatNobodyFinishes) {
  std::atomic<int> visits{0};
  Loop loop;
  loop.count = 100'000;
  loop.body = [&](size_t, size_t) { ++visits; };
  {
    ThreadPool pool(GetParam());
    pool.start(loop);
  }
  EXPECT_LE(visits.load(), 100'000);
}

INSTANTIATE_TEST_SUITE_P(Counts, Threads, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace lego

// Whole sessions: bytes that do not depend on threads, batches or company; bad values; cancel; progress.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "core/dialect_samples.h"
#include "core/fixtures.h"
#include "format/safetensors.h"
#include "job/memory.h"
#include "merge/registry.h"

namespace lego::testing {
namespace {

std::vector<TestAdapter> examples() {
  std::vector<TestAdapter> adapters;
  for (const char* task : {"sortdesc", "swapnb", "rotl2"})
    adapters.push_back(readAdapter(std::string(LEGO_EXAMPLES "/") + task));
  return adapters;
}

/// FNV-1a of the bytes.
uint64_t hashOf(std::span<const std::byte> bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001B3u;
  return hash;
}

TEST(Session, SameBytesForAnyNumberOfThreads) {
  const auto adapters = examples();
  for (const char* method : {"lego", "svd", "cat"}) {
    Recipe recipe;
    recipe.method = method;
    recipe.weights = {1, 0.5, -0.25};
    const auto one = must(mergeAll(adapters, recipe, 1)).file;
    for (size_t threads : {2, 3, 8})
      EXPECT_EQ(must(mergeAll(adapters, recipe, threads)).file, one) << method << " with " << threads;
  }
}

// Enough units for threads to share one module, fewer modules than threads.
TEST(Session, SameBytesWhenThreadsShareAModule) {
  Random random(7);
  std::vector<TestAdapter> adapters;
  for (const char* name : {"one", "two", "three"})
    adapters.push_back(makeAdapter(name, {randomPair(random, 200, 320, 280)}, DType::F32, 200));
  for (const char* method : {"lego", "svd"}) {
    Recipe recipe;
    recipe.method = method;
    recipe.rank = 8;
    const auto one = must(mergeAll(adapters, recipe, 1)).file;
    EXPECT_EQ(must(mergeAll(adapters, recipe, 4)).file, one) << method;
  }
}

/// A feed-forward block, whose modules share what they read and write, and a module by itself.
std::vector<TestAdapter> wideAdapters(DType dtype) {
  Random random(11);
  std::vector<TestAdapter> adapters;
  for (const uint64_t rank : {12, 20, 5}) {
    const auto pair = [&](uint64_t in, uint64_t out, const std::string& name) {
      return randomPair(random, rank, in, out, "model.layers.0." + name);
    };
    adapters.push_back(makeAdapter("rank " + std::to_string(rank),
                                   {pair(1500, 2600, "mlp.gate_proj"), pair(1500, 2600, "mlp.up_proj"),
                                    pair(2600, 1500, "mlp.down_proj"), pair(3000, 2049, "self_attn.q_proj")},
                                   dtype, 8));
  }
  return adapters;
}

/// The same as MLX stores them: A in x rank, B rank x out.
std::vector<TestAdapter> asMlx(std::vector<TestAdapter> adapters) {
  for (TestAdapter& adapter : adapters) adapter = asAdapter(must(mergeAll({adapter}, converting("mlx"))));
  return adapters;
}

// Units that are unpacked in panels, from either way in which factors are stored.
TEST(Session, SameBytesInPanels) {
  const Footprint inPanels{.threads = 2, .inPanels = true};
  const auto compare = [&](const std::vector<TestAdapter>& adapters, const Recipe& recipe) {
    const Merged whole = must(mergeAll(adapters, recipe)),
                 panels = must(mergeAll(adapters, recipe, inPanels));
    for (const PlannedGroup& group : panels.plan.groups) EXPECT_TRUE(isStored(panels.plan, group));
    EXPECT_EQ(panels.file, whole.file) << recipe.method;
    ASSERT_EQ(panels.reports.size(), whole.reports.size());
    for (size_t m = 0; m < whole.reports.size(); ++m) {
      const ModuleReport &x = panels.reports[m], &y = whole.reports[m];
      EXPECT_EQ(x.adapter, y.adapter);
      EXPECT_EQ(x.labels, y.labels);
      EXPECT_EQ(x.mergedNorm, y.mergedNorm);
      EXPECT_EQ(x.quality.inputError, y.quality.inputError);
    }
  };
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    const auto adapters = wideAdapters(dtype);
    for (const MethodInfo& method : methods()) {
      const bool isOnUnits = !std::holds_alternative<EntryMethod>(method.run);
      if (!isOnUnits || method.mostAdapters < 3 || method.rank == RankKind::Equal) continue;
      Recipe recipe;
      recipe.method = method.name;
      recipe.rank = method.takesRank() ? 9 : 0;
      compare(adapters, recipe);
    }
  }
  for (const char* method : {"lego", "svd", "least_interference"}) {
    Recipe recipe;
    recipe.method = method;
    recipe.rule.kind = RankRule::Kind::Automatic;
    recipe.weights = {1, 0.5, 2};
    compare(asMlx(wideAdapters(DType::F32)), recipe);
  }
}

TEST(Session, PanelsLeaveWhatNeedsWholeRows) {
  Recipe recipe;
  recipe.method = "lego";
  recipe.options = {{"canonical", "on"}};
  const auto adapters = wideAdapters(DType::BF16);
  const Merged whole = must(mergeAll(adapters, recipe));
  const Merged panels = must(mergeAll(adapters, recipe, Footprint{.inPanels = true}));
  for (const PlannedGroup& group : panels.plan.groups) EXPECT_FALSE(isStored(panels.plan, group));
  EXPECT_EQ(panels.file, whole.file);
}

TEST(Session, PanelsRefuseWhatIsNotFinite) {
  auto adapters = wideAdapters(DType::F32);
  for (const size_t fromEnd : {1, 100'000, 200'001}) {
    auto broken = adapters;
    const float nan = NAN;
    std::memcpy(broken[1].file.data() + broken[1].file.size() - 4 * fromEnd, &nan, sizeof nan);
    const auto whole = mergeAll(broken, {}), panels = mergeAll(broken, {}, Footprint{.inPanels = true});
    ASSERT_FALSE(whole);
    ASSERT_FALSE(panels);
    EXPECT_EQ(panels.error().code, Code::notFinite);
    EXPECT_EQ(panels.error().file, whole.error().file);
    EXPECT_EQ(panels.error().tensor, whole.error().tensor);
  }
}

// The same figures on every platform: natively with any compiler, as WebAssembly with and without threads.
// Where a change of the arithmetic or of the search is meant, so is a change of these figures.
TEST(Session, SameBytesOnEveryPlatform) {
  const auto adapters = examples();
  const auto hash = [&](Recipe recipe) {
    const size_t most = findMethod(recipe.method)->mostAdapters;
    const Merged merged =
        must(mergeAll(most < 3 ? std::vector(adapters.begin(), adapters.begin() + 2) : adapters, recipe));
    // Without the header, which holds the version.
    return hashOf(std::span(merged.file).subspan(merged.plan.header.size()));
  };
  EXPECT_EQ(hash({}), 16119790672009745417u);
  Recipe balanced;
  balanced.options = {{"gauge", "balanced"}, {"canonical", "on"}};
  EXPECT_EQ(hash(balanced), 13370453460471208538u);
  uint64_t all = 0;
  for (const MethodInfo& method : methods()) {
    Recipe recipe;
    recipe.method = method.name;
    all = (all ^ hash(recipe)) * 0x100000001B3u;
  }
  EXPECT_EQ(all, 1369802071235426813u);
}

TEST(Session, ReferenceKernelsGiveTheSameBytes) {
  const auto adapters = examples();
  for (const char* method : {"lego", "svd", "cat"}) {
    for (const char* dtype : {"f64", "f32", "f16", "bf16"}) {
      Recipe recipe;
      recipe.method = method;
      recipe.dtype = dtype;
      recipe.weights = {1, 0.5, -0.25};
      EXPECT_EQ(must(mergeAll(adapters, recipe, 1, kReferenceKernels)).file,
                must(mergeAll(adapters, recipe)).file)
          << method << " " << dtype;
    }
  }
}

TEST(Session, AModuleDoesNotDependOnItsCompany) {
  Random random(1);
  std::vector<Pair> first, second;
  for (const char* path : {"a", "b", "c"})
    first.push_back(randomPair(random, 4, 30, 20, path)),
        second.push_back(randomPair(random, 6, 30, 20, path));
  Recipe recipe;
  recipe.rank = 5;
  const Merged all = must(
      mergeAll({makeAdapter("x", first, DType::F32, 4), makeAdapter("y", second, DType::F32, 6)}, recipe));
  for (size_t i = 0; i < 3; ++i) {
    const Merged alone = must(mergeAll(
        {makeAdapter("x", {first[i]}, DType::F32, 4), makeAdapter("y", {second[i]}, DType::F32, 6)}, recipe));
    const Pair left = pairOf(all, first[i].path), right = pairOf(alone, first[i].path);
    EXPECT_EQ(left.a, right.a);
    EXPECT_EQ(left.b, right.b);
  }
}

TEST(Session, OutputReadsBackAsAnAdapterOfScaleOne) {
  const Merged merged = must(mergeAll(examples(), {}));
  Session session(1);
  ASSERT_TRUE(addTo(session, {"merged", merged.file, merged.plan.config}));
  const Catalogue& catalogue = session.adapters()[0].catalogue;
  EXPECT_EQ(catalogue.modules.size(), 28u);
  for (const auto& module : catalogue.modules) EXPECT_EQ(module.scale, 1);
  EXPECT_EQ(catalogue.info.baseModel, "minibench-llama-0.8m");
}

TEST(Session, KeepsConvolutionsAndEmbeddings) {
  Random random(2);
  const auto values = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = randomFloat(random);
    return v;
  };
  const std::vector<NamedTensor> tensors = {
      {"base_model.model.c.lora_A.weight", DType::F32, {2, 3, 5, 5}, values(150)},
      {"base_model.model.c.lora_B.weight", DType::F32, {7, 2, 1, 1}, values(14)},
      {"base_model.model.e.lora_embedding_A", DType::F32, {2, 11}, values(22)},
      {"base_model.model.e.lora_embedding_B", DType::F32, {4, 2}, values(8)}};
  const TestAdapter adapter{"x", makeSafetensors(tensors), R"({"peft_type":"LORA","r":2,"lora_alpha":2})"};
  const Merged merged = must(mergeAll({adapter}, {}));
  for (const auto& tensor : tensors)
    EXPECT_EQ(valuesOf(merged.file, tensor.name), tensor.values) << tensor.name;
  EXPECT_EQ(merged.plan.modules[0].a.shape, (std::vector<uint64_t>{2, 3, 5, 5}));
  EXPECT_EQ(merged.plan.modules[0].b.shape, (std::vector<uint64_t>{7, 2, 1, 1}));
}

TEST(Session, RefusesValuesThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const DType dtype : {DType::F64, DType::F32, DType::F16, DType::BF16}) {
      for (const bool inA : {true, false}) {
        Random random(3);
        Pair pair = randomPair(random, 3, 40, 30);
        (inA ? pair.a : pair.b)[37] = bad;
        const auto result = mergeAll({makeAdapter("good", {randomPair(random, 2, 40, 30)}, dtype, 4),
                                      makeAdapter("bad", {pair}, dtype, 4)},
                                     {});
        const std::string text = expectCode(result, Code::notFinite);
        EXPECT_NE(text.find("bad/adapter_model.safetensors"), std::string::npos) << text;
        EXPECT_NE(text.find(inA ? "lora_A" : "lora_B"), std::string::npos) << text;
      }
    }
  }
}

TEST(Session, RefusesWhatTheDtypeCannotHold) {
  Random random(4);
  Pair pair = randomPair(random, 2, 5, 5);
  pair.b[3] = 70000;
  Recipe recipe;
  recipe.dtype = "f16";
  const std::string text =
      expectCode(mergeAll({makeAdapter("x", {pair}, DType::F32, 2)}, recipe), Code::valueOverflow);
  EXPECT_NE(text.find("lora_B"), std::string::npos) << text;
  recipe.dtype = "bf16";
  EXPECT_TRUE(mergeAll({makeAdapter("x", {pair}, DType::F32, 2)}, recipe));
}

TEST(Session, CancelEndsTheWork) {
  const auto adapters = examples();
  Session session(2);
  for (const auto& adapter : adapters) ASSERT_TRUE(addTo(session, adapter));
  ASSERT_TRUE(session.makePlan({}));
  const PlannedBatch& batch = session.plan().batches[0];
  auto input = session.input(0);
  ASSERT_TRUE(input);
  for (const ReadRange& read : batch.reads)
    std::copy_n(adapters[read.adapter].file.begin() + static_cast<std::ptrdiff_t>(read.offset), read.length,
                input->begin() + static_cast<std::ptrdiff_t>(read.at));
  session.context().cancel();
  expectCode(session.run(0), Code::cancelled);
}

TEST(Session, ABatchNeedsItsInput) {
  Session session(1);
  for (const auto& adapter : examples()) ASSERT_TRUE(addTo(session, adapter));
  ASSERT_TRUE(session.makePlan({}));
  expectCode(session.run(0), Code::internal);
}

// As a caller does who reads one batch and writes another while the core works on two.
TEST(Session, BatchesMayOverlap) {
  const auto adapters = examples();
  const Merged expected = must(mergeAll(adapters, {}));
  for (const size_t threads : {1, 3}) {
    Session session({.threads = threads, .slots = 3, .batchBytes = 1});
    for (const auto& adapter : adapters) ASSERT_TRUE(addTo(session, adapter));
    ASSERT_TRUE(session.makePlan({}));
    const Plan& plan = session.plan();
    const size_t count = plan.batches.size();
    ASSERT_EQ(count, plan.pairs.size());
    std::vector<std::byte> file(expected.file.begin(), expected.file.end());
    std::fill(file.begin() + static_cast<std::ptrdiff_t>(plan.header.size()), file.end(), std::byte{0xAA});
    const auto begin = [&](size_t i) {
      auto input = session.input(i);
      ASSERT_TRUE(input);
      for (const ReadRange& read : plan.batches[i].reads)
        std::copy_n(adapters[read.adapter].file.begin() + static_cast<std::ptrdiff_t>(read.offset),
                    read.length, input->begin() + static_cast<std::ptrdiff_t>(read.at));
      ASSERT_TRUE(session.start(i, Work::Merge));
    };
    begin(0);
    begin(1);
    for (size_t i = 0; i < count; ++i) {
      if (i + 2 < count) begin(i + 2);
      const auto output = session.finish(i);
      ASSERT_TRUE(output);
      std::ranges::copy(*output, file.begin() + static_cast<std::ptrdiff_t>(plan.batches[i].outputBegin));
    }
    EXPECT_TRUE(std::ranges::equal(file, expected.file));
  }
}

TEST(Session, HasNoMoreBatchesThanSlots) {
  Session session({.threads = 2, .slots = 2, .batchBytes = 1});
  for (const auto& adapter : examples()) ASSERT_TRUE(addTo(session, adapter));
  ASSERT_TRUE(session.makePlan({}));
  ASSERT_TRUE(session.input(0));
  ASSERT_TRUE(session.input(1));
  expectCode(session.input(2), Code::internal);
  expectCode(session.finish(0), Code::internal);
}

TEST(Session, StaysWithinALimitOfMemory) {
  const auto adapters = examples();
  const Merged expected = must(mergeAll(adapters, {}));
  const auto planWith = [&](const Footprint& footprint) {
    Session session(footprint);
    for (const auto& adapter : adapters) EXPECT_TRUE(addTo(session, adapter));
    Status made = session.makePlan({});
    return made ? Result<Plan>(session.plan()) : Result<Plan>(made.error());
  };
  const Plan free = must(planWith({.threads = 8, .slots = 3}));
  const Plan least = must(planWith({.threads = 1, .slots = 3, .batchBytes = 1}));
  ASSERT_LT(least.peakBytes, free.peakBytes);
  uint64_t last = 0;
  for (uint64_t limit = least.peakBytes; limit <= free.peakBytes; limit += 50'000) {
    const Plan plan = must(planWith({.threads = 8, .slots = 3, .memoryBytes = limit}));
    EXPECT_LE(plan.peakBytes, limit);
    EXPECT_EQ(plan.header, expected.plan.header);
    EXPECT_GE(plan.footprint.threads, last);
    last = plan.footprint.threads;
  }
  EXPECT_EQ(last > 1, ThreadPool(8).size() > 1);
  const std::string text =
      expectCode(planWith({.threads = 8, .slots = 3, .memoryBytes = least.peakBytes - 1}), Code::outOfMemory);
  EXPECT_NE(text.find("needs " + std::to_string((least.peakBytes + 999'999) / 1'000'000) + " MB"),
            std::string::npos)
      << text;
}

// Units that take more memory than everything else: they stay as they are stored before fewer threads work.
TEST(Session, UsesPanelsWhereMemoryIsShort) {
  Random random(5);
  std::vector<TestAdapter> adapters;
  for (const char* name : {"one", "two"}) {
    const Pair pair = randomPair(random, 120, 16'000, 15'000);
    adapters.push_back(makeAdapter(name, {pair}, DType::F16, 120));
  }
  Recipe recipe;
  recipe.rank = 4;
  const Merged free = must(mergeAll(adapters, recipe));
  EXPECT_FALSE(free.plan.footprint.inPanels);
  const Merged limited = must(mergeAll(adapters, recipe, {.memoryBytes = free.plan.peakBytes * 7 / 10}));
  EXPECT_TRUE(limited.plan.footprint.inPanels);
  EXPECT_LE(limited.plan.peakBytes, free.plan.peakBytes * 7 / 10);
  EXPECT_EQ(limited.file, free.file);
}

// A file of 18 TB, of which only the header is needed to know that nothing can hold its one module.
TEST(Session, RefusesAnImpossibleAmountOfMemory) {
  constexpr uint64_t kRank = 4096, kSide = uint64_t{1} << 28;
  Header header;
  header.tensors = {{"base_model.model.layer.lora_A.weight", DType::F64, {kRank, kSide}, 0, 0},
                    {"base_model.model.layer.lora_B.weight", DType::F64, {kSide, kRank}, 0, 0}};
  const std::string bytes = must(safetensors::writeHeader(header));
  Session session(1);
  ASSERT_TRUE(session.addAdapter({"huge", "huge", "huge"}, std::as_bytes(std::span(bytes)),
                                 header.tensors[1].end, "{\"peft_type\":\"LORA\",\"r\":4096}"));
  if (sizeof(size_t) == 4) {
    const std::string text = expectCode(session.makePlan({}), Code::outOfMemory);
    EXPECT_NE(text.find("4 GB"), std::string::npos) << text;
    return;
  }
  ASSERT_TRUE(session.makePlan({}));
  EXPECT_GT(session.plan().peakBytes, uint64_t{1} << 44);
  expectCode(session.input(0), Code::outOfMemory);
  expectCode(session.run(0), Code::internal);
}

}  // namespace
}  // namespace lego::testing

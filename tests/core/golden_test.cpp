// Whole merges, from file to file, against the reference implementation's outputs (tests/golden).

#include <gtest/gtest.h>

#include <cmath>

#include "core/fixtures.h"
#include "format/json.h"

namespace lego::testing {
namespace {

// Largest difference allowed, as a share of the largest value: what binary32 inside can promise.
constexpr double kTolerance = 1e-5;

struct GoldenCase {
  std::string name;
  Json json;
  std::vector<std::byte> file;
  std::vector<TestAdapter> adapters;
  std::vector<uint32_t> start;
  uint32_t k = 0;
};

uint64_t whole(const Json& value) { return value.get<uint64_t>(); }

std::vector<GoldenCase> goldenCases() {
  std::vector<GoldenCase> cases;
  const Json all = must(parseJson(readText(LEGO_GOLDEN "/cases.json"), Code::internal));
  for (const Json& json : all.at("cases")) {
    GoldenCase golden{json.at("name").get<std::string>(),
                      json,
                      readFile(LEGO_GOLDEN "/" + json.at("file").get<std::string>()),
                      {},
                      {},
                      static_cast<uint32_t>(whole(json.at("k")))};
    for (const Json& unit : json.at("init")) golden.start.push_back(static_cast<uint32_t>(whole(unit)));
    for (size_t i = 0; i < json.at("ranks").size(); ++i) {
      const std::string prefix = "in." + std::to_string(i) + ".";
      Pair pair{"layer",
                whole(json.at("ranks")[i]),
                whole(json.at("in")),
                whole(json.at("out")),
                valuesOf(golden.file, prefix + "A"),
                valuesOf(golden.file, prefix + "B")};
      golden.adapters.push_back(
          makeAdapter("adapter" + std::to_string(i), {pair}, DType::F32, json.at("alphas")[i].get<double>()));
    }
    cases.push_back(std::move(golden));
  }
  return cases;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) result = std::max(result, std::abs(value));
  return result;
}

void expectClose(const std::vector<float>& values, const std::vector<double>& expected, double factor,
                 const std::string& what) {
  ASSERT_EQ(values.size(), expected.size()) << what;
  const double bound = kTolerance * largest(expected) * factor;
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(values[i], expected[i] * factor, bound) << what << " at " << i;
}

/// The dense result of a golden method, however the file stores it.
std::vector<double> goldenDelta(const GoldenCase& golden, const std::string& method, uint64_t rank) {
  if (golden.name.starts_with("small")) return doublesOf(golden.file, method + ".delta");
  const uint64_t in = whole(golden.json.at("in")), out = whole(golden.json.at("out"));
  return delta(
      {"", rank, in, out, valuesOf(golden.file, method + ".A"), valuesOf(golden.file, method + ".B")}, 1);
}

std::vector<double> goldenWeights(const Json& method) {
  std::vector<double> weights;
  for (const Json& weight : method.at("weights")) weights.push_back(weight.get<double>());
  return weights;
}

TEST(Golden, LegoFromGivenUnits) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    for (const auto& [name, method] : golden.json.at("methods").items()) {
      // "lego.p1.o0": raw gauge, L2 parameter reweighting, no output reweighting.
      const bool balanced = name.starts_with("lego_balanced.");
      if (!balanced && !name.starts_with("lego.")) continue;
      const std::string what = golden.name + " " + name;
      Recipe recipe;
      recipe.rank = golden.k;
      recipe.start = golden.start;
      recipe.options = {{"gauge", balanced ? "balanced" : "raw"},
                        {"parameter_reweight", name.find(".pinf.") != std::string::npos ? "linf"
                                               : name.find(".p1.") != std::string::npos ? "l2"
                                                                                        : "off"},
                        {"output_reweight", name.ends_with(".o1") ? "on" : "off"}};
      const Merged merged = must(mergeAll(golden.adapters, recipe));

      std::vector<uint32_t> labels;
      for (const Json& label : method.at("kmeans").at("labels"))
        labels.push_back(static_cast<uint32_t>(whole(label)));
      EXPECT_EQ(merged.reports[0].labels, labels) << what;
      EXPECT_NEAR(merged.reports[0].inertia / method.at("kmeans").at("inertia").get<double>(), 1, 1e-6)
          << what;
      // The reference keeps the output scale beside the factors; here it is in them, half in each.
      const double half = std::sqrt(method.at("scale").get<double>());
      const Pair pair = pairOf(merged);
      expectClose(pair.a, doublesOf(golden.file, name + ".A"), half, what + " A");
      expectClose(pair.b, doublesOf(golden.file, name + ".B"), half, what + " B");
      ++compared;
    }
  }
  EXPECT_EQ(compared, 5 * 9);
}

TEST(Golden, Svd) {
  for (const GoldenCase& golden : goldenCases()) {
    const Json& method = golden.json.at("methods").at("svd");
    Recipe recipe;
    recipe.method = "svd";
    recipe.rank = static_cast<uint32_t>(whole(method.at("k")));
    recipe.weights = goldenWeights(method);
    const Merged merged = must(mergeAll(golden.adapters, recipe));
    const Pair pair = pairOf(merged);
    const auto product = delta(pair, 1);
    expectClose({product.begin(), product.end()}, goldenDelta(golden, "svd", recipe.rank), 1,
                golden.name + " svd");
    // The reference's singular values are the products of the balanced factors' norms.
    for (uint64_t q = 0; q < pair.rank; ++q) {
      double squaredA = 0, squaredB = 0;
      for (uint64_t i = 0; i < pair.in; ++i) squaredA += std::pow(pair.a[q * pair.in + i], 2);
      for (uint64_t o = 0; o < pair.out; ++o) squaredB += std::pow(pair.b[o * pair.rank + q], 2);
      EXPECT_NEAR(std::sqrt(squaredA * squaredB) / method.at("singular_values")[q].get<double>(), 1, 1e-5);
      EXPECT_NEAR(squaredA / squaredB, 1, 1e-5);
    }
  }
}

TEST(Golden, LeastInterference) {
  for (const GoldenCase& golden : goldenCases()) {
    const Json& method = golden.json.at("methods").at("least_interference");
    Recipe recipe;
    recipe.method = "least_interference";
    recipe.rank = static_cast<uint32_t>(whole(method.at("k")));
    recipe.options = {{"eps", method.at("eps").dump()}};
    const Merged merged = must(mergeAll(golden.adapters, recipe));
    const auto product = delta(pairOf(merged), 1);
    expectClose({product.begin(), product.end()}, goldenDelta(golden, "least_interference", recipe.rank), 1,
                golden.name + " least_interference");
  }
}

TEST(Golden, CatIsTheExactSum) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    if (!golden.json.at("methods").contains("task_arithmetic")) continue;
    Recipe recipe;
    recipe.method = "cat";
    recipe.weights = goldenWeights(golden.json.at("methods").at("task_arithmetic"));
    const Merged merged = must(mergeAll(golden.adapters, recipe));
    const auto product = delta(pairOf(merged), 1);
    expectClose({product.begin(), product.end()}, goldenDelta(golden, "task_arithmetic", 0), 1,
                golden.name + " cat");
    ++compared;
  }
  EXPECT_EQ(compared, 3);
}

// Default settings against the best of the reference's 100 k-means++ starts.
TEST(Golden, DefaultSearchFindsGoodClusters) {
  for (const GoldenCase& golden : goldenCases()) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      Recipe recipe;
      recipe.rank = golden.k;
      recipe.seed = seed;
      const Merged merged = must(mergeAll(golden.adapters, recipe));
      const double best = golden.json.at("best_inertia").at("euclid").get<double>();
      EXPECT_LE(merged.reports[0].inertia, 1.005 * best) << golden.name << " seed " << seed;
    }
  }
}

TEST(Golden, DefaultSearchOnAllModulesOfTheExamples) {
  std::vector<TestAdapter> adapters;
  for (const char* task : {"sortdesc", "swapnb", "rotl2", "add3", "interleave", "revhalf2"})
    adapters.push_back(readAdapter(std::string(LEGO_EXAMPLES "/") + task));
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Recipe recipe;
    recipe.rank = 8;
    recipe.seed = seed;
    const Merged merged = must(mergeAll(adapters, recipe));
    ASSERT_EQ(merged.reports.size(), 28u);
    double sum = 0;
    for (const ModuleReport& report : merged.reports) sum += report.inertia;
    // The reference reaches 1,178 with 10 starts and 1,156 with 100.
    EXPECT_LE(sum, 1160) << "seed " << seed;
    RecordProperty("inertia_seed_" + std::to_string(seed), std::to_string(sum));
  }
}

}  // namespace
}  // namespace lego::testing

// Whole merges, from file to file, against the reference implementation's outputs (tests/golden).

#include <gtest/gtest.h>

#include <cmath>

#include "core/fixtures.h"
#include "format/json.h"
#include "merge/elementwise.h"

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
    recipe.options = {{"eps", method.at("eps").dump()}, {"prior", "mean"}, {"covariance", "unit"}};
    const Merged merged = must(mergeAll(golden.adapters, recipe));
    const auto product = delta(pairOf(merged), 1);
    expectClose({product.begin(), product.end()}, goldenDelta(golden, "least_interference", recipe.rank), 1,
                golden.name + " least_interference");
  }
}

/// Runs a golden method and compares products. Returns whether the case has it.
bool compareProduct(const GoldenCase& golden, const std::string& name, Recipe recipe) {
  const Json& methods = golden.json.at("methods");
  if (!methods.contains(name)) return false;
  const Json& method = methods.at(name);
  if (method.contains("weights")) recipe.weights = goldenWeights(method);
  const Merged merged = must(mergeAll(golden.adapters, recipe));
  if (method.contains("kmeans")) {
    std::vector<uint32_t> labels;
    for (const Json& label : method.at("kmeans").at("labels"))
      labels.push_back(static_cast<uint32_t>(whole(label)));
    EXPECT_EQ(merged.reports[0].labels, labels) << golden.name << " " << name;
  }
  const auto product = delta(pairOf(merged), 1);
  // Trained cases store the products of low-rank methods as factors.
  const bool dense = name == "ties_delta" || name == "knots_ties";
  const auto expected =
      dense ? doublesOf(golden.file, name + ".delta") : goldenDelta(golden, name, recipe.rank);
  expectClose({product.begin(), product.end()}, expected, 1, golden.name + " " + name);
  return true;
}

TEST(Golden, LegoOfCanonicalUnits) {
  for (const GoldenCase& golden : goldenCases()) {
    Recipe recipe;
    recipe.rank = golden.k;
    recipe.start = golden.start;
    recipe.options = {{"canonical", "on"}, {"parameter_reweight", "l2"}};
    EXPECT_TRUE(compareProduct(golden, "lego_svdcanon.p1.o1", recipe));
  }
}

TEST(Golden, LegoInDeltaSpace) {
  for (const GoldenCase& golden : goldenCases()) {
    Recipe recipe;
    recipe.method = "lego_delta";
    recipe.rank = golden.k;
    recipe.start = golden.start;
    for (const char* representative : {"sum", "mean", "norm"}) {
      recipe.options = {{"metric", "product"}, {"representative", representative}};
      EXPECT_TRUE(compareProduct(golden, std::string("lego_delta.") + representative, recipe));
    }
    recipe.options = {{"metric", "cosine"}};
    EXPECT_TRUE(compareProduct(golden, "lego_delta_cosine.sum", recipe));
  }
}

TEST(Golden, TiesOnDenseDeltas) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    Recipe recipe;
    recipe.method = "dense_ties";
    recipe.rank = static_cast<uint32_t>(std::min(whole(golden.json.at("in")), whole(golden.json.at("out"))));
    compared += compareProduct(golden, "ties_delta", recipe);
    recipe.rank = golden.k;
    compared += compareProduct(golden, "ties_delta_svd", recipe);
  }
  EXPECT_EQ(compared, 4 + 5);
}

TEST(Golden, KnotsTies) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    Recipe recipe;
    recipe.method = "knots_ties";
    for (const Json& rank : golden.json.at("ranks")) recipe.rank += static_cast<uint32_t>(whole(rank));
    compared += compareProduct(golden, "knots_ties", recipe);
  }
  EXPECT_EQ(compared, 4);
}

TEST(Golden, MethodsOnFactors) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    for (const auto& [name, ours] :
         {std::pair{"linear_peft", "peft_linear"}, {"ties_factors", "peft_ties"}}) {
      if (!golden.json.at("methods").contains(name)) continue;
      Recipe recipe;
      recipe.method = ours;
      recipe.weights = goldenWeights(golden.json.at("methods").at(name));
      const Pair pair = pairOf(must(mergeAll(golden.adapters, recipe)));
      const std::string what = golden.name + " " + name;
      // PEFT puts the scale into both factors; the reference folds it in before.
      expectClose(pair.a, doublesOf(golden.file, std::string(name) + ".A"), 1, what + " A");
      expectClose(pair.b, doublesOf(golden.file, std::string(name) + ".B"), 1, what + " B");
      ++compared;
    }
  }
  EXPECT_EQ(compared, 6);
}

TEST(Golden, PruneByUnitNorm) {
  for (const GoldenCase& golden : goldenCases()) {
    const Json& method = golden.json.at("methods").at("prune_product");
    Recipe recipe;
    recipe.method = "prune";
    recipe.rank = static_cast<uint32_t>(whole(method.at("k")));
    const Pair pair = pairOf(must(mergeAll({golden.adapters[0]}, recipe)));
    const Pair expected{"",
                        recipe.rank,
                        pair.in,
                        pair.out,
                        valuesOf(golden.file, "prune_product.A"),
                        valuesOf(golden.file, "prune_product.B")};
    const auto product = delta(pair, 1);
    expectClose({product.begin(), product.end()}, delta(expected, 1), 1, golden.name + " prune");
  }
}

/// DARE's masks are given there, so this runs the operators themselves.
TEST(Golden, DareWithGivenMasks) {
  int compared = 0;
  for (const GoldenCase& golden : goldenCases()) {
    for (const auto& [name, method] : golden.json.at("methods").items()) {
      if (!name.starts_with("dare_")) continue;
      const bool onFactors = name.ends_with("_factors");
      for (const std::string& half :
           onFactors ? std::vector<std::string>{"A", "B"} : std::vector<std::string>{"delta"}) {
        const double density = method.at("density").get<double>();
        std::vector<std::vector<double>> tasks;
        std::vector<double> weights = goldenWeights(method);
        for (size_t i = 0; i < golden.adapters.size(); ++i) {
          const std::string prefix = "in." + std::to_string(i) + ".";
          const uint64_t rank = whole(golden.json.at("ranks")[i]);
          const double scale = golden.json.at("alphas")[i].get<double>() / static_cast<double>(rank);
          const auto a = doublesOf(golden.file, prefix + "A"), b = doublesOf(golden.file, prefix + "B");
          std::vector<double> values;
          if (onFactors) {
            values = half == "A" ? a : b;
            for (double& value : values) value *= std::sqrt(scale);
            weights[i] = std::sqrt(weights[i]);
          } else {
            const uint64_t in = whole(golden.json.at("in")), out = whole(golden.json.at("out"));
            values.assign(in * out, 0);
            for (uint64_t o = 0; o < out; ++o) {
              for (uint64_t r = 0; r < rank; ++r) {
                for (uint64_t c = 0; c < in; ++c)
                  values[o * in + c] += scale * b[o * rank + r] * a[r * in + c];
              }
            }
          }
          const auto mask = bytesOf(golden.file, "mask." + std::to_string(i) + "." + half);
          for (size_t e = 0; e < values.size(); ++e) values[e] *= std::to_integer<int>(mask[e]) / density;
          tasks.push_back(std::move(values));
        }
        const std::vector<std::span<const double>> views(tasks.begin(), tasks.end());
        std::vector<double> joined(tasks[0].size());
        const bool elects = name.starts_with("dare_ties");
        joinEntries({elects ? Joining::Rule::Peft : Joining::Rule::Sum, false}, views, weights, joined);
        const auto expected = doublesOf(golden.file, name + "." + half);
        ASSERT_EQ(expected.size(), joined.size());
        for (size_t e = 0; e < joined.size(); ++e)
          ASSERT_NEAR(joined[e], expected[e], 1e-9 * largest(expected)) << golden.name << " " << name;
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 3 * 2 + 2 * 2 * 2);
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

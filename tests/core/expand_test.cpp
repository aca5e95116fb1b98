// Expansions into units against deltas that are summed up entry by entry from the formulas of LyCORIS.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "base/limits.h"
#include "core/fixtures.h"
#include "tensor/convert.h"
#include "tensor/expand.h"

namespace lego::testing {
namespace {

constexpr DType kDtypes[] = {DType::F32, DType::F16, DType::BF16, DType::F64, DType::F8E4M3};
constexpr uint32_t kInfinityBits = 0x7F800000;
using Shape = std::vector<uint64_t>;

/// How values are drawn: small integers, with which every sum and product below is exact in binary32, or
/// values of all kinds.
enum class Values { Integers, Reals };

uint64_t count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), uint64_t{1}, std::multiplies<>());
}

/// A tensor as a file holds it, at an odd address, and its values.
struct Stored {
  TensorInfo info;
  std::vector<double> values;
  std::vector<std::byte> bytes;

  const std::byte* data() const { return bytes.data() + 1; }
  double at(uint64_t index, bool absolute) const {
    return absolute ? std::abs(values[index]) : values[index];
  }
};

Stored store(const std::string& name, DType dtype, const Shape& shape, const std::vector<float>& wanted) {
  const size_t size = bitsOf(dtype) / 8;
  Stored stored{
      {name, dtype, shape, 0, wanted.size() * size}, {}, std::vector<std::byte>(1 + wanted.size() * size)};
  for (size_t i = 0; i < wanted.size(); ++i) {
    std::byte* element = stored.bytes.data() + 1 + i * size;
    if (dtype == DType::F8E4M3) {
      uint8_t nearest = 0;
      for (unsigned bits = 0; bits < 256; ++bits) {
        const auto off = [&](uint8_t b) { return std::abs(float8ToFloat(dtype, b) - wanted[i]); };
        if (off(static_cast<uint8_t>(bits)) < off(nearest)) nearest = static_cast<uint8_t>(bits);
      }
      *element = static_cast<std::byte>(nearest);
    } else {
      fromFloatRef(dtype, &wanted[i], 1, element);
    }
    float value = 0;
    toFloatRef(dtype, element, 1, &value);
    stored.values.push_back(value);
  }
  return stored;
}

Stored draw(Random& random, const std::string& name, DType dtype, const Shape& shape, Values kind) {
  std::vector<float> values(count(shape));
  for (float& value : values) {
    value = kind == Values::Integers ? static_cast<float>(random.below(5)) - 2.0f
                                     : static_cast<float>(2 * random.uniform() - 1) *
                                           std::ldexp(1.0f, -static_cast<int>(random.below(4)));
  }
  return store(name, dtype, shape, values);
}

enum class Form { Full, Pair, Tucker };

/// What a factor is drawn from. `downRank` is for Tucker; 0 is `rank`.
struct Factor {
  Form form = Form::Pair;
  uint64_t out = 1, in = 1, rank = 1;
  Shape kernel = {};
  uint64_t downRank = 0;
  bool flattened = false;  // in x kernel as one axis
};

struct StoredFactor {
  Factor factor;
  bool upIsTransposed = false;
  std::optional<Stored> full, up, down, mid;

  FactorTensors tensors() const {
    const auto info = [](const std::optional<Stored>& part) { return part ? &part->info : nullptr; };
    return {info(full), info(up), info(down), info(mid)};
  }
  FactorData data() const {
    const auto bytes = [](const std::optional<Stored>& part) { return part ? part->data() : nullptr; };
    return {bytes(full), bytes(up), bytes(down), bytes(mid)};
  }
  uint64_t kernel() const { return count(factor.kernel); }
  uint64_t downRank() const { return factor.downRank ? factor.downRank : factor.rank; }

  /// Entry (o, i, k) by the formula; with the magnitudes of all values if `absolute`.
  double at(uint64_t o, uint64_t i, uint64_t k, bool absolute) const {
    const uint64_t kernels = kernel();
    if (factor.form == Form::Full) return full->at((o * factor.in + i) * kernels + k, absolute);
    double sum = 0;
    for (uint64_t m = 0; m < factor.rank; ++m) {
      const double b = up->at(upIsTransposed ? m * factor.out + o : o * factor.rank + m, absolute);
      if (factor.form == Form::Pair) {
        sum += b * down->at((m * factor.in + i) * kernels + k, absolute);
        continue;
      }
      for (uint64_t n = 0; n < downRank(); ++n)
        sum +=
            mid->at((m * downRank() + n) * kernels + k, absolute) * b * down->at(n * factor.in + i, absolute);
    }
    return sum;
  }
};

Shape joined(Shape shape, const Shape& kernel) {
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return shape;
}

StoredFactor drawFactor(Random& random, const Factor& factor, Composition composition,
                        const std::string& name, Values kind, uint64_t firstDtype) {
  StoredFactor stored{factor, factor.form == Form::Tucker && composition != Composition::Single, {}, {}, {},
                      {}};
  const auto dtype = [&](uint64_t i) { return kDtypes[(firstDtype + i) % std::size(kDtypes)]; };
  const Shape ones(factor.flattened ? 0 : factor.kernel.size(), 1);
  const uint64_t in = factor.in * (factor.flattened ? stored.kernel() : 1);
  const Shape kernel = factor.flattened ? Shape() : factor.kernel;
  switch (factor.form) {
    case Form::Full:
      stored.full = draw(random, name + ".full", dtype(0), joined({factor.out, in}, kernel), kind);
      break;
    case Form::Pair:
      stored.up = draw(random, name + ".up", dtype(0), joined({factor.out, factor.rank}, ones), kind);
      stored.down = draw(random, name + ".down", dtype(1), joined({factor.rank, in}, kernel), kind);
      break;
    case Form::Tucker: {
      // LoCon keeps the 1 x 1 axes of its convolutions, LoHa and LoKr store matrices.
      const Shape more = stored.upIsTransposed ? Shape() : ones;
      const Shape up =
          stored.upIsTransposed ? Shape{factor.rank, factor.out} : Shape{factor.out, factor.rank};
      stored.up = draw(random, name + ".up", dtype(0), joined(up, more), kind);
      stored.down =
          draw(random, name + ".down", dtype(1), joined({stored.downRank(), factor.in}, more), kind);
      stored.mid = draw(random, name + ".mid", dtype(2),
                        joined({factor.rank, stored.downRank()}, factor.kernel), kind);
      break;
    }
  }
  return stored;
}

/// A module in memory and its delta.
struct Source {
  Composition composition;
  StoredFactor first, second;

  uint64_t out() const {
    return first.factor.out * (composition == Composition::Kronecker ? second.factor.out : 1);
  }
  uint64_t in() const {
    return first.factor.in * (composition == Composition::Kronecker ? second.factor.in : 1);
  }
  uint64_t kernel() const { return composition == Composition::Kronecker ? second.kernel() : first.kernel(); }
  double at(uint64_t o, uint64_t i, uint64_t k, bool absolute) const {
    switch (composition) {
      case Composition::Single: return first.at(o, i, k, absolute);
      case Composition::Hadamard: return first.at(o, i, k, absolute) * second.at(o, i, k, absolute);
      case Composition::Kronecker: break;
    }
    // torch.kron over all axes; the first factor's kernel axes have length 1.
    const uint64_t o2 = second.factor.out, i2 = second.factor.in;
    return first.at(o / o2, i / i2, 0, absolute) * second.at(o % o2, i % i2, k, absolute);
  }
};

Source drawSource(Random& random, Composition composition, const Factor& first, const Factor& second,
                  Values kind) {
  const uint64_t dtype = random.below(std::size(kDtypes));
  Source source{composition, drawFactor(random, first, composition, "first", kind, dtype), {}};
  if (composition != Composition::Single)
    source.second = drawFactor(random, second, composition, "second", kind, dtype + 2);
  return source;
}

/// Units as expandUnits() writes them, into rows with gaps that it must leave alone.
struct Units {
  size_t strideA, strideB;
  std::vector<float> a, b;
  std::vector<uint32_t> magnitudeA, magnitudeB;
};

Units expand(const Expansion& plan, const Source& source, Buffer<double>& scratch, size_t gap = 3) {
  Units units{static_cast<size_t>(plan.in) + gap, static_cast<size_t>(plan.out) + gap, {}, {}, {}, {}};
  constexpr float kUntouched = 77.0f;
  units.a.assign(plan.units * units.strideA, kUntouched);
  units.b.assign(plan.units * units.strideB, kUntouched);
  units.magnitudeA.assign(plan.units, 1), units.magnitudeB.assign(plan.units, 1);
  const UnitTarget rows{units.a.data(), units.strideA, units.magnitudeA,
                        units.b.data(), units.strideB, units.magnitudeB};
  const Status done = expandUnits(plan, source.first.data(), source.second.data(), rows, scratch);
  EXPECT_TRUE(done) << (done ? "" : describe(done.error()));
  for (uint64_t u = 0; u < plan.units; ++u) {
    for (uint64_t i = 0; i < gap; ++i) {
      EXPECT_EQ(units.a[u * units.strideA + plan.in + i], kUntouched);
      EXPECT_EQ(units.b[u * units.strideB + plan.out + i], kUntouched);
    }
    EXPECT_EQ(units.magnitudeA[u], maxMagnitudeBitsRef(&units.a[u * units.strideA], plan.in)) << u;
    EXPECT_EQ(units.magnitudeB[u], maxMagnitudeBitsRef(&units.b[u * units.strideB], plan.out)) << u;
  }
  return units;
}

Result<Expansion> planOf(const Source& source) {
  return planExpansion(source.composition, source.first.tensors(), source.second.tensors());
}

/// The number of units that a source should need, as the header promises.
uint64_t fewestUnits(const Source& source) {
  const auto shorter = [](const StoredFactor& factor) {
    return std::min(factor.factor.out, factor.factor.in * factor.kernel());
  };
  const auto rank = [&](const StoredFactor& factor) {
    return factor.factor.form == Form::Full ? shorter(factor) : factor.factor.rank;
  };
  switch (source.composition) {
    case Composition::Single: return rank(source.first);
    case Composition::Hadamard:
      return std::min(rank(source.first) * rank(source.second), shorter(source.first));
    case Composition::Kronecker: break;
  }
  return std::min(rank(source.first), shorter(source.first)) *
         std::min(rank(source.second), shorter(source.second));
}

void check(const Source& source, Values kind, Buffer<double>& scratch) {
  const auto plan = planOf(source);
  ASSERT_TRUE(plan) << describe(plan.error());
  ASSERT_EQ(plan->out, source.out());
  ASSERT_EQ(plan->in, source.in() * source.kernel());
  ASSERT_EQ(plan->units, fewestUnits(source));
  const Units units = expand(*plan, source, scratch);
  // Four roundings on the way to a product of a unit's entries; what is summed in double adds nothing.
  const double tolerance = kind == Values::Integers ? 0 : 5 * 0x1p-24;
  for (uint64_t o = 0; o < source.out(); ++o) {
    for (uint64_t i = 0; i < source.in(); ++i) {
      for (uint64_t k = 0; k < source.kernel(); ++k) {
        double sum = 0;
        for (uint64_t u = 0; u < plan->units; ++u) {
          sum += static_cast<double>(units.b[u * units.strideB + o]) *
                 static_cast<double>(units.a[u * units.strideA + i * source.kernel() + k]);
        }
        ASSERT_NEAR(sum, source.at(o, i, k, false), tolerance * source.at(o, i, k, true))
            << "entry " << o << ", " << i << ", " << k;
      }
    }
  }
}

void check(Composition composition, const Factor& first, const Factor& second = {}) {
  Buffer<double> scratch;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    for (const Values kind : {Values::Integers, Values::Reals}) {
      Random random(seed);
      check(drawSource(random, composition, first, second, kind), kind, scratch);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Expand, Pairs) {
  check(Composition::Single, {.form = Form::Pair, .out = 7, .in = 9, .rank = 3});
  check(Composition::Single, {.form = Form::Pair, .out = 7, .in = 9, .rank = 12});
  check(Composition::Single, {.form = Form::Pair, .out = 7, .in = 9, .rank = 3, .kernel = {1, 1}});
  check(Composition::Single, {.form = Form::Pair, .out = 7, .in = 5, .rank = 3, .kernel = {3, 2}});
  check(Composition::Single, {.form = Form::Pair, .out = 7, .in = 5, .rank = 3, .kernel = {4}});
  check(Composition::Single, {.form = Form::Pair, .out = 4, .in = 5, .rank = 3, .kernel = {3, 2, 2}});
}

TEST(Expand, PairsWithACoreTensor) {
  check(Composition::Single, {.form = Form::Tucker, .out = 7, .in = 5, .rank = 3, .kernel = {3, 2}});
  check(Composition::Single, {.form = Form::Tucker, .out = 7, .in = 5, .rank = 3, .kernel = {1, 1}});
  check(Composition::Single, {.form = Form::Tucker, .out = 7, .in = 5, .rank = 3, .kernel = {5}});
  check(Composition::Single, {.form = Form::Tucker, .out = 4, .in = 5, .rank = 2, .kernel = {2, 3, 2}});
  check(Composition::Single,
        {.form = Form::Tucker, .out = 7, .in = 3, .rank = 5, .kernel = {3, 3}, .downRank = 3});
  check(Composition::Single, {.form = Form::Tucker, .out = 2, .in = 1100, .rank = 2, .kernel = {1, 2}});
}

TEST(Expand, ReadsACoreTensorInBlocksAsTheValuesThatTheseStandFor) {
  constexpr uint64_t kOut = 5, kRank = 3, kBlock = 32, kIn = 7;
  Random random(70);
  const Stored up = draw(random, "up", DType::F32, {kOut, kRank}, Values::Reals);
  const Stored down = draw(random, "down", DType::F32, {kBlock, kIn}, Values::Reals);
  Stored mid = draw(random, "mid", DType::F32, {kRank, kBlock}, Values::Reals);
  Stored blocks{{"mid", DType::Q8_0, {kRank, kBlock}, 0, 0}, {}, std::vector<std::byte>(1 + kRank * 34)};
  std::vector<float> values(mid.values.begin(), mid.values.end());
  fromFloatRef(DType::Q8_0, values.data(), values.size(), blocks.bytes.data() + 1);
  toFloatRef(DType::Q8_0, blocks.data(), values.size(), values.data());
  mid = store("mid", DType::F32, {kRank, kBlock}, values);
  const auto unitsA = [&](const Stored& core) {
    const auto plan = must(planExpansion(Composition::Single, {nullptr, &up.info, &down.info, &core.info}));
    EXPECT_EQ(plan.units, kRank);
    std::vector<float> a(kRank * kIn), b(kRank * kOut);
    std::vector<uint32_t> magnitude(2 * kRank);
    Buffer<double> scratch;
    const std::span magnitudes(magnitude);
    EXPECT_TRUE(expandUnits(plan, {nullptr, up.data(), down.data(), core.data()}, {},
                            {a.data(), kIn, magnitudes.first(kRank), b.data(), kOut, magnitudes.last(kRank)},
                            scratch));
    return a;
  };
  EXPECT_EQ(unitsA(blocks), unitsA(mid));
}

TEST(Expand, FullDifferences) {
  check(Composition::Single, {.form = Form::Full, .out = 5, .in = 9});
  check(Composition::Single, {.form = Form::Full, .out = 9, .in = 5});
  check(Composition::Single, {.form = Form::Full, .out = 6, .in = 6});
  check(Composition::Single, {.form = Form::Full, .out = 9, .in = 2, .kernel = {3, 3}});
  check(Composition::Single, {.form = Form::Full, .out = 30, .in = 3, .kernel = {3, 2}});
}

TEST(Expand, HadamardProducts) {
  const auto both = [](const Factor& first, const Factor& second) {
    check(Composition::Hadamard, first, second);
  };
  both({.out = 11, .in = 13, .rank = 2}, {.out = 11, .in = 13, .rank = 3});
  both({.out = 11, .in = 13, .rank = 3}, {.out = 11, .in = 13, .rank = 3});
  both({.out = 11, .in = 13, .rank = 1}, {.out = 11, .in = 13, .rank = 1});
  both({.out = 7, .in = 5, .rank = 2, .kernel = {1, 1}}, {.out = 7, .in = 5, .rank = 2, .kernel = {1, 1}});
  // Kernels as LyCORIS' modules store them, as its functions do, and one of each.
  const Factor open{.out = 9, .in = 4, .rank = 2, .kernel = {3, 3}};
  const Factor flat{.out = 9, .in = 4, .rank = 3, .kernel = {3, 3}, .flattened = true};
  both(flat, flat);
  both(open, open);
  both(open, flat);
  both(flat, open);
  const Factor core{.form = Form::Tucker, .out = 9, .in = 4, .rank = 2, .kernel = {3, 2}};
  const Factor other{.form = Form::Tucker, .out = 9, .in = 4, .rank = 3, .kernel = {3, 2}, .downRank = 4};
  both(core, core);
  both(core, other);
  both(other, core);
}

TEST(Expand, HadamardProductsOfHighRankAreTheDeltaItself) {
  const auto dense = [](const Factor& first, const Factor& second) {
    Random random(1);
    const auto plan = planOf(drawSource(random, Composition::Hadamard, first, second, Values::Reals));
    ASSERT_TRUE(plan) << describe(plan.error());
    EXPECT_TRUE(plan->isDense);
    check(Composition::Hadamard, first, second);
  };
  dense({.out = 5, .in = 13, .rank = 2}, {.out = 5, .in = 13, .rank = 3});
  dense({.out = 13, .in = 5, .rank = 2}, {.out = 13, .in = 5, .rank = 3});
  dense({.out = 8, .in = 8, .rank = 20}, {.out = 8, .in = 8, .rank = 9});
  dense({.out = 3, .in = 1100, .rank = 2}, {.out = 3, .in = 1100, .rank = 2});
  dense({.out = 1100, .in = 3, .rank = 2}, {.out = 1100, .in = 3, .rank = 2});
  dense({.form = Form::Tucker, .out = 5, .in = 4, .rank = 2, .kernel = {3, 3}},
        {.form = Form::Tucker, .out = 5, .in = 4, .rank = 3, .kernel = {3, 3}});
  dense({.form = Form::Tucker, .out = 40, .in = 3, .rank = 4, .kernel = {2, 1}},
        {.form = Form::Tucker, .out = 40, .in = 3, .rank = 3, .kernel = {2, 1}});
  // As many units as the shorter side has entries: products of ranks do.
  Random random(1);
  const Factor edge{.out = 6, .in = 9, .rank = 2}, edgeOther{.out = 6, .in = 9, .rank = 3};
  const auto plan = planOf(drawSource(random, Composition::Hadamard, edge, edgeOther, Values::Reals));
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->isDense);
}

TEST(Expand, KroneckerProductsOfEveryForm) {
  const Factor firsts[] = {
      {.form = Form::Full, .out = 3, .in = 4},
      {.form = Form::Full, .out = 5, .in = 2},
      {.form = Form::Full, .out = 1, .in = 1},
      {.out = 5, .in = 4, .rank = 2},
      {.out = 2, .in = 5, .rank = 3},  // multiplied: 2 units instead of 3
      {.out = 5, .in = 2, .rank = 3},
      {.out = 3, .in = 2, .rank = 1, .kernel = {1, 1}},
      {.form = Form::Tucker, .out = 3, .in = 4, .rank = 2, .kernel = {1, 1}},
  };
  const Factor seconds[] = {
      {.form = Form::Full, .out = 4, .in = 6},
      {.form = Form::Full, .out = 6, .in = 4},
      {.form = Form::Full, .out = 4, .in = 3, .kernel = {3, 2}},
      {.form = Form::Full, .out = 20, .in = 3, .kernel = {3, 2}},
      {.form = Form::Full, .out = 4, .in = 3, .kernel = {1, 1}},
      {.out = 6, .in = 5, .rank = 3},
      {.out = 2, .in = 7, .rank = 3},
      {.out = 7, .in = 2, .rank = 3},
      {.out = 6, .in = 5, .rank = 1},
      {.out = 6, .in = 3, .rank = 2, .kernel = {3, 3}, .flattened = true},
      {.out = 6, .in = 3, .rank = 2, .kernel = {3, 3}},
      {.out = 6, .in = 3, .rank = 2, .kernel = {3}},
      {.form = Form::Tucker, .out = 6, .in = 3, .rank = 2, .kernel = {3, 2}},
      {.form = Form::Tucker, .out = 6, .in = 3, .rank = 2, .kernel = {3, 2}, .downRank = 4},
      {.form = Form::Tucker, .out = 2, .in = 3, .rank = 4, .kernel = {2, 2}},
      {.form = Form::Tucker, .out = 20, .in = 3, .rank = 4, .kernel = {1, 1}},
      {.form = Form::Tucker, .out = 4, .in = 3, .rank = 2, .kernel = {3, 1}},
  };
  for (const Factor& first : firsts) {
    for (const Factor& second : seconds) {
      SCOPED_TRACE(std::to_string(&first - firsts) + " x " + std::to_string(&second - seconds));
      check(Composition::Kronecker, first, second);
    }
  }
}

TEST(Expand, RandomShapes) {
  Buffer<double> scratch;  // shared: what one expansion leaves in it must not matter to the next
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const auto upTo = [&](uint64_t bound) { return 1 + random.below(bound); };
    const auto composition = static_cast<Composition>(random.below(3));
    const auto kind = random.below(2) ? Values::Integers : Values::Reals;
    Shape kernel(random.below(4));
    for (uint64_t& axis : kernel) axis = upTo(3);
    const auto any = [&](uint64_t sides) {
      Factor factor;
      factor.form = static_cast<Form>(random.below(3));
      factor.out = upTo(sides);
      factor.in = upTo(sides);
      factor.rank = upTo(6);
      factor.downRank = factor.form == Form::Tucker && random.below(2) ? upTo(6) : 0;
      factor.kernel = kernel;
      factor.flattened = factor.form != Form::Tucker && random.below(2);
      return factor;
    };
    Factor first = any(12), second = any(12);
    if (composition == Composition::Kronecker) {
      first.kernel.assign(random.below(3), 1);
    } else if (composition == Composition::Hadamard) {
      first.form = first.form == Form::Tucker ? Form::Tucker : Form::Pair;
      second.form = first.form;
      second.out = first.out;
      second.in = first.in;
      if (first.form == Form::Tucker) first.flattened = second.flattened = false;
    }
    check(drawSource(random, composition, first, second, kind), kind, scratch);
    if (HasFatalFailure()) return;
  }
}

TEST(Expand, HasTheDocumentedRounding) {
  Buffer<double> scratch;
  Random random(3);
  {  // one rounding of a sum in double
    const Factor factor{.form = Form::Tucker, .out = 3, .in = 5, .rank = 4, .kernel = {2, 2}, .downRank = 6};
    const Source source = drawSource(random, Composition::Single, factor, {}, Values::Reals);
    const auto plan = planOf(source);
    ASSERT_TRUE(plan);
    const Units units = expand(*plan, source, scratch);
    for (uint64_t m = 0; m < 4; ++m) {
      for (uint64_t i = 0; i < 5; ++i) {
        for (uint64_t k = 0; k < 4; ++k) {
          double sum = 0;
          for (uint64_t n = 0; n < 6; ++n)
            sum += source.first.mid->values[(m * 6 + n) * 4 + k] * source.first.down->values[n * 5 + i];
          ASSERT_EQ(units.a[m * units.strideA + i * 4 + k], static_cast<float>(sum));
        }
      }
      for (uint64_t o = 0; o < 3; ++o)
        ASSERT_EQ(units.b[m * units.strideB + o], static_cast<float>(source.first.up->values[o * 4 + m]));
    }
  }
  {  // products in binary32, the second factor's units changing fastest
    const Factor first{.out = 9, .in = 11, .rank = 2}, second{.out = 9, .in = 11, .rank = 3};
    const Source source = drawSource(random, Composition::Hadamard, first, second, Values::Reals);
    const auto plan = planOf(source);
    ASSERT_TRUE(plan);
    const Units units = expand(*plan, source, scratch);
    for (uint64_t r = 0; r < 2; ++r) {
      for (uint64_t s = 0; s < 3; ++s) {
        const uint64_t u = r * 3 + s;
        for (uint64_t i = 0; i < 11; ++i)
          ASSERT_EQ(units.a[u * units.strideA + i],
                    static_cast<float>(source.first.down->values[r * 11 + i] *
                                       source.second.down->values[s * 11 + i]));
        for (uint64_t o = 0; o < 9; ++o)
          ASSERT_EQ(units.b[u * units.strideB + o], static_cast<float>(source.first.up->values[o * 2 + r] *
                                                                       source.second.up->values[o * 3 + s]));
      }
    }
  }
  {  // sums in double, their products rounded once; ranks that are and are not multiples of four
    const Factor first{.out = 3, .in = 1030, .rank = 8}, second{.out = 3, .in = 1030, .rank = 7};
    const Source source = drawSource(random, Composition::Hadamard, first, second, Values::Reals);
    const auto plan = planOf(source);
    ASSERT_TRUE(plan);
    ASSERT_TRUE(plan->isDense);
    const Units units = expand(*plan, source, scratch);
    for (uint64_t o = 0; o < 3; ++o) {
      for (uint64_t i = 0; i < 1030; ++i) {
        const double entry = source.first.at(o, i, 0, false) * source.second.at(o, i, 0, false);
        ASSERT_EQ(units.a[o * units.strideA + i], static_cast<float>(entry)) << o << ", " << i;
      }
    }
  }
}

TEST(Expand, MakesUnitVectorsOfTheShorterSide) {
  Buffer<double> scratch;
  Random random(4);
  for (const auto& [out, in] : {std::pair<uint64_t, uint64_t>{4, 6}, {6, 4}, {5, 5}}) {
    const Source source = drawSource(random, Composition::Single, {.form = Form::Full, .out = out, .in = in},
                                     {}, Values::Reals);
    const auto plan = planOf(source);
    ASSERT_TRUE(plan);
    const Units units = expand(*plan, source, scratch);
    const bool rowsAreA = out <= in;  // of equal sides, B's
    for (uint64_t u = 0; u < plan->units; ++u) {
      for (uint64_t j = 0; j < plan->units; ++j) {
        const float entry = rowsAreA ? units.b[u * units.strideB + j] : units.a[u * units.strideA + j];
        ASSERT_EQ(entry, u == j ? 1.0f : 0.0f) << out << " x " << in;
      }
    }
  }
}

TEST(Expand, MagnitudesTellOfValuesThatAreNotFinite) {
  const auto largest = [](const Source& source) {
    const auto plan = planOf(source);
    EXPECT_TRUE(plan);
    Buffer<double> scratch;
    const Units units = expand(*plan, source, scratch);
    uint32_t bits = 0;
    for (const uint32_t m : units.magnitudeA) bits = std::max(bits, m);
    for (const uint32_t m : units.magnitudeB) bits = std::max(bits, m);
    return bits;
  };
  const Factor small{.out = 9, .in = 9, .rank = 2}, core{.form = Form::Tucker, .out = 9, .in = 9, .rank = 2};
  const Factor high{.out = 9, .in = 9, .rank = 30}, full{.form = Form::Full, .out = 9, .in = 9};
  const std::tuple<Composition, Factor, Factor> sources[] = {
      {Composition::Single, small, {}},      {Composition::Single, core, {}},
      {Composition::Single, full, {}},       {Composition::Hadamard, small, small},
      {Composition::Hadamard, core, core},   {Composition::Hadamard, high, high},
      {Composition::Kronecker, full, small}, {Composition::Kronecker, full, full},
      {Composition::Kronecker, high, full},  {Composition::Kronecker, small, core},
  };
  for (const auto& [composition, first, second] : sources) {
    Random random(5);
    Source source = drawSource(random, composition, first, second, Values::Reals);
    EXPECT_LT(largest(source), kInfinityBits);
    for (std::optional<Stored> StoredFactor::*part :
         {&StoredFactor::full, &StoredFactor::up, &StoredFactor::down, &StoredFactor::mid}) {
      for (StoredFactor* factor : {&source.first, &source.second}) {
        if (!(factor->*part)) continue;
        const Stored before = *(factor->*part);
        for (const float bad : {NAN, INFINITY}) {
          std::vector<float> values(before.values.begin(), before.values.end());
          values[values.size() / 2] = bad;
          factor->*part = store(before.info.name, DType::F16, before.info.shape, values);
          EXPECT_GE(largest(source), kInfinityBits) << before.info.name << " " << bad;
        }
        factor->*part = before;
      }
    }
  }
  // Finite values whose product is not.
  Random random(6);
  Source source = drawSource(random, Composition::Hadamard, small, small, Values::Reals);
  source.first.up = store("up", DType::F32, {9, 2}, std::vector<float>(18, 1e30f));
  EXPECT_LT(largest(source), kInfinityBits);
  source.second.up = source.first.up;
  EXPECT_GE(largest(source), kInfinityBits);
}

// Plans, from shapes alone.

TensorInfo tensor(const std::string& name, const Shape& shape, DType dtype = DType::F32) {
  return {name, dtype, shape, 0, 0};
}

/// Tensors by name: full, up, down and mid of the first factor, and the same with a 2.
struct Named {
  std::vector<TensorInfo> tensors;

  const TensorInfo* find(const std::string& name) const {
    for (const TensorInfo& each : tensors) {
      if (each.name == name) return &each;
    }
    return nullptr;
  }
  Result<Expansion> plan(Composition composition) const {
    return planExpansion(composition, {find("full"), find("up"), find("down"), find("mid")},
                         {find("full2"), find("up2"), find("down2"), find("mid2")});
  }
};

TEST(ExpandPlan, TellsKernelAndWhatAlphaIsDividedBy) {
  const auto expect = [](const Named& named, Composition composition, const Shape& kernel, uint64_t alphaRank,
                         bool disputed = false) {
    const auto plan = named.plan(composition);
    ASSERT_TRUE(plan) << describe(plan.error());
    EXPECT_EQ(plan->kernel, kernel);
    EXPECT_EQ(plan->alphaRank, alphaRank);
    EXPECT_EQ(plan->alphaRankDisputed, disputed);
  };
  using enum Composition;
  expect({{tensor("up", {8, 4}), tensor("down", {4, 6})}}, Single, {}, 4);
  expect({{tensor("up", {8, 4, 1, 1}), tensor("down", {4, 6, 3, 3})}}, Single, {3, 3}, 4);
  expect({{tensor("up", {8, 4}), tensor("down", {4, 6, 1, 1})}}, Single, {1, 1}, 4);
  expect({{tensor("up", {8, 4, 1, 1}), tensor("down", {4, 6, 1, 1}), tensor("mid", {4, 4, 3, 3})}}, Single,
         {3, 3}, 4);
  expect({{tensor("up", {8, 5, 1, 1}), tensor("down", {4, 4, 1, 1}), tensor("mid", {5, 4, 3, 3})}}, Single,
         {3, 3}, 4, true);
  expect({{tensor("full", {8, 6, 3, 3})}}, Single, {3, 3}, 0);

  expect({{tensor("up", {8, 2}), tensor("down", {2, 54}), tensor("up2", {8, 3}), tensor("down2", {3, 54})}},
         Hadamard, {}, 2);
  expect(
      {{tensor("up", {8, 2}), tensor("down", {2, 54}), tensor("up2", {8, 3}), tensor("down2", {3, 6, 3, 3})}},
      Hadamard, {3, 3}, 2);
  expect({{tensor("up", {2, 8}), tensor("down", {2, 6}), tensor("mid", {2, 2, 3, 3}), tensor("up2", {3, 8}),
           tensor("down2", {3, 6}), tensor("mid2", {3, 3, 3, 3})}},
         Hadamard, {3, 3}, 2);

  expect({{tensor("full", {2, 3}), tensor("full2", {4, 5, 3, 3})}}, Kronecker, {3, 3}, 0);
  expect({{tensor("up", {2, 1}), tensor("down", {1, 3}), tensor("full2", {4, 5})}}, Kronecker, {}, 1);
  expect({{tensor("full", {2, 3}), tensor("up2", {4, 2}), tensor("down2", {2, 5})}}, Kronecker, {}, 2);
  // lora_dim is not lokr_w2_a.size(1) here.
  expect({{tensor("full", {2, 3}), tensor("up2", {2, 40}), tensor("down2", {2, 5}),
           tensor("mid2", {2, 2, 3, 3})}},
         Kronecker, {3, 3}, 2);
  expect({{tensor("up", {5, 2}), tensor("down", {2, 3}), tensor("up2", {4, 2}), tensor("down2", {2, 5})}},
         Kronecker, {}, 2);
  expect({{tensor("up", {5, 2}), tensor("down", {2, 3}), tensor("up2", {4, 3}), tensor("down2", {3, 5})}},
         Kronecker, {}, 2, true);
}

TEST(ExpandPlan, CountsTheUnitsOfRealModules) {
  using enum Composition;
  const auto units = [](const Named& named, Composition composition) -> uint64_t {
    const auto plan = named.plan(composition);
    EXPECT_TRUE(plan) << describe(plan.error());
    return plan ? plan->units : 0;
  };
  const auto loha = [&](uint64_t rank) {
    return units({{tensor("up", {1280, rank}), tensor("down", {rank, 11520}), tensor("up2", {1280, rank}),
                   tensor("down2", {rank, 11520})}},
                 Hadamard);
  };
  EXPECT_EQ(loha(8), 64u);
  EXPECT_EQ(loha(64), 1280u);
  // 1280 = 32 x 40 on both sides.
  EXPECT_EQ(units({{tensor("full", {32, 32}), tensor("full2", {40, 40})}}, Kronecker), 1280u);
  EXPECT_EQ(units({{tensor("full", {32, 32}), tensor("up2", {40, 4}), tensor("down2", {4, 40})}}, Kronecker),
            128u);
  EXPECT_EQ(units({{tensor("full", {320, 4, 3, 3})}}, Single), 36u);
}

TEST(ExpandPlan, RefusesWhatDoesNotFit) {
  using enum Composition;
  constexpr uint64_t kLarge = uint64_t{1} << 20, kHuge = uint64_t{1} << 40;
  struct Case {
    Composition composition;
    std::vector<TensorInfo> tensors;
    Code code;
    std::string tensor;
  };
  const auto up = tensor("up", {8, 4}), down = tensor("down", {4, 6});
  const auto up2 = tensor("up2", {8, 4}), down2 = tensor("down2", {4, 6});
  const auto full = tensor("full", {8, 6}), full2 = tensor("full2", {8, 6});
  const auto mid = tensor("mid", {4, 4, 3, 3}), mid2 = tensor("mid2", {4, 4, 3, 3});
  const auto turned = tensor("up", {4, 8}), turned2 = tensor("up2", {4, 8});
  const Case cases[] = {
      // Tensors that are missing or too many.
      {Single, {}, Code::unpairedFactor, ""},
      {Single, {up}, Code::unpairedFactor, "up"},
      {Single, {down}, Code::unpairedFactor, "down"},
      {Single, {mid}, Code::unpairedFactor, "mid"},
      {Single, {up, mid}, Code::unpairedFactor, "up"},
      {Single, {down, mid}, Code::unpairedFactor, "down"},
      {Single, {full, up, down}, Code::unpairedFactor, "full"},
      {Single, {full, mid}, Code::unpairedFactor, "full"},
      {Single, {up2, down2}, Code::unpairedFactor, "up2"},
      {Hadamard, {up, down}, Code::unpairedFactor, "up"},
      {Hadamard, {up, down, up2}, Code::unpairedFactor, "up2"},
      {Hadamard, {up, down, down2}, Code::unpairedFactor, "down2"},
      {Hadamard, {up, up2, down2}, Code::unpairedFactor, "up"},
      {Hadamard, {up2, down2}, Code::unpairedFactor, "up2"},
      {Hadamard, {full, up2, down2}, Code::unpairedFactor, "full"},
      {Hadamard, {up, down, full2}, Code::unpairedFactor, "full2"},
      {Hadamard, {turned, down, mid, up2, down2}, Code::unpairedFactor, "mid"},
      {Hadamard, {up, down, turned2, down2, mid2}, Code::unpairedFactor, "mid2"},
      {Kronecker, {full}, Code::unpairedFactor, "full"},
      {Kronecker, {full2}, Code::unpairedFactor, "full2"},
      {Kronecker, {full, up2}, Code::unpairedFactor, "up2"},
      {Kronecker, {full, full2, down2}, Code::unpairedFactor, "full2"},
      // Dtypes.
      {Single, {tensor("up", {8, 4}, DType::I8), down}, Code::unsupportedDtype, "up"},
      {Single, {up, tensor("down", {4, 6}, DType::I64)}, Code::unsupportedDtype, "down"},
      {Single, {up, down, tensor("mid", {4, 4, 3, 3}, DType::F4)}, Code::unsupportedDtype, "mid"},
      {Kronecker, {full, tensor("full2", {8, 6}, DType::Bool)}, Code::unsupportedDtype, "full2"},
      // Numbers of axes.
      {Single, {tensor("up", {8}), down}, Code::shapeMismatch, "up"},
      {Single, {up, tensor("down", {})}, Code::shapeMismatch, "down"},
      {Single, {up, tensor("down", {4, 6, 1, 1, 1, 1})}, Code::shapeMismatch, "down"},
      {Single, {tensor("full", {8})}, Code::shapeMismatch, "full"},
      {Single, {up, down, tensor("mid", {4})}, Code::shapeMismatch, "mid"},
      // Kernels where there must be none.
      {Single, {tensor("up", {8, 4, 3, 3}), down}, Code::shapeMismatch, "up"},
      {Single, {up, tensor("down", {4, 6, 3, 3}), mid}, Code::shapeMismatch, "down"},
      {Hadamard,
       {turned, down, mid, turned2, tensor("down2", {4, 6, 3, 3}), mid2},
       Code::shapeMismatch,
       "down2"},
      {Kronecker, {tensor("full", {8, 6, 3, 3}), full2}, Code::shapeMismatch, "full"},
      {Kronecker, {up, tensor("down", {4, 6, 2, 1}), full2}, Code::shapeMismatch, "down"},
      {Kronecker, {turned, down, mid, full2}, Code::shapeMismatch, "mid"},
      // Sides of zero.
      {Single, {tensor("up", {8, 0}), tensor("down", {0, 6})}, Code::rankZero, "up"},
      {Single, {up, tensor("down", {0, 6})}, Code::rankZero, "down"},
      {Single, {tensor("up", {0, 4}), down}, Code::shapeMismatch, "up"},
      {Single, {up, tensor("down", {4, 0})}, Code::shapeMismatch, "down"},
      {Single, {up, tensor("down", {4, 6, 0, 3})}, Code::shapeMismatch, "down"},
      {Single, {up, down, tensor("mid", {0, 4, 3, 3})}, Code::rankZero, "mid"},
      {Single, {up, down, tensor("mid", {4, 0, 3, 3})}, Code::rankZero, "mid"},
      {Single, {up, down, tensor("mid", {4, 4, 0, 3})}, Code::shapeMismatch, "mid"},
      {Single, {tensor("full", {0, 6})}, Code::shapeMismatch, "full"},
      {Single, {tensor("full", {8, 0})}, Code::shapeMismatch, "full"},
      {Hadamard, {tensor("up", {0, 8}), down, mid, turned2, down2, mid2}, Code::rankZero, "up"},
      {Hadamard, {tensor("up", {4, 0}), down, mid, turned2, down2, mid2}, Code::shapeMismatch, "up"},
      // Ranks that differ.
      {Single, {tensor("up", {8, 5}), down}, Code::rankMismatch, "up"},
      {Single, {tensor("up", {8, 5}), down, mid}, Code::rankMismatch, "mid"},
      {Single, {up, tensor("down", {5, 6}), mid}, Code::rankMismatch, "mid"},
      {Single, {turned, down, mid}, Code::rankMismatch, "mid"},
      {Hadamard, {up, down, tensor("up2", {8, 5}), down2}, Code::rankMismatch, "up2"},
      {Hadamard, {up, down, mid, turned2, down2, mid2}, Code::rankMismatch, "mid"},
      {Kronecker, {full, turned2, tensor("down2", {5, 6}), mid2}, Code::rankMismatch, "mid2"},
      // Sides that differ.
      {Hadamard, {up, down, tensor("up2", {9, 4}), down2}, Code::shapeMismatch, "up2"},
      {Hadamard, {up, down, up2, tensor("down2", {4, 7})}, Code::shapeMismatch, "down2"},
      {Hadamard,
       {up, tensor("down", {4, 6, 3, 3}), up2, tensor("down2", {4, 6, 9, 1})},
       Code::shapeMismatch,
       "down2"},
      {Hadamard,
       {up, tensor("down", {4, 6, 3, 3}), up2, tensor("down2", {4, 6})},
       Code::shapeMismatch,
       "down2"},
      {Hadamard,
       {turned, down, mid, turned2, down2, tensor("mid2", {4, 4, 1, 3})},
       Code::shapeMismatch,
       "mid2"},
      // Sizes.
      {Single, {tensor("up", {kHuge, 4}), down}, Code::shapeMismatch, "up"},
      {Single, {up, tensor("down", {4, kLarge, kLarge})}, Code::shapeMismatch, "down"},
      {Single, {up, tensor("down", {4, kLarge}), tensor("mid", {4, 4, kLarge})}, Code::shapeMismatch, "mid"},
      {Single, {up, tensor("down", {4, 1, 1 << 16, 1 << 16, 1 << 16})}, Code::shapeMismatch, "down"},
      {Single, {tensor("full", {kHuge, kHuge})}, Code::shapeMismatch, "full"},
      {Kronecker, {tensor("full", {kLarge, 1}), tensor("full2", {kLarge, 1})}, Code::shapeMismatch, "full2"},
      {Kronecker,
       {tensor("full", {1, kLarge}), tensor("up2", {8, 4}), tensor("down2", {4, kLarge})},
       Code::shapeMismatch,
       "down2"},
      // Too many units: 4096 are allowed.
      {Single, {tensor("full", {4097, 5000})}, Code::rankAboveUnits, "full"},
      {Single, {tensor("up", {8, 4097}), tensor("down", {4097, 6})}, Code::rankAboveUnits, "up"},
      {Hadamard,
       {tensor("up", {5000, 65}), tensor("down", {65, 5000}), tensor("up2", {5000, 64}),
        tensor("down2", {64, 5000})},
       Code::rankAboveUnits,
       "up"},
      {Kronecker, {tensor("full", {65, 65}), tensor("full2", {64, 64})}, Code::rankAboveUnits, "full"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(&c - cases);
    const auto plan = Named{c.tensors}.plan(c.composition);
    const std::string text = expectCode(plan, c.code);
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().tensor, c.tensor) << text;
  }
}

TEST(ExpandPlan, AllowsWhatIsJustWithinTheLimits) {
  using enum Composition;
  static_assert(limits::kPooledUnits == 4096 && limits::kFactorSide == 1 << 28);
  const auto units = [](const Named& named, Composition composition) {
    const auto plan = named.plan(composition);
    EXPECT_TRUE(plan) << describe(plan.error());
    return plan ? plan->units : 0;
  };
  EXPECT_EQ(units({{tensor("full", {4096, 5000})}}, Single), 4096u);
  EXPECT_EQ(units({{tensor("up", {8, 4096}), tensor("down", {4096, 6})}}, Single), 4096u);
  EXPECT_EQ(units({{tensor("up", {5000, 64}), tensor("down", {64, 5000}), tensor("up2", {5000, 64}),
                    tensor("down2", {64, 5000})}},
                  Hadamard),
            4096u);
  EXPECT_EQ(units({{tensor("full", {64, 65}), tensor("full2", {65, 64})}}, Kronecker), 4096u);
  EXPECT_EQ(units({{tensor("full", {1, 1 << 14}), tensor("full2", {1, 1 << 14})}}, Kronecker), 1u);
}

TEST(ExpandPlan, SaysWhatItNeedsWhereMemoryCannotBeHad) {
  // Ranks of a factor that is multiplied have no other limit than a side's.
  constexpr uint64_t kSide = limits::kFactorSide;
  const auto plan =
      Named{{tensor("up", {1, kSide}), tensor("down", {kSide, kSide}), tensor("full2", {1, 1})}}.plan(
          Composition::Kronecker);
  ASSERT_TRUE(plan) << describe(plan.error());
  EXPECT_EQ(plan->units, 1u);
  EXPECT_GT(plan->scratch, kSide * kSide / 2);
  // As large as no memory can be, so that it is refused before anything is read.
  Expansion huge = *plan;
  huge.scratch = UINT64_MAX;
  Buffer<double> scratch;
  expectCode(expandUnits(huge, {}, {}, {}, scratch), Code::outOfMemory);
}

}  // namespace
}  // namespace lego::testing

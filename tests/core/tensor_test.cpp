// Conversions of values; fast kernels against their references, bit for bit, over lengths and offsets.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tensor/convert.h"
#include "tensor/dtype.h"
#include "tensor/transpose.h"
#include "tensor/unpack.h"

namespace lego {
namespace {

constexpr DType kFactorDtypes[] = {DType::F16, DType::BF16, DType::F32, DType::F64};

/// binary16 by its definition, in double.
double halfByDefinition(uint16_t half) {
  const double sign = half & 0x8000 ? -1 : 1;
  const int exponent = (half >> 10) & 31, mantissa = half & 0x3FF;
  if (exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  return sign *
         (exponent ? std::ldexp(1 + mantissa / 1024.0, exponent - 15) : std::ldexp(mantissa / 1024.0, -14));
}

bool sameBits(float x, float y) {
  return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y) || (std::isnan(x) && std::isnan(y));
}

TEST(Half, EveryValueIsExactBothWays) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double exact = halfByDefinition(half);
    const float value = halfToFloat(half);
    if (std::isnan(exact)) {
      ASSERT_TRUE(std::isnan(value));
      ASSERT_TRUE(std::isnan(halfByDefinition(floatToHalf(value))));
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), exact) << bits;
    ASSERT_EQ(floatToHalf(value), half) << bits;
  }
}

TEST(Half, RoundsToNearestEvenAtEveryMidpoint) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    // Above the largest half, 2^16 is what the next one would be.
    const double next = high == 0x7C00 ? 65536.0 : halfByDefinition(high);
    const auto middle = static_cast<float>((halfByDefinition(low) + next) / 2);
    ASSERT_EQ(floatToHalf(middle), low & 1 ? high : low) << bits;
    ASSERT_EQ(floatToHalf(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(floatToHalf(std::nextafter(middle, INFINITY)), high) << bits;
    ASSERT_EQ(floatToHalf(-middle), (low & 1 ? high : low) | 0x8000) << bits;
  }
}

TEST(Bfloat, RoundsToNearestEven) {
  for (uint32_t high = 0; high < 0x7F80; ++high) {
    const uint32_t bits = high << 16;
    ASSERT_EQ(floatToBfloat(std::bit_cast<float>(bits)), high);
    ASSERT_EQ(floatToBfloat(std::bit_cast<float>(bits | 0x7FFF)), high);
    ASSERT_EQ(floatToBfloat(std::bit_cast<float>(bits | 0x8000)), high + (high & 1));
    ASSERT_EQ(floatToBfloat(std::bit_cast<float>(bits | 0x8001)), high + 1);
  }
  EXPECT_EQ(floatToBfloat(INFINITY), 0x7F80);
  EXPECT_EQ(floatToBfloat(-INFINITY), 0xFF80);
  for (uint32_t payload : {1u, 0x8000u, 0x7FFFFFu, 0x400000u}) {
    EXPECT_TRUE(std::isnan(bfloatToFloat(floatToBfloat(std::bit_cast<float>(0x7F800000u | payload)))));
  }
}

/// The formats of 8 bits by their definitions, in double.
double float8ByDefinition(DType dtype, uint8_t bits) {
  const bool isE5 = dtype == DType::F8E5M2 || dtype == DType::F8E5M2FNUZ;
  const bool isFnuz = dtype == DType::F8E4M3FNUZ || dtype == DType::F8E5M2FNUZ;
  const int mantissaBits = isE5 ? 2 : 3, bias = (isE5 ? 15 : 7) + isFnuz;
  const double sign = bits & 0x80 ? -1 : 1, steps = 1 << mantissaBits;
  const int exponent = (bits & 0x7F) >> mantissaBits, mantissa = bits & ((1 << mantissaBits) - 1);
  if (isFnuz && bits == 0x80) return std::nan("");
  if (dtype == DType::F8E4M3 && (bits & 0x7F) == 0x7F) return std::nan("");
  if (dtype == DType::F8E5M2 && exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1 + mantissa / steps, exponent - bias)
                          : std::ldexp(mantissa / steps, 1 - bias));
}

TEST(Float8, EveryValueIsExactAndFitsIntoAHalf) {
  for (const DType dtype : {DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ}) {
    for (uint32_t bits = 0; bits < 256; ++bits) {
      const double exact = float8ByDefinition(dtype, static_cast<uint8_t>(bits));
      const float value = float8ToFloat(dtype, static_cast<uint8_t>(bits));
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(value)) << nameOf(dtype) << " " << bits;
        continue;
      }
      ASSERT_EQ(static_cast<double>(value), exact) << nameOf(dtype) << " " << bits;
      ASSERT_EQ(std::signbit(value), std::signbit(exact)) << nameOf(dtype) << " " << bits;
      ASSERT_EQ(halfToFloat(floatToHalf(value)), value) << nameOf(dtype) << " " << bits;
    }
  }
  // The largest values, as the formats' papers give them.
  EXPECT_EQ(float8ToFloat(DType::F8E4M3, 0x7E), 448.0f);
  EXPECT_EQ(float8ToFloat(DType::F8E5M2, 0x7B), 57344.0f);
  EXPECT_EQ(float8ToFloat(DType::F8E4M3FNUZ, 0x7F), 240.0f);
  EXPECT_EQ(float8ToFloat(DType::F8E5M2FNUZ, 0x7F), 57344.0f);
}

TEST(Float8, UnpacksAsTheSameValuesInBinary32) {
  constexpr size_t kRows = 7, kColumns = 33;
  std::vector<std::byte> bytes(kRows * kColumns);
  Random random(8);
  // No NaN and no infinity: below the highest exponent.
  for (std::byte& b : bytes) b = static_cast<std::byte>((random.next() & 0x80) | random.below(0x78));
  for (const DType dtype : {DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ}) {
    if (dtype == DType::F8E4M3FNUZ || dtype == DType::F8E5M2FNUZ) {
      for (std::byte& b : bytes) b = b == std::byte{0x80} ? std::byte{1} : b;
    }
    std::vector<float> values(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i)
      values[i] = float8ToFloat(dtype, static_cast<uint8_t>(bytes[i]));
    const auto* plain = reinterpret_cast<const std::byte*>(values.data());
    std::vector<float> fromBytes(kColumns * 64), fromFloats(kColumns * 64);
    std::vector<uint32_t> largest(kColumns), expected(kColumns);
    unpackColumns({dtype, bytes.data(), kRows, kColumns}, fromBytes.data(), 64, largest);
    unpackColumns({DType::F32, plain, kRows, kColumns}, fromFloats.data(), 64, expected);
    EXPECT_EQ(fromBytes, fromFloats) << nameOf(dtype);
    EXPECT_EQ(largest, expected) << nameOf(dtype);
    largest.resize(kRows), expected.resize(kRows);
    unpackRows({dtype, bytes.data(), kRows, kColumns}, fromBytes.data(), 64, largest);
    unpackRows({DType::F32, plain, kRows, kColumns}, fromFloats.data(), 64, expected);
    EXPECT_EQ(fromBytes, fromFloats) << nameOf(dtype);
    EXPECT_EQ(largest, expected) << nameOf(dtype);
  }
}

TEST(DTypes, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::U64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtypeOf(nameOf(dtype)), dtype);
    EXPECT_GT(bitsOf(dtype), 0u);
  }
  EXPECT_EQ(dtypeOf("f32"), std::nullopt);
}

// A safetensors header that claims one of them is wrong.
TEST(DTypes, GgufsOwnAreNoneOfSafetensors) {
  for (size_t i = static_cast<size_t>(DType::U64) + 1; i < kDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtypeOf(nameOf(dtype)), std::nullopt) << nameOf(dtype);
    EXPECT_EQ(bitsOf(dtype), 0u) << nameOf(dtype);
    EXPECT_GT(blockOf(dtype), 1u) << nameOf(dtype);
    EXPECT_EQ(isFactorDtype(dtype), dtype == DType::Q8_0) << nameOf(dtype);
  }
}

TEST(DTypes, SizesAreCheckedAndWhole) {
  EXPECT_EQ(bytesOf(DType::F64, 5), 40u);
  EXPECT_EQ(bytesOf(DType::F4, 6), 3u);
  EXPECT_EQ(bytesOf(DType::F4, 5), std::nullopt);
  EXPECT_EQ(bytesOf(DType::F6E2M3, 4), 3u);
  EXPECT_EQ(bytesOf(DType::F6E2M3, 2), std::nullopt);
  EXPECT_EQ(bytesOf(DType::Q8_0, 64), 68u);
  EXPECT_EQ(bytesOf(DType::Q8_0, 0), 0u);
  EXPECT_EQ(bytesOf(DType::Q8_0, 63), std::nullopt);
  EXPECT_EQ(bytesOf(DType::F32, uint64_t{1} << 62), std::nullopt);
  EXPECT_EQ(bytesOf(DType::F32, (uint64_t{1} << 62) - 1), UINT64_MAX - 3);
  // 2^63 elements in blocks of 32 take less than 2^64 bytes, 2^64 - 32 do not.
  EXPECT_EQ(bytesOf(DType::Q8_0, uint64_t{1} << 63), (uint64_t{34} << 58));
  EXPECT_EQ(bytesOf(DType::Q8_0, UINT64_MAX - 31), std::nullopt);

  const auto shaped = [](DType dtype, std::vector<uint64_t> shape) { return bytesOf(dtype, shape); };
  EXPECT_EQ(shaped(DType::F32, {}), 4u);
  EXPECT_EQ(shaped(DType::BF16, {3, 5}), 30u);
  EXPECT_EQ(shaped(DType::F16, {3, 0, 5}), 0u);
  EXPECT_EQ(shaped(DType::Q8_0, {3, 64}), 204u);
  EXPECT_EQ(shaped(DType::Q8_0, {64, 3}), std::nullopt);  // whole blocks, but not in each row
  EXPECT_EQ(shaped(DType::Q8_0, {}), std::nullopt);
  EXPECT_EQ(shaped(DType::F32, {uint64_t{1} << 32, uint64_t{1} << 32}), std::nullopt);
}

TEST(Convert, FastHalfKernelsEqualReferenceOnEveryValue) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const auto* source = reinterpret_cast<const std::byte*>(halves.data());
  for (const DType dtype : {DType::F16, DType::BF16}) {
    std::vector<float> fast(halves.size()), reference(halves.size());
    toFloat(dtype, source, halves.size(), fast.data());
    toFloatRef(dtype, source, halves.size(), reference.data());
    for (size_t i = 0; i < halves.size(); ++i) ASSERT_TRUE(sameBits(fast[i], reference[i])) << i;
  }
}

/// Values at which rounding could go wrong: all exponents, ties, next to ties, special values.
std::vector<float> awkwardFloats() {
  std::vector<float> values = {0.0f,       -0.0f,    INFINITY,  -INFINITY, 65504.0f,
                               65519.996f, 65520.0f, -65520.0f, 1e-45f,    std::numeric_limits<float>::max()};
  for (uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (uint32_t mantissa : {0u, 1u, 0xFFFu, 0x1000u, 0x1001u, 0x2FFFu, 0x3000u, 0x3001u, 0x7FFFu, 0x8000u,
                              0x8001u, 0x18000u, 0x400000u, 0x7FFFFFu}) {
      if (exponent == 255 && mantissa != 0) continue;
      values.push_back(std::bit_cast<float>(exponent << 23 | mantissa));
      values.push_back(std::bit_cast<float>(0x80000000u | exponent << 23 | mantissa));
    }
  }
  Random random(7);
  for (int i = 0; i < 200'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    if (!std::isnan(value)) values.push_back(value);
  }
  return values;
}

TEST(Convert, FastRoundingEqualsReferenceOnAwkwardValues) {
  const auto all = awkwardFloats();
  for (const DType dtype : kFactorDtypes) {
    // Blocks that overflow go another way: once without them.
    for (const uint32_t limit : {overflowBits(dtype), UINT32_MAX}) {
      std::vector<float> values;
      for (const float value : all)
        if (maxMagnitudeBitsRef(&value, 1) < limit) values.push_back(value);
      values.resize(values.size() / 8 * 8);
      const size_t bytes = values.size() * bitsOf(dtype) / 8;
      std::vector<std::byte> fast(bytes), reference(bytes);
      fromFloat(dtype, values.data(), values.size(), fast.data());
      fromFloatRef(dtype, values.data(), values.size(), reference.data());
      ASSERT_EQ(fast, reference) << nameOf(dtype);

      const size_t units = 8, stride = values.size() / units;
      const std::vector<float> factors(units, 1.0f);
      packColumns(dtype, values.data(), stride, units, stride, factors, fast.data());
      packColumnsRef(dtype, values.data(), stride, units, stride, factors, reference.data());
      ASSERT_EQ(fast, reference) << nameOf(dtype);
    }
  }
}

TEST(Convert, NanStaysNan) {
  std::vector<float> values(19, std::bit_cast<float>(0x7F800001u));
  for (const DType dtype : kFactorDtypes) {
    std::vector<std::byte> bytes(values.size() * 8);
    std::vector<float> back(values.size());
    fromFloat(dtype, values.data(), values.size(), bytes.data());
    toFloat(dtype, bytes.data(), values.size(), back.data());
    for (const float value : back) EXPECT_TRUE(std::isnan(value)) << nameOf(dtype);
  }
}

TEST(Convert, EveryLengthAndByteOffset) {
  Random random(3);
  for (const DType dtype : kFactorDtypes) {
    const size_t bytes = bitsOf(dtype) / 8;
    for (size_t length = 0; length <= 67; ++length) {
      for (size_t offset = 0; offset < 17; ++offset) {
        std::vector<float> values(length);
        for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
        std::vector<std::byte> stored(offset + length * bytes + 1, std::byte{0xAB}), expected = stored;
        fromFloat(dtype, values.data(), length, stored.data() + offset);
        fromFloatRef(dtype, values.data(), length, expected.data() + offset);
        ASSERT_EQ(stored, expected);
        std::vector<float> fast(length + 1, 42), reference(length + 1, 42);
        toFloat(dtype, stored.data() + offset, length, fast.data());
        toFloatRef(dtype, stored.data() + offset, length, reference.data());
        ASSERT_EQ(fast, reference);
        ASSERT_EQ(maxMagnitudeBits(fast.data(), length), maxMagnitudeBitsRef(fast.data(), length));
      }
    }
  }
}

TEST(Convert, MagnitudeSeesWhatIsNotFinite) {
  for (const float bad : {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY}) {
    for (size_t length : {1, 4, 5, 33, 1029, 3000}) {
      for (size_t at = 0; at < length; at += std::max<size_t>(1, length / 7)) {
        std::vector<float> values(length, -3.0f);
        EXPECT_EQ(maxMagnitudeBits(values.data(), length), std::bit_cast<uint32_t>(3.0f));
        values[at] = bad;
        EXPECT_GE(maxMagnitudeBits(values.data(), length), 0x7F800000u);
      }
    }
  }
}

TEST(Transpose, EveryShape) {
  for (size_t rows = 0; rows <= 19; ++rows) {
    for (size_t columns = 0; columns <= 19; ++columns) {
      std::vector<float> source(rows * (columns + 3)), fast(columns * (rows + 2), -1), reference = fast;
      for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
      transpose(source.data(), rows, columns, columns + 3, fast.data(), rows + 2);
      transposeRef(source.data(), rows, columns, columns + 3, reference.data(), rows + 2);
      ASSERT_EQ(fast, reference) << rows << " x " << columns;
    }
  }
}

/// Shapes on both sides of every block border of the kernels.
struct Shape {
  size_t rows, columns;
};
std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (size_t rows : {1, 2, 3, 4, 5, 8, 16, 17, 64}) {
    for (size_t columns : {1, 3, 4, 7, 16, 33, 255, 1024, 1025, 2049}) all.push_back({rows, columns});
  }
  all.push_back({4100, 20});
  all.push_back({4100, 4});
  all.push_back({21, 5000});
  return all;
}

TEST(Unpack, EqualsReference) {
  Random random(5);
  for (const DType dtype : kFactorDtypes) {
    for (const Shape shape : shapes()) {
      const size_t bytes = bitsOf(dtype) / 8, count = shape.rows * shape.columns;
      std::vector<float> values(count);
      for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
      std::vector<std::byte> stored(count * bytes + 1);
      fromFloatRef(dtype, values.data(), count, stored.data() + 1);  // at an odd address
      const MatrixView view{dtype, stored.data() + 1, shape.rows, shape.columns};

      const size_t stride = shape.columns + 2;
      std::vector<float> fast(shape.rows * stride, -9), reference = fast;
      std::vector<uint32_t> fastMax(shape.rows), referenceMax(shape.rows);
      unpackRows(view, fast.data(), stride, fastMax);
      unpackRowsRef(view, reference.data(), stride, referenceMax);
      ASSERT_EQ(fast, reference);
      ASSERT_EQ(fastMax, referenceMax);

      const size_t columnStride = shape.rows + 3;
      std::vector<float> fastColumns(shape.columns * columnStride, -9), referenceColumns = fastColumns;
      fastMax.assign(shape.columns, 1), referenceMax.assign(shape.columns, 2);
      unpackColumns(view, fastColumns.data(), columnStride, fastMax);
      unpackColumnsRef(view, referenceColumns.data(), columnStride, referenceMax);
      ASSERT_EQ(fastColumns, referenceColumns) << shape.rows << " x " << shape.columns;
      ASSERT_EQ(fastMax, referenceMax);
    }
  }
}

/// Every value that a format of 8 or 16 bits has, in rows and columns of which each format's kernels take
/// some and leave some: all that are finite, and with the others, which go another way.
TEST(Unpack, EqualsReferenceOnEveryValue) {
  for (const DType dtype :
       {DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2, DType::F8E4M3FNUZ, DType::F8E5M2FNUZ}) {
    const size_t bytes = bitsOf(dtype) / 8;
    std::vector<std::byte> finite, all;
    for (uint32_t bits = 0; bits < 1u << (8 * bytes); ++bits) {
      const auto* element = reinterpret_cast<const std::byte*>(&bits);
      float value = 0;
      toFloatRef(dtype, element, 1, &value);
      all.insert(all.end(), element, element + bytes);
      if (std::isfinite(value)) finite.insert(finite.end(), element, element + bytes);
    }
    for (const size_t columns : {3, 15, 16, 17, 33, 1100}) {
      for (const auto& elements : {finite, all}) {
        const size_t rows = (65536 / columns) + 1;
        std::vector<std::byte> stored(1);  // at an odd address
        while (stored.size() < rows * columns * bytes + 1)
          stored.insert(stored.end(), elements.begin(), elements.end());
        const MatrixView view{dtype, stored.data() + 1, rows, columns};
        for (const bool turned : {false, true}) {
          const size_t units = turned ? columns : rows, stride = turned ? rows : columns;
          std::vector<float> fast(units * stride), reference(units * stride);
          std::vector<uint32_t> fastMax(units), referenceMax(units);
          (turned ? unpackColumns : unpackRows)(view, fast.data(), stride, fastMax);
          (turned ? unpackColumnsRef : unpackRowsRef)(view, reference.data(), stride, referenceMax);
          for (size_t i = 0; i < fast.size(); ++i) ASSERT_TRUE(sameBits(fast[i], reference[i])) << i;
          ASSERT_EQ(fastMax, referenceMax) << nameOf(dtype) << " " << columns;
        }
      }
    }
  }
}

TEST(Pack, EqualsReference) {
  Random random(6);
  for (const DType dtype : kFactorDtypes) {
    for (const Shape shape : shapes()) {
      const size_t stride = shape.columns + 1, bytes = shape.rows * shape.columns * bitsOf(dtype) / 8;
      std::vector<float> units(shape.rows * stride), factors(shape.rows);
      for (float& value : units) value = static_cast<float>(random.uniform() - 0.5);
      for (float& factor : factors) factor = static_cast<float>(random.uniform() * 3);
      std::vector<std::byte> fast(bytes + 1), reference(bytes + 1);
      EXPECT_EQ(
          packRows(dtype, units.data(), stride, shape.rows, shape.columns, factors, fast.data()),
          packRowsRef(dtype, units.data(), stride, shape.rows, shape.columns, factors, reference.data()));
      ASSERT_EQ(fast, reference);
      EXPECT_EQ(
          packColumns(dtype, units.data(), stride, shape.rows, shape.columns, factors, fast.data()),
          packColumnsRef(dtype, units.data(), stride, shape.rows, shape.columns, factors, reference.data()));
      ASSERT_EQ(fast, reference) << shape.rows << " x " << shape.columns;
    }
  }
}

TEST(Pack, UndoesUnpack) {
  Random random(8);
  for (const DType dtype : kFactorDtypes) {
    const size_t out = 37, rank = 6;
    std::vector<float> values(out * rank);
    for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
    std::vector<std::byte> stored(values.size() * bitsOf(dtype) / 8), back(stored.size());
    fromFloatRef(dtype, values.data(), values.size(), stored.data());
    std::vector<float> units(rank * out);
    std::vector<uint32_t> magnitude(rank);
    unpackColumns({dtype, stored.data(), out, rank}, units.data(), out, magnitude);
    packColumns(dtype, units.data(), out, rank, out, std::vector<float>(rank, 1.0f), back.data());
    EXPECT_EQ(stored, back);
  }
}

/// quantize_row_q8_0_ref of ggml, with its own words.
void ggmlQ8(const float* x, size_t count, std::byte* y) {
  for (size_t i = 0; i < count; i += 32, y += 34) {
    float amax = 0.0f;
    for (size_t j = 0; j < 32; ++j) amax = std::max(amax, std::fabs(x[i + j]));
    const float d = amax / ((1 << 7) - 1);
    const float id = d != 0 ? 1.0f / d : 0.0f;
    const uint16_t half = floatToHalf(d);
    std::memcpy(y, &half, 2);
    for (size_t j = 0; j < 32; ++j)
      y[2 + j] = static_cast<std::byte>(static_cast<int8_t>(std::roundf(x[i + j] * id)));
  }
}

/// Values of all magnitudes, but of like ones within a block, as weights have; some blocks all zero.
std::vector<float> blockFloats(Random& random, size_t count) {
  std::vector<float> values(count);
  float scale = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i % 32 == 0)
      scale = random.below(9) == 0 ? 0 : std::ldexp(1.0f, 20 - static_cast<int>(random.below(60)));
    values[i] = static_cast<float>(random.uniform() - 0.5) * scale;
  }
  return values;
}

TEST(Q8, QuantisesAsGgml) {
  Random random(11);
  auto values = blockFloats(random, 32 * 4000);
  // Ties: d = 1 exactly, and so every half is one.
  for (int i = 0; i < 32; ++i) values[i] = i == 31 ? -127.0f : static_cast<float>(i - 15) + 0.5f;
  std::vector<std::byte> found(values.size() / 32 * 34), expected(found.size());
  ggmlQ8(values.data(), values.size(), expected.data());
  fromFloatRef(DType::Q8_0, values.data(), values.size(), found.data());
  ASSERT_EQ(found, expected);
  EXPECT_EQ(static_cast<int8_t>(found[2 + 0]), -15);  // -14.5, away from zero
  EXPECT_EQ(static_cast<int8_t>(found[2 + 15]), 1);   // 0.5
  EXPECT_EQ(static_cast<int8_t>(found[2 + 31]), -127);
}

TEST(Q8, IsAsExactAsItsStep) {
  Random random(12);
  const auto values = blockFloats(random, 32 * 4000);
  std::vector<std::byte> bytes(values.size() / 32 * 34);
  std::vector<float> back(values.size());
  fromFloat(DType::Q8_0, values.data(), values.size(), bytes.data());
  toFloat(DType::Q8_0, bytes.data(), values.size(), back.data());
  for (size_t i = 0; i < values.size(); i += 32) {
    double largest = 0;
    for (size_t j = i; j < i + 32; ++j) largest = std::max(largest, std::abs(double{values[j]}));
    // Half a step, and the rounding of the step: by 2^-11 of itself, or 2^-25 where halves are subnormal.
    const double step = largest / 127, slack = std::max(step * 0x1p-11, 0x1p-25) * 127;
    for (size_t j = i; j < i + 32; ++j)
      ASSERT_LE(std::abs(double{back[j]} - double{values[j]}), step * 0.5001 + slack) << j;
  }
}

TEST(Q8, ReadsByDefinition) {
  std::vector<std::byte> block(34);
  for (uint32_t half = 0; half < 65536; half += 13) {
    const auto bits = static_cast<uint16_t>(half);
    std::memcpy(block.data(), &bits, 2);
    for (int j = 0; j < 32; ++j) block[2 + j] = static_cast<std::byte>(half + 8 * j);
    float values[32];
    toFloat(DType::Q8_0, block.data(), 32, values);
    const double scale = halfByDefinition(bits);
    for (int j = 0; j < 32; ++j) {
      const double exact = scale * static_cast<int8_t>(block[2 + j]);
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(values[j]));
      } else {
        ASSERT_EQ(static_cast<double>(values[j]), exact);
      }
    }
  }
}

// What the format cannot hold must not come out as an innocent number.
TEST(Q8, BlocksThatAreNotFiniteBecomeNan) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    for (size_t at : {0, 7, 31}) {
      std::vector<float> values(96, 0.25f), back(96);
      values[32 + at] = bad;
      std::vector<std::byte> bytes(3 * 34);
      fromFloat(DType::Q8_0, values.data(), values.size(), bytes.data());
      toFloat(DType::Q8_0, bytes.data(), values.size(), back.data());
      for (size_t i = 0; i < 96; ++i) EXPECT_EQ(std::isnan(back[i]), i / 32 == 1) << i;
    }
  }
}

TEST(Q8, TinyBlocksBecomeZero) {
  for (const float tiny : {1e-45f, 1e-40f, 2e-38f, 1e-30f, 1e-6f}) {
    std::vector<float> values(32, tiny), back(32, 1);
    values[3] = -tiny;
    std::vector<std::byte> bytes(34);
    fromFloat(DType::Q8_0, values.data(), 32, bytes.data());
    toFloat(DType::Q8_0, bytes.data(), 32, back.data());
    for (const float value : back) EXPECT_LE(std::abs(value), std::abs(tiny) < 1e-7f ? 0.0f : 8e-6f);
  }
}

TEST(Q8, EveryLengthAndByteOffset) {
  Random random(13);
  for (size_t blocks : {0, 1, 2, 31, 32, 33, 65}) {
    for (size_t offset = 0; offset < 5; ++offset) {
      const size_t length = 32 * blocks;
      const auto values = blockFloats(random, length);
      std::vector<std::byte> stored(offset + blocks * 34 + 1, std::byte{0xAB}), expected = stored;
      fromFloat(DType::Q8_0, values.data(), length, stored.data() + offset);
      fromFloatRef(DType::Q8_0, values.data(), length, expected.data() + offset);
      ASSERT_EQ(stored, expected);
      std::vector<float> fast(length + 1, 42), reference(length + 1, 42);
      toFloat(DType::Q8_0, stored.data() + offset, length, fast.data());
      toFloatRef(DType::Q8_0, stored.data() + offset, length, reference.data());
      ASSERT_EQ(fast, reference);
    }
  }
}

TEST(Q8, UnpacksAndPacksAsTheReferenceAndAsFloats) {
  Random random(14);
  for (const size_t rows : {1, 3, 16, 17, 64, 1030}) {
    for (const size_t columns : {32, 64, 992, 1024, 1056, 2080}) {
      const size_t count = rows * columns, bytes = count / 32 * 34;
      const auto values = blockFloats(random, count);
      std::vector<std::byte> stored(bytes + 1);
      fromFloatRef(DType::Q8_0, values.data(), count, stored.data() + 1);
      std::vector<float> plain(count);
      toFloatRef(DType::Q8_0, stored.data() + 1, count, plain.data());
      const MatrixView view{DType::Q8_0, stored.data() + 1, rows, columns};
      const MatrixView floats{DType::F32, reinterpret_cast<const std::byte*>(plain.data()), rows, columns};

      std::vector<float> fast(rows * (columns + 2), -9), reference = fast, expected = fast;
      std::vector<uint32_t> fastMax(rows), referenceMax(rows), expectedMax(rows);
      unpackRows(view, fast.data(), columns + 2, fastMax);
      unpackRowsRef(view, reference.data(), columns + 2, referenceMax);
      unpackRows(floats, expected.data(), columns + 2, expectedMax);
      ASSERT_EQ(fast, expected);
      ASSERT_EQ(reference, expected);
      ASSERT_EQ(fastMax, expectedMax);
      ASSERT_EQ(referenceMax, expectedMax);

      std::vector<float> fastColumns(columns * (rows + 3), -9), referenceColumns = fastColumns,
                                                                expectedColumns = fastColumns;
      fastMax.assign(columns, 1), referenceMax.assign(columns, 2), expectedMax.assign(columns, 3);
      unpackColumns(view, fastColumns.data(), rows + 3, fastMax);
      unpackColumnsRef(view, referenceColumns.data(), rows + 3, referenceMax);
      unpackColumns(floats, expectedColumns.data(), rows + 3, expectedMax);
      ASSERT_EQ(fastColumns, expectedColumns) << rows << " x " << columns;
      ASSERT_EQ(referenceColumns, expectedColumns);
      ASSERT_EQ(fastMax, expectedMax);

      // Packed as rows; and, from a matrix of units on its side, as columns, whose rows must be whole too.
      std::vector<float> factors(std::max(rows, columns));
      for (float& factor : factors) factor = static_cast<float>(random.uniform() * 3);
      std::vector<std::byte> packed(bytes), packedRef(bytes);
      EXPECT_EQ(packRows(DType::Q8_0, values.data(), columns, rows, columns, factors, packed.data()),
                packRowsRef(DType::Q8_0, values.data(), columns, rows, columns, factors, packedRef.data()));
      ASSERT_EQ(packed, packedRef);
      EXPECT_EQ(packColumns(DType::Q8_0, values.data(), rows, columns, rows, factors, packed.data()),
                packColumnsRef(DType::Q8_0, values.data(), rows, columns, rows, factors, packedRef.data()));
      ASSERT_EQ(packed, packedRef) << rows << " x " << columns;
    }
  }
}

}  // namespace
}  // namespace lego

// Gram and assemble kernels against their references; factorisations against their definitions.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "linalg/assemble.h"
#include "linalg/factorise.h"
#include "linalg/gram.h"

namespace lego {
namespace {

std::vector<float> randomFloats(Random& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  return values;
}

constexpr GramPrecision kPrecisions[] = {GramPrecision::Single, GramPrecision::Double};

TEST(Gram, EqualsReferenceForEveryCountLengthAndOffset) {
  Random random(1);
  for (const GramPrecision precision : kPrecisions) {
    for (size_t count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13}) {
      for (size_t length = 0; length <= 35; ++length) {
        for (size_t offset = 0; offset < 4; ++offset) {
          const size_t stride = length + 3;
          const auto rows = randomFloats(random, offset + count * stride);
          const auto fast = gram(rows.data() + offset, count, length, stride, precision);
          const auto reference = gramRef(rows.data() + offset, count, length, stride, precision);
          ASSERT_TRUE(fast && reference);
          for (size_t i = 0; i < count; ++i) {
            for (size_t j = 0; j < count; ++j)
              ASSERT_EQ((*fast)(i, j), (*reference)(i, j)) << count << " rows of " << length;
          }
        }
      }
    }
  }
}

TEST(Gram, EqualsReferenceAcrossPanelBorders) {
  Random random(2);
  for (const GramPrecision precision : kPrecisions) {
    for (size_t length : {127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 4096}) {
      const size_t count = 11;
      const auto rows = randomFloats(random, count * length);
      const auto fast = gram(rows.data(), count, length, length, precision);
      const auto reference = gramRef(rows.data(), count, length, length, precision);
      for (size_t i = 0; i < count; ++i) {
        for (size_t j = 0; j < count; ++j) ASSERT_EQ((*fast)(i, j), (*reference)(i, j)) << length;
      }
    }
  }
}

// Clustering breaks ties by index, so copies of a row must have equal entries wherever they stand.
TEST(Gram, AnEntryDoesNotDependOnItsPlace) {
  Random random(3);
  const size_t length = 700;
  auto rows = randomFloats(random, 9 * length);
  for (size_t copy : {3, 8})
    std::copy_n(rows.begin(), length, rows.begin() + static_cast<std::ptrdiff_t>(copy * length));
  for (const GramPrecision precision : kPrecisions) {
    const auto g = gram(rows.data(), 9, length, length, precision);
    for (size_t j = 0; j < 9; ++j) {
      EXPECT_EQ((*g)(0, j), (*g)(3, j));
      EXPECT_EQ((*g)(0, j), (*g)(8, j));
    }
  }
}

TEST(Gram, IsAsPreciseAsPromised) {
  Random random(4);
  const size_t length = 11008, count = 8;
  const auto rows = randomFloats(random, count * length);
  std::vector<std::vector<double>> exact(count, std::vector<double>(count));
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      long double sum = 0;
      for (size_t c = 0; c < length; ++c)
        sum += static_cast<long double>(rows[i * length + c]) * rows[j * length + c];
      exact[i][j] = static_cast<double>(sum);
    }
  }
  for (const GramPrecision precision : kPrecisions) {
    const auto g = gram(rows.data(), count, length, length, precision);
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < count; ++j) {
        const double norms = std::sqrt(exact[i][i] * exact[j][j]);
        EXPECT_LT(std::abs((*g)(i, j) - exact[i][j]) / norms,
                  precision == GramPrecision::Single ? 1e-7 : 1e-15);
      }
    }
  }
}

/// Random term lists: sparse, dense, empty and single ones in any order.
std::vector<std::vector<Term>> randomTerms(Random& random, size_t units, size_t rows) {
  std::vector<std::vector<Term>> terms(rows);
  const bool dense = random.below(2) == 0;
  for (auto& row : terms) {
    const size_t share = dense ? 1 : 1 + random.below(4);
    for (uint32_t u = 0; u < units; ++u) {
      if (random.below(share) == 0) row.push_back({u, static_cast<float>(random.uniform() - 0.5)});
    }
  }
  if (random.below(3) == 0) terms[random.below(rows)].clear();
  return terms;
}

TEST(Assemble, EqualsReferenceForEveryLengthAndOffset) {
  Random random(5);
  for (size_t length = 0; length <= 70; ++length) {
    for (size_t offset = 0; offset < 4; ++offset) {
      const size_t units = 1 + random.below(9), rows = 1 + random.below(9), stride = length + 1;
      const auto values = randomFloats(random, offset + units * stride);
      const auto terms = randomTerms(random, units, rows);
      const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
      std::vector<float> fast(rows * stride, 7), reference = fast;
      assemble(values.data() + offset, stride, length, views, fast.data());
      assembleRef(values.data() + offset, stride, length, views, reference.data());
      ASSERT_EQ(fast, reference) << length;
    }
  }
  for (size_t length : {255, 256, 257, 600, 1025}) {
    const auto values = randomFloats(random, 20 * length);
    const auto terms = randomTerms(random, 20, 12);
    const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
    std::vector<float> fast(12 * length), reference(12 * length);
    assemble(values.data(), length, length, views, fast.data());
    assembleRef(values.data(), length, length, views, reference.data());
    ASSERT_EQ(fast, reference) << length;
  }
}

TEST(Assemble, OneTermOfOneCopies) {
  const std::vector<float> units = {1.5f, -0.0f, 0.0f, 3e-45f, -7.25f};
  const std::vector<Term> term = {{0, 1.0f}};
  const std::span<const Term> view = term;
  std::vector<float> target(5, 9);
  assemble(units.data(), 5, 5, {&view, 1}, target.data());
  for (size_t i = 0; i < 5; ++i)
    EXPECT_EQ(std::bit_cast<uint32_t>(target[i]), std::bit_cast<uint32_t>(units[i]));
}

Matrix randomMatrix(Random& random, size_t rows, size_t columns) {
  Matrix matrix(rows, columns);
  for (size_t i = 0; i < rows; ++i) {
    for (double& value : matrix.row(i)) value = random.uniform() - 0.5;
  }
  return matrix;
}

TEST(Factorise, EigenvectorsAreOrthonormalAndDiagonalise) {
  Random random(7);
  const Matrix half = randomMatrix(random, 30, 20);
  Matrix symmetric(30, 30);
  for (size_t i = 0; i < 30; ++i) {
    for (size_t j = 0; j < 30; ++j) {
      for (size_t d = 0; d < 20; ++d) symmetric(i, j) += half(i, d) * half(j, d);
    }
  }
  const auto eigen = symmetricEigen(symmetric);
  ASSERT_TRUE(eigen);
  for (size_t a = 0; a < 30; ++a) {
    for (size_t b = 0; b < 30; ++b) {
      double inner = 0, form = 0;
      for (size_t i = 0; i < 30; ++i) {
        inner += eigen->vectors(i, a) * eigen->vectors(i, b);
        for (size_t j = 0; j < 30; ++j) form += eigen->vectors(i, a) * symmetric(i, j) * eigen->vectors(j, b);
      }
      ASSERT_NEAR(inner, a == b ? 1 : 0, 1e-13);
      ASSERT_NEAR(form, a == b ? eigen->values[a] : 0, 1e-12);
    }
  }
  EXPECT_NEAR(eigen->values[9], 0, 1e-13);
  EXPECT_GT(eigen->values[10], 1e-3);
}

TEST(Factorise, EmptyMatrix) { EXPECT_TRUE(symmetricEigen(Matrix())); }

}  // namespace
}  // namespace lego

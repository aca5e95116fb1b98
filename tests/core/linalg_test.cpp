// Gram and assemble kernels against their references; factorisations against their definitions.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "core/fixtures.h"
#include "linalg/assemble.h"
#include "linalg/factorise.h"
#include "linalg/gram.h"
#include "linalg/multiply.h"
#include "linalg/panel_svd.h"

namespace lego {
namespace {

using testing::expectCode;
using testing::must;

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
          const auto fast = gram(rows.data() + offset, count, length, stride, precision, Context());
          const auto reference = gramRef(rows.data() + offset, count, length, stride, precision, Context());
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
      // Fewer rows than are worked on together, as many, and more.
      for (size_t count : {11, 16, 17, 37}) {
        const auto rows = randomFloats(random, count * length);
        const auto fast = gram(rows.data(), count, length, length, precision, Context());
        const auto reference = gramRef(rows.data(), count, length, length, precision, Context());
        for (size_t i = 0; i < count; ++i) {
          for (size_t j = 0; j < count; ++j) ASSERT_EQ((*fast)(i, j), (*reference)(i, j)) << length;
        }
      }
    }
  }
}

// Counts that are cut into one part, into two and into four, the last of them not a multiple of anything.
TEST(Gram, IsTheSameWhenThreadsShareIt) {
  Random random(4);
  ThreadPool pool(4);
  Context context;
  context.useThreads(pool);
  for (const GramPrecision precision : kPrecisions) {
    for (size_t count : {511, 512, 770, 1043}) {
      const size_t length = 300;
      const auto rows = randomFloats(random, count * length);
      const auto alone = gram(rows.data(), count, length, length, precision, Context());
      const auto shared = gram(rows.data(), count, length, length, precision, context);
      for (size_t i = 0; i < count; ++i)
        ASSERT_TRUE(std::ranges::equal(shared->row(i), alone->row(i))) << count << ", row " << i;
    }
  }
}

// Only clang's sanitizer sees a step from the null pointer: tests/fuzz/seeds/kernels/gram-none.
TEST(Gram, OfNoRowsIsEmpty) {
  for (const GramPrecision precision : kPrecisions) {
    const auto none = gram(nullptr, 0, 600, 600, precision, Context());
    ASSERT_TRUE(none);
    EXPECT_EQ(none->rows(), 0u);
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
    const auto g = gram(rows.data(), 9, length, length, precision, Context());
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
    const auto g = gram(rows.data(), count, length, length, precision, Context());
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

TEST(Assemble, EqualsReferenceForMoreUnitsThanOneCallTakes) {
  Random random(6);
  const size_t units = 700, length = 270, rows = 6;
  const auto values = randomFloats(random, units * length);
  std::vector<std::vector<Term>> terms(rows);
  for (auto& row : terms) {
    for (uint32_t u = 0; u < units; ++u) row.push_back({u, static_cast<float>(random.uniform() - 0.5)});
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  std::vector<float> fast(rows * length), reference(rows * length);
  assemble(values.data(), length, length, views, fast.data());
  assembleRef(values.data(), length, length, views, reference.data());
  EXPECT_EQ(fast, reference);
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

TEST(Factorise, EmptyMatrix) {
  EXPECT_TRUE(symmetricEigen(Matrix()));
  EXPECT_EQ(triangularRoot(Matrix()).size(), 0u);
  EXPECT_EQ(must(principalRoot(Matrix())).size(), 0u);
  EXPECT_TRUE(must(truncatedSvd(Matrix(3, 0), 2, 0)).values.empty());
}

TEST(Multiply, EqualsReferenceForEveryShape) {
  Random random(8);
  for (size_t rows : {0, 1, 2, 3, 4, 5}) {
    for (size_t inner : {0, 1, 2, 3, 9}) {
      for (size_t columns = 0; columns <= 19; ++columns) {
        const Matrix left = randomMatrix(random, rows, inner), right = randomMatrix(random, inner, columns);
        const Matrix fast = multiply(left, right), reference = multiplyRef(left, right);
        for (size_t i = 0; i < rows; ++i) {
          for (size_t j = 0; j < columns; ++j) ASSERT_EQ(fast(i, j), reference(i, j));
        }
      }
    }
  }
}

TEST(Multiply, DifferencesEqualTheReferenceForEveryLengthAndOffset) {
  Random random(11);
  for (size_t count : {0, 1, 2, 7}) {
    for (size_t length = 0; length <= 37; ++length) {
      for (size_t offset = 0; offset < 3; ++offset) {
        const size_t stride = length + offset + 1;
        const Matrix rows = randomMatrix(random, count, stride), factors = randomMatrix(random, 1, count),
                     start = randomMatrix(random, 1, stride);
        Matrix fast = start, reference = start;
        subtractProducts(fast.row(0).subspan(offset, length), factors.row(0), rows.data() + offset, stride);
        subtractProductsRef(reference.row(0).subspan(offset, length), factors.row(0), rows.data() + offset,
                            stride);
        for (size_t j = 0; j < stride; ++j) ASSERT_EQ(fast(0, j), reference(0, j)) << length << " " << j;
      }
    }
  }
}

TEST(Multiply, SymmetricProductsEqualTheReferenceForEverySize) {
  Random random(12);
  for (size_t n = 0; n <= 21; ++n) {
    const Matrix left = randomMatrix(random, n, 5), right = transposed(left);
    const Matrix fast = multiplySymmetric(left, right), reference = multiplyRef(left, right);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) ASSERT_EQ(fast(i, j), reference(i, j)) << n;
    }
  }
}

TEST(Multiply, FormsAgree) {
  Random random(9);
  const Matrix left = randomMatrix(random, 7, 5), middle = randomMatrix(random, 5, 5),
               right = randomMatrix(random, 6, 5);
  const Matrix expected = multiplyRef(multiplyRef(left, middle), transposed(right));
  const Matrix found = sandwich(left, middle, right), gram = gramOfColumns(left);
  for (size_t i = 0; i < 7; ++i) {
    for (size_t j = 0; j < 6; ++j) EXPECT_EQ(found(i, j), expected(i, j));
  }
  for (size_t i = 0; i < 5; ++i) {
    for (size_t j = 0; j < 5; ++j) EXPECT_EQ(gram(i, j), gram(j, i));
  }
}

/// Both kinds of root: coordinates that give the Gram matrix back, and a basis that is orthonormal.
TEST(Factorise, RootsOfGramMatrices) {
  Random random(10);
  for (const size_t dimension : {3, 8, 30}) {
    const size_t units = 12, rank = std::min<size_t>(dimension, units);
    const Matrix points = randomMatrix(random, units, dimension);
    const Matrix gram = multiplyTransposed(points, points);
    for (const GramRoot& root : {must(principalRoot(gram)), triangularRoot(gram)}) {
      ASSERT_EQ(root.size(), rank) << dimension;
      const Matrix back = gramOfColumns(root.root), basis = multiply(root.inverse, points),
                   inner = multiplyTransposed(basis, basis);
      for (size_t u = 0; u < units; ++u) {
        for (size_t v = 0; v < units; ++v) EXPECT_NEAR(back(u, v), gram(u, v), 1e-13);
      }
      for (size_t d = 0; d < rank; ++d) {
        for (size_t e = 0; e < rank; ++e) EXPECT_NEAR(inner(d, e), d == e ? 1 : 0, 1e-9);
      }
      const double largest = std::sqrt(must(symmetricEigen(gram)).values.back());
      EXPECT_GE(root.largest, largest * (1 - 1e-12));
      EXPECT_LE(root.largest, largest * std::sqrt(12.0));
    }
  }
  // Principal directions come heaviest first.
  const GramRoot root = must(principalRoot(gramOfColumns(randomMatrix(random, 6, 9))));
  for (size_t d = 1; d < root.size(); ++d) {
    double before = 0, here = 0;
    for (size_t u = 0; u < 9; ++u)
      before += std::pow(root.root(d - 1, u), 2), here += std::pow(root.root(d, u), 2);
    EXPECT_GE(before, here);
  }
}

void expectTriples(const Matrix& matrix, const Singular& found, double tolerance) {
  for (size_t q = 0; q < found.values.size(); ++q) {
    EXPECT_LE(found.values[q], found.values[q > 0 ? q - 1 : 0] * (1 + 1e-9));
    for (size_t p = 0; p <= q; ++p) {
      double left = 0, right = 0;
      for (size_t i = 0; i < matrix.rows(); ++i) left += found.left(q, i) * found.left(p, i);
      for (size_t j = 0; j < matrix.columns(); ++j) right += found.right(q, j) * found.right(p, j);
      EXPECT_NEAR(left, p == q, tolerance);
      EXPECT_NEAR(right, p == q, tolerance);
    }
    // M v = s u
    for (size_t i = 0; i < matrix.rows(); ++i) {
      double image = 0;
      for (size_t j = 0; j < matrix.columns(); ++j) image += matrix(i, j) * found.right(q, j);
      EXPECT_NEAR(image, found.values[q] * found.left(q, i), tolerance);
    }
  }
}

TEST(Factorise, SingularTriples) {
  Random random(11);
  for (const auto& [rows, columns] : {std::pair{9, 14}, {14, 9}, {10, 10}, {1, 5}}) {
    const Matrix matrix = randomMatrix(random, static_cast<size_t>(rows), static_cast<size_t>(columns));
    const Singular all = must(truncatedSvd(matrix, 100, 0));
    EXPECT_EQ(all.values.size(), static_cast<size_t>(std::min(rows, columns)));
    expectTriples(matrix, all, 1e-7);
    const Singular some = must(truncatedSvd(matrix, 3, 0));
    for (size_t q = 0; q < some.values.size(); ++q) EXPECT_EQ(some.values[q], all.values[q]);
    EXPECT_TRUE(must(truncatedSvd(matrix, 3, 100)).values.empty());
  }
}

/// A matrix that is handed out a few rows at a time.
RowPanels panelsOf(const Matrix& matrix, size_t height) {
  return {matrix.rows(), matrix.columns(), [&matrix, height](const auto& use) -> Status {
            for (size_t first = 0; first < matrix.rows(); first += height) {
              Matrix panel(std::min(height, matrix.rows() - first), matrix.columns());
              std::copy_n(matrix.row(first).data(), panel.rows() * panel.columns(), panel.data());
              use(first, panel);
            }
            return {};
          }};
}

TEST(PanelSvd, IsExactInSmallMatricesAndNearlySoInLargeOnes) {
  Random random(12);
  const Context context;
  for (const auto& [rows, columns, rank] :
       {std::tuple{30, 20, 5}, {20, 30, 5}, {60, 200, 10}, {300, 260, 8}}) {
    const Matrix matrix = randomMatrix(random, static_cast<size_t>(rows), static_cast<size_t>(columns));
    const Singular exact = must(truncatedSvd(matrix, static_cast<size_t>(rank), 0));
    const Singular found = must(panelSvd(panelsOf(matrix, 7), static_cast<size_t>(rank), 0, 1, context));
    ASSERT_EQ(found.values.size(), static_cast<size_t>(rank));
    double energy = 0, best = 0;
    for (size_t q = 0; q < found.values.size(); ++q)
      energy += found.values[q] * found.values[q], best += exact.values[q] * exact.values[q];
    // Noise has the flattest spectrum there is, and so the slowest convergence.
    EXPECT_NEAR(energy / best, 1, rows < 100 ? 1e-9 : 1e-3) << rows << " x " << columns;
    EXPECT_LE(energy, best * (1 + 1e-9));
  }
  // A spectrum that falls, as those of trained adapters do.
  Matrix falling(250, 120);
  const Matrix left = randomMatrix(random, 250, 40), right = randomMatrix(random, 40, 120);
  for (size_t i = 0; i < falling.rows(); ++i) {
    for (size_t j = 0; j < 120; ++j) {
      for (size_t d = 0; d < 40; ++d)
        falling(i, j) += std::pow(0.8, static_cast<double>(d)) * left(i, d) * right(d, j);
    }
  }
  const Singular exact = must(truncatedSvd(falling, 8, 0)),
                 found = must(panelSvd(panelsOf(falling, 16), 8, 0, 1, context));
  for (size_t q = 0; q < 8; ++q) EXPECT_NEAR(found.values[q] / exact.values[q], 1, 1e-8);
}

TEST(PanelSvd, CanBeCancelledAndHandsErrorsOn) {
  Random random(13);
  for (const size_t rows : {30, 300}) {
    const Matrix matrix = randomMatrix(random, rows, 20);
    Context cancelled;
    cancelled.cancel();
    expectCode(panelSvd(panelsOf(matrix, 5), 3, 0, 1, cancelled), Code::cancelled);
    const RowPanels broken{rows, 20, [](const auto&) -> Status {
                             return Error{Code::outOfMemory, {}, {}, {}, {}};
                           }};
    expectCode(panelSvd(broken, 3, 0, 1, Context()), Code::outOfMemory);
  }
}

}  // namespace
}  // namespace lego

// How adapters stand to each other, against the dense computation.

#include <gtest/gtest.h>

#include <cmath>

#include "core/dense.h"
#include "core/samples.h"
#include "merge/relation.h"

namespace lego::testing {
namespace {

/// Random units of adapters of these ranks, whose entries are about `size`, and the deltas that they make.
struct DensePool {
  UnitPool pool;
  std::vector<Dense> deltas;

  DensePool(Random& random, const std::vector<uint32_t>& ranks, size_t in, size_t out, double size) {
    size_t units = 0;
    for (const uint32_t rank : ranks) units += rank;
    const auto fill = [&](size_t rows, size_t columns) {
      Dense matrix(rows, columns);
      for (auto& value : matrix.reshaped()) value = size * (random.uniform() - 0.5);
      return matrix;
    };
    const Dense a = fill(units, in), b = fill(units, out);
    const auto gram = [](const Dense& rows) {
      const Dense product = rows * rows.transpose();
      Matrix result(static_cast<size_t>(product.rows()), static_cast<size_t>(product.cols()));
      for (size_t u = 0; u < result.rows(); ++u) {
        for (size_t v = 0; v < result.columns(); ++v)
          result(u, v) = product(static_cast<Eigen::Index>(u), static_cast<Eigen::Index>(v));
      }
      return result;
    };
    pool.in = in;
    pool.out = out;
    pool.gramA = gram(a);
    pool.gramB = gram(b);
    pool.ranks = ranks;
    pool.weights.assign(ranks.size(), 1.0);
    Eigen::Index first = 0;
    for (uint32_t i = 0; i < ranks.size(); ++i) {
      const auto rank = static_cast<Eigen::Index>(ranks[i]);
      pool.owner.insert(pool.owner.end(), ranks[i], i);
      deltas.push_back(b.middleRows(first, rank).transpose() * a.middleRows(first, rank));
      first += rank;
    }
  }
};

double cosine(const Dense& x, const Dense& y) { return x.cwiseProduct(y).sum() / (x.norm() * y.norm()); }

TEST(Relation, EqualsTheDenseComputation) {
  for (uint64_t seed = 0; seed < kSamples; ++seed) {
    Random random(seed);
    // Fourth powers of the large and the small ones would leave the range of binary64.
    const double size = std::pow(10.0, static_cast<double>(random.below(3)) * 38 - 38);
    const DensePool dense(random, {1 + static_cast<uint32_t>(random.below(9)), 4, 1}, 1 + random.below(60),
                          1 + random.below(60), size);
    const Relation relation = relate(dense.pool);
    const SharedSpaces shared = sharedSpaces(dense.pool);
    for (size_t i = 0; i < 3; ++i) {
      const Dense x = dense.deltas[i] / dense.deltas[i].norm();
      EXPECT_NEAR(relation.norm[i] / dense.deltas[i].norm(), 1, 1e-9);
      for (size_t j = 0; j < 3; ++j) {
        const Dense y = dense.deltas[j] / dense.deltas[j].norm();
        EXPECT_NEAR(relation.cosine(i, j), cosine(x, y), 1e-9);
        EXPECT_NEAR(shared.input(i, j), cosine(x.transpose() * x, y.transpose() * y), 1e-9);
        EXPECT_NEAR(shared.output(i, j), cosine(x * x.transpose(), y * y.transpose()), 1e-9);
      }
    }
  }
}

TEST(Relation, OfAZeroAdapterIsNothing) {
  Random random(1);
  DensePool dense(random, {2, 2}, 10, 10, 1);
  for (size_t u = 0; u < 4; ++u) {
    for (size_t v = 0; v < 4; ++v) {
      if (u >= 2 || v >= 2) dense.pool.gramB(u, v) = 0;
    }
  }
  const Relation relation = relate(dense.pool);
  const SharedSpaces shared = sharedSpaces(dense.pool);
  EXPECT_EQ(relation.norm[1], 0);
  EXPECT_EQ(relation.cosine(0, 1), 0);
  EXPECT_EQ(relation.cosine(1, 1), 1);
  EXPECT_EQ(relation.conflict, 0);
  EXPECT_EQ(shared.input(0, 1), 0);
  EXPECT_EQ(shared.output(1, 0), 0);
}

TEST(Conflict, IsNothingAmongCopiesAndAllAmongOpposites) {
  const Sample sample(5);
  Recipe recipe = recipeFor("cat");
  const auto conflict = [&](std::vector<double> weights) {
    recipe.weights = std::move(weights);
    return must(mergeAll({makeAdapter("a", {sample.pair}, DType::F32, 1),
                          makeAdapter("b", {sample.pair}, DType::F32, 1)},
                         recipe))
        .reports[0]
        .quality.relation.conflict;
  };
  Random random(8);
  const Pair single = randomPair(random, 1, 30, 20);
  const auto pairConflict = [&](double weight) {
    recipe.weights = {1, weight};
    return must(mergeAll(
                    {makeAdapter("a", {single}, DType::F32, 1), makeAdapter("b", {single}, DType::F32, 1)},
                    recipe))
        .reports[0]
        .quality.relation.conflict;
  };
  EXPECT_EQ(pairConflict(1), 0);
  EXPECT_EQ(pairConflict(-1), 1);
  EXPECT_NEAR(conflict({1, 1}) + conflict({1, -1}), 1, 1e-9);
}

}  // namespace
}  // namespace lego::testing

// k-means in Gram space against k-means on the points themselves.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/random.h"
#include "merge/kmeans.h"

namespace lego {
namespace {

struct Cloud {
  size_t count, dimension;
  std::vector<std::vector<double>> points;
  std::vector<double> weights;
  Matrix gram;

  Cloud(Random& random, size_t n, size_t d, bool weighted)
      : count(n), dimension(d), points(n, std::vector<double>(d)), gram(n, n) {
    for (auto& point : points) {
      for (double& x : point) x = random.uniform() - 0.5;
    }
    for (size_t u = 0; u < n; ++u) weights.push_back(weighted ? 0.1 + random.uniform() : 1.0);
    computeGram();
  }
  void computeGram() {
    for (size_t u = 0; u < count; ++u) {
      for (size_t v = 0; v < count; ++v)
        gram(u, v) = std::inner_product(points[u].begin(), points[u].end(), points[v].begin(), 0.0);
    }
  }
  Points view(bool signless = false) const { return {gram, weights, signless}; }

  /// Inertia from the points, with centroids computed as means.
  double inertia(const Clustering& clustering, uint32_t k) const {
    std::vector<std::vector<double>> centroid(k, std::vector<double>(dimension));
    std::vector<double> weight(k);
    for (size_t u = 0; u < count; ++u) {
      weight[clustering.label[u]] += weights[u];
      for (size_t i = 0; i < dimension; ++i)
        centroid[clustering.label[u]][i] += weights[u] * clustering.sign[u] * points[u][i];
    }
    double total = 0;
    for (size_t u = 0; u < count; ++u) {
      const uint32_t q = clustering.label[u];
      for (size_t i = 0; i < dimension; ++i)
        total += weights[u] * std::pow(clustering.sign[u] * points[u][i] - centroid[q][i] / weight[q], 2);
    }
    return total;
  }
};

std::vector<uint32_t> firstUnits(uint32_t k) {
  std::vector<uint32_t> start(k);
  std::iota(start.begin(), start.end(), 0u);
  return start;
}

TEST(Lloyd, InertiaIsThatOfThePoints) {
  Random random(1);
  for (int round = 0; round < 30; ++round) {
    const Cloud cloud(random, 5 + random.below(40), 1 + random.below(12), round % 2);
    const auto k = static_cast<uint32_t>(1 + random.below(cloud.count));
    for (const bool signless : {false, true}) {
      const Clustering clustering = lloyd(cloud.view(signless), firstUnits(k), 300);
      EXPECT_NEAR(clustering.inertia, cloud.inertia(clustering, k), 1e-12);
      EXPECT_EQ(std::set<uint32_t>(clustering.label.begin(), clustering.label.end()).size(), k);
      EXPECT_NEAR(inertiaOf(cloud.view(signless), clustering.label, clustering.sign, k), clustering.inertia,
                  1e-12);
    }
  }
}

TEST(Lloyd, StopsAtAFixedPointOrAtTheLimit) {
  Random random(2);
  const Cloud cloud(random, 60, 4, false);
  const Clustering clustering = lloyd(cloud.view(), firstUnits(6), 300);
  EXPECT_GT(clustering.iterations, 1u);
  EXPECT_LT(clustering.iterations, 300u);
  EXPECT_EQ(lloyd(cloud.view(), firstUnits(6), 1).iterations, 1u);
}

TEST(Lloyd, RepairsEmptyClustersByTheFarthestUnit) {
  Random random(3);
  Cloud cloud(random, 6, 3, false);
  // Units 0, 1 and 2 are one point, so clusters 1 and 2 start empty.
  cloud.points[1] = cloud.points[2] = cloud.points[0];
  for (double& x : cloud.points[5]) x *= 10;
  cloud.computeGram();
  const Clustering clustering = lloyd(cloud.view(), firstUnits(3), 1);
  EXPECT_EQ(clustering.label[5], 1u);
  EXPECT_EQ(std::set<uint32_t>(clustering.label.begin(), clustering.label.end()).size(), 3u);
}

TEST(Search, IsAtLeastAsGoodAsLloydFromManyStarts) {
  Random random(4);
  const Context context;
  for (int round = 0; round < 20; ++round) {
    const Cloud cloud(random, 20 + random.below(60), 2 + random.below(8), round % 2);
    const auto k = static_cast<uint32_t>(2 + random.below(8));
    for (const bool signless : {false, true}) {
      double best = INFINITY;
      for (int start = 0; start < 20; ++start) {
        std::set<uint32_t> units;
        while (units.size() < k) units.insert(static_cast<uint32_t>(random.below(cloud.count)));
        best = std::min(
            best,
            lloyd(cloud.view(signless), std::vector<uint32_t>(units.begin(), units.end()), 300).inertia);
      }
      const Clustering found = cluster(cloud.view(signless), k, {10, 0}, context);
      EXPECT_NEAR(found.inertia, cloud.inertia(found, k), 1e-12);
      EXPECT_LE(found.inertia, best * 1.001);
    }
  }
}

// Every result of the search is a fixed point of Lloyd's algorithm: no unit is nearer to another centroid.
TEST(Search, EveryUnitIsInItsNearestCluster) {
  Random random(5);
  const Context context;
  for (int round = 0; round < 20; ++round) {
    const Cloud cloud(random, 50, 5, round % 2);
    const Clustering found = cluster(cloud.view(), 7, {2, static_cast<uint64_t>(round)}, context);
    std::vector<std::vector<double>> centroid(7, std::vector<double>(cloud.dimension));
    std::vector<double> weight(7);
    for (size_t u = 0; u < cloud.count; ++u) {
      weight[found.label[u]] += cloud.weights[u];
      for (size_t i = 0; i < cloud.dimension; ++i)
        centroid[found.label[u]][i] += cloud.weights[u] * cloud.points[u][i];
    }
    const auto distance = [&](size_t u, uint32_t q) {
      double d = 0;
      for (size_t i = 0; i < cloud.dimension; ++i)
        d += std::pow(cloud.points[u][i] - centroid[q][i] / weight[q], 2);
      return d;
    };
    for (size_t u = 0; u < cloud.count; ++u) {
      for (uint32_t q = 0; q < 7; ++q) EXPECT_LE(distance(u, found.label[u]), distance(u, q) + 1e-12);
    }
  }
}

TEST(Search, SameSeedSameResultAndCanonicalNumbers) {
  Random random(6);
  const Context context;
  const Cloud cloud(random, 40, 6, true);
  const Clustering one = cluster(cloud.view(), 9, {3, 5}, context),
                   two = cluster(cloud.view(), 9, {3, 5}, context);
  EXPECT_EQ(one.label, two.label);
  EXPECT_EQ(one.inertia, two.inertia);
  uint32_t next = 0;
  for (const uint32_t label : one.label) {
    EXPECT_LE(label, next);
    next = std::max(next, label + 1);
  }
}

TEST(Search, EveryKFromOneToAll) {
  Random random(7);
  const Context context;
  for (const bool copies : {false, true}) {
    Cloud cloud(random, 12, 3, false);
    if (copies) {
      for (size_t u = 1; u < 12; ++u) cloud.points[u] = cloud.points[0];
      cloud.computeGram();
    }
    for (const bool signless : {false, true}) {
      for (uint32_t k = 1; k <= 12; ++k) {
        const Clustering found = cluster(cloud.view(signless), k, {1, k}, context);
        EXPECT_EQ(std::set<uint32_t>(found.label.begin(), found.label.end()).size(), k);
        if (k == 12 || copies) {
          EXPECT_NEAR(found.inertia, 0, 1e-12);
        }
      }
    }
  }
}

TEST(Search, StopsWhenCancelled) {
  Random random(8);
  const Cloud cloud(random, 300, 3, false);
  Context context;
  context.cancel();
  const Clustering found = cluster(cloud.view(), 20, {10'000, 0}, context);
  EXPECT_EQ(std::set<uint32_t>(found.label.begin(), found.label.end()).size(), 20u);
}

/// Products of units near binary32's largest number overflow in its Gram matrix, and then no gain is a
/// number.
TEST(Search, LabelsAreClustersWhereProductsOverflow) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const size_t large : {1, 3, 5}) {
    for (const bool signless : {false, true}) {
      Random random(9);
      Cloud cloud(random, 5, 3, false);
      for (size_t u = 0; u < large; ++u) {
        for (size_t v = 0; v < 5; ++v) cloud.gram(u, v) = cloud.gram(v, u) = u == v ? infinity : -infinity;
      }
      for (uint64_t seed = 0; seed < 50; ++seed) {
        for (const uint32_t label : cluster(cloud.view(signless), 4, {2, seed}, Context()).label)
          ASSERT_LT(label, 4u);
      }
    }
  }
}

/// What Ward's agglomeration explains, against merging the cheapest pair by hand.
TEST(Ward, GainsAreThoseOfTheCheapestMerges) {
  Random random(77);
  for (const bool weighted : {false, true}) {
    const Cloud cloud(random, 12, 4, weighted);
    const auto gains = wardGains(cloud.view());
    ASSERT_EQ(gains.size(), 12u);
    std::vector<std::vector<double>> centroid = cloud.points;
    std::vector<double> weight = cloud.weights, costs;
    while (centroid.size() > 1) {
      size_t p = 0, q = 1;
      double least = INFINITY;
      for (size_t i = 0; i < centroid.size(); ++i) {
        for (size_t j = i + 1; j < centroid.size(); ++j) {
          double distance = 0;
          for (size_t d = 0; d < 4; ++d) distance += std::pow(centroid[i][d] - centroid[j][d], 2);
          const double cost = distance * weight[i] * weight[j] / (weight[i] + weight[j]);
          if (cost < least) least = cost, p = i, q = j;
        }
      }
      costs.push_back(least);
      for (size_t d = 0; d < 4; ++d)
        centroid[p][d] = (weight[p] * centroid[p][d] + weight[q] * centroid[q][d]) / (weight[p] + weight[q]);
      weight[p] += weight[q];
      centroid.erase(centroid.begin() + static_cast<std::ptrdiff_t>(q));
      weight.erase(weight.begin() + static_cast<std::ptrdiff_t>(q));
    }
    double total = 0, mean = 0;
    for (size_t u = 0; u < 12; ++u) total += cloud.weights[u] * cloud.gram(u, u);
    for (const double x : centroid[0]) mean += weight[0] * x * x;
    EXPECT_NEAR(gains[0], mean, 1e-12);
    for (size_t i = 1; i < 12; ++i) EXPECT_NEAR(gains[i], costs[11 - i], 1e-12) << i;
    EXPECT_NEAR(std::accumulate(gains.begin(), gains.end(), 0.0), total, 1e-12);
  }
}

TEST(Ward, CopiesAddNothing) {
  Random random(78);
  Cloud cloud(random, 10, 6, false);
  for (size_t u = 5; u < 10; ++u) {
    cloud.points[u] = cloud.points[u - 5];
    for (double& x : cloud.points[u]) x = -x;
  }
  cloud.computeGram();
  const auto gains = wardGains(cloud.view(true));
  for (size_t q = 0; q < 10; ++q) EXPECT_EQ(gains[q] > 1e-12, q < 5) << q;
  EXPECT_TRUE(wardGains(Points{Matrix(), {}, false}).empty());
}

}  // namespace
}  // namespace lego

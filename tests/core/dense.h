// Deltas as dense matrices, for tests that compute what the core does by its definition.
#pragma once

#include <Eigen/Core>

#include "core/fixtures.h"

namespace lego::testing {

using Dense = Eigen::MatrixXd;  // out x in

/// From row-major values.
inline Dense denseOf(const std::vector<double>& values, uint64_t out, uint64_t in) {
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const Rows>(values.data(), static_cast<Eigen::Index>(out), static_cast<Eigen::Index>(in));
}

/// B A of a pair.
inline Dense denseOf(const Pair& pair) { return denseOf(delta(pair, 1), pair.out, pair.in); }

}  // namespace lego::testing

// Small dense matrices of doubles: what methods compute with. Never model-sized.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace lego {

/// Row-major, zero-initialised.
class Matrix {
 public:
  Matrix() = default;
  Matrix(size_t rows, size_t columns) : rows_(rows), columns_(columns), values_(rows * columns) {}

  size_t rows() const { return rows_; }
  size_t columns() const { return columns_; }
  double& operator()(size_t row, size_t column) { return values_[row * columns_ + column]; }
  double operator()(size_t row, size_t column) const { return values_[row * columns_ + column]; }
  std::span<double> row(size_t index) { return {values_.data() + index * columns_, columns_}; }
  std::span<const double> row(size_t index) const { return {values_.data() + index * columns_, columns_}; }
  double* data() { return values_.data(); }
  const double* data() const { return values_.data(); }

 private:
  size_t rows_ = 0, columns_ = 0;
  std::vector<double> values_;
};

}  // namespace lego

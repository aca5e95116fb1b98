#include "linalg/factorise.h"

#include <Eigen/Eigenvalues>

namespace lego {
namespace {

using Dense = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

Result<SymmetricEigen> symmetricEigen(const Matrix& symmetric) {
  if (symmetric.rows() == 0) return SymmetricEigen{};
  const auto n = static_cast<Eigen::Index>(symmetric.rows());
  const Eigen::SelfAdjointEigenSolver<Dense> solver(Eigen::Map<const Dense>(symmetric.data(), n, n));
  if (solver.info() != Eigen::Success)
    return Error{Code::noConvergence, "the eigenvalues of a Gram matrix did not converge", {}, {}, {}};
  SymmetricEigen result{{solver.eigenvalues().data(), solver.eigenvalues().data() + n},
                        Matrix(symmetric.rows(), symmetric.rows())};
  Eigen::Map<Dense>(result.vectors.data(), n, n) = solver.eigenvectors();
  return result;
}

}  // namespace lego

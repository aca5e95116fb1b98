#include "linalg/assemble.h"

namespace lego {

void assembleRef(const float* units, size_t stride, size_t length,
                 std::span<const std::span<const Term>> terms, float* target) {
  for (size_t q = 0; q < terms.size(); ++q) {
    for (size_t c = 0; c < length; ++c) {
      float sum = 0;
      bool first = true;
      for (const Term& term : terms[q]) {
        const float product = term.coefficient * units[term.unit * stride + c];
        // Starting with the product itself, not with 0 + product, keeps the sign of a lone -0.
        sum = first ? product : sum + product;
        first = false;
      }
      target[q * stride + c] = sum;
    }
  }
}

}  // namespace lego

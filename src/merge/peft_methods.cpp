#include "merge/peft_methods.h"

#include <algorithm>
#include <cmath>

#include "merge/entry_stream.h"

namespace lego {
namespace {

/// The stored rows of one half, `rank` for each adapter.
struct Half {
  const float* rows;
  size_t stride, length;
};

Status joinHalf(const UnitPool& pool, const UnitRows& units, const Half& half, const Thinning& thinning,
                const Joining& joining, const std::vector<double>& weights, uint64_t seed,
                const Context& context, float* target) {
  const auto first = pool.firstUnits();
  TaskMatrices tasks{pool.adapters(), pool.ranks[0], half.length, half.stride,
                     [&](size_t task, size_t row, size_t number, float* out) {
                       for (size_t r = 0; r < number; ++r) {
                         const size_t unit = units.row[first[task] + row + r];
                         std::copy_n(half.rows + unit * half.stride, half.length, out + r * half.stride);
                       }
                     }};
  auto stream = EntryStream::open(std::move(tasks), thinning, joining, weights, seed, context);
  if (!stream) return stream.error();
  return stream->pass(
      [&](size_t row, const Matrix& panel) {
        for (size_t r = 0; r < panel.rows(); ++r) {
          for (size_t c = 0; c < half.length; ++c)
            target[(row + r) * half.stride + c] = static_cast<float>(panel(r, c));
        }
      },
      context);
}

Status merge(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
             const Context& context, const MergedRows& merged, const Thinning& thinning,
             const Joining& joining) {
  std::vector<double> weightsA, weightsB;
  const auto first = pool.firstUnits();
  for (size_t i = 0; i < pool.adapters(); ++i) {
    const double scale = units.foldA[first[i]] * units.foldB[first[i]], value = pool.weights[i] * scale;
    weightsB.push_back(std::sqrt(std::abs(value)));
    weightsA.push_back(std::copysign(weightsB.back(), value));
  }
  if (Status done = joinHalf(pool, units, {units.a, units.strideA, pool.in}, thinning, joining, weightsA,
                             request.seed, context, merged.a);
      !done)
    return done;
  // Another mask for B.
  return joinHalf(pool, units, {units.b, units.strideB, pool.out}, thinning, joining, weightsB, ~request.seed,
                  context, merged.b);
}

Thinning thinning(Thinning::Kind kind, const MethodRequest& request) {
  return {kind, request.options.number("density"), 0, 0};
}

Joining election(const MethodRequest& request) {
  return {Joining::Rule::Peft, request.options.choice("sign") == "frequency"};
}

}  // namespace

Status mergePeftLinear(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                       const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, {}, {});
}

Status mergePeftMagnitudePrune(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                               const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, thinning(Thinning::Kind::Magnitude, request), {});
}

Status mergePeftTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                     const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, thinning(Thinning::Kind::Magnitude, request),
               election(request));
}

Status mergePeftDareLinear(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                           const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, thinning(Thinning::Kind::Random, request), {});
}

Status mergePeftDareTies(const UnitPool& pool, const UnitRows& units, const MethodRequest& request,
                         const Context& context, const MergedRows& merged) {
  return merge(pool, units, request, context, merged, thinning(Thinning::Kind::Random, request),
               election(request));
}

}  // namespace lego

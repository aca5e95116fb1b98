#include "tensor/expand.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/limits.h"
#include "tensor/convert.h"
#include "tensor/simd.h"
#include "tensor/unpack.h"

namespace lego {
namespace {

// A convolution over three axes has five dimensions.
constexpr size_t kMostDimensions = 5;

// Columns of one block of sums: they stay in the first-level cache, and up to 64 rows of them in the second.
constexpr size_t kBlock = 1024;

constexpr uint32_t kOneBits = std::bit_cast<uint32_t>(1.0f);

Error fail(Code code, std::string detail, const TensorInfo& tensor) {
  return {code, std::move(detail), {}, tensor.name, {}};
}

Error wrongShape(const TensorInfo& tensor, const std::string& why) {
  return fail(Code::shapeMismatch, "has shape " + shapeText(tensor.shape) + ": " + why, tensor);
}

/// The product of two sides or axes, as a side. All of them were checked: the product fits 64 bits.
static_assert(limits::kFactorSide <= uint64_t{1} << 32);
Result<uint64_t> side(uint64_t a, uint64_t b, const TensorInfo& tensor) {
  if (a * b <= limits::kFactorSide) return a * b;
  return wrongShape(tensor, "a side of the delta would exceed " + std::to_string(limits::kFactorSide));
}

/// Axes after the first two.
std::span<const uint64_t> kernelOf(const TensorInfo& tensor) { return std::span(tensor.shape).subspan(2); }

Result<uint64_t> kernelSizeOf(const TensorInfo& tensor) {
  uint64_t size = 1;
  for (const uint64_t axis : kernelOf(tensor)) {
    const auto product = side(size, axis, tensor);
    if (!product) return product;
    size = *product;
  }
  return size;
}

/// What every tensor of a factor must be. `ranks` is how many of its first two axes are ranks, beginning with
/// `firstRank`.
Status checkTensor(const TensorInfo& tensor, size_t firstRank, size_t ranks) {
  if (!isFactorDtype(tensor.dtype)) {
    return fail(Code::unsupportedDtype,
                "the factor is stored as " + std::string(nameOf(tensor.dtype)) +
                    "; F64, F32, F16, BF16 and F8 can be read",
                tensor);
  }
  if (tensor.shape.size() < 2) return wrongShape(tensor, "a factor needs two dimensions");
  if (tensor.shape.size() > kMostDimensions)
    return wrongShape(tensor, "a convolution has at most five dimensions");
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const uint64_t axis = tensor.shape[i];
    if (axis == 0) {
      if (i - firstRank < ranks) return fail(Code::rankZero, "the factor has rank zero", tensor);
      return wrongShape(tensor, "a side is zero");
    }
    if (axis > limits::kFactorSide)
      return wrongShape(tensor, "a side exceeds " + std::to_string(limits::kFactorSide));
  }
  return {};
}

Status checkNoKernel(const TensorInfo& tensor) {
  if (std::ranges::all_of(kernelOf(tensor), [](uint64_t axis) { return axis == 1; })) return {};
  return wrongShape(tensor, "all sides after the first two must be 1");
}

/// A tensor that is there, for errors about others; null if there is none.
const TensorInfo* anyOf(const FactorTensors& tensors) {
  for (const TensorInfo* tensor : {tensors.full, tensors.up, tensors.down, tensors.mid}) {
    if (tensor) return tensor;
  }
  return nullptr;
}

/// The tensor whose second axis is the factor's inputs.
const TensorInfo& inputTensor(const FactorTensors& tensors) {
  return tensors.full ? *tensors.full : *tensors.down;
}
/// The tensor that has the kernel axes, if they are not flattened.
const TensorInfo& kernelTensor(const FactorTensors& tensors) {
  return tensors.mid ? *tensors.mid : inputTensor(tensors);
}
const TensorInfo& outputTensor(const FactorTensors& tensors) {
  return tensors.full ? *tensors.full : *tensors.up;
}

Status checkPresence(const FactorTensors& tensors) {
  const bool whole = tensors.full && !tensors.up && !tensors.down && !tensors.mid;
  if (whole || (!tensors.full && tensors.up && tensors.down)) return {};
  const TensorInfo& present = *anyOf(tensors);
  return fail(Code::unpairedFactor,
              tensors.full ? "the factor is there twice, as a whole and in parts"
                           : std::string("the factor has no ") + (tensors.up ? "'down'" : "'up'") +
                                 " part to go with it",
              present);
}

Status checkRanks(const FactorTensors& tensors, uint64_t upRank, uint64_t downRank) {
  const auto differ = [](const TensorInfo& tensor, uint64_t rank, const TensorInfo& other,
                         uint64_t expected) {
    return fail(Code::rankMismatch,
                "has rank " + std::to_string(rank) + ", but " + shownName(other.name) + " has " +
                    std::to_string(expected),
                tensor);
  };
  if (!tensors.mid)
    return upRank == downRank ? Status() : differ(*tensors.up, upRank, *tensors.down, downRank);
  const auto& mid = *tensors.mid;
  if (mid.shape[0] != upRank) return differ(mid, mid.shape[0], *tensors.up, upRank);
  if (mid.shape[1] != downRank) return differ(mid, mid.shape[1], *tensors.down, downRank);
  return {};
}

/// `units` is left to the caller.
Result<FactorLayout> readFactor(const FactorTensors& tensors, Composition composition) {
  if (Status present = checkPresence(tensors); !present) return present.error();
  FactorLayout layout;
  layout.isFull = tensors.full != nullptr;
  layout.hasMid = tensors.mid != nullptr;
  if (layout.isFull) {
    if (Status fits = checkTensor(*tensors.full, 0, 0); !fits) return fits.error();
    layout.full = tensors.full->dtype;
    layout.out = tensors.full->shape[0];
  } else {
    // LyCORIS stores lora_up as the weight of a convolution in any case.
    layout.upIsTransposed = layout.hasMid && composition != Composition::Single;
    const size_t rankAxis = layout.upIsTransposed ? 0 : 1;
    if (Status fits = checkTensor(*tensors.up, rankAxis, 1); !fits) return fits.error();
    if (Status fits = checkNoKernel(*tensors.up); !fits) return fits.error();
    if (Status fits = checkTensor(*tensors.down, 0, 1); !fits) return fits.error();
    layout.up = tensors.up->dtype;
    layout.down = tensors.down->dtype;
    layout.rank = tensors.up->shape[rankAxis];
    layout.downRank = tensors.down->shape[0];
    layout.out = tensors.up->shape[1 - rankAxis];
    if (layout.hasMid) {
      if (Status fits = checkTensor(*tensors.mid, 0, 2); !fits) return fits.error();
      if (Status fits = checkNoKernel(*tensors.down); !fits) return fits.error();
      layout.mid = tensors.mid->dtype;
    }
    if (Status fits = checkRanks(tensors, layout.rank, layout.downRank); !fits) return fits.error();
  }
  const TensorInfo& withKernel = kernelTensor(tensors);
  const auto kernelSize = kernelSizeOf(withKernel);
  if (!kernelSize) return kernelSize.error();
  layout.channels = inputTensor(tensors).shape[1];
  layout.kernelSize = *kernelSize;
  if (const auto in = side(layout.channels, layout.kernelSize, withKernel); !in) return in.error();
  return layout;
}

std::vector<uint64_t> kernelAxes(const FactorTensors& tensors) {
  const auto kernel = kernelOf(kernelTensor(tensors));
  return {kernel.begin(), kernel.end()};
}

uint64_t shorterSide(const FactorLayout& layout) { return std::min(layout.out, layout.in()); }

Status composeHadamard(Expansion& expansion, const FactorTensors& firstTensors,
                       const FactorTensors& secondTensors) {
  const FactorLayout &first = expansion.first, &second = expansion.second;
  for (const FactorTensors* tensors : {&firstTensors, &secondTensors}) {
    if (tensors->full)
      return fail(Code::unpairedFactor, "a factor of a Hadamard product must be a pair", *tensors->full);
  }
  if (first.hasMid != second.hasMid) {
    return fail(Code::unpairedFactor, "the other factor of the Hadamard product has no core tensor",
                first.hasMid ? *firstTensors.mid : *secondTensors.mid);
  }
  const auto differs = [](const TensorInfo& tensor, const TensorInfo& other) {
    return wrongShape(tensor, shownName(other.name) + " has shape " + shapeText(other.shape));
  };
  if (second.out != first.out) return differs(*secondTensors.up, *firstTensors.up);
  auto kernel = kernelAxes(firstTensors), otherKernel = kernelAxes(secondTensors);
  const bool bothKernels = !kernel.empty() && !otherKernel.empty();
  if (bothKernels && kernel != otherKernel)
    return differs(kernelTensor(secondTensors), kernelTensor(firstTensors));
  if (second.in() != first.in()) return differs(*secondTensors.down, *firstTensors.down);
  expansion.out = first.out;
  expansion.in = first.in();
  expansion.kernel = kernel.empty() ? std::move(otherKernel) : std::move(kernel);
  expansion.alphaRank = first.downRank;
  return {};
}

Status composeKronecker(Expansion& expansion, const FactorTensors& firstTensors,
                        const FactorTensors& secondTensors) {
  const FactorLayout &first = expansion.first, &second = expansion.second;
  if (first.kernelSize != 1) {
    return wrongShape(kernelTensor(firstTensors),
                      "the first factor of a Kronecker product must be a matrix, without a kernel");
  }
  const auto out = side(first.out, second.out, outputTensor(secondTensors));
  if (!out) return out.error();
  const auto in = side(first.in(), second.in(), inputTensor(secondTensors));
  if (!in) return in.error();
  expansion.out = *out;
  expansion.in = *in;
  expansion.kernel = kernelAxes(secondTensors);
  expansion.alphaRank = first.isFull ? second.downRank : first.downRank;
  expansion.alphaRankDisputed = !first.isFull && !second.isFull && first.downRank != second.downRank;
  return {};
}

/// Decides how many units each factor is made into, and the delta.
uint64_t countUnits(Expansion& expansion) {
  FactorLayout &first = expansion.first, &second = expansion.second;
  const auto fewest = [](const FactorLayout& layout) {
    return layout.isFull ? shorterSide(layout) : std::min(layout.rank, shorterSide(layout));
  };
  switch (expansion.composition) {
    case Composition::Single: return first.units = first.isFull ? shorterSide(first) : first.rank;
    case Composition::Hadamard: {
      first.units = first.rank;
      second.units = second.rank;
      const uint64_t shorter = std::min(expansion.out, expansion.in);
      // Sides are below 2^28.
      expansion.isDense = first.units * second.units > shorter;
      return expansion.isDense ? shorter : first.units * second.units;
    }
    case Composition::Kronecker:
      first.units = fewest(first);
      second.units = fewest(second);
      return first.units * second.units;
  }
  return 0;
}

uint64_t doublesFor(uint64_t floats) { return (floats + 1) / 2; }

// What makeUnits() and the functions below it take from the scratch memory. Sides and ranks are below 2^28,
// sums of their products below 2^63.
uint64_t tuckerScratch(const FactorLayout& layout) {
  return layout.hasMid
             ? doublesFor(layout.downRank * layout.channels) + doublesFor(layout.downRank * layout.kernelSize)
             : 0;
}
uint64_t rowsScratch(const FactorLayout& layout, uint64_t units) {
  return doublesFor(units * layout.in()) + doublesFor(units * layout.out);
}
uint64_t factorScratch(const FactorLayout& layout) {
  return tuckerScratch(layout) + (layout.isMultiplied() ? rowsScratch(layout, layout.rank) : 0);
}

uint64_t scratchFor(const Expansion& expansion) {
  const uint64_t first = factorScratch(expansion.first);
  if (expansion.composition == Composition::Single) return first;
  return first + rowsScratch(expansion.first, expansion.first.units) + factorScratch(expansion.second) +
         rowsScratch(expansion.second, expansion.second.units);
}

}  // namespace

Result<Expansion> planExpansion(Composition composition, const FactorTensors& first,
                                const FactorTensors& second) {
  const bool two = composition != Composition::Single;
  const TensorInfo* present = anyOf(first) ? anyOf(first) : anyOf(second);
  if (!present) return Error{Code::unpairedFactor, "the module has no factors", {}, {}, {}};
  if (!anyOf(first) || (two && !anyOf(second)))
    return fail(Code::unpairedFactor, "the module lacks its other factor", *present);

  Expansion expansion;
  expansion.composition = composition;
  const auto layout = readFactor(first, composition);
  if (!layout) return layout.error();
  expansion.first = *layout;
  if (two) {
    const auto other = readFactor(second, composition);
    if (!other) return other.error();
    expansion.second = *other;
  }
  switch (composition) {
    case Composition::Single:
      expansion.out = layout->out;
      expansion.in = layout->in();
      expansion.kernel = kernelAxes(first);
      expansion.alphaRank = layout->downRank;
      expansion.alphaRankDisputed = layout->rank != layout->downRank;
      break;
    case Composition::Hadamard:
      if (Status fits = composeHadamard(expansion, first, second); !fits) return fits.error();
      break;
    case Composition::Kronecker:
      if (Status fits = composeKronecker(expansion, first, second); !fits) return fits.error();
      break;
  }
  const uint64_t units = countUnits(expansion);
  if (units > limits::kPooledUnits) {
    return fail(Code::rankAboveUnits,
                "the module has " + std::to_string(units) + " units, of which at most " +
                    std::to_string(limits::kPooledUnits) +
                    " can be merged; truncate it to a lower rank first",
                *present);
  }
  expansion.units = static_cast<uint32_t>(units);
  expansion.scratch = scratchFor(expansion);
  return expansion;
}

namespace {

/// Scratch memory, handed out piece by piece.
class Arena {
 public:
  explicit Arena(std::span<double> memory) : memory_(memory) {}

  /// Null if there is not enough, which only a mistake in scratchFor() can bring about.
  float* floats(uint64_t count) {
    const uint64_t doubles = doublesFor(count);
    if (doubles > memory_.size()) return nullptr;
    auto* piece = reinterpret_cast<float*>(memory_.data());
    memory_ = memory_.subspan(static_cast<size_t>(doubles));
    return piece;
  }

 private:
  std::span<double> memory_;
};

Error arenaTooSmall() {
  return {Code::internal, "the scratch memory of an expansion is too small", {}, {}, {}};
}

/// sums[i] = sum over r of coefficients[r * coefficientStride] * rows[r * stride + i], r ascending; at most
/// kBlock of them. Products of two binary32 are exact in double.
LEGO_KERNEL void sumRows(const float* coefficients, size_t coefficientStride, const float* rows,
                         size_t stride, size_t count, size_t length, double* sums) {
  std::fill_n(sums, length, 0.0);
  size_t r = 0;
  // Four at a time, one after the other: the sums are loaded and stored a quarter as often.
  for (; r + 4 <= count; r += 4) {
    const float* c = coefficients + r * coefficientStride;
    const double c0 = c[0], c1 = c[coefficientStride], c2 = c[2 * coefficientStride],
                 c3 = c[3 * coefficientStride];
    const float *x0 = rows + r * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    for (size_t i = 0; i < length; ++i) {
      double sum = sums[i] + c0 * static_cast<double>(x0[i]);
      sum += c1 * static_cast<double>(x1[i]);
      sum += c2 * static_cast<double>(x2[i]);
      sums[i] = sum + c3 * static_cast<double>(x3[i]);
    }
  }
  for (; r < count; ++r) {
    const double coefficient = coefficients[r * coefficientStride];
    const float* row = rows + r * stride;
    for (size_t i = 0; i < length; ++i) sums[i] += coefficient * static_cast<double>(row[i]);
  }
}

LEGO_KERNEL void multiplyRows(const float* x, const float* y, size_t length, float* target) {
  for (size_t i = 0; i < length; ++i) target[i] = x[i] * y[i];
}

LEGO_KERNEL void scaleRow(float factor, const float* row, size_t length, float* target) {
  for (size_t i = 0; i < length; ++i) target[i] = factor * row[i];
}

/// The rows that stand for one side of a delta.
struct Side {
  float* rows;
  size_t stride, length;
  std::span<uint32_t> magnitude;
};

/// A factor's units between steps: rows without gaps. Their magnitudes are written, but nobody asks for them.
struct FactorUnits {
  float* a = nullptr;
  float* b = nullptr;
  size_t in = 0, out = 0;
  std::vector<uint32_t> magnitude;

  Side sideA() { return {a, in, in, magnitude}; }
  Side sideB() { return {b, out, out, magnitude}; }
};

void fillUnitVectors(const Side& side, size_t units) {
  for (size_t u = 0; u < units; ++u) {
    float* row = side.rows + u * side.stride;
    std::fill_n(row, side.length, 0.0f);
    row[u] = 1.0f;
    side.magnitude[u] = kOneBits;
  }
}

/// A matrix out x in of which one side becomes unit vectors, the shorter one: `rows` gets the other.
struct Turned {
  Side rows, unitVectors;
  bool rowsAreA;
};
Turned turn(const Side& a, const Side& b) {
  return b.length <= a.length ? Turned{a, b, true} : Turned{b, a, false};
}

void makeFullUnits(const FactorLayout& layout, const FactorData& data, const Side& a, const Side& b) {
  const auto [rows, unitVectors, rowsAreA] = turn(a, b);
  const MatrixView matrix{layout.full, data.full, b.length, a.length};
  if (rowsAreA) {
    unpackRows(matrix, rows.rows, rows.stride, rows.magnitude);
  } else {
    unpackColumns(matrix, rows.rows, rows.stride, rows.magnitude);
  }
  fillUnitVectors(unitVectors, unitVectors.length);
}

/// a[m] = sum over n of mid[m, n, ...] down[n, channel], laid out channel by channel.
Status makeTuckerRows(const FactorLayout& layout, const FactorData& data, const Side& a, Arena& arena) {
  const auto rank = static_cast<size_t>(layout.rank), inner = static_cast<size_t>(layout.downRank);
  const auto channels = static_cast<size_t>(layout.channels);
  const auto kernel = static_cast<size_t>(layout.kernelSize);
  float* down = arena.floats(layout.downRank * layout.channels);
  float* mid = arena.floats(layout.downRank * layout.kernelSize);
  if (!down || !mid) return arenaTooSmall();
  toFloat(layout.down, data.down, inner * channels, down);
  // Headers have whole blocks in every row.
  const auto midRowBytes = static_cast<size_t>(bytesOf(layout.mid, inner * kernel).value_or(0));
  double sums[kBlock];
  for (size_t m = 0; m < rank; ++m) {
    toFloat(layout.mid, data.mid + m * midRowBytes, inner * kernel, mid);
    float* row = a.rows + m * a.stride;
    for (size_t at = 0; at < channels; at += kBlock) {
      const size_t length = std::min(kBlock, channels - at);
      for (size_t k = 0; k < kernel; ++k) {
        sumRows(mid + k, kernel, down + at, channels, inner, length, sums);
        for (size_t i = 0; i < length; ++i) row[(at + i) * kernel + k] = static_cast<float>(sums[i]);
      }
    }
    a.magnitude[m] = maxMagnitudeBits(row, a.length);
  }
  return {};
}

/// As many units as the rank of `up`.
Status makeRankUnits(const FactorLayout& layout, const FactorData& data, const Side& a, const Side& b,
                     Arena& arena) {
  const auto rank = static_cast<size_t>(layout.rank);
  if (layout.upIsTransposed) {
    unpackRows({layout.up, data.up, rank, b.length}, b.rows, b.stride, b.magnitude);
  } else {
    unpackColumns({layout.up, data.up, b.length, rank}, b.rows, b.stride, b.magnitude);
  }
  if (layout.hasMid) return makeTuckerRows(layout, data, a, arena);
  unpackRows({layout.down, data.down, rank, a.length}, a.rows, a.stride, a.magnitude);
  return {};
}

Result<FactorUnits> takeRows(const FactorLayout& layout, uint64_t units, Arena& arena) {
  FactorUnits rows;
  rows.a = arena.floats(units * layout.in());
  rows.b = arena.floats(units * layout.out);
  if (!rows.a || !rows.b) return arenaTooSmall();
  rows.in = static_cast<size_t>(layout.in());
  rows.out = static_cast<size_t>(layout.out);
  rows.magnitude.resize(static_cast<size_t>(units));
  return rows;
}

/// A matrix given by units, as the sum of their outer products.
struct Product {
  Side a, b;
  size_t units;

  /// Entries of row `row` (or, where columns are to become rows, of that column), beginning with `at`.
  void sum(bool rowsAreA, size_t row, size_t at, size_t length, double* sums) const {
    const Side &along = rowsAreA ? a : b, &across = rowsAreA ? b : a;
    sumRows(across.rows + row, across.stride, along.rows + at, along.stride, units, length, sums);
  }
};

/// The units of a product of factors, or of two such products multiplied entry by entry.
void makeDenseUnits(const Product& first, const Product* second, const Side& a, const Side& b) {
  const auto [rows, unitVectors, rowsAreA] = turn(a, b);
  std::fill_n(rows.magnitude.begin(), unitVectors.length, 0u);
  double sums[kBlock], factors[kBlock];
  for (size_t at = 0; at < rows.length; at += kBlock) {
    const size_t length = std::min(kBlock, rows.length - at);
    for (size_t u = 0; u < unitVectors.length; ++u) {
      first.sum(rowsAreA, u, at, length, sums);
      if (second) {
        second->sum(rowsAreA, u, at, length, factors);
        for (size_t i = 0; i < length; ++i) sums[i] *= factors[i];
      }
      float* target = rows.rows + u * rows.stride + at;
      for (size_t i = 0; i < length; ++i) target[i] = static_cast<float>(sums[i]);
      rows.magnitude[u] = std::max(rows.magnitude[u], maxMagnitudeBits(target, length));
    }
  }
  fillUnitVectors(unitVectors, unitVectors.length);
}

Status makeUnits(const FactorLayout& layout, const FactorData& data, const Side& a, const Side& b,
                 Arena& arena) {
  if (layout.isFull) {
    makeFullUnits(layout, data, a, b);
    return {};
  }
  if (!layout.isMultiplied()) return makeRankUnits(layout, data, a, b, arena);
  auto units = takeRows(layout, layout.rank, arena);
  if (!units) return units.error();
  const Product product{units->sideA(), units->sideB(), static_cast<size_t>(layout.rank)};
  if (Status made = makeRankUnits(layout, data, product.a, product.b, arena); !made) return made;
  makeDenseUnits(product, nullptr, a, b);
  return {};
}

/// Rows (i, j) of one side from rows i of the first factor and j of the second: multiplied entry by entry.
void pairRows(const Side& first, size_t firstUnits, const Side& second, size_t secondUnits,
              const Side& target) {
  for (size_t i = 0; i < firstUnits; ++i) {
    for (size_t j = 0; j < secondUnits; ++j) {
      const size_t unit = i * secondUnits + j;
      float* row = target.rows + unit * target.stride;
      multiplyRows(first.rows + i * first.stride, second.rows + j * second.stride, target.length, row);
      target.magnitude[unit] = maxMagnitudeBits(row, target.length);
    }
  }
}

/// The same with Kronecker products of the rows.
void kroneckerRows(const Side& first, size_t firstUnits, const Side& second, size_t secondUnits,
                   const Side& target) {
  for (size_t i = 0; i < firstUnits; ++i) {
    for (size_t j = 0; j < secondUnits; ++j) {
      const size_t unit = i * secondUnits + j;
      float* row = target.rows + unit * target.stride;
      for (size_t c = 0; c < first.length; ++c)
        scaleRow(first.rows[i * first.stride + c], second.rows + j * second.stride, second.length,
                 row + c * second.length);
      target.magnitude[unit] = maxMagnitudeBits(row, target.length);
    }
  }
}

}  // namespace

Status expandUnits(const Expansion& expansion, const FactorData& first, const FactorData& second,
                   const UnitTarget& target, Buffer<double>& scratch) {
  if (Status got = scratch.reserve(expansion.scratch); !got) return got;
  Arena arena(scratch.span(static_cast<size_t>(expansion.scratch)));
  const Side a{target.a, target.strideA, static_cast<size_t>(expansion.in), target.magnitudeA};
  const Side b{target.b, target.strideB, static_cast<size_t>(expansion.out), target.magnitudeB};
  if (expansion.composition == Composition::Single) return makeUnits(expansion.first, first, a, b, arena);

  auto firstUnits = takeRows(expansion.first, expansion.first.units, arena);
  if (!firstUnits) return firstUnits.error();
  auto secondUnits = takeRows(expansion.second, expansion.second.units, arena);
  if (!secondUnits) return secondUnits.error();
  const Product x{firstUnits->sideA(), firstUnits->sideB(), static_cast<size_t>(expansion.first.units)};
  const Product y{secondUnits->sideA(), secondUnits->sideB(), static_cast<size_t>(expansion.second.units)};
  if (Status made = makeUnits(expansion.first, first, x.a, x.b, arena); !made) return made;
  if (Status made = makeUnits(expansion.second, second, y.a, y.b, arena); !made) return made;

  if (expansion.isDense) {
    makeDenseUnits(x, &y, a, b);
  } else {
    const auto join = expansion.composition == Composition::Hadamard ? pairRows : kroneckerRows;
    join(x.a, x.units, y.a, y.units, a);
    join(x.b, x.units, y.b, y.units, b);
  }
  return {};
}

}  // namespace lego

// The fast kernels against their references: any dtype, shape, stride, alignment and bytes give the same
// bits. Buffers are exactly as large as the kernels are told, so that AddressSanitizer sees one byte too
// many.

#include <bit>
#include <cmath>

#include "fuzz.h"
#include "job/kernels.h"
#include "tensor/convert.h"

namespace lego::fuzz {
namespace {

// What a NaN's other bits are depends on the order of operands, which compilers choose.
bool same(float x, float y) {
  return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y) || (std::isnan(x) && std::isnan(y));
}
bool same(double x, double y) {
  return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y) || (std::isnan(x) && std::isnan(y));
}
bool sameMagnitude(uint32_t x, uint32_t y) { return x == y || (x > 0x7F800000u && y > 0x7F800000u); }

template <typename T>
bool allSame(std::span<const T> x, std::span<const T> y) {
  return std::ranges::equal(x, y, [](T a, T b) { return same(a, b); });
}

/// Whether two arrays of stored elements, at any alignment, hold the same values.
bool sameStored(DType dtype, Bytes x, Bytes y) {
  if (std::ranges::equal(x, y)) return true;
  const size_t block = blockOf(dtype), bytes = *lego::bytesOf(dtype, block);
  std::vector<float> valuesX(block), valuesY(block);
  for (size_t at = 0; at < x.size(); at += bytes) {
    toFloatRef(dtype, x.data() + at, block, valuesX.data());
    toFloatRef(dtype, y.data() + at, block, valuesY.data());
    const bool equal = std::ranges::equal(x.subspan(at, bytes), y.subspan(at, bytes));
    const auto isNan = [](float value) { return std::isnan(value); };
    if (!equal && !(std::ranges::all_of(valuesX, isNan) && std::ranges::all_of(valuesY, isNan))) return false;
  }
  return true;
}

/// Small, or long enough for several tiles and panels in one direction.
struct Shape {
  size_t rows, columns;
};
Shape takeShape(Input& input) {
  switch (input.below(4)) {
    case 0: return {input.between(0, 9), input.below(2600)};
    case 1: return {input.below(2600), input.between(0, 9)};
    default: return {input.between(0, 40), input.between(0, 40)};
  }
}

/// Up to whole blocks of the dtype.
size_t wholeBlocks(DType dtype, size_t length) {
  return (length + blockOf(dtype) - 1) / blockOf(dtype) * blockOf(dtype);
}

std::vector<float> takeFloats(Input& input, size_t count) {
  const bool raw = input.flag();
  std::vector<float> values(count);
  const auto bytes = repeated(input.rest(), 4 * count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  if (raw) return values;
  // Of ordinary size, where sums are not infinite: the exponent keeps its lowest four bits.
  for (float& value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    value = std::bit_cast<float>((bits & 0x87FFFFFFu) + 0x38000000u);
  }
  return values;
}

void checkConversions(Input& input) {
  constexpr DType kReadable[] = {DType::F16,        DType::BF16,       DType::F32,
                                 DType::F64,        DType::F8E4M3,     DType::F8E5M2,
                                 DType::F8E4M3FNUZ, DType::F8E5M2FNUZ, DType::Q8_0};
  const DType dtype = input.oneOf(kReadable);
  auto [rows, columns] = takeShape(input);
  columns = wholeBlocks(dtype, columns);
  const size_t offset = input.below(8), gap = input.below(6), elements = rows * columns;
  const auto stored = repeated(input.rest(), offset + *lego::bytesOf(dtype, elements));
  const std::byte* source = stored.data() + offset;

  std::vector<float> fast(elements, -7.0f), reference = fast;
  toFloat(dtype, source, elements, fast.data());
  toFloatRef(dtype, source, elements, reference.data());
  require(allSame<float>(fast, reference), "toFloat");
  require(sameMagnitude(maxMagnitudeBits(reference.data(), elements),
                        maxMagnitudeBitsRef(reference.data(), elements)),
          "maxMagnitudeBits");

  const MatrixView view{dtype, source, rows, columns};
  for (const bool transposed : {false, true}) {
    const size_t units = transposed ? columns : rows, length = transposed ? rows : columns,
                 stride = length + gap;
    std::vector<float> unitsFast(units * stride, -7.0f), unitsRef = unitsFast;
    std::vector<uint32_t> magnitudeFast(units, 1), magnitudeRef(units, 2);
    (transposed ? unpackColumns : unpackRows)(view, unitsFast.data(), stride, magnitudeFast);
    (transposed ? unpackColumnsRef : unpackRowsRef)(view, unitsRef.data(), stride, magnitudeRef);
    require(allSame<float>(unitsFast, unitsRef), transposed ? "unpackColumns" : "unpackRows");
    require(std::ranges::equal(magnitudeFast, magnitudeRef, sameMagnitude), "magnitudes of units");
  }
}

void checkPacking(Input& input) {
  constexpr DType kWritable[] = {DType::F16, DType::BF16, DType::F32, DType::F64, DType::Q8_0};
  const DType dtype = input.oneOf(kWritable);
  auto [rows, columns] = takeShape(input);
  rows = wholeBlocks(dtype, rows);
  columns = wholeBlocks(dtype, columns);
  const size_t offset = input.below(8), stride = columns + input.below(6),
               bytes = *lego::bytesOf(dtype, rows * columns);
  const auto factors = takeFloats(input, rows);
  const auto units = takeFloats(input, rows * stride);

  std::vector<std::byte> fast(offset + bytes), reference = fast;
  for (const bool transposed : {false, true}) {
    const uint32_t x = (transposed ? packColumns : packRows)(dtype, units.data(), stride, rows, columns,
                                                             factors, fast.data() + offset);
    const uint32_t y = (transposed ? packColumnsRef : packRowsRef)(dtype, units.data(), stride, rows, columns,
                                                                   factors, reference.data() + offset);
    require(sameStored(dtype, Bytes(fast).subspan(offset), Bytes(reference).subspan(offset)),
            transposed ? "packColumns" : "packRows");
    require(sameMagnitude(x, y), "magnitude of what is packed");
  }
  const size_t whole = units.size() / blockOf(dtype) * blockOf(dtype);
  std::vector<std::byte> target(offset + *lego::bytesOf(dtype, whole)), targetRef = target;
  fromFloat(dtype, units.data(), whole, target.data() + offset);
  fromFloatRef(dtype, units.data(), whole, targetRef.data() + offset);
  require(sameStored(dtype, Bytes(target).subspan(offset), Bytes(targetRef).subspan(offset)), "fromFloat");
}

void checkGram(Input& input) {
  const auto precision = input.flag() ? GramPrecision::Single : GramPrecision::Double;
  const size_t count = input.between(0, 20), length = input.below(600), stride = length + input.below(6);
  const auto rows = takeFloats(input, count * stride);
  const auto fast = gram(rows.data(), count, length, stride, precision, Context());
  const auto reference = gramRef(rows.data(), count, length, stride, precision, Context());
  requireOk(fast, "a small Gram matrix can be had");
  require(fast->rows() == count && fast->columns() == count,
          "a Gram matrix is as large as its rows are many");
  require(allSame<double>({fast->data(), count * count}, {reference->data(), count * count}), "gram");
}

void checkAssemble(Input& input) {
  const size_t units = input.between(1, 12), outputs = input.between(0, 12);
  const size_t length = input.below(1500), stride = length + input.below(6);
  std::vector<std::vector<Term>> terms(outputs);
  for (auto& row : terms) {
    const size_t count = input.below(6);
    for (size_t t = 0; t < count; ++t) {
      const auto unit = static_cast<uint32_t>(input.below(units));
      const float coefficient = input.flag() ? 1.0f : input.take<float>();
      row.push_back({unit, coefficient});
    }
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  const auto rows = takeFloats(input, units * stride);
  std::vector<float> fast(outputs * stride, -7.0f), reference = fast;
  assemble(rows.data(), stride, length, views, fast.data());
  assembleRef(rows.data(), stride, length, views, reference.data());
  require(allSame<float>(fast, reference), "assemble");
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego::fuzz;
  Input input(std::as_bytes(std::span(data, size)));
  switch (input.below(4)) {
    case 0: checkConversions(input); break;
    case 1: checkPacking(input); break;
    case 2: checkGram(input); break;
    default: checkAssemble(input); break;
  }
  return 0;
}

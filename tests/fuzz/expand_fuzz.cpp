// Deltas of any form, in small shapes most of which fit together, as units: their sum against the delta made
// entry by entry from what FactorTensors says the tensors are. Tensors and units lie in memory of exactly
// their size.

#include <bit>
#include <cmath>
#include <numeric>

#include "base/limits.h"
#include "fuzz.h"
#include "tensor/convert.h"
#include "tensor/expand.h"

namespace lego::fuzz {
namespace {

using Shape = std::vector<uint64_t>;

uint64_t product(std::span<const uint64_t> sides) {
  return std::accumulate(sides.begin(), sides.end(), uint64_t{1}, std::multiplies<>());
}

/// A tensor, its bytes at any alignment, and its values.
struct Stored {
  TensorInfo info;
  size_t offset = 0;
  std::vector<std::byte> bytes;
  std::vector<double> values;

  const std::byte* data() const { return bytes.data() + offset; }
};

struct Factor {
  std::optional<Stored> full, up, down, mid;

  auto parts() { return std::array{&full, &up, &down, &mid}; }
  FactorTensors tensors() const {
    const auto info = [](const std::optional<Stored>& part) { return part ? &part->info : nullptr; };
    return {info(full), info(up), info(down), info(mid)};
  }
  FactorData data() const {
    const auto bytes = [](const std::optional<Stored>& part) { return part ? part->data() : nullptr; };
    return {bytes(full), bytes(up), bytes(down), bytes(mid)};
  }
};

Stored shaped(const char* name, Shape shape) {
  return {{name, DType::F32, std::move(shape), 0, 0}, 0, {}, {}};
}

/// A factor out x channels x kernel in one of the forms.
Factor takeFactor(Input& input, Composition composition, uint64_t out, uint64_t channels, Shape kernel) {
  const size_t form = input.below(3);
  // 32 is a block of Q8_0.
  const auto takeRank = [&](uint64_t most) { return input.below(8) == 7 ? 32 : input.between(1, most); };
  const uint64_t rank = takeRank(input.flag() ? 12 : 4);
  const uint64_t downRank = input.flag() ? takeRank(5) : rank;
  const Shape ones(input.flag() ? kernel.size() : 0, 1);
  const bool isFlat = input.below(4) == 3;
  const auto joined = [](Shape shape, const Shape& more) {
    shape.insert(shape.end(), more.begin(), more.end());
    return shape;
  };
  const auto whole = [&](uint64_t first) {
    return isFlat ? Shape{first, channels * product(kernel)} : joined({first, channels}, kernel);
  };
  Factor factor;
  if (form == 0) {
    factor.full = shaped("full", whole(out));
  } else if (form == 1) {
    factor.up = shaped("up", joined({out, rank}, ones));
    factor.down = shaped("down", whole(rank));
  } else {
    const bool turned = composition != Composition::Single;
    factor.up = shaped("up", joined(turned ? Shape{rank, out} : Shape{out, rank}, ones));
    factor.down = shaped("down", joined({downRank, channels}, ones));
    factor.mid = shaped("mid", joined({rank, downRank}, kernel));
  }
  return factor;
}

/// At times something that does not fit.
void disturb(Input& input, Factor& factor) {
  constexpr uint64_t kSides[] = {0, 1, 2, 3, uint64_t{1} << 20, uint64_t{1} << 28, UINT64_MAX};
  const auto parts = factor.parts();
  std::optional<Stored>& part = *parts[input.below(parts.size())];
  const size_t kind = input.below(4);
  if (kind == 0) part.reset();
  if (kind == 1) part = shaped("more", {input.between(1, 4), input.between(1, 4)});
  if (kind == 2 && part && !part->info.shape.empty())
    part->info.shape[input.below(part->info.shape.size())] = input.oneOf(kSides);
  if (kind == 3 && part) part->info.shape.resize(input.below(8), input.oneOf(kSides));
}

/// Values of ordinary size, whose products neither overflow nor vanish; or any bits.
void fill(Input& input, Stored& tensor, bool raw) {
  const auto count = static_cast<size_t>(product(tensor.info.shape));
  tensor.offset = input.below(4);
  const auto bytes = *lego::bytesOf(tensor.info.dtype, tensor.info.shape);
  tensor.info.end = bytes;
  const auto source = repeated(input.rest(), std::max<size_t>(4 * count, bytes));
  input.take<uint8_t>();  // the next tensor begins with other values
  tensor.bytes.resize(tensor.offset + bytes);
  std::vector<float> values(count);
  if (raw) {
    std::memcpy(tensor.bytes.data() + tensor.offset, source.data(), bytes);
  } else {
    std::memcpy(values.data(), source.data(), 4 * count);
    // Exponents from 2^-7 to 2^0.
    for (float& value : values)
      value = std::bit_cast<float>((std::bit_cast<uint32_t>(value) & 0x83FFFFFFu) + 0x3C000000u);
    if (isFloat8(tensor.info.dtype)) {
      // Neither NaN nor infinity in any of the formats.
      for (size_t i = 0; i < count; ++i) tensor.bytes[tensor.offset + i] = source[i] & std::byte{0x37};
    } else {
      fromFloatRef(tensor.info.dtype, values.data(), count, tensor.bytes.data() + tensor.offset);
    }
  }
  toFloatRef(tensor.info.dtype, tensor.data(), count, values.data());
  tensor.values.assign(values.begin(), values.end());
}

/// out x in, the kernel innermost in `in`.
struct Dense {
  size_t out = 0, in = 0;
  std::vector<double> values;
};

Dense denseOf(const Factor& factor, Composition composition, bool absolute) {
  const auto at = [&](const std::optional<Stored>& part, size_t index) {
    return absolute ? std::abs(part->values[index]) : part->values[index];
  };
  const auto rest = [](const Stored& part, size_t from) {
    return static_cast<size_t>(product(std::span(part.info.shape).subspan(from)));
  };
  Dense dense;
  if (factor.full) {
    dense.out = factor.full->info.shape[0];
    dense.in = rest(*factor.full, 1);
    for (size_t i = 0; i < dense.out * dense.in; ++i) dense.values.push_back(at(factor.full, i));
    return dense;
  }
  const bool turned = factor.mid && composition != Composition::Single;
  const size_t rank = factor.up->info.shape[turned ? 0 : 1], downRank = factor.down->info.shape[0];
  const size_t kernel = factor.mid ? rest(*factor.mid, 2) : 1, columns = rest(*factor.down, 1);
  dense.out = factor.up->info.shape[turned ? 1 : 0];
  dense.in = columns * kernel;
  for (size_t o = 0; o < dense.out; ++o) {
    for (size_t j = 0; j < dense.in; ++j) {
      double sum = 0;
      for (size_t m = 0; m < rank; ++m) {
        const double up = at(factor.up, turned ? m * dense.out + o : o * rank + m);
        if (!factor.mid) {
          sum += up * at(factor.down, m * columns + j);
          continue;
        }
        for (size_t n = 0; n < downRank; ++n)
          sum += up * at(factor.mid, (m * downRank + n) * kernel + j % kernel) *
                 at(factor.down, n * columns + j / kernel);
      }
      dense.values.push_back(sum);
    }
  }
  return dense;
}

Dense compose(Composition composition, const Dense& first, const Dense& second) {
  if (composition == Composition::Single) return first;
  Dense dense = first;
  if (composition == Composition::Hadamard) {
    for (size_t i = 0; i < dense.values.size(); ++i) dense.values[i] *= second.values[i];
    return dense;
  }
  dense.out = first.out * second.out;
  dense.in = first.in * second.in;
  dense.values.clear();
  for (size_t o = 0; o < dense.out; ++o) {
    for (size_t i = 0; i < dense.in; ++i)
      dense.values.push_back(first.values[o / second.out * first.in + i / second.in] *
                             second.values[o % second.out * second.in + i % second.in]);
  }
  return dense;
}

/// What is known of a delta once its shapes are accepted.
void checkPlan(const Expansion& expansion, const Factor& first, const Factor& second) {
  require(expansion.units >= 1 && expansion.units <= limits::kPooledUnits, "units can be pooled");
  require(expansion.in >= 1 && expansion.out >= 1 && expansion.in <= limits::kFactorSide &&
              expansion.out <= limits::kFactorSide,
          "sides are bounded");
  require(expansion.in % product(expansion.kernel) == 0, "the kernel is a part of the inputs");
  const auto least = [&](const FactorLayout& layout, const Factor& factor) {
    const uint64_t shorter = std::min(layout.out, layout.in());
    return factor.full ? shorter : std::min(layout.rank, shorter);
  };
  const uint64_t shorter = std::min(expansion.in, expansion.out);
  switch (expansion.composition) {
    case Composition::Single:
      require(expansion.units == (first.full ? shorter : expansion.first.rank), "as few units as said");
      break;
    case Composition::Hadamard:
      require(expansion.units == std::min(shorter, expansion.first.rank * expansion.second.rank),
              "as few units as said");
      break;
    case Composition::Kronecker:
      require(expansion.units == least(expansion.first, first) * least(expansion.second, second),
              "as few units as said");
  }
}

constexpr float kGap = -7;

/// Rows of floats with gaps between them, of exactly the size that UnitTarget asks for.
struct Rows {
  size_t count, length, stride;
  std::vector<float> values;
  std::vector<uint32_t> magnitude;

  Rows(size_t rows, size_t columns, size_t gap)
      : count(rows),
        length(columns),
        stride(columns + gap),
        values(rows == 0 ? 0 : (rows - 1) * stride + columns, kGap),
        magnitude(rows, 1) {}

  void check() const {
    for (size_t r = 0; r < count; ++r) {
      const uint32_t bits = maxMagnitudeBitsRef(values.data() + r * stride, length);
      require(bits == magnitude[r] || (bits > 0x7F800000u && magnitude[r] > 0x7F800000u),
              "a row's magnitude is its own");
      for (size_t i = length; i < stride && r + 1 < count; ++i)
        require(values[r * stride + i] == kGap, "nothing is written between rows");
    }
  }
};

void checkSum(const Rows& a, const Rows& b, const Dense& exact, const Dense& magnitude) {
  require(exact.out == b.length && exact.in == a.length, "a delta has its sides");
  for (size_t o = 0; o < exact.out; ++o) {
    for (size_t i = 0; i < exact.in; ++i) {
      double sum = 0;
      for (size_t u = 0; u < a.count; ++u)
        sum += static_cast<double>(b.values[u * b.stride + o]) * a.values[u * a.stride + i];
      // A few roundings to binary32, of magnitudes that stay within its range.
      const size_t at = o * exact.in + i;
      require(std::abs(sum - exact.values[at]) <= 1e-6 * magnitude.values[at] + 1e-37,
              "units add up to the delta");
    }
  }
}

void run(Input& input) {
  constexpr Composition kCompositions[] = {Composition::Single, Composition::Hadamard,
                                           Composition::Kronecker};
  constexpr DType kDtypes[] = {DType::F32,    DType::F16,        DType::BF16, DType::F64,
                               DType::F8E4M3, DType::F8E5M2FNUZ, DType::Q8_0, DType::I8};
  const auto composition = input.oneOf(kCompositions);
  const auto side = [&] {
    const size_t choice = input.below(16);
    return choice == 15  ? input.between(1, 1100)
           : choice > 12 ? 32 * input.between(1, 2)
                         : input.between(1, 9);
  };
  Shape kernel;
  for (size_t axes = input.below(4); axes > 0; --axes) kernel.push_back(input.between(1, 3));
  const uint64_t out = side(), in = side();
  const bool isKronecker = composition == Composition::Kronecker;
  Factor first = takeFactor(input, composition, out, in, isKronecker ? Shape() : kernel);
  Factor second;
  if (composition != Composition::Single)
    second = takeFactor(input, composition, isKronecker ? input.between(1, 5) : out,
                        isKronecker ? input.between(1, 5) : in, kernel);
  const size_t disturbances = input.below(8);
  if (disturbances == 6 && composition != Composition::Single) disturb(input, second);
  if (disturbances == 7) disturb(input, first);
  const bool raw = input.below(4) == 3;
  for (Factor* factor : {&first, &second}) {
    for (auto* part : factor->parts()) {
      if (!*part) continue;
      DType& dtype = (*part)->info.dtype;
      dtype = input.oneOf(kDtypes);
      if (!lego::bytesOf(dtype, (*part)->info.shape) || (dtype == DType::I8 && disturbances < 6))
        dtype = DType::F32;
    }
  }

  const auto expansion = planExpansion(composition, first.tensors(), second.tensors());
  if (!expansion) return checkError(expansion.error());
  checkPlan(*expansion, first, second);
  constexpr uint64_t kMost = 1 << 16;
  uint64_t largest = expansion->in * expansion->out;
  for (Factor* factor : {&first, &second}) {
    for (auto* part : factor->parts()) {
      if (*part) largest = std::max(largest, product((*part)->info.shape));
    }
  }
  // Each entry is a sum over units, and over the ranks of its factors: as many steps as take milliseconds.
  const auto terms = [](const FactorLayout& layout) {
    return std::max<uint64_t>(1, layout.rank) * std::max<uint64_t>(1, layout.downRank);
  };
  const uint64_t steps =
      expansion->units + terms(expansion->first) + terms(expansion->second);  // sides are below 2^28
  if (largest > kMost || steps > kMost || largest * steps > 16 * kMost || expansion->scratch > 16 * kMost)
    return;
  for (Factor* factor : {&first, &second}) {
    for (auto* part : factor->parts()) {
      if (*part) fill(input, **part, raw);
    }
  }
  Rows a(expansion->units, expansion->in, input.below(3)),
      b(expansion->units, expansion->out, input.below(3));
  Buffer<double> scratch;
  const UnitTarget target{a.values.data(), a.stride, a.magnitude, b.values.data(), b.stride, b.magnitude};
  requireOk(expandUnits(*expansion, first.data(), second.data(), target, scratch), "a small delta expands");
  a.check();
  b.check();
  if (raw) return;
  const auto dense = [&](bool absolute) {
    const Dense other = composition == Composition::Single ? Dense() : denseOf(second, composition, absolute);
    return compose(composition, denseOf(first, composition, absolute), other);
  };
  checkSum(a, b, dense(false), dense(true));
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lego::fuzz::Input input(std::as_bytes(std::span(data, size)));
  lego::fuzz::run(input);
  return 0;
}

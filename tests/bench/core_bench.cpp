// Kernels and whole modules of the core as JSON lines: each beside its readable reference, and kernels beside
// what this machine could do at best, measured in alternation with them. Usage: core_bench
// [SECONDS_PER_MEASUREMENT]
//
// GB/s are bytes read and bytes written, of copies too. The limits are those of 128-bit registers, which all
// kernels work in: multiply-adds (a multiplication and an addition, as no fused ones are used) from
// registers, and a copy of as many bytes, from and to buffers of the kernel's sizes.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "format/safetensors.h"
#include "job/memory.h"
#include "job/session.h"
#include "linalg/assemble.h"
#include "linalg/factorise.h"
#include "linalg/gram.h"
#include "linalg/multiply.h"
#include "merge/lego.h"
#include "merge/registry.h"
#include "merge/report.h"
#include "tensor/convert.h"
#include "tensor/simd.h"
#include "tensor/unpack.h"

namespace {

using namespace lego;

double secondsPerMeasurement = 0.3;

double seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

/// Best times of one call of each, called in turn: the minimum is what the code costs without its neighbours.
template <typename... Work>
std::array<double, sizeof...(Work)> bestTimes(double duration, Work... work) {
  std::array<double, sizeof...(Work)> best;
  best.fill(1e9);
  const double start = seconds();
  do {
    size_t i = 0;
    const auto measure = [&](auto& one) {
      const double begin = seconds();
      one();
      best[i] = std::min(best[i], seconds() - begin);
      ++i;
    };
    (measure(work), ...);
  } while (seconds() - start < duration);
  return best;
}
template <typename Work>
double bestTime(Work work) {
  return bestTimes(secondsPerMeasurement, work)[0];
}

/// What a kernel is held against: `amount` of the same unit in each call.
struct Limit {
  double amount = 0;
  std::function<void()> work;
};

/// `amount` of `unit` per call, fast and by the reference, and what the limit allows.
template <typename Fast, typename Reference>
double compare(const std::string& name, const std::string& shape, double amount, const std::string& unit,
               Fast fast, Reference reference, const Limit& limit = {}) {
  // V8 replaces its first, slow code when a thread beside has compiled another.
  (void)bestTimes(secondsPerMeasurement / 2, fast);
  const auto [fastTime, limitTime] =
      bestTimes(secondsPerMeasurement, fast, [&] { limit.work ? limit.work() : void(); });
  const double referenceTime = bestTimes(secondsPerMeasurement / 3, reference)[0];
  std::printf("{\"name\":\"%s\",\"shape\":\"%s\",\"unit\":\"%s\",\"fast\":%.4g,\"reference\":%.4g",
              name.c_str(), shape.c_str(), unit.c_str(), amount / fastTime / 1e9,
              amount / referenceTime / 1e9);
  if (limit.work) std::printf(",\"limit\":%.4g", limit.amount / limitTime / 1e9);
  std::printf("}\n");
  std::fflush(stdout);
  return fastTime;
}

/// A limit by itself.
void show(const std::string& name, const std::string& shape, const std::string& unit, const Limit& limit) {
  std::printf("{\"name\":\"%s\",\"shape\":\"%s\",\"unit\":\"%s\",\"fast\":%.4g}\n", name.c_str(),
              shape.c_str(), unit.c_str(), limit.amount / bestTime(limit.work) / 1e9);
  std::fflush(stdout);
}

/// One time beside another that it is a part of, or to be held against.
void relate(const std::string& name, const std::string& shape, double time, double other) {
  std::printf("{\"name\":\"%s\",\"shape\":\"%s\",\"unit\":\"ms\",\"fast\":%.4g,\"share\":%.4g}\n",
              name.c_str(), shape.c_str(), time * 1e3, time / other);
  std::fflush(stdout);
}

// Twelve chains hide the latencies of a multiplication and an addition that follows it, two of each at a
// time, and fit the registers with the two constants.
constexpr size_t kChains = 12, kSteps = 4096;

LEGO_KERNEL void multiplyAdd(float* values) {
  using simd::F32x4;
  const F32x4 factor(0.5f), summand(0.25f);
  F32x4 chain[kChains];
  for (size_t i = 0; i < kChains; ++i) chain[i] = F32x4::load_unaligned(values + 4 * i);
  for (size_t step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + summand;
  }
  for (size_t i = 0; i < kChains; ++i) chain[i].store_unaligned(values + 4 * i);
}

Limit multiplyAddLimit() {
  return {4 * kChains * kSteps,
          [values = std::vector<float>(4 * kChains)]() mutable { multiplyAdd(values.data()); }};
}

/// `count` is a multiple of 64.
LEGO_KERNEL void copy128(const std::byte* source, size_t count, std::byte* target) {
  using simd::U8x16;
  const auto* from = reinterpret_cast<const uint8_t*>(source);
  auto* to = reinterpret_cast<uint8_t*>(target);
  for (size_t i = 0; i < count; i += 64) {
    const U8x16 a = U8x16::load_unaligned(from + i), b = U8x16::load_unaligned(from + i + 16);
    const U8x16 c = U8x16::load_unaligned(from + i + 32), d = U8x16::load_unaligned(from + i + 48);
    a.store_unaligned(to + i);
    b.store_unaligned(to + i + 16);
    c.store_unaligned(to + i + 32);
    d.store_unaligned(to + i + 48);
  }
}

/// A region of a large arena, another one in each call: what is there has left every cache.
class Rotation {
 public:
  Rotation(size_t arena, size_t size) : bytes_(arena, std::byte{1}), size_((size + 63) & ~size_t{63}) {}
  std::byte* next() {
    at_ = at_ + 2 * size_ <= bytes_.size() ? at_ + size_ : 0;
    return bytes_.data() + at_;
  }

 private:
  std::vector<std::byte> bytes_;
  size_t size_, at_ = 0;
};

// Larger than the last level of caches: of a server's chip with eight cores it has 32 MB.
constexpr size_t kArena = size_t{96} << 20;

/// A copy that reads and writes `bytes` in all; `arena`: from one region of a rotation to the same target.
Limit copyLimit(size_t bytes, size_t arena = 0) {
  const size_t half = (bytes / 2 + 63) & ~size_t{63};
  auto source = std::make_shared<Rotation>(std::max(arena, half), half);
  auto target = std::make_shared<std::vector<std::byte>>(half);
  return {static_cast<double>(2 * half), [=] {
            const std::byte* from = source->next();
            for (size_t at = 0; at < half; at += 1 << 15)
              copy128(from + at, std::min<size_t>(1 << 15, half - at), target->data() + at);
          }};
}

void benchPeaks() {
  show("limit: multiply-add, 128 bits", "registers", "GMAC/s", multiplyAddLimit());
  struct Size {
    const char* name;
    size_t bytes;
  };
  for (const Size& size :
       {Size{"32 KB", 32 << 10}, {"384 KB", 384 << 10}, {"2 MB", 2 << 20}, {"192 MB", 192 << 20}}) {
    show("limit: copy, 128 bits", size.name, "GB/s", copyLimit(size.bytes));
    const size_t half = size.bytes / 2;
    const auto source = std::make_shared<std::vector<std::byte>>(half);
    const auto target = std::make_shared<std::vector<std::byte>>(half);
    show("limit: copy, memcpy", size.name, "GB/s",
         {static_cast<double>(size.bytes), [=] { std::memcpy(target->data(), source->data(), half); }});
  }
}

std::vector<float> randomFloats(size_t count) {
  Random random(count);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  return values;
}

// Seven adapters of rank 16, the case that the project's figures are quoted for.
constexpr size_t kUnits = 112, kRank = 16;

void benchGram(size_t units, size_t length, GramPrecision precision) {
  // As rows lie in a workspace.
  const size_t stride = unitStride(length);
  const auto rows = randomFloats(units * stride);
  const bool isSingle = precision == GramPrecision::Single;
  compare(
      isSingle ? "gram, single" : "gram, double", std::to_string(units) + " x " + std::to_string(length),
      0.5 * static_cast<double>(length) * static_cast<double>(units * (units + 1)), "GMAC/s",
      [&] { (void)gram(rows.data(), units, length, stride, precision, Context()); },
      [&] { (void)gramRef(rows.data(), units, length, stride, precision, Context()); },
      isSingle ? multiplyAddLimit() : Limit{});
}

/// `arena`: 0, or the bytes that sources are taken from in turn.
void benchUnpack(DType dtype, size_t rank, size_t length, size_t arena) {
  const size_t count = rank * length, size = count * bitsOf(dtype) / 8, stride = unitStride(length);
  Rotation source(std::max(arena, size), size);
  if (isFloat8(dtype)) {
    Random random(count);
    std::byte* stored = source.next();
    for (size_t i = 0; i < size; ++i) stored[i] = static_cast<std::byte>(random.below(0x70));
  } else if (arena == 0) {
    const auto values = randomFloats(count);
    fromFloat(dtype, values.data(), count, source.next());
  }
  std::vector<float> units(rank * stride);
  std::vector<uint32_t> magnitude(rank);
  const size_t bytes = size + count * sizeof(float);
  const std::string type(nameOf(dtype)), where = arena == 0 ? "" : ", from memory",
                                         shape = std::to_string(rank) + " x " + std::to_string(length);
  const auto rows = [&] { return MatrixView{dtype, source.next(), rank, length}; };
  const auto columns = [&] { return MatrixView{dtype, source.next(), length, rank}; };
  compare(
      "unpack rows, " + type + where, shape, static_cast<double>(bytes), "GB/s",
      [&] { unpackRows(rows(), units.data(), stride, magnitude); },
      [&] { unpackRowsRef(rows(), units.data(), stride, magnitude); }, copyLimit(bytes, arena));
  compare(
      "unpack columns, " + type + where, shape, static_cast<double>(bytes), "GB/s",
      [&] { unpackColumns(columns(), units.data(), stride, magnitude); },
      [&] { unpackColumnsRef(columns(), units.data(), stride, magnitude); }, copyLimit(bytes, arena));
}

void benchPack(DType dtype, size_t length) {
  const size_t count = kRank * length, stride = unitStride(length);
  const auto units = randomFloats(kRank * stride);
  std::vector<std::byte> stored(count * bitsOf(dtype) / 8);
  const size_t bytes = stored.size() + count * sizeof(float);
  const std::string type(nameOf(dtype)), shape = std::to_string(kRank) + " x " + std::to_string(length);
  const std::vector<float> factors(kRank, 1.5f);
  compare(
      "pack rows, " + type, shape, static_cast<double>(bytes), "GB/s",
      [&] { packRows(dtype, units.data(), stride, kRank, length, factors, stored.data()); },
      [&] { packRowsRef(dtype, units.data(), stride, kRank, length, factors, stored.data()); },
      copyLimit(bytes));
  compare(
      "pack columns, " + type, shape, static_cast<double>(bytes), "GB/s",
      [&] { packColumns(dtype, units.data(), stride, kRank, length, factors, stored.data()); },
      [&] { packColumnsRef(dtype, units.data(), stride, kRank, length, factors, stored.data()); },
      copyLimit(bytes));
}

void benchAssemble(size_t count, size_t length, bool dense) {
  const size_t stride = unitStride(length);
  const auto units = randomFloats(count * stride);
  std::vector<std::vector<Term>> terms(kRank);
  for (uint32_t u = 0; u < count; ++u) {
    for (size_t q = 0; q < kRank; ++q) {
      if (dense || u % kRank == q) terms[q].push_back({u, 0.25f});
    }
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  std::vector<float> target(kRank * stride);
  const size_t bytes = (count + kRank) * length * sizeof(float);
  const size_t products = count * kRank * length;
  compare(
      dense ? "assemble, dense" : "assemble, sparse", std::to_string(count) + " x " + std::to_string(length),
      static_cast<double>(dense ? products : bytes), dense ? "GMAC/s" : "GB/s",
      [&] { assemble(units.data(), stride, length, views, target.data()); },
      [&] { assembleRef(units.data(), stride, length, views, target.data()); },
      dense ? multiplyAddLimit() : copyLimit(bytes));
}

/// A batch of one module through a session, beside the same through the reference kernels.
double benchModule(const std::string& method, size_t in, size_t out) {
  std::vector<std::vector<std::byte>> files;
  for (size_t i = 0; i < kUnits / kRank; ++i) {
    Header header;
    header.tensors = {{"base_model.model.m.lora_A.weight", DType::BF16, {kRank, in}, 0, 0},
                      {"base_model.model.m.lora_B.weight", DType::BF16, {out, kRank}, 0, 0}};
    const auto text = safetensors::writeHeader(header);
    std::vector<std::byte> file(header.tensors.back().end);
    std::memcpy(file.data(), text->data(), text->size());
    const auto values = randomFloats(kRank * (in + out));
    fromFloat(DType::BF16, values.data(), values.size(), file.data() + text->size());
    // Other values for each adapter: rotate them.
    std::rotate(file.begin() + static_cast<std::ptrdiff_t>(text->size()),
                file.begin() + static_cast<std::ptrdiff_t>(text->size() + 2 * i * 1001), file.end());
    files.push_back(std::move(file));
  }
  const auto prepare = [&](Session& session) {
    for (const auto& file : files) {
      const std::span<const std::byte> bytes = file;
      const auto size = safetensors::headerSize(bytes.first(8), bytes.size());
      (void)session.addAdapter({"x", "x", "x"}, bytes.first(*size), bytes.size(),
                               "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":16}");
    }
    Recipe recipe;
    recipe.method = method;
    (void)session.makePlan(recipe);
    const auto input = session.input(0);
    for (const ReadRange& read : session.plan().batches[0].reads) {
      std::memcpy(input->data() + read.at, files[read.adapter].data() + read.offset, read.length);
    }
  };
  Session fast(1), reference(1, kReferenceKernels);
  prepare(fast);
  prepare(reference);
  return compare(
      "module, " + method, "7 x rank 16, " + std::to_string(out) + " x " + std::to_string(in) + ", BF16",
      static_cast<double>(fast.plan().inputBytes), "GB/s", [&] { (void)fast.run(0); },
      [&] { (void)reference.run(0); });
}

/// What methods spend on matrices over the units.
void benchSmall(size_t length) {
  const auto rows = randomFloats(kUnits * length);
  const Matrix g = std::move(*gram(rows.data(), kUnits, length, length, GramPrecision::Double, Context()));
  const std::string shape = std::to_string(kUnits) + " x " + std::to_string(kUnits);
  compare(
      "multiply, small", shape, kUnits * kUnits * kUnits, "GMAC/s", [&] { (void)multiply(g, g); },
      [&] { (void)multiplyRef(g, g); });
  const double product = bestTime([&] { (void)multiply(g, g); });
  relate("triangular root against multiply", shape, bestTime([&] { (void)triangularRoot(g); }), product);
  relate("eigenvectors against multiply", shape, bestTime([&] { (void)symmetricEigen(g); }), product);
}

/// What a LEGO merge spends on clustering and on its report: both should be a small share of the module.
void benchShares(size_t length, double module) {
  const auto rows = randomFloats(kUnits * length);
  const std::string shape = std::to_string(kUnits) + " units into " + std::to_string(kRank);
  UnitPool pool;
  pool.gramA = std::move(*gram(rows.data(), kUnits, length / 2, length, GramPrecision::Single, Context()));
  pool.gramB = std::move(
      *gram(rows.data() + length / 2, kUnits, length / 2, length, GramPrecision::Single, Context()));
  for (uint32_t u = 0; u < kUnits; ++u) pool.owner.push_back(u / kRank);
  pool.weights.assign(kUnits / kRank, 1.0);
  pool.ranks.assign(kUnits / kRank, kRank);
  pool.maxA.assign(kUnits, 1.0);
  pool.maxB.assign(kUnits, 1.0);
  const auto info = findMethod("lego");
  const Options options = *Options::read("lego", info->options, {});
  const MethodRequest request{kRank, 0, {}, options};
  const Context context;
  auto merged = mergeLego(pool, request, context);
  relate("lego's clustering against lego", shape, bestTime([&] { (void)mergeLego(pool, request, context); }),
         module);
  relate("report against lego", shape, bestTime([&] { (void)measure(pool, gramsOf(pool, *merged), 1); }),
         module);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) secondsPerMeasurement = std::atof(argv[1]);
  benchPeaks();
  if (argc > 2 && std::string_view(argv[2]) == "limits") return 0;
  for (const size_t units : {16, 32, 64, 112, 256, 512, 1024}) benchGram(units, 4096, GramPrecision::Single);
  benchGram(kUnits, 11008, GramPrecision::Single);
  benchGram(kUnits, 4096, GramPrecision::Double);
  for (const size_t rank : {16, 64}) {
    for (const DType dtype : {DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2, DType::F32, DType::F64})
      benchUnpack(dtype, rank, 4096, 0);
  }
  // As a merge finds what it has read.
  for (const DType dtype : {DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2, DType::F32, DType::F64})
    benchUnpack(dtype, kRank, 4096, kArena);
  for (const DType dtype : {DType::BF16, DType::F16, DType::F32}) benchPack(dtype, 4096);
  benchAssemble(kUnits, 4096, false);
  benchAssemble(kUnits, 4096, true);
  benchAssemble(512, 4096, true);
  benchSmall(4096);
  const double lego = benchModule("lego", 4096, 4096);
  benchShares(8192, lego);
  for (const char* method :
       {"cat", "svd", "least_interference", "lego_delta", "ties", "tsv_m", "knots_ties", "peft_ties"}) {
    const double time = benchModule(method, 4096, 4096);
    relate(std::string(method) + " against lego", "the same module", time, lego);
  }
  return 0;
}

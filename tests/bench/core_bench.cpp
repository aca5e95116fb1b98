// Kernels and whole modules of the core, each beside its readable reference in the same run, as JSON lines.
// Usage: core_bench [SECONDS_PER_MEASUREMENT]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "format/safetensors.h"
#include "job/session.h"
#include "linalg/assemble.h"
#include "linalg/factorise.h"
#include "linalg/gram.h"
#include "linalg/multiply.h"
#include "merge/lego.h"
#include "merge/registry.h"
#include "merge/report.h"
#include "tensor/convert.h"
#include "tensor/unpack.h"

namespace {

using namespace lego;

double secondsPerMeasurement = 0.3;

/// Best time of one call, in seconds: the minimum is what the code costs without its neighbours.
template <typename Work>
double bestTime(Work work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < secondsPerMeasurement);
  return best;
}

/// `amount` of `unit` per call, fast and by the reference.
template <typename Fast, typename Reference>
double compare(const std::string& name, const std::string& shape, double amount, const std::string& unit,
               Fast fast, Reference reference) {
  const double fastTime = bestTime(fast), referenceTime = bestTime(reference);
  std::printf(
      "{\"name\":\"%s\",\"shape\":\"%s\",\"unit\":\"%s\",\"fast\":%.4g,\"reference\":%.4g,\"ratio\":%.3g}\n",
      name.c_str(), shape.c_str(), unit.c_str(), amount / fastTime / 1e9, amount / referenceTime / 1e9,
      referenceTime / fastTime);
  std::fflush(stdout);
  return fastTime;
}

/// One time beside another that it is a part of, or to be held against.
void relate(const std::string& name, const std::string& shape, double time, double other) {
  std::printf("{\"name\":\"%s\",\"shape\":\"%s\",\"unit\":\"ms\",\"fast\":%.4g,\"share\":%.4g}\n",
              name.c_str(), shape.c_str(), time * 1e3, time / other);
  std::fflush(stdout);
}

std::vector<float> randomFloats(size_t count) {
  Random random(count);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  return values;
}

// Seven adapters of rank 16, the case that the project's figures are quoted for.
constexpr size_t kUnits = 112, kRank = 16;

void benchGram(size_t length) {
  const auto rows = randomFloats(kUnits * length);
  const double products = static_cast<double>(length) * kUnits * (kUnits + 1) / 2;
  for (const auto& [precision, name] :
       {std::pair{GramPrecision::Single, "gram, single"}, {GramPrecision::Double, "gram, double"}}) {
    compare(
        name, std::to_string(kUnits) + " x " + std::to_string(length), products, "GMAC/s",
        [&] { (void)gram(rows.data(), kUnits, length, length, precision); },
        [&] { (void)gramRef(rows.data(), kUnits, length, length, precision); });
  }
}

void benchUnpack(DType dtype, size_t length) {
  const auto values = randomFloats(kRank * length);
  std::vector<std::byte> stored(values.size() * bitsOf(dtype) / 8);
  fromFloat(dtype, values.data(), values.size(), stored.data());
  std::vector<float> units(values.size());
  std::vector<uint32_t> magnitude(kRank);
  const auto bytes = static_cast<double>(stored.size() + units.size() * sizeof(float));
  const std::string type(nameOf(dtype)), shape = std::to_string(kRank) + " x " + std::to_string(length);
  const MatrixView rows{dtype, stored.data(), kRank, length}, columns{dtype, stored.data(), length, kRank};
  compare(
      "unpack rows, " + type, shape, bytes, "GB/s",
      [&] { unpackRows(rows, units.data(), length, magnitude); },
      [&] { unpackRowsRef(rows, units.data(), length, magnitude); });
  compare(
      "unpack columns, " + type, shape, bytes, "GB/s",
      [&] { unpackColumns(columns, units.data(), length, magnitude); },
      [&] { unpackColumnsRef(columns, units.data(), length, magnitude); });
  const std::vector<float> factors(kRank, 1.5f);
  compare(
      "pack rows, " + type, shape, bytes, "GB/s",
      [&] { packRows(dtype, units.data(), length, kRank, length, factors, stored.data()); },
      [&] { packRowsRef(dtype, units.data(), length, kRank, length, factors, stored.data()); });
  compare(
      "pack columns, " + type, shape, bytes, "GB/s",
      [&] { packColumns(dtype, units.data(), length, kRank, length, factors, stored.data()); },
      [&] { packColumnsRef(dtype, units.data(), length, kRank, length, factors, stored.data()); });
}

void benchAssemble(size_t length, bool dense) {
  const auto units = randomFloats(kUnits * length);
  std::vector<std::vector<Term>> terms(kRank);
  for (uint32_t u = 0; u < kUnits; ++u) {
    for (size_t q = 0; q < kRank; ++q) {
      if (dense || u % kRank == q) terms[q].push_back({u, 0.25f});
    }
  }
  const std::vector<std::span<const Term>> views(terms.begin(), terms.end());
  std::vector<float> target(kRank * length);
  const double bytes = static_cast<double>((kUnits + kRank) * length * sizeof(float));
  const double products = static_cast<double>(kUnits * kRank * length);
  compare(
      dense ? "assemble, dense" : "assemble, sparse", std::to_string(kUnits) + " x " + std::to_string(length),
      dense ? products : bytes, dense ? "GMAC/s" : "GB/s",
      [&] { assemble(units.data(), length, length, views, target.data()); },
      [&] { assembleRef(units.data(), length, length, views, target.data()); });
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
  const Matrix g = std::move(*gram(rows.data(), kUnits, length, length, GramPrecision::Double));
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
  pool.gramA = std::move(*gram(rows.data(), kUnits, length / 2, length, GramPrecision::Single));
  pool.gramB = std::move(*gram(rows.data() + length / 2, kUnits, length / 2, length, GramPrecision::Single));
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
  benchGram(4096);
  benchGram(11008);
  for (const DType dtype : {DType::BF16, DType::F16, DType::F32}) benchUnpack(dtype, 4096);
  benchAssemble(4096, false);
  benchAssemble(4096, true);
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

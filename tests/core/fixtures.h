// What the tests of the core share: files, adapters made in memory, whole merges, dense deltas.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "format/gguf.h"
#include "format/header.h"
#include "job/session.h"

namespace lego::testing {

/// A file's bytes; fails the test if it cannot be read.
std::vector<std::byte> readFile(const std::string& path);
std::string readText(const std::string& path);

/// One tensor with its values.
struct NamedTensor {
  std::string name;
  DType dtype = DType::F32;
  std::vector<uint64_t> shape;
  std::vector<float> values;
};
std::vector<std::byte> makeSafetensors(const std::vector<NamedTensor>& tensors);
std::vector<std::byte> makeGguf(const std::vector<NamedTensor>& tensors,
                                const std::vector<std::pair<std::string, gguf::Value>>& metadata);

/// How many of a file's first bytes are its header, whatever the container.
Result<uint64_t> headerSizeOf(std::span<const std::byte> file);
/// Fails the test if there is none.
Header headerOf(std::span<const std::byte> file);

/// An adapter in memory.
struct TestAdapter {
  std::string name;
  std::vector<std::byte> file;
  std::string config;
};

/// A pair of factors: A (rank x in) and B (out x rank), row-major.
struct Pair {
  std::string path = "layer";
  uint64_t rank = 0, in = 0, out = 0;
  std::vector<float> a, b;
};
Pair randomPair(Random& random, uint64_t rank, uint64_t in, uint64_t out, const std::string& path = "layer");
float randomFloat(Random& random);  ///< in (-1, 1), of varying exponents
std::vector<float> randomValues(Random& random, size_t count);

/// A PEFT adapter; all pairs get the same alpha.
TestAdapter makeAdapter(const std::string& name, const std::vector<Pair>& pairs, DType dtype, double alpha,
                        const std::string& moreConfig = "");

/// The pair as it is after rounding to `dtype`.
Pair rounded(Pair pair, DType dtype);

TestAdapter readAdapter(const std::string& folder);

/// A finished merge.
struct Merged {
  Plan plan;
  std::vector<std::byte> file;
  std::vector<ModuleReport> reports;
};
Status addTo(Session& session, const TestAdapter& adapter);
/// `base`: safetensors files of the base model.
Result<Merged> mergeAll(const std::vector<TestAdapter>& adapters, const Recipe& recipe,
                        const Footprint& footprint, const Kernels& kernels = kFastKernels,
                        const std::vector<std::vector<std::byte>>& base = {});
Result<Merged> mergeAll(const std::vector<TestAdapter>& adapters, const Recipe& recipe, size_t threads = 1,
                        const Kernels& kernels = kFastKernels,
                        const std::vector<std::vector<std::byte>>& base = {});

/// Values of one tensor of a safetensors file, as float; fails the test if it is not there.
std::vector<float> valuesOf(std::span<const std::byte> file, const std::string& name);
std::span<const std::byte> bytesOf(std::span<const std::byte> file, const std::string& name);
std::vector<double> doublesOf(std::span<const std::byte> file, const std::string& name);
/// The merged factors of a module of a PEFT file.
Pair pairOf(const Merged& merged, const std::string& path = "layer");

/// scale * B A, row-major out x in.
std::vector<double> delta(const Pair& pair, double scale);
double norm(const std::vector<double>& values);
/// |x - y| / |y|
double relativeDistance(const std::vector<double>& x, const std::vector<double>& y);

/// Fails the test unless `result` is an error of this code; returns its description.
template <typename T>
std::string expectCode(const Result<T>& result, Code code) {
  EXPECT_FALSE(result) << "expected " << codeInfo(code).name;
  if (result) return {};
  EXPECT_STREQ(codeInfo(result.error().code).name, codeInfo(code).name) << describe(result.error());
  return describe(result.error());
}
inline std::string expectCode(const Status& status, Code code) {
  EXPECT_FALSE(status) << "expected " << codeInfo(code).name;
  if (status) return {};
  EXPECT_STREQ(codeInfo(status.error().code).name, codeInfo(code).name) << describe(status.error());
  return describe(status.error());
}

/// The value, or a failed test that says why there is none.
template <typename T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  ADD_FAILURE() << describe(result.error());
  return T{};
}

}  // namespace lego::testing

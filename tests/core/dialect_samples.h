// Small adapters of every dialect, written by hand: names and shapes as docs/formats.md has them, not as the
// core's writer does.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapter/catalogue.h"
#include "adapter/dialect.h"
#include "core/fixtures.h"

namespace lego::testing {

struct DialectSample {
  Dialect dialect;
  TestAdapter adapter;
  std::vector<Pair> pairs;  // of scale kScale; paths as the dialect has them
};
inline constexpr double kScale = 2;

/// The transpose of a row-major matrix.
std::vector<float> turned(const std::vector<float>& values, size_t rows, size_t columns);
NamedTensor matrix(const std::string& name, DType dtype, uint64_t rows, uint64_t columns,
                   const std::vector<float>& values);

/// What every GGUF adapter says of itself.
inline const std::vector<std::pair<std::string, gguf::Value>> kGgufMetadata = {
    {"general.type", std::string("adapter")},
    {"adapter.type", std::string("lora")},
    {"general.architecture", std::string("llama")},
    {"adapter.lora.alpha", 0.0f}};

/// A module of a UNet as kohya names it.
inline const std::string kKohyaModule = "lora_unet_down_blocks_0_attentions_0_proj_in";

/// Pairs under a dialect's names, with what gives them scale 2; XLabs and Control-LoRA cannot, and fold it.
DialectSample sampleOf(Dialect dialect, std::vector<Pair> pairs, DType dtype = DType::F32);
/// Names of modules as each dialect has them.
std::vector<std::string> pathsOf(Dialect dialect);
/// Pairs of those names, of rank 4, 12 columns and 9 rows.
std::vector<Pair> pairsFor(Dialect dialect, uint64_t seed);

/// The recipe that converts one adapter to a format.
Recipe converting(const std::string& format = "same");

/// Fails the test if the adapter is refused.
Catalogue catalogueOf(const TestAdapter& adapter);
/// scale * B A of a module of an adapter, however its file has it.
std::vector<double> deltaOf(const TestAdapter& adapter, const std::string& path);
TestAdapter asAdapter(const Merged& merged);
/// Of a file's tensors.
std::set<std::string> namesOf(std::span<const std::byte> file);

}  // namespace lego::testing

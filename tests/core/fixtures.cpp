#include "core/fixtures.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "format/container.h"
#include "format/safetensors.h"
#include "tensor/convert.h"

namespace lego::testing {

std::vector<std::byte> readFile(const std::string& path) {
  std::vector<std::byte> bytes;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) {
    ADD_FAILURE() << "cannot open " << path;
    return bytes;
  }
  std::byte block[65536];
  for (size_t n = std::fread(block, 1, sizeof block, file); n > 0;
       n = std::fread(block, 1, sizeof block, file))
    bytes.insert(bytes.end(), block, block + n);
  std::fclose(file);
  return bytes;
}

std::string readText(const std::string& path) {
  const auto bytes = readFile(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

namespace {

/// As fromFloatRef, and the nearest of the 256 values for formats of 8 bits, which the core only reads.
void writeValues(DType dtype, const std::vector<float>& values, std::byte* target) {
  if (!isFloat8(dtype)) return fromFloatRef(dtype, values.data(), values.size(), target);
  for (const float value : values) {
    const auto distance = [&](uint32_t bits) {
      const double found = float8ToFloat(dtype, static_cast<uint8_t>(bits));
      return std::isfinite(found) ? std::abs(found - value) : std::numeric_limits<double>::infinity();
    };
    uint32_t nearest = 0;
    for (uint32_t bits = 1; bits < 256; ++bits) {
      if (distance(bits) < distance(nearest)) nearest = bits;
    }
    *target++ = static_cast<std::byte>(nearest);
  }
}

}  // namespace

namespace {

/// A file of a header's text and the tensors that it lists.
std::vector<std::byte> fileOf(const std::string& text, const Header& header,
                              const std::vector<NamedTensor>& tensors) {
  std::vector<std::byte> file(header.tensors.empty() ? text.size() : header.tensors.back().end);
  std::memcpy(file.data(), text.data(), text.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].values.empty())
      writeValues(tensors[i].dtype, tensors[i].values, file.data() + header.tensors[i].begin);
  }
  return file;
}

}  // namespace

std::vector<std::byte> makeSafetensors(const std::vector<NamedTensor>& tensors) {
  Header header;
  for (const auto& tensor : tensors)
    header.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
  const std::string text = must(safetensors::writeHeader(header));
  return fileOf(text, header, tensors);
}

std::vector<std::byte> makeGguf(const std::vector<NamedTensor>& tensors,
                                const std::vector<std::pair<std::string, gguf::Value>>& metadata) {
  Header header;
  for (const auto& tensor : tensors)
    header.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
  const std::string text = must(gguf::writeHeader(header, metadata));
  return fileOf(text, header, tensors);
}

float randomFloat(Random& random) {
  const auto value = static_cast<float>(2 * random.uniform() - 1);
  return std::ldexp(value, -static_cast<int>(random.below(6)));
}

std::vector<float> randomValues(Random& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = randomFloat(random);
  return values;
}

Pair randomPair(Random& random, uint64_t rank, uint64_t in, uint64_t out, const std::string& path) {
  Pair pair{path, rank, in, out, {}, {}};
  for (uint64_t i = 0; i < rank * in; ++i) pair.a.push_back(randomFloat(random));
  for (uint64_t i = 0; i < out * rank; ++i) pair.b.push_back(randomFloat(random));
  return pair;
}

Pair rounded(Pair pair, DType dtype) {
  for (auto* values : {&pair.a, &pair.b}) {
    std::vector<std::byte> bytes(values->size() * 8);
    writeValues(dtype, *values, bytes.data());
    toFloatRef(dtype, bytes.data(), values->size(), values->data());
  }
  return pair;
}

TestAdapter makeAdapter(const std::string& name, const std::vector<Pair>& pairs, DType dtype, double alpha,
                        const std::string& moreConfig) {
  std::vector<NamedTensor> tensors;
  std::string ranks;
  for (const Pair& pair : pairs) {
    tensors.push_back(
        {"base_model.model." + pair.path + ".lora_A.weight", dtype, {pair.rank, pair.in}, pair.a});
    tensors.push_back(
        {"base_model.model." + pair.path + ".lora_B.weight", dtype, {pair.out, pair.rank}, pair.b});
    ranks += (ranks.empty() ? "" : ",") + ("\"" + pair.path + "\":") + std::to_string(pair.rank);
  }
  char number[32];
  std::snprintf(number, sizeof number, "%.17g", alpha);
  const std::string config = "{\"peft_type\":\"LORA\",\"r\":" + std::to_string(pairs.front().rank) +
                             ",\"lora_alpha\":" + number + ",\"rank_pattern\":{" + ranks +
                             "},\"target_modules\":[\"layer\"]" + moreConfig + "}";
  return {name, makeSafetensors(tensors), config};
}

TestAdapter readAdapter(const std::string& folder) {
  return {folder.substr(folder.rfind('/') + 1), readFile(folder + "/adapter_model.safetensors"),
          readText(folder + "/adapter_config.json")};
}

Result<uint64_t> headerSizeOf(std::span<const std::byte> file) {
  uint64_t given = std::min<uint64_t>(file.size(), safetensors::kPrefixBytes);
  for (;;) {
    const auto needed = headerNeeds(file.first(given), file.size());
    if (!needed || *needed == given) return needed;
    given = *needed;
  }
}

Status addTo(Session& session, const TestAdapter& adapter) {
  const std::span<const std::byte> file = adapter.file;
  const AdapterNames names{adapter.name, adapter.name + "/adapter_model.safetensors",
                           adapter.name + "/adapter_config.json"};
  const auto size = headerSizeOf(file);
  if (!size) {
    Error error = size.error();
    error.file = names.file;
    return error;
  }
  Status added = session.addAdapter(
      names, file.first(*size), file.size(),
      adapter.config.empty() ? std::nullopt : std::optional<std::string_view>(adapter.config));
  if (!added) return added;
  std::vector<std::byte> alphas;
  for (const ReadRange& read : session.alphaReads()) {
    const auto bytes = file.subspan(read.offset, read.length);
    alphas.insert(alphas.end(), bytes.begin(), bytes.end());
  }
  return session.setAlphas(alphas);
}

namespace {

/// Reads every batch into the session and calls `work` with its number.
Status forEachBatch(Session& session, const std::vector<std::span<const std::byte>>& files,
                    const std::function<Status(size_t)>& work) {
  for (size_t i = 0; i < session.plan().batches.size(); ++i) {
    auto input = session.input(i);
    if (!input) return input.error();
    for (const ReadRange& read : session.plan().batches[i].reads)
      std::memcpy(input->data() + read.at, files[read.adapter].data() + read.offset, read.length);
    if (Status done = work(i); !done) return done;
  }
  return {};
}

}  // namespace

Result<Merged> mergeAll(const std::vector<TestAdapter>& adapters, const Recipe& recipe, size_t threads,
                        const Kernels& kernels, const std::vector<std::vector<std::byte>>& base) {
  return mergeAll(adapters, recipe, Footprint{.threads = threads}, kernels, base);
}

Result<Merged> mergeAll(const std::vector<TestAdapter>& adapters, const Recipe& recipe,
                        const Footprint& footprint, const Kernels& kernels,
                        const std::vector<std::vector<std::byte>>& base) {
  Session session(footprint, kernels);
  std::vector<std::span<const std::byte>> files;
  for (const TestAdapter& adapter : adapters) {
    if (Status added = addTo(session, adapter); !added) return added.error();
    files.emplace_back(adapter.file);
  }
  for (const auto& file : base) {
    const auto header = std::span(file).first(must(headerSizeOf(file)));
    Status added = session.setBase("base " + std::to_string(files.size()), header, file.size());
    if (!added) return added.error();
    files.emplace_back(file);
  }
  if (Status planned = session.makePlan(recipe); !planned) return planned.error();
  if (!session.plan().ranksAreKnown) {
    Status surveyed = forEachBatch(session, files, [&](size_t i) { return session.survey(i); });
    if (!surveyed) return surveyed.error();
    if (Status chosen = session.chooseRanks(); !chosen) return chosen.error();
  }
  Merged merged;
  merged.plan = session.plan();
  merged.file.resize(merged.plan.outputBytes);
  std::memcpy(merged.file.data(), merged.plan.header.data(), merged.plan.header.size());
  Status done = forEachBatch(session, files, [&](size_t i) -> Status {
    const auto output = session.run(i);
    if (!output) return output.error();
    std::memcpy(merged.file.data() + merged.plan.batches[i].outputBegin, output->data(), output->size());
    return {};
  });
  if (!done) return done.error();
  merged.reports.assign(session.reports().begin(), session.reports().end());
  return merged;
}

namespace {

const TensorInfo* findTensor(const Header& header, const std::string& name) {
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name == name) return &tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return nullptr;
}

}  // namespace

Header headerOf(std::span<const std::byte> file) {
  const uint64_t size = must(headerSizeOf(file));
  return must(readContainer(file.first(size), file.size())).header;
}

std::vector<float> valuesOf(std::span<const std::byte> file, const std::string& name) {
  const Header header = headerOf(file);
  const TensorInfo* tensor = findTensor(header, name);
  if (!tensor) return {};
  uint64_t count = 1;
  for (const uint64_t side : tensor->shape) count *= side;
  std::vector<float> values(count);
  toFloatRef(tensor->dtype, file.data() + tensor->begin, values.size(), values.data());
  return values;
}

std::span<const std::byte> bytesOf(std::span<const std::byte> file, const std::string& name) {
  const Header header = headerOf(file);
  const TensorInfo* tensor = findTensor(header, name);
  return tensor ? file.subspan(tensor->begin, tensor->end - tensor->begin) : std::span<const std::byte>();
}

std::vector<double> doublesOf(std::span<const std::byte> file, const std::string& name) {
  const Header header = headerOf(file);
  const TensorInfo* tensor = findTensor(header, name);
  if (!tensor) return {};
  if (tensor->dtype != DType::F64) {
    const auto floats = valuesOf(file, name);
    return {floats.begin(), floats.end()};
  }
  std::vector<double> values((tensor->end - tensor->begin) / 8);
  std::memcpy(values.data(), file.data() + tensor->begin, tensor->end - tensor->begin);
  return values;
}

Pair pairOf(const Merged& merged, const std::string& path) {
  Pair pair{path,
            0,
            0,
            0,
            valuesOf(merged.file, "base_model.model." + path + ".lora_A.weight"),
            valuesOf(merged.file, "base_model.model." + path + ".lora_B.weight")};
  for (const auto& module : merged.plan.modules) {
    if (module.path == path) pair.rank = module.rank, pair.in = module.in, pair.out = module.out;
  }
  return pair;
}

std::vector<double> delta(const Pair& pair, double scale) {
  std::vector<double> result(pair.out * pair.in, 0.0);
  for (uint64_t o = 0; o < pair.out; ++o) {
    for (uint64_t r = 0; r < pair.rank; ++r) {
      const double b = scale * pair.b[o * pair.rank + r];
      for (uint64_t i = 0; i < pair.in; ++i) result[o * pair.in + i] += b * pair.a[r * pair.in + i];
    }
  }
  return result;
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double x : values) sum += x * x;
  return std::sqrt(sum);
}

double relativeDistance(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<double> difference(x.size());
  for (size_t i = 0; i < x.size(); ++i) difference[i] = x[i] - y[i];
  const double reference = norm(y);
  return reference > 0 ? norm(difference) / reference : norm(difference);
}

}  // namespace lego::testing

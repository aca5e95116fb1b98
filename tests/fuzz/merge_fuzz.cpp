// A whole small merge: up to three adapters of a few modules, any method and recipe, any values. The fast
// kernels and the references give the same bytes and reports or the same error, and what is written is
// finite.

#include <bit>
#include <cmath>
#include <set>

#include "base/random.h"
#include "job/session.h"
#include "recipe.h"
#include "tensor/convert.h"

namespace lego::fuzz {
namespace {

struct Adapter {
  std::vector<std::byte> file;
  uint64_t headerBytes = 0;
  std::string config;
};

struct Module {
  std::string path;
  ModuleKind kind = ModuleKind::Linear;
  std::vector<uint64_t> in;  // the sides of A but the rank
  uint64_t out = 0;
};

/// Modules that read the same input, and one that reads what two others write, as in a transformer's layer.
std::vector<Module> takeModules(Input& input) {
  constexpr const char* kPaths[] = {"l.0.self_attn.q_proj", "l.0.self_attn.k_proj", "l.0.self_attn.v_proj",
                                    "l.0.mlp.gate_proj",    "l.0.mlp.up_proj",      "l.0.mlp.down_proj"};
  const uint64_t sides[] = {input.between(1, 16), input.between(1, 16), 1};
  const size_t count = input.between(1, 3), first = input.below(std::size(kPaths));
  std::vector<Module> modules;
  for (size_t m = 0; m < count; ++m) {
    Module module{kPaths[(first + m) % std::size(kPaths)],
                  ModuleKind::Linear,
                  {input.oneOf(sides)},
                  input.oneOf(sides)};
    const size_t kind = input.below(6);
    if (kind == 1) module.kind = ModuleKind::Embedding;
    if (kind == 2) module.kind = ModuleKind::Convolution, module.in = {module.in[0], input.between(1, 3), 1};
    modules.push_back(std::move(module));
  }
  return modules;
}

/// Elements of a factor: any bits, ordinary values, few different ones, or none but zero.
std::vector<std::byte> takeValues(Input& input, DType dtype, size_t count) {
  const size_t mode = input.below(6);
  std::vector<std::byte> bytes(count * bitsOf(dtype) / 8);
  if (mode == 0) return bytes;
  if (mode == 1) {
    for (std::byte& byte : bytes) byte = input.take<std::byte>();
    return bytes;
  }
  Random random(input.take<uint8_t>());
  const double scale = mode == 2 ? takeNumber(input) : 1;
  std::vector<float> values(count);
  for (float& value : values) {
    if (mode == 3) {
      value = static_cast<float>(input.take<int8_t>()) / 16;
    } else if (mode == 4) {
      value = static_cast<float>(random.below(3)) - 1;
    } else {
      value = static_cast<float>(scale * (2 * random.uniform() - 1));
    }
  }
  if (isFloat8(dtype)) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(0x70));
  } else {
    fromFloatRef(dtype, values.data(), count, bytes.data());
  }
  return bytes;
}

uint64_t product(const std::vector<uint64_t>& shape) {
  uint64_t result = 1;
  for (const uint64_t side : shape) result *= side;
  return result;
}

Adapter takeAdapter(Input& input, const std::vector<Module>& modules) {
  constexpr DType kDtypes[] = {DType::F32, DType::F16,    DType::BF16,
                               DType::F64, DType::F8E4M3, DType::F8E5M2FNUZ};
  const DType dtype = input.oneOf(kDtypes);
  Header header;
  std::vector<std::byte> data;
  std::string ranks;
  for (const Module& module : modules) {
    const uint64_t rank = input.between(ranks.empty() ? 1 : 0, 4);
    if (rank == 0) continue;
    const bool embedding = module.kind == ModuleKind::Embedding;
    const std::string key = "base_model.model." + module.path;
    std::vector<uint64_t> a = module.in, b{module.out, rank};
    a.insert(a.begin(), rank);
    if (module.kind == ModuleKind::Convolution) b.insert(b.end(), 2, 1);
    for (const auto& [name, shape] : {std::pair(embedding ? ".lora_embedding_A" : ".lora_A.weight", &a),
                                      std::pair(embedding ? ".lora_embedding_B" : ".lora_B.weight", &b)}) {
      header.tensors.push_back({key + name, dtype, *shape, 0, 0});
      const auto values = takeValues(input, dtype, product(*shape));
      data.insert(data.end(), values.begin(), values.end());
    }
    ranks += (ranks.empty() ? "\"" : ",\"") + module.path + "\":" + std::to_string(rank);
  }
  const double alpha = takeNumber(input);
  const size_t flags = input.below(64);
  char number[32];
  std::snprintf(number, sizeof number, "%.17g", std::isfinite(alpha) ? alpha : 1.0);
  const auto text = safetensors::writeHeader(header);
  requireOk(text, "a small header can be written");
  Adapter adapter;
  adapter.headerBytes = text->size();
  adapter.file.assign(bytesOf(*text).begin(), bytesOf(*text).end());
  adapter.file.insert(adapter.file.end(), data.begin(), data.end());
  adapter.config = std::string("{\"peft_type\":\"LORA\",\"lora_alpha\":") + number +
                   ",\"use_rslora\":" + (flags & 1 ? "true" : "false") +
                   ",\"fan_in_fan_out\":" + (flags == 62 ? "true" : "false") + ",\"rank_pattern\":{" + ranks +
                   "}}";
  return adapter;
}

struct Outcome {
  std::optional<Error> error;
  std::vector<std::byte> file;
  uint64_t headerBytes = 0;
  std::string config;
  std::vector<ModuleReport> reports;
};

Status readBatch(Session& session, const std::vector<Adapter>& adapters, size_t index) {
  auto input = session.input(index);
  if (!input) return input.error();
  for (const ReadRange& read : session.plan().batches[index].reads)
    std::memcpy(input->data() + read.at, adapters[read.adapter].file.data() + read.offset, read.length);
  return {};
}

Status mergeInto(Outcome& outcome, const std::vector<Adapter>& adapters, const Recipe& recipe,
                 const Kernels& kernels) {
  Session session(1, kernels);
  for (const Adapter& adapter : adapters) {
    const Status added =
        session.addAdapter({"adapter", "file", "config"}, Bytes(adapter.file).first(adapter.headerBytes),
                           adapter.file.size(), adapter.config);
    if (!added) return added;
  }
  if (Status planned = session.makePlan(recipe); !planned) return planned;
  if (!session.plan().ranksAreKnown) {
    for (size_t i = 0; i < session.plan().batches.size(); ++i) {
      if (Status read = readBatch(session, adapters, i); !read) return read;
      if (Status surveyed = session.survey(i); !surveyed) return surveyed;
    }
    if (Status chosen = session.chooseRanks(); !chosen) return chosen;
  }
  const Plan& plan = session.plan();
  outcome.file.assign(bytesOf(plan.header).begin(), bytesOf(plan.header).end());
  outcome.headerBytes = plan.header.size();
  outcome.config = plan.config;
  for (size_t i = 0; i < plan.batches.size(); ++i) {
    if (Status read = readBatch(session, adapters, i); !read) return read;
    const auto output = session.run(i);
    if (!output) return output.error();
    outcome.file.insert(outcome.file.end(), output->begin(), output->end());
  }
  require(outcome.file.size() == plan.outputBytes, "the output is as large as the plan says");
  outcome.reports.assign(session.reports().begin(), session.reports().end());
  return {};
}

Outcome merge(const std::vector<Adapter>& adapters, const Recipe& recipe, const Kernels& kernels) {
  Outcome outcome;
  if (Status done = mergeInto(outcome, adapters, recipe, kernels); !done) outcome.error = done.error();
  return outcome;
}

bool same(double x, double y) {
  return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y) || (std::isnan(x) && std::isnan(y));
}
bool same(const std::vector<double>& x, const std::vector<double>& y) {
  return std::ranges::equal(x, y, [](double a, double b) { return same(a, b); });
}

bool same(const ModuleReport& x, const ModuleReport& y) {
  return x.labels == y.labels && x.clusters == y.clusters && x.nearZero == y.nearZero &&
         x.adapter == y.adapter && same(x.inertia, y.inertia) && same(x.centroidNorm, y.centroidNorm) &&
         same(x.mergedNorm, y.mergedNorm) && same(x.quality.norm, y.quality.norm) &&
         same(x.quality.error, y.quality.error) && same(x.quality.inputCosine, y.quality.inputCosine);
}

bool isFinite(DType dtype, const std::byte* element) {
  if (dtype == DType::F64) {
    double value;
    std::memcpy(&value, element, sizeof value);
    return std::isfinite(value);
  }
  float value;
  toFloatRef(dtype, element, 1, &value);
  return std::isfinite(value);
}

void checkOutput(const Outcome& outcome) {
  Session session(1);
  requireOk(session.addAdapter({"merged", "merged", "config"}, Bytes(outcome.file).first(outcome.headerBytes),
                               outcome.file.size(), outcome.config),
            "a merged adapter can be merged again");
  for (const AdapterModule& module : session.adapters()[0].catalogue.modules) {
    require(module.scale == 1, "a merged adapter has its scale in its factors");
    for (const TensorInfo* tensor : {&module.a, &module.b}) {
      for (uint64_t at = tensor->begin; at < tensor->end; at += bitsOf(tensor->dtype) / 8)
        require(isFinite(tensor->dtype, outcome.file.data() + at), "what is written is finite");
    }
  }
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego;
  using namespace lego::fuzz;
  Input input(std::as_bytes(std::span(data, size)));
  const size_t count = input.between(1, 3);
  const std::string globs[] = {"*", "*q_proj", "*_proj", "l.?.mlp.*"};
  const Recipe recipe = takeRecipe(input, count, globs);
  const auto modules = takeModules(input);
  std::vector<Adapter> adapters;
  for (size_t i = 0; i < count; ++i) {
    // Copies cancel and coincide, where much has to be decided between equals.
    if (i > 0 && input.below(4) == 1) {
      adapters.push_back(adapters.back());
    } else {
      adapters.push_back(takeAdapter(input, modules));
    }
  }

  const Outcome fast = merge(adapters, recipe, kFastKernels),
                reference = merge(adapters, recipe, kReferenceKernels);
  require(fast.error.has_value() == reference.error.has_value(),
          "both kernels come to an end of the same kind");
  if (fast.error) {
    checkError(*fast.error);
    require(fast.error->code == reference.error->code && describe(*fast.error) == describe(*reference.error),
            "both kernels come to the same error");
    return 0;
  }
  require(fast.file == reference.file && fast.config == reference.config, "both kernels give the same bytes");
  require(std::ranges::equal(fast.reports, reference.reports,
                             [](const auto& x, const auto& y) { return same(x, y); }),
          "both kernels give the same report");
  checkOutput(fast);
  return 0;
}

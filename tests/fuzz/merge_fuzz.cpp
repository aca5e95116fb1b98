// A whole small merge: up to three adapters of a few modules, with what else a file may hold, in dialects of
// one naming, written in any format, with any method and recipe and any values. The fast kernels and the
// references give the same bytes and reports or the same error, and what is written is finite.

#include <bit>
#include <cmath>
#include <set>

#include "adapter/translate.h"
#include "adapter/write_adapter.h"
#include "base/random.h"
#include "format/gguf.h"
#include "format/onnx_adapter.h"
#include "job/session.h"
#include "plan.h"
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
  std::string path;   // as transformers or diffusers has it
  std::string fused;  // ComfyUI's name of a module that has this as a third of its rows
  ModuleKind kind = ModuleKind::Linear;
  uint64_t in = 0, out = 0;
  std::vector<uint64_t> kernel;
  uint64_t experts = 0;  // of a mixture, in one pair of tensors
};

// As PEFT has it.
constexpr const char* kExperts = "model.layers.0.mlp.experts";
constexpr const char* kParameter = "mlp.experts.up_proj";

/// Modules that read the same input, and one that reads what two others write, as in a transformer's layer.
std::vector<Module> takeModules(Input& input, Naming naming) {
  constexpr const char* kTransformers[] = {"model.layers.0.self_attn.q_proj",
                                           "model.layers.0.self_attn.k_proj",
                                           "model.layers.0.self_attn.v_proj",
                                           "model.layers.0.mlp.gate_proj",
                                           "model.layers.0.mlp.up_proj",
                                           "model.layers.0.mlp.down_proj",
                                           "model.embed_tokens",
                                           "lm_head",
                                           kExperts};
  constexpr const char* kDiffusion[] = {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                                        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
                                        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v",
                                        "unet.down_blocks.0.resnets.0.conv1",
                                        "unet.mid_block.attentions.0.proj_in",
                                        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
                                        "transformer.transformer_blocks.0.attn.to_q",
                                        "transformer.transformer_blocks.0.attn.to_k"};
  const bool isDiffusion = naming == Naming::Diffusion;
  const auto paths =
      isDiffusion ? std::span<const char* const>(kDiffusion) : std::span<const char* const>(kTransformers);
  // Blocks of Q8_0 are 32 elements; heads have an even number of rows.
  const uint64_t sides[] = {input.between(1, 16), 2 * input.between(1, 8), 1, 32};
  const size_t count = input.between(1, 3), first = input.below(paths.size());
  std::vector<Module> modules;
  for (size_t m = 0; m < count; ++m) {
    const size_t number = (first + m) % paths.size();
    Module module{paths[number], {}, ModuleKind::Linear, input.oneOf(sides), input.oneOf(sides), {}};
    if (paths[number] == kExperts) {
      module.experts = input.between(1, 3);
      modules.push_back(std::move(module));
      continue;
    }
    if (isDiffusion && number >= 6) {
      module.out = module.in;
      module.fused = "diffusion_model.double_blocks.0.img_attn.qkv";
    }
    const size_t kind = input.below(6);
    const bool isEmbedding = module.path == "model.embed_tokens";
    if (isEmbedding ? kind != 1 : kind == 1 && !isDiffusion) module.kind = ModuleKind::Embedding;
    if (kind == 2 && !isEmbedding) {
      module.kind = ModuleKind::Convolution;
      module.kernel = {input.between(1, 3), 1};
      module.in *= module.kernel[0];
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

/// Elements of a factor: any bits, ordinary values, few different ones, or none but zero.
std::vector<std::byte> takeValues(Input& input, DType dtype, size_t count) {
  const size_t mode = input.below(6);
  std::vector<std::byte> bytes(*lego::bytesOf(dtype, count));
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

/// What a dialect calls a module, and how much larger it is there; nothing where it does not have it.
std::optional<MergedModule> moduleIn(Dialect dialect, const Module& module, uint64_t rank) {
  if (module.experts > 0) {
    const char* name = dialect == Dialect::Gguf  ? "blk.0.ffn_up_exps"
                       : dialect == Dialect::Mlx ? "model.layers.0.mlp.switch_mlp.up_proj"
                                                 : kExperts;
    return MergedModule{name, module.kind, module.in, module.out, {}, rank, /*scale=*/1.0, module.experts};
  }
  const bool isFused = !module.fused.empty() && (dialect == Dialect::Kohya || dialect == Dialect::Comfy);
  DiffusionFamilies families = setOf(DiffusionFamily::Sd1);
  if (!module.fused.empty()) families = setOf(DiffusionFamily::Flux);
  auto name = isFused ? std::optional(module.fused) : nameIn(dialect, module.path, families);
  if (isFused && dialect == Dialect::Kohya) name = "lora_unet_double_blocks_0_img_attn_qkv";
  if (!name || !checkWritable(dialect, *name, module.kind)) return std::nullopt;
  return MergedModule{*name,         module.kind, module.in,    module.out * (isFused ? 3 : 1),
                      module.kernel, rank,        /*scale=*/1.0};
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", std::isfinite(value) ? value : 1.0);
  return text;
}

/// Writes the header in front of the data, which is that of one tensor after the other, and the padding
/// between them.
std::vector<std::byte> fileOf(Dialect dialect, Header& header, std::span<const std::vector<std::byte>> data,
                              double alpha, uint64_t& headerBytes) {
  const bool isGguf = dialect == Dialect::Gguf;
  const auto text = isGguf ? gguf::writeHeader(header, {{"general.type", std::string("adapter")},
                                                        {"adapter.type", std::string("lora")},
                                                        {"general.architecture", std::string("llama")},
                                                        {"adapter.lora.alpha", static_cast<float>(alpha)}})
                           : safetensors::writeHeader(header);
  requireOk(text, "a small header can be written");
  headerBytes = text->size();
  std::vector<std::byte> file(bytesOf(*text).begin(), bytesOf(*text).end());
  for (size_t i = 0; i < data.size(); ++i) {
    file.resize(header.tensors[i].begin);
    file.insert(file.end(), data[i].begin(), data[i].end());
  }
  if (isGguf) file.resize(file.size() + gguf::paddingAfter(file.size()));
  return file;
}

/// Tensors of a file with their bytes.
struct Contents {
  Header header;
  std::vector<std::vector<std::byte>> data;

  void add(Input& input, const std::string& name, DType dtype, std::vector<uint64_t> shape) {
    // What is no factor may be of a dtype that no values are taken for.
    data.push_back(isFactorDtype(dtype) ? takeValues(input, dtype, product(shape))
                                        : std::vector<std::byte>(*lego::bytesOf(dtype, shape)));
    header.tensors.push_back({name, dtype, std::move(shape), 0, 0});
  }
  bool has(const std::string& name) const {
    return std::ranges::count(header.tensors, name, &TensorInfo::name) > 0;
  }
};

/// A module as LyCORIS stores it: LoHa, LoKr, with a core between the factors, or the whole difference.
void addLycoris(Input& input, const MergedModule& module, DType dtype, Contents& contents) {
  uint64_t channels = module.in;
  for (const uint64_t side : module.kernel) channels /= side;
  const uint64_t rank = input.between(1, 3), in = module.in, out = module.out;
  const uint64_t rows = out % 2 == 0 ? 2 : 1, columns = in % 2 == 0 ? 2 : 1;  // of LoKr's small factor
  const auto add = [&](const char* ending, std::vector<uint64_t> shape) {
    contents.add(input, module.path + ending, dtype, std::move(shape));
  };
  const auto withKernel = [&](uint64_t first, uint64_t second) {
    std::vector<uint64_t> shape = {first, second};
    shape.insert(shape.end(), module.kernel.begin(), module.kernel.end());
    return shape;
  };
  const auto ones = [&](uint64_t first, uint64_t second) {
    std::vector<uint64_t> shape = {first, second};
    shape.insert(shape.end(), module.kernel.size(), 1);
    return shape;
  };
  switch (input.below(6)) {
    case 0:
      add(".hada_w1_a", {out, rank}), add(".hada_w1_b", {rank, in});
      add(".hada_w2_a", {out, rank}), add(".hada_w2_b", {rank, in});
      break;
    case 1:
      add(".hada_t1", withKernel(rank, rank)), add(".hada_w1_a", {rank, out}),
          add(".hada_w1_b", {rank, channels});
      add(".hada_t2", withKernel(rank, rank)), add(".hada_w2_a", {rank, out}),
          add(".hada_w2_b", {rank, channels});
      break;
    case 2:
      add(".lokr_w1", {rows, columns});
      add(".lokr_w2_a", {out / rows, rank}), add(".lokr_w2_b", {rank, in / columns});
      break;
    case 3: add(".lokr_w1", {rows, columns}), add(".lokr_w2", {out / rows, in / columns}); break;
    case 4:
      add(".lora_up.weight", ones(out, rank)), add(".lora_down.weight", ones(rank, channels));
      add(".lora_mid.weight", withKernel(rank, rank));
      break;
    default: add(".diff", withKernel(out, channels));
  }
}

/// Up to three more things that a file may hold beside plain pairs: other modules, and what is no factor.
void addMore(Input& input, Dialect dialect, const std::vector<Module>& modules, DType dtype,
             std::set<std::string>& names, Contents& contents) {
  const bool isFlat = dialect == Dialect::Kohya;
  const bool hasLycoris = isFlat || dialect == Dialect::Comfy || dialect == Dialect::Diffusers;
  if (!isFactorDtype(dtype) || dtype == DType::Q8_0) return;
  for (size_t more = input.below(4); more > 0; --more) {
    const auto own = moduleIn(dialect, modules[input.below(modules.size())], 1);
    const size_t choice = input.below(8);
    if (choice < 4) {
      if (!own || !hasLycoris || own->kind == ModuleKind::Embedding || !names.insert(own->path).second)
        continue;
      addLycoris(input, *own, dtype, contents);
      if (infoOf(dialect).alphaTensors && input.flag() && !contents.has(own->path + ".alpha")) {
        contents.header.tensors.push_back({own->path + ".alpha", dtype, {}, 0, 0});
        contents.data.push_back(takeAlpha(input, dtype));
      }
      continue;
    }
    constexpr const char* kFlat[] = {"lora_unet_norm.w_norm",
                                     "lora_unet_norm.b_norm",
                                     "lora_unet_norm.diff",
                                     "lora_unet_x.diff_b",
                                     "bundle_emb.word.string_to_param.*",
                                     "lora_unet_x.dora_scale"};
    constexpr const char* kDotted[] = {"base_model.model.lm_head.weight",
                                       "base_model.model.model.norm.weight",
                                       "base_model.model.model.layers.0.self_attn.q_proj.bias",
                                       "base_model.model.model.layers.0.mlp.up_proj.lora_B.bias",
                                       "base_model.model.x.lora_magnitude_vector",
                                       "unet.norm.diff_b"};
    const std::string name = isFlat ? input.oneOf(kFlat) : input.oneOf(kDotted);
    const bool isMatrix = input.below(4) == 3;
    const bool isEmpty = input.below(16) == 15 && dialect != Dialect::Gguf;
    std::vector<uint64_t> shape = {isEmpty ? 0 : input.between(1, 2)};
    if (isMatrix && !name.ends_with(".diff")) shape.push_back(2);
    const DType dtypes[] = {dtype, dtype, DType::F32, DType::I64, DType::F4};
    const DType wanted = dialect == Dialect::Gguf ? dtype : input.oneOf(dtypes);
    if (wanted == DType::F4) shape.assign({2});
    if (!contents.has(name)) contents.add(input, name, wanted, std::move(shape));
  }
}

Adapter takeAdapter(Input& input, Dialect dialect, const std::vector<Module>& modules) {
  constexpr DType kDtypes[] = {DType::F32,    DType::F16,        DType::BF16, DType::F64,
                               DType::F8E4M3, DType::F8E5M2FNUZ, DType::Q8_0};
  const DialectInfo& info = infoOf(dialect);
  DType dtype = input.oneOf(kDtypes);
  // Each container has dtypes that the other one lacks.
  if (dialect == Dialect::Gguf ? dtype == DType::F64 || isFloat8(dtype) : dtype == DType::Q8_0)
    dtype = DType::F32;
  Contents contents;
  auto& [header, data] = contents;
  std::set<std::string> names;
  std::string ranks;
  bool hasExperts = false;
  for (const Module& module : modules) {
    const uint64_t rank = input.between(names.empty() ? 1 : 0, 4);
    const auto own = rank == 0 ? std::nullopt : moduleIn(dialect, module, rank);
    if (!own || !names.insert(own->path).second) continue;
    auto factors = factorsOf(dialect, *own, dtype);
    for (TensorInfo* tensor : {&factors.a, &factors.b}) {
      if (!lego::bytesOf(tensor->dtype, tensor->shape)) tensor->dtype = DType::F16;
      data.push_back(takeValues(input, tensor->dtype, product(tensor->shape)));
      header.tensors.push_back(std::move(*tensor));
    }
    if (info.alphaTensors && input.flag()) {
      header.tensors.push_back({keyOf(dialect, own->path, own->kind, Part::Alpha), dtype, {}, 0, 0});
      data.push_back(takeAlpha(input, dtype));
    }
    ranks += (ranks.empty() ? "\"" : ",\"") + (own->experts > 0 ? kParameter : own->path) +
             "\":" + std::to_string(rank);
    hasExperts |= own->experts > 0;
  }
  const double alpha = takeNumber(input);
  const size_t flags = input.below(64);
  addMore(input, dialect, modules, dtype, names, contents);
  Adapter adapter;
  adapter.file = fileOf(dialect, header, data, alpha, adapter.headerBytes);
  if (dialect == Dialect::Mlx)
    adapter.config = "{\"fine_tune_type\":\"lora\",\"lora_parameters\":{\"scale\":" + number(alpha) + "}}";
  if (dialect == Dialect::Peft)
    adapter.config = std::string("{\"peft_type\":\"LORA\",\"lora_alpha\":") + number(alpha) +
                     ",\"use_rslora\":" + (flags & 1 ? "true" : "false") +
                     ",\"fan_in_fan_out\":" + (flags == 62 ? "true" : "false") + ",\"rank_pattern\":{" +
                     ranks + "}" +
                     (hasExperts ? ",\"target_parameters\":[\"" + std::string(kParameter) + "\"]" : "") + "}";
  return adapter;
}

struct Outcome {
  std::optional<Error> error;
  std::vector<std::byte> file;
  std::string config;
  Plan plan;
  std::vector<ModuleReport> reports;
};

Status readBatch(Session& session, const std::vector<Adapter>& adapters, size_t index) {
  auto input = session.input(index);
  if (!input) return input.error();
  for (const ReadRange& read : session.plan().batches[index].reads)
    std::memcpy(input->data() + read.at, adapters[read.adapter].file.data() + read.offset, read.length);
  return {};
}

Status addTo(Session& session, const Adapter& adapter) {
  const auto config = adapter.config.empty() ? std::nullopt : std::optional<std::string_view>(adapter.config);
  const Status added =
      session.addAdapter({"adapter", "file", "config"}, Bytes(adapter.file).first(adapter.headerBytes),
                         adapter.file.size(), config);
  if (!added) return added;
  std::vector<std::byte> alphas;
  for (const ReadRange& read : session.alphaReads()) {
    const Bytes bytes = Bytes(adapter.file).subspan(read.offset, read.length);
    alphas.insert(alphas.end(), bytes.begin(), bytes.end());
  }
  return session.setAlphas(alphas);
}

Status mergeInto(Outcome& outcome, const std::vector<Adapter>& adapters, const Recipe& recipe,
                 const std::optional<std::string>& base, const Kernels& kernels) {
  Session session(1, kernels);
  for (const Adapter& adapter : adapters) {
    if (Status added = addTo(session, adapter); !added) return added;
  }
  setBase(session, base);
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
  outcome.config = plan.config;
  outcome.plan = plan;
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

Outcome merge(const std::vector<Adapter>& adapters, const Recipe& recipe,
              const std::optional<std::string>& base, const Kernels& kernels) {
  Outcome outcome;
  if (Status done = mergeInto(outcome, adapters, recipe, base, kernels); !done) outcome.error = done.error();
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

bool isFinite(const TensorInfo& tensor, const std::byte* data) {
  const auto elements = static_cast<size_t>(product(tensor.shape));
  if (elements == 0) return true;
  const auto finite = [](auto value) { return std::isfinite(value); };
  if (tensor.dtype == DType::F64) {
    std::vector<double> values(elements);
    std::memcpy(values.data(), data, elements * sizeof(double));
    return std::ranges::all_of(values, finite);
  }
  std::vector<float> values(elements);
  toFloatRef(tensor.dtype, data, elements, values.data());
  return std::ranges::all_of(values, finite);
}

/// Parameters of a graph are those of the plan.
void checkOnnx(const Outcome& outcome) {
  const auto file = onnx_adapter::readHeader(outcome.file);
  requireOk(file, "what was written can be read");
  std::vector<const TensorInfo*> planned;
  for (const PlannedModule& module : outcome.plan.modules)
    planned.insert(planned.end(), {&module.a, &module.b});
  require(file->header.tensors.size() == planned.size(), "parameters come back");
  for (size_t i = 0; i < planned.size(); ++i) {
    const TensorInfo &back = file->header.tensors[i], &tensor = *planned[i];
    require(back.name == tensor.name && back.dtype == tensor.dtype && back.shape == tensor.shape &&
                back.begin == tensor.begin && back.end == tensor.end,
            "a parameter comes back");
    require(isFinite(back, outcome.file.data() + back.begin), "what is written is finite");
  }
}

void checkMerged(const Outcome& outcome) {
  for (const PlannedFiller& filler : outcome.plan.fillers) {
    require(std::ranges::equal(bytesOf(filler.bytes),
                               Bytes(outcome.file).subspan(filler.at, filler.bytes.size())),
            "fillers are written");
  }
  if (outcome.plan.dialect == Dialect::OnnxAdapter) return checkOnnx(outcome);
  checkOutput(outcome.plan);
  Session session(1);
  addWritten(session, outcome.file, outcome.file.size(), outcome.config);
  for (const AdapterModule& module : session.adapters()[0].catalogue.modules) {
    for (const TensorInfo* tensor : {&module.a, &module.b})
      require(isFinite(*tensor, outcome.file.data() + tensor->begin), "what is written is finite");
  }
  for (const PlannedExtra& extra : outcome.plan.extras) {
    require(extra.isCopied() ||
                isFinite(outcome.plan.extraTensors[extra.tensor], outcome.file.data() + extra.out.begin),
            "what is computed is finite");
  }
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego;
  using namespace lego::fuzz;
  Input input(std::as_bytes(std::span(data, size)));
  const size_t count = input.between(1, 3);
  const std::string globs[] = {"*", "*q_proj", "*_proj", "*.?.mlp.*"};
  const Recipe recipe = takeRecipe(input, count, globs);
  const auto base = takeBase(input);
  constexpr Dialect kTransformers[] = {Dialect::Peft, Dialect::Mlx, Dialect::Gguf};
  constexpr Dialect kDiffusion[] = {Dialect::Diffusers, Dialect::Kohya, Dialect::Comfy};
  const Naming naming = input.below(3) == 2 ? Naming::Diffusion : Naming::Transformers;
  const auto& choices = naming == Naming::Diffusion ? kDiffusion : kTransformers;
  Dialect dialect = input.oneOf(choices);
  const auto modules = takeModules(input, naming);
  std::vector<Adapter> adapters;
  for (size_t i = 0; i < count; ++i) {
    // Copies cancel and coincide, where much has to be decided between equals.
    const size_t choice = i == 0 ? 0 : input.below(4);
    if (choice == 2) dialect = input.oneOf(choices);
    adapters.push_back(choice == 1 ? adapters.back() : takeAdapter(input, dialect, modules));
  }

  const Outcome fast = merge(adapters, recipe, base, kFastKernels),
                reference = merge(adapters, recipe, base, kReferenceKernels);
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
  checkMerged(fast);
  return 0;
}

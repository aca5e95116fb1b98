#include "core/dialect_samples.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lego::testing {

std::vector<float> turned(const std::vector<float>& values, size_t rows, size_t columns) {
  std::vector<float> result(values.size());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) result[c * rows + r] = values[r * columns + c];
  }
  return result;
}

NamedTensor matrix(const std::string& name, DType dtype, uint64_t rows, uint64_t columns,
                   const std::vector<float>& values) {
  return {name, dtype, {rows, columns}, values};
}

DialectSample sampleOf(Dialect dialect, std::vector<Pair> pairs, DType dtype) {
  std::vector<NamedTensor> tensors;
  std::string config;
  for (Pair& pair : pairs) {
    const double alpha = kScale * static_cast<double>(pair.rank);
    const auto plain = [&](const std::string& a, const std::string& b) {
      tensors.push_back(matrix(a, dtype, pair.rank, pair.in, pair.a));
      tensors.push_back(matrix(b, dtype, pair.out, pair.rank, pair.b));
    };
    const auto folded = [&](const std::string& a, const std::string& b) {
      std::vector<float> doubled(pair.b);
      for (float& value : doubled) value *= static_cast<float>(kScale);
      tensors.push_back(matrix(a, dtype, pair.rank, pair.in, pair.a));
      tensors.push_back(matrix(b, dtype, pair.out, pair.rank, doubled));
    };
    switch (dialect) {
      case Dialect::Peft:
        plain("base_model.model." + pair.path + ".lora_A.weight",
              "base_model.model." + pair.path + ".lora_B.weight");
        config = R"({"peft_type":"LORA","r":4,"lora_alpha":8})";
        break;
      case Dialect::Kohya:
      case Dialect::Comfy:
        plain(pair.path + ".lora_down.weight", pair.path + ".lora_up.weight");
        tensors.push_back({pair.path + ".alpha", dtype, {}, {static_cast<float>(alpha)}});
        break;
      case Dialect::Diffusers: folded(pair.path + ".lora_A.weight", pair.path + ".lora_B.weight"); break;
      case Dialect::XLabs: folded(pair.path + ".down.weight", pair.path + ".up.weight"); break;
      case Dialect::ControlLora: folded(pair.path + ".down", pair.path + ".up"); break;
      case Dialect::Gguf: folded(pair.path + ".weight.lora_a", pair.path + ".weight.lora_b"); break;
      case Dialect::OnnxAdapter: ADD_FAILURE() << "is not read"; break;
      case Dialect::Mlx:
        tensors.push_back(
            matrix(pair.path + ".lora_a", dtype, pair.in, pair.rank, turned(pair.a, pair.rank, pair.in)));
        tensors.push_back(
            matrix(pair.path + ".lora_b", dtype, pair.rank, pair.out, turned(pair.b, pair.out, pair.rank)));
        config =
            R"({"fine_tune_type":"lora","num_layers":2,"lora_parameters":{"rank":4,"scale":2.0,"dropout":0.0}})";
        break;
    }
  }
  const DialectInfo& info = infoOf(dialect);
  const auto file =
      (info.file == FileKind::Gguf) ? makeGguf(tensors, kGgufMetadata) : makeSafetensors(tensors);
  return {dialect, {info.name, file, config}, std::move(pairs)};
}

std::vector<std::string> pathsOf(Dialect dialect) {
  switch (dialect) {
    case Dialect::Peft:
    case Dialect::Mlx: return {"model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"};
    case Dialect::Kohya:
      return {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_unet_down_blocks_0_attentions_0_proj_in"};
    case Dialect::Diffusers:
      return {"text_encoder.text_model.encoder.layers.0.mlp.fc1", "unet.down_blocks.0.attentions.0.proj_in"};
    case Dialect::Comfy:
      return {"diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.single_blocks.1.linear2"};
    case Dialect::XLabs:
      return {"double_blocks.0.processor.qkv_lora1", "single_blocks.3.processor.proj_lora"};
    case Dialect::ControlLora:
      return {"input_blocks.1.1.proj_in", "middle_block.1.transformer_blocks.0.attn1.to_q"};
    case Dialect::Gguf: return {"blk.0.attn_q", "blk.0.ffn_down"};
    case Dialect::OnnxAdapter: return {};
  }
  return {};
}

std::vector<Pair> pairsFor(Dialect dialect, uint64_t seed) {
  Random random(seed);
  std::vector<Pair> pairs;
  for (const std::string& path : pathsOf(dialect)) pairs.push_back(randomPair(random, 4, 12, 9, path));
  return pairs;
}

Recipe converting(const std::string& format) {
  Recipe recipe;
  recipe.method = "cat";
  recipe.keepScales = true;
  recipe.format = format;
  return recipe;
}

Catalogue catalogueOf(const TestAdapter& adapter) {
  Session session(1);
  const Status added = addTo(session, adapter);
  EXPECT_TRUE(added) << describe(added.error());
  return added ? session.adapters()[0].catalogue : Catalogue{};
}

std::vector<double> deltaOf(const TestAdapter& adapter, const std::string& path) {
  const Catalogue catalogue = catalogueOf(adapter);
  const auto module = std::ranges::find(catalogue.modules, path, &AdapterModule::path);
  if (module == catalogue.modules.end()) {
    ADD_FAILURE() << "no module " << path;
    return {};
  }
  Pair pair{path,
            module->rank,
            module->in,
            module->out,
            valuesOf(adapter.file, module->a.name),
            valuesOf(adapter.file, module->b.name)};
  if (module->transposedA) pair.a = turned(pair.a, pair.in, pair.rank);
  if (module->transposedB) pair.b = turned(pair.b, pair.rank, pair.out);
  return delta(pair, module->scale);
}

TestAdapter asAdapter(const Merged& merged) { return {"merged", merged.file, merged.plan.config}; }

std::set<std::string> namesOf(std::span<const std::byte> file) {
  std::set<std::string> names;
  for (const TensorInfo& tensor : headerOf(file).tensors) names.insert(tensor.name);
  return names;
}

}  // namespace lego::testing

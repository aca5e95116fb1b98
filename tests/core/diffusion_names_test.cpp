// Names of diffusion models' modules. What exists is enumerated here from the published configs, in the way
// the models' own constructors number their modules, not from the tables; pairs written out are from the
// converters of diffusers, sd-scripts and ComfyUI.

#include "adapter/diffusion_names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace lego::testing {
namespace {

using enum DiffusionFamily;

struct Module {
  std::string canonical;
  std::string original;  // empty: a part of another
  std::string kohya;     // empty: the same
  uint64_t in = 0;
  uint64_t out = 0;
};

std::string flat(std::string name) {
  std::ranges::replace(name, '.', '_');
  return name;
}

std::string number(size_t n) { return std::to_string(n); }

/// The constructor of the original UNetModel (ldm/modules/diffusionmodules/openaimodel.py) beside diffusers'
/// blocks: both make the same modules in the same order.
struct UNetConfig {
  std::vector<size_t> channels;  // block_out_channels
  std::vector<size_t> depth;     // transformer_layers_per_block where the level has attention, else 0
  size_t middleDepth;
  size_t prompt;  // cross_attention_dim
  bool sdxl;
};
const UNetConfig kSd15 = {{320, 640, 1280, 1280}, {1, 1, 1, 0}, 1, 768, false};
const UNetConfig kSd21 = {{320, 640, 1280, 1280}, {1, 1, 1, 0}, 1, 1024, false};
const UNetConfig kSdxlBase = {{320, 640, 1280}, {0, 2, 10}, 10, 2048, true};

class UNetNames {
 public:
  explicit UNetNames(const UNetConfig& config) : config_(config) {
    const size_t base = config.channels[0], embedded = 4 * base, levels = config.channels.size();
    add("conv_in", "input_blocks.0.0", 9 * 4, base);
    add("time_embedding.linear_1", "time_embed.0", base, embedded);
    add("time_embedding.linear_2", "time_embed.2", embedded, embedded);
    if (config.sdxl) {
      add("add_embedding.linear_1", "label_emb.0.0", 2816, embedded);
      add("add_embedding.linear_2", "label_emb.0.2", embedded, embedded);
    }
    std::vector<size_t> skips = {base};
    size_t channels = base, next = 1;
    for (size_t level = 0; level < levels; ++level) {
      const std::string block = "down_blocks." + number(level);
      for (size_t i = 0; i < 2; ++i, ++next) {
        const std::string input = "input_blocks." + number(next);
        resnet(block + ".resnets." + number(i), input + ".0", channels, config.channels[level]);
        channels = config.channels[level];
        if (config.depth[level] > 0)
          attention(block + ".attentions." + number(i), input + ".1", channels, config.depth[level]);
        skips.push_back(channels);
      }
      if (level + 1 == levels) continue;
      add(block + ".downsamplers.0.conv", "input_blocks." + number(next++) + ".0.op", 9 * channels, channels);
      skips.push_back(channels);
    }
    resnet("mid_block.resnets.0", "middle_block.0", channels, channels);
    attention("mid_block.attentions.0", "middle_block.1", channels, config.middleDepth);
    resnet("mid_block.resnets.1", "middle_block.2", channels, channels);
    next = 0;
    for (size_t level = levels; level-- > 0;) {
      const std::string block = "up_blocks." + number(levels - 1 - level);
      for (size_t i = 0; i < 3; ++i, ++next) {
        const std::string output = "output_blocks." + number(next);
        size_t layers = 0;
        resnet(block + ".resnets." + number(i), output + "." + number(layers++), channels + skips.back(),
               config.channels[level]);
        skips.pop_back();
        channels = config.channels[level];
        if (config.depth[level] > 0)
          attention(block + ".attentions." + number(i), output + "." + number(layers++), channels,
                    config.depth[level]);
        if (level > 0 && i == 2)
          add(block + ".upsamplers.0.conv", output + "." + number(layers++) + ".conv", 9 * channels,
              channels);
      }
    }
    add("conv_out", "out.2", 9 * base, 4);
  }

  std::vector<Module> modules;

 private:
  void add(const std::string& canonical, const std::string& original, uint64_t in, uint64_t out) {
    const std::string kohya = "lora_unet_" + flat(config_.sdxl ? original : canonical);
    modules.push_back({"unet." + canonical, original, kohya, in, out});
  }
  void resnet(const std::string& canonical, const std::string& original, uint64_t in, uint64_t out) {
    add(canonical + ".conv1", original + ".in_layers.2", 9 * in, out);
    add(canonical + ".time_emb_proj", original + ".emb_layers.1", 4 * config_.channels[0], out);
    add(canonical + ".conv2", original + ".out_layers.3", 9 * out, out);
    if (in != out) add(canonical + ".conv_shortcut", original + ".skip_connection", in, out);
  }
  void attention(const std::string& canonical, const std::string& original, uint64_t width, size_t depth) {
    add(canonical + ".proj_in", original + ".proj_in", width, width);
    add(canonical + ".proj_out", original + ".proj_out", width, width);
    for (size_t t = 0; t < depth; ++t) {
      const std::string block = ".transformer_blocks." + number(t);
      const auto both = [&](const std::string& name, uint64_t in, uint64_t out) {
        add(canonical + block + name, original + block + name, in, out);
      };
      for (const char* attention : {".attn1", ".attn2"}) {
        const uint64_t read = attention == std::string(".attn1") ? width : config_.prompt;
        both(attention + std::string(".to_q"), width, width);
        both(attention + std::string(".to_k"), read, width);
        both(attention + std::string(".to_v"), read, width);
        both(attention + std::string(".to_out.0"), width, width);
      }
      both(".ff.net.0.proj", width, 8 * width);
      both(".ff.net.2", 4 * width, width);
    }
  }

  const UNetConfig& config_;
};

std::vector<Module> clip(const std::string& component, const std::string& kohya, const std::string& comfy,
                         size_t layers, uint64_t width) {
  std::vector<Module> modules;
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto add = [&](const std::string& name, uint64_t in, uint64_t out) {
      const std::string path = "text_model.encoder.layers." + number(layer) + "." + name;
      modules.push_back(
          {component + path, "text_encoders." + comfy + ".transformer." + path, kohya + flat(path), in, out});
    };
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"})
      add(name, width, width);
    add("mlp.fc1", width, 4 * width);
    add("mlp.fc2", 4 * width, width);
  }
  return modules;
}

std::vector<Module> t5() {
  std::vector<Module> modules;
  for (size_t block = 0; block < 24; ++block) {
    const auto add = [&](const std::string& name, uint64_t in, uint64_t out) {
      const std::string path = "encoder.block." + number(block) + ".layer." + name;
      modules.push_back({"text_encoder_2." + path, "text_encoders.t5xxl.transformer." + path,
                         "lora_te3_" + flat(path), in, out});
    };
    for (const char* name : {"q", "k", "v", "o"}) add(std::string("0.SelfAttention.") + name, 4096, 4096);
    add("1.DenseReluDense.wi_0", 4096, 10240);
    add("1.DenseReluDense.wi_1", 4096, 10240);
    add("1.DenseReluDense.wo", 10240, 4096);
  }
  return modules;
}

constexpr uint64_t kHidden = 3072;

/// FluxTransformer2DModel with 19 double and 38 single blocks, hidden size 3072.
std::vector<Module> flux() {
  std::vector<Module> modules;
  const auto add = [&](const std::string& canonical, const std::string& original, uint64_t in, uint64_t out) {
    modules.push_back({"transformer." + canonical, original,
                       original.empty() ? "" : "lora_unet_" + flat(original), in, out});
  };
  const std::string time = "time_text_embed.";
  add("x_embedder", "img_in", 64, kHidden);
  add("context_embedder", "txt_in", 4096, kHidden);
  add(time + "timestep_embedder.linear_1", "time_in.in_layer", 256, kHidden);
  add(time + "timestep_embedder.linear_2", "time_in.out_layer", kHidden, kHidden);
  add(time + "text_embedder.linear_1", "vector_in.in_layer", 768, kHidden);
  add(time + "text_embedder.linear_2", "vector_in.out_layer", kHidden, kHidden);
  add(time + "guidance_embedder.linear_1", "guidance_in.in_layer", 256, kHidden);
  add(time + "guidance_embedder.linear_2", "guidance_in.out_layer", kHidden, kHidden);
  for (size_t block = 0; block < 19; ++block) {
    const std::string to = "transformer_blocks." + number(block) + ".",
                      from = "double_blocks." + number(block) + ".";
    add(to + "norm1.linear", from + "img_mod.lin", kHidden, 6 * kHidden);
    add(to + "norm1_context.linear", from + "txt_mod.lin", kHidden, 6 * kHidden);
    for (const char* name : {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"})
      add(to + "attn." + name, "", kHidden, kHidden);
    add(to + "attn.to_out.0", from + "img_attn.proj", kHidden, kHidden);
    add(to + "attn.to_add_out", from + "txt_attn.proj", kHidden, kHidden);
    add(to + "ff.net.0.proj", from + "img_mlp.0", kHidden, 4 * kHidden);
    add(to + "ff.net.2", from + "img_mlp.2", 4 * kHidden, kHidden);
    add(to + "ff_context.net.0.proj", from + "txt_mlp.0", kHidden, 4 * kHidden);
    add(to + "ff_context.net.2", from + "txt_mlp.2", 4 * kHidden, kHidden);
  }
  for (size_t block = 0; block < 38; ++block) {
    const std::string to = "single_transformer_blocks." + number(block) + ".",
                      from = "single_blocks." + number(block) + ".";
    add(to + "norm.linear", from + "modulation.lin", kHidden, 3 * kHidden);
    for (const char* name : {"to_q", "to_k", "to_v"}) add(to + "attn." + name, "", kHidden, kHidden);
    add(to + "proj_mlp", "", kHidden, 4 * kHidden);
    add(to + "proj_out", from + "linear2", 5 * kHidden, kHidden);
  }
  add("norm_out.linear", "", kHidden, 2 * kHidden);
  add("proj_out", "final_layer.linear", kHidden, 64);
  return modules;
}

std::vector<Module> modulesOf(DiffusionFamily family) {
  std::vector<Module> modules;
  const auto append = [&](const std::vector<Module>& more) {
    modules.insert(modules.end(), more.begin(), more.end());
  };
  switch (family) {
    case Sd1:
      append(UNetNames(kSd15).modules);
      append(clip("text_encoder.", "lora_te_", "clip_l", 12, 768));
      break;
    case Sd2:
      append(UNetNames(kSd21).modules);
      append(clip("text_encoder.", "lora_te_", "clip_h", 23, 1024));
      break;
    case Sdxl:
      append(UNetNames(kSdxlBase).modules);
      append(clip("text_encoder.", "lora_te1_", "clip_l", 12, 768));
      append(clip("text_encoder_2.", "lora_te2_", "clip_g", 32, 1280));
      modules.push_back({"text_encoder_2.text_projection", "text_encoders.clip_g.transformer.text_projection",
                         "lora_te2_text_projection", 1280, 1280});
      break;
    case Flux:
      append(flux());
      append(clip("text_encoder.", "lora_te1_", "clip_l", 12, 768));
      append(t5());
      break;
  }
  return modules;
}

/// The path, where the parts are one whole module.
std::string whole(const std::vector<CanonicalPart>& parts, uint64_t out) {
  if (parts.size() != 1 || parts[0].rowBegin != 0 || parts[0].rows != out || parts[0].canonicalRow != 0)
    return "";
  return parts[0].path;
}

// "create LoRA for U-Net: 192 modules" and so on is what sd-scripts prints for its default targets. That the
// enumeration above is right rests on these.
TEST(DiffusionNames, EnumerationHasTheKnownNumbersOfModules) {
  const auto count = [](DiffusionFamily family, auto&& counts) {
    return std::ranges::count_if(modulesOf(family), [&](const Module& m) { return counts(m.canonical); });
  };
  const auto attentions = [](const std::string& path) {
    return path.find(".attentions.") != std::string::npos;
  };
  const auto text = [](const std::string& path) {
    return path.starts_with("text_encoder") && path != "text_encoder_2.text_projection";
  };
  EXPECT_EQ(count(Sd1, attentions), 192);
  EXPECT_EQ(count(Sd1, text), 72);
  EXPECT_EQ(count(Sd2, attentions), 192);
  EXPECT_EQ(count(Sd2, text), 138);
  EXPECT_EQ(count(Sdxl, attentions), 722);
  EXPECT_EQ(count(Sdxl, text), 264);
  const auto resnets = [](const std::string& path) { return path.ends_with(".time_emb_proj"); };
  EXPECT_EQ(count(Sd1, resnets), 22);
  EXPECT_EQ(count(Sdxl, resnets), 17);
  const auto shortcuts = [](const std::string& path) { return path.ends_with(".conv_shortcut"); };
  EXPECT_EQ(count(Sd1, shortcuts), 14);
  EXPECT_EQ(count(Sdxl, shortcuts), 11);
  std::set<std::string> fluxBlocks;
  for (const Module& m : modulesOf(Flux))
    if (m.kohya.starts_with("lora_unet_double") || m.kohya.starts_with("lora_unet_single"))
      fluxBlocks.insert(m.kohya);
  // 19 x 10 + 38 x 3 modules of the blocks, less the fused 19 x 2 + 38.
  EXPECT_EQ(fluxBlocks.size(), 304u - 76u);
}

TEST(DiffusionNames, EveryModuleOfEveryFamilyComesBack) {
  for (const DiffusionFamily family : kDiffusionFamilies) {
    std::set<std::string> canonical, flatNames, originals;
    for (const Module& m : modulesOf(family)) {
      SCOPED_TRACE(m.canonical);
      EXPECT_TRUE(canonical.insert(m.canonical).second);
      EXPECT_NE(familiesOf(m.canonical, 0) & setOf(family), 0);
      EXPECT_NE(familiesOf(m.canonical, m.in) & setOf(family), 0);
      const auto kohya = toKohya(m.canonical, family), original = toOriginal(m.canonical, family);
      ASSERT_EQ(kohya.has_value(), !m.original.empty());
      ASSERT_EQ(original.has_value(), !m.original.empty());
      EXPECT_EQ(fusedPartOf(m.canonical, m.in, m.out).has_value(), m.original.empty());
      if (!kohya) continue;
      EXPECT_EQ(*kohya, m.kohya);
      EXPECT_EQ(*original, m.original);
      EXPECT_EQ(whole(fromKohya(m.kohya, m.in, m.out), m.out), m.canonical);
      EXPECT_EQ(whole(fromOriginal(m.original, m.in, m.out), m.out), m.canonical);
      EXPECT_TRUE(flatNames.insert(m.kohya).second);
      EXPECT_TRUE(originals.insert(m.original).second);
    }
  }
}

TEST(DiffusionNames, OtherDialectsGiveTheSamePaths) {
  for (const DiffusionFamily family : kDiffusionFamilies)
    for (const Module& m : modulesOf(family)) {
      SCOPED_TRACE(m.canonical);
      if (m.canonical.starts_with("unet.")) {  // sd-scripts' SDXL in diffusers' names, SD1 in SGM's
        EXPECT_EQ(whole(fromKohya("lora_unet_" + flat(m.canonical.substr(5)), m.in, m.out), m.out),
                  m.canonical);
        EXPECT_EQ(whole(fromKohya("lora_unet_" + flat(m.original), m.in, m.out), m.out), m.canonical);
      } else if (m.canonical.starts_with("transformer.")) {  // OneTrainer
        EXPECT_EQ(whole(fromKohya("lora_" + flat(m.canonical), m.in, m.out), m.out), m.canonical);
        EXPECT_TRUE(fromKohya("lora_unet_" + flat(m.canonical.substr(12)), m.in, m.out).empty());
      } else if (m.canonical.starts_with("text_encoder.")) {
        EXPECT_EQ(whole(fromKohya("lora_te_" + flat(m.canonical.substr(13)), m.in, m.out), m.out),
                  m.canonical);
        EXPECT_EQ(whole(fromKohya("lora_te1_" + flat(m.canonical.substr(13)), m.in, m.out), m.out),
                  m.canonical);
      } else {
        ASSERT_TRUE(m.canonical.starts_with("text_encoder_2."));
        EXPECT_EQ(whole(fromKohya("lora_te2_" + flat(m.canonical.substr(15)), m.in, m.out), m.out),
                  m.canonical);
      }
    }
}

// Over all families and dialects: two modules never share a name.
TEST(DiffusionNames, NoTwoPathsShareAName) {
  std::map<std::string, std::string> pathOf;
  const auto claim = [&](const std::string& name, const std::string& path) {
    const auto [at, isNew] = pathOf.emplace(name, path);
    EXPECT_EQ(at->second, path) << name;
  };
  for (const DiffusionFamily family : kDiffusionFamilies)
    for (const Module& m : modulesOf(family)) {
      if (!m.kohya.empty()) claim(m.kohya, m.canonical);
      if (m.canonical.starts_with("unet.")) {
        claim("lora_unet_" + flat(m.canonical.substr(5)), m.canonical);
        claim("lora_unet_" + flat(m.original), m.canonical);
      }
      if (const auto fused = fusedPartOf(m.canonical, m.in, m.out)) {
        EXPECT_EQ(pathOf.count(fused->kohya), 0u) << "both fused and whole";
      }
    }
  EXPECT_GT(pathOf.size(), 2500u);
}

struct Pair {
  const char* kohya;
  const char* canonical;
};

// From the sources named in diffusion_names.h, and from keys of published files quoted there.
constexpr Pair kPublished[] = {
    // sd-scripts on SD1: diffusers' names, flattened
    {"lora_unet_down_blocks_0_attentions_0_proj_in", "unet.down_blocks.0.attentions.0.proj_in"},
    {"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
     "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"},
    {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
     "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"},
    {"lora_unet_mid_block_attentions_0_transformer_blocks_9_attn2_to_v",
     "unet.mid_block.attentions.0.transformer_blocks.9.attn2.to_v"},
    {"lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj",
     "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj"},
    {"lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_2",
     "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2"},
    {"lora_unet_up_blocks_3_attentions_2_proj_out", "unet.up_blocks.3.attentions.2.proj_out"},
    {"lora_unet_down_blocks_0_resnets_0_conv1", "unet.down_blocks.0.resnets.0.conv1"},
    {"lora_unet_down_blocks_2_resnets_1_time_emb_proj", "unet.down_blocks.2.resnets.1.time_emb_proj"},
    {"lora_unet_up_blocks_0_resnets_2_conv_shortcut", "unet.up_blocks.0.resnets.2.conv_shortcut"},
    {"lora_unet_down_blocks_2_downsamplers_0_conv", "unet.down_blocks.2.downsamplers.0.conv"},
    {"lora_unet_up_blocks_2_upsamplers_0_conv", "unet.up_blocks.2.upsamplers.0.conv"},
    {"lora_te_text_model_encoder_layers_0_self_attn_q_proj",
     "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"},
    {"lora_te_text_model_encoder_layers_22_mlp_fc1", "text_encoder.text_model.encoder.layers.22.mlp.fc1"},
    // sd-scripts on SDXL: SGM's names (make_unet_conversion_map)
    {"lora_unet_input_blocks_0_0", "unet.conv_in"},
    {"lora_unet_out_2", "unet.conv_out"},
    {"lora_unet_time_embed_0", "unet.time_embedding.linear_1"},
    {"lora_unet_time_embed_2", "unet.time_embedding.linear_2"},
    {"lora_unet_label_emb_0_0", "unet.add_embedding.linear_1"},
    {"lora_unet_label_emb_0_2", "unet.add_embedding.linear_2"},
    {"lora_unet_input_blocks_1_0_in_layers_2", "unet.down_blocks.0.resnets.0.conv1"},
    {"lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv"},
    {"lora_unet_input_blocks_4_0_skip_connection", "unet.down_blocks.1.resnets.0.conv_shortcut"},
    {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
     "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"},
    {"lora_unet_input_blocks_5_1_proj_in", "unet.down_blocks.1.attentions.1.proj_in"},
    {"lora_unet_input_blocks_6_0_op", "unet.down_blocks.1.downsamplers.0.conv"},
    {"lora_unet_input_blocks_7_0_emb_layers_1", "unet.down_blocks.2.resnets.0.time_emb_proj"},
    {"lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_2",
     "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2"},
    {"lora_unet_middle_block_0_in_layers_2", "unet.mid_block.resnets.0.conv1"},
    {"lora_unet_middle_block_1_proj_out", "unet.mid_block.attentions.0.proj_out"},
    {"lora_unet_middle_block_2_out_layers_3", "unet.mid_block.resnets.1.conv2"},
    {"lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_k",
     "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"},
    {"lora_unet_output_blocks_2_2_conv", "unet.up_blocks.0.upsamplers.0.conv"},
    {"lora_unet_output_blocks_3_1_transformer_blocks_1_attn1_to_out_0",
     "unet.up_blocks.1.attentions.0.transformer_blocks.1.attn1.to_out.0"},
    {"lora_unet_output_blocks_5_2_conv", "unet.up_blocks.1.upsamplers.0.conv"},
    {"lora_unet_output_blocks_8_0_skip_connection", "unet.up_blocks.2.resnets.2.conv_shortcut"},
    {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"},
    {"lora_te2_text_model_encoder_layers_31_mlp_fc2", "text_encoder_2.text_model.encoder.layers.31.mlp.fc2"},
    {"lora_te2_text_projection", "text_encoder_2.text_projection"},
    // OneTrainer
    {"lora_transformer_transformer_blocks_0_attn_add_q_proj",
     "transformer.transformer_blocks.0.attn.add_q_proj"},
    {"lora_transformer_transformer_blocks_0_ff_context_net_2",
     "transformer.transformer_blocks.0.ff_context.net.2"},
    {"lora_transformer_single_transformer_blocks_0_proj_mlp",
     "transformer.single_transformer_blocks.0.proj_mlp"},
    {"lora_transformer_x_embedder", "transformer.x_embedder"},
    {"lora_transformer_norm_out_linear", "transformer.norm_out.linear"},
    {"lora_te2_encoder_block_0_layer_0_SelfAttention_q",
     "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"},
    // sd-scripts on Flux
    {"lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
     "text_encoder_2.encoder.block.23.layer.1.DenseReluDense.wi_0"},
};

TEST(DiffusionNames, PublishedPairs) {
  EXPECT_GE(std::size(kPublished), 40u);
  for (const Pair& pair : kPublished) EXPECT_EQ(whole(fromKohya(pair.kohya, 640, 320), 320), pair.canonical);
}

struct Shaped {
  const char* original;
  uint64_t in, out;
  std::vector<CanonicalPart> parts;
};

// convert_flux_lora.py's list of shapes; scripts/convert_flux_to_diffusers.py's splits.
TEST(DiffusionNames, FluxRows) {
  const uint64_t h = kHidden;
  const std::string d = "transformer.transformer_blocks.18.", s = "transformer.single_transformer_blocks.37.",
                    t = "transformer.time_text_embed.";
  const Shaped all[] = {
      {"double_blocks.18.img_attn.qkv",
       h,
       9216,
       {{d + "attn.to_q", 0, h, 0}, {d + "attn.to_k", 3072, h, 0}, {d + "attn.to_v", 6144, h, 0}}},
      {"double_blocks.18.txt_attn.qkv",
       h,
       9216,
       {{d + "attn.add_q_proj", 0, h, 0},
        {d + "attn.add_k_proj", 3072, h, 0},
        {d + "attn.add_v_proj", 6144, h, 0}}},
      {"double_blocks.18.img_attn.proj", h, h, {{d + "attn.to_out.0", 0, h, 0}}},
      {"double_blocks.18.img_mlp.0", h, 12288, {{d + "ff.net.0.proj", 0, 12288, 0}}},
      {"double_blocks.18.img_mlp.2", 12288, h, {{d + "ff.net.2", 0, h, 0}}},
      {"double_blocks.18.img_mod.lin", h, 18432, {{d + "norm1.linear", 0, 18432, 0}}},
      {"double_blocks.18.txt_attn.proj", h, h, {{d + "attn.to_add_out", 0, h, 0}}},
      {"double_blocks.18.txt_mlp.0", h, 12288, {{d + "ff_context.net.0.proj", 0, 12288, 0}}},
      {"double_blocks.18.txt_mlp.2", 12288, h, {{d + "ff_context.net.2", 0, h, 0}}},
      {"double_blocks.18.txt_mod.lin", h, 18432, {{d + "norm1_context.linear", 0, 18432, 0}}},
      {"single_blocks.37.linear1",
       h,
       21504,
       {{s + "attn.to_q", 0, h, 0},
        {s + "attn.to_k", 3072, h, 0},
        {s + "attn.to_v", 6144, h, 0},
        {s + "proj_mlp", 9216, 12288, 0}}},
      {"single_blocks.37.linear2", 15360, h, {{s + "proj_out", 0, h, 0}}},
      {"single_blocks.37.modulation.lin", h, 9216, {{s + "norm.linear", 0, 9216, 0}}},
      {"img_in", 64, h, {{"transformer.x_embedder", 0, h, 0}}},
      {"txt_in", 4096, h, {{"transformer.context_embedder", 0, h, 0}}},
      {"time_in.in_layer", 256, h, {{t + "timestep_embedder.linear_1", 0, h, 0}}},
      {"vector_in.out_layer", h, h, {{t + "text_embedder.linear_2", 0, h, 0}}},
      {"guidance_in.in_layer", 256, h, {{t + "guidance_embedder.linear_1", 0, h, 0}}},
      {"final_layer.linear", h, 64, {{"transformer.proj_out", 0, 64, 0}}},
      // swap_scale_shift: the first half goes second
      {"final_layer.adaLN_modulation.1",
       h,
       6144,
       {{"transformer.norm_out.linear", 0, h, h}, {"transformer.norm_out.linear", h, h, 0}}},
  };
  for (const Shaped& one : all)
    for (const auto& parts : {fromOriginal(one.original, one.in, one.out),
                              fromKohya("lora_unet_" + flat(one.original), one.in, one.out)}) {
      SCOPED_TRACE(one.original);
      ASSERT_EQ(parts.size(), one.parts.size());
      uint64_t rows = 0;
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_EQ(parts[i].path, one.parts[i].path);
        EXPECT_EQ(parts[i].rowBegin, one.parts[i].rowBegin);
        EXPECT_EQ(parts[i].rows, one.parts[i].rows);
        EXPECT_EQ(parts[i].canonicalRow, one.parts[i].canonicalRow);
        EXPECT_EQ(parts[i].rowBegin, rows);
        rows += parts[i].rows;
      }
      EXPECT_EQ(rows, one.out);
    }
}

// Every fused module's parts, one after the other, lead back to it, cover it and cover each canonical module.
TEST(DiffusionNames, FusedPartsAndTheirWholesAgree) {
  std::map<std::string, std::set<uint32_t>> positions;
  std::map<std::string, uint32_t> counts;
  for (const Module& m : modulesOf(Flux)) {
    const auto fused = fusedPartOf(m.canonical, m.in, m.out);
    if (!fused) continue;
    SCOPED_TRACE(m.canonical);
    EXPECT_EQ(fused->kohya, "lora_unet_" + flat(fused->original));
    const auto parts = fromKohya(fused->kohya, m.in, fused->rows);
    ASSERT_FALSE(parts.empty());
    std::vector<int> covered(m.out);
    std::vector<std::string> siblings;
    for (const CanonicalPart& part : parts) {
      if (siblings.empty() || siblings.back() != part.path) siblings.push_back(part.path);
      for (uint64_t i = 0; part.path == m.canonical && i < part.rows; ++i) ++covered[part.canonicalRow + i];
    }
    EXPECT_EQ(std::ranges::count(covered, 1), static_cast<std::ptrdiff_t>(m.out));
    EXPECT_EQ(siblings.size(), fused->count);
    ASSERT_LT(fused->position, siblings.size());
    EXPECT_EQ(siblings[fused->position], m.canonical);
    positions[fused->kohya].insert(fused->position);
    counts[fused->kohya] = fused->count;
  }
  EXPECT_EQ(positions.size(), 19u * 2 + 38 + 1);
  for (const auto& [name, all] : positions) EXPECT_EQ(all.size(), counts[name]) << name;

  const auto k = fusedPartOf("transformer.transformer_blocks.3.attn.add_k_proj", 16, 16);
  ASSERT_TRUE(k);
  EXPECT_EQ(k->kohya, "lora_unet_double_blocks_3_txt_attn_qkv");
  EXPECT_EQ(k->original, "double_blocks.3.txt_attn.qkv");
  EXPECT_EQ(k->position, 1u);
  EXPECT_EQ(k->count, 3u);
  EXPECT_EQ(k->rows, 48u);
  const auto mlp = fusedPartOf("transformer.single_transformer_blocks.3.proj_mlp", 16, 64);
  ASSERT_TRUE(mlp);
  EXPECT_EQ(mlp->position, 3u);
  EXPECT_EQ(mlp->count, 4u);
  EXPECT_EQ(mlp->rows, 112u);
  const auto norm = fusedPartOf("transformer.norm_out.linear", 16, 32);
  ASSERT_TRUE(norm);
  EXPECT_EQ(norm->count, 1u);
  EXPECT_EQ(norm->rows, 32u);
}

TEST(DiffusionNames, ShapesThatAreNotFlux1sGiveNothing) {
  const char* qkv = "double_blocks.0.img_attn.qkv";
  EXPECT_EQ(fromOriginal(qkv, 16, 48).size(), 3u);
  for (const auto& [in, out] :
       {std::pair<uint64_t, uint64_t>{16, 47}, {16, 49}, {16, 51}, {0, 48}, {16, 0}, {0, 0}, {48, 48}})
    EXPECT_TRUE(fromOriginal(qkv, in, out).empty()) << in << " " << out;
  // Flux.2: a gated feed forward of three times the width, 2 x 3 in one; linear1 3 + 6.
  EXPECT_TRUE(fromOriginal("double_blocks.0.img_mlp.0", 6144, 36864).empty());
  EXPECT_TRUE(fromOriginal("double_blocks.0.img_mlp.2", 18432, 6144).empty());
  EXPECT_TRUE(fromKohya("lora_unet_single_blocks_0_linear1", 6144, 55296).empty());
  EXPECT_TRUE(fromOriginal("single_blocks.0.linear2", 24576, 6144).empty());
  const uint64_t huge = ~uint64_t{0};
  EXPECT_TRUE(fromOriginal(qkv, huge, huge).empty());
  EXPECT_TRUE(fromOriginal(qkv, huge, 0).empty());
  EXPECT_TRUE(fromOriginal("double_blocks.0.img_mlp.2", huge, huge / 4).empty());
  EXPECT_EQ(fromOriginal("double_blocks.0.img_attn.proj", huge, huge).size(), 1u);
  EXPECT_FALSE(fusedPartOf("transformer.transformer_blocks.0.attn.to_q", huge, huge)) << "3 huge do not fit";
  EXPECT_FALSE(fusedPartOf("transformer.transformer_blocks.0.attn.to_q", 16, 32));
  EXPECT_FALSE(fusedPartOf("transformer.transformer_blocks.0.attn.to_q", 0, 0));
  EXPECT_FALSE(fusedPartOf("transformer.single_transformer_blocks.0.proj_mlp", 16, 16));
  EXPECT_FALSE(fusedPartOf("transformer.norm_out.linear", 16, 16));
  EXPECT_FALSE(fusedPartOf("unet.mid_block.attentions.0.proj_in", 16, 16));
}

TEST(DiffusionNames, UnknownNamesGiveNothing) {
  for (const char* name :
       {"", "lora_unet_", "lora_unet", "lora_te_", "unet", "down_blocks_0_attentions_0_proj_in",
        "lora_unet_down_blocks_0_attentions_0", "lora_unet_down_blocks_0_attentions_0_",
        "lora_unet_down_blocks_0_attentions_0_proj_in_", "lora_unet_down_blocks_0_attentions_0_proj_in_x",
        "lora_unet_down_blocks_00_attentions_0_proj_in", "lora_unet_down_blocks_01_attentions_0_proj_in",
        "lora_unet_down_blocks__attentions_0_proj_in", "lora_unet_down_blocks_-1_attentions_0_proj_in",
        "lora_unet_down_blocks_0.attentions_0_proj_in", "lora_unet_down_blocks_#_attentions_0_proj_in",
        "lora_unet_down_blocks_18446744073709551616_attentions_0_proj_in",
        "lora_unet_down_blocks_4294967296_attentions_0_proj_in",
        "lora_unet_down_blocks_1000_attentions_0_proj_in",
        "lora_unet_down_blocks_3_attentions_0_proj_in",                          // the last level has none
        "lora_unet_down_blocks_0_attentions_2_proj_in",                          // two layers a block
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_1_attn1_to_q",  // depth 1 where there is one
        "lora_unet_down_blocks_2_attentions_0_transformer_blocks_10_attn1_to_q",  // depth 10 at most
        "lora_unet_down_blocks_3_downsamplers_0_conv", "lora_unet_down_blocks_0_downsamplers_1_conv",
        "lora_unet_up_blocks_4_resnets_0_conv1", "lora_unet_up_blocks_3_upsamplers_0_conv",
        "lora_unet_input_blocks_0_0_in_layers_2", "lora_unet_input_blocks_0_1_proj_in",
        "lora_unet_input_blocks_3_0_in_layers_2",  // a downsampler
        "lora_unet_input_blocks_4_0_op",           // a resnet
        "lora_unet_input_blocks_12_0_op", "lora_unet_input_blocks_12_0_in_layers_2",
        "lora_unet_middle_block_1_in_layers_2", "lora_unet_middle_block_3_in_layers_2",
        "lora_unet_middle_block_0_proj_in", "lora_unet_output_blocks_1_1_conv",
        "lora_unet_output_blocks_5_1_conv", "lora_unet_output_blocks_2_0_conv",
        "lora_unet_output_blocks_2_3_conv", "lora_unet_output_blocks_11_2_conv",
        "lora_te_text_model_encoder_layers_23_mlp_fc1", "lora_te_text_model_encoder_layers_0_mlp_fc3",
        "lora_te2_text_model_encoder_layers_32_mlp_fc1", "lora_te_text_projection",
        "lora_te1_text_projection", "lora_te_encoder_block_0_layer_0_SelfAttention_q",
        "lora_te3_text_model_encoder_layers_0_mlp_fc1", "lora_te3_encoder_block_24_layer_0_SelfAttention_q",
        "lora_te3_encoder_block_0_layer_1_SelfAttention_q",
        "lora_te4_encoder_block_0_layer_0_SelfAttention_q",
        "lora_transformer_down_blocks_0_attentions_0_proj_in",
        "lora_transformer_double_blocks_0_img_attn_qkv", "lora_transformer_transformer_blocks_19_attn_to_q",
        "lora_unet_transformer_blocks_0_attn_to_q", "lora_unet_double_blocks_19_img_attn_proj",
        "lora_unet_single_blocks_38_linear2",
        // SD3, Wan, Lumina, Stable Cascade, HunyuanVideo in its own names, LyCORIS, PEFT
        "lora_unet_joint_blocks_0_x_block_attn_qkv", "lora_unet_blocks_0_cross_attn_k",
        "lora_unet_layers_0_attention_qkv", "lora_prior_unet_down_blocks_0_0_channelwise_0",
        "lora_unet_double_blocks_0_img_mlp_fc1", "lycoris_down_blocks_0_attentions_0_proj_in",
        "base_model.model.model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"}) {
    EXPECT_TRUE(fromKohya(name, 3072, 3072).empty()) << name;
    EXPECT_TRUE(fromOriginal(name, 3072, 3072).empty()) << name;
    EXPECT_EQ(familiesOf(name, 0), 0) << name;
  }
  for (const char* name :
       {"input_blocks_4_1_proj_in", "diffusion_model.input_blocks.4.1.proj_in", "input_blocks.4.1",
        "input_blocks.4.1.", "down_blocks.0.attentions.0.proj_in", "unet.conv_in",
        "text_encoders.clip_l.transformer.encoder.block.0.layer.0.SelfAttention.q",
        "text_encoders.t5xxl.transformer.text_model.encoder.layers.0.mlp.fc1",
        "text_encoders.clip_l.transformer.text_projection", "text_model.encoder.layers.0.mlp.fc1"})
    EXPECT_TRUE(fromOriginal(name, 640, 640).empty()) << name;
  for (const char* path :
       {"", "unet.", "unet", "conv_in", "unet.conv", "unet.down_blocks.0.attentions.0.proj_in.x",
        "unet.mid_block.attentions.1.proj_in", "unet.input_blocks.0.0", "transformer.img_in",
        "text_encoder.text_model.encoder.layers.23.mlp.fc1", "text_encoder_2.mlp.fc1",
        "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"}) {
    EXPECT_EQ(familiesOf(path, 0), 0) << path;
    for (const DiffusionFamily family : kDiffusionFamilies) {
      EXPECT_FALSE(toKohya(path, family)) << path;
      EXPECT_FALSE(toOriginal(path, family)) << path;
    }
    EXPECT_FALSE(fusedPartOf(path, 16, 16)) << path;
  }
}

// Cut short, lengthened or with a byte changed, a name may be another module's, never the same one's.
TEST(DiffusionNames, ChangedNamesAreNeverTakenForTheSame) {
  for (const DiffusionFamily family : kDiffusionFamilies)
    for (const Module& m : modulesOf(family)) {
      if (m.kohya.empty()) continue;
      const auto differs = [&](const std::string& name) {
        const auto parts = fromKohya(name, m.in, m.out);
        EXPECT_TRUE(parts.empty() || parts[0].path != m.canonical) << name << " for " << m.kohya;
      };
      for (size_t i = m.kohya.size() > 24 ? m.kohya.size() - 14 : 10; i < m.kohya.size(); ++i) {
        differs(m.kohya.substr(0, i));
        std::string changed = m.kohya;
        changed[i] = changed[i] == '_'                                      ? '.'
                     : std::isdigit(static_cast<unsigned char>(changed[i])) ? ':'
                                                                            : '#';
        differs(changed);
        differs(m.kohya.substr(0, i) + '0' + m.kohya.substr(i));
      }
      differs(m.kohya + "_0");
      differs(m.kohya + "0");
      differs(" " + m.kohya);
    }
}

TEST(DiffusionNames, FamiliesOfAFile) {
  const auto common = [](DiffusionFamily family, auto&& takes) {
    DiffusionFamilies families = 0xff;
    for (const Module& m : modulesOf(family))
      if (takes(m)) families &= familiesOf(m.canonical, m.in);
    return families;
  };
  // A whole file names its family, a UNet alone does too, thanks to the width of the prompt's embedding.
  for (const DiffusionFamily family : kDiffusionFamilies) {
    EXPECT_EQ(common(family, [](const Module&) { return true; }), setOf(family));
    EXPECT_EQ(common(family, [](const Module& m) { return !m.canonical.starts_with("text_encoder"); }),
              setOf(family));
  }
  const DiffusionFamilies anyClipL = setOf(Sd1) | setOf(Sdxl) | setOf(Flux);
  EXPECT_EQ(common(Sd1, [](const Module& m) { return m.canonical.starts_with("text_encoder"); }), anyClipL);
  EXPECT_EQ(common(Sd2, [](const Module& m) { return m.canonical.starts_with("text_encoder"); }), setOf(Sd2));

  const char* prompt = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
  EXPECT_EQ(familiesOf(prompt, 768), setOf(Sd1));
  EXPECT_EQ(familiesOf(prompt, 1024), setOf(Sd2));
  EXPECT_EQ(familiesOf(prompt, 2048), setOf(Sdxl));
  EXPECT_EQ(familiesOf(prompt, 0), setOf(Sd1) | setOf(Sd2) | setOf(Sdxl));
  EXPECT_EQ(familiesOf(prompt, 32), setOf(Sd1) | setOf(Sd2) | setOf(Sdxl));
  EXPECT_EQ(familiesOf("unet.down_blocks.0.attentions.0.proj_in", 320), setOf(Sd1) | setOf(Sd2));
  EXPECT_EQ(familiesOf("unet.up_blocks.0.attentions.0.proj_in", 1280), setOf(Sdxl));
  EXPECT_EQ(familiesOf("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 2048), 0);

  // The same path is named by family.
  EXPECT_EQ(toKohya("unet.up_blocks.0.upsamplers.0.conv", Sd1), "lora_unet_up_blocks_0_upsamplers_0_conv");
  EXPECT_EQ(toKohya("unet.up_blocks.0.upsamplers.0.conv", Sdxl), "lora_unet_output_blocks_2_2_conv");
  EXPECT_EQ(toOriginal("unet.up_blocks.0.upsamplers.0.conv", Sd2), "output_blocks.2.1.conv");
  EXPECT_FALSE(toKohya("unet.up_blocks.0.upsamplers.0.conv", Flux));
  EXPECT_FALSE(toKohya("unet.down_blocks.0.attentions.0.proj_in", Sdxl));
  EXPECT_FALSE(toKohya("unet.add_embedding.linear_1", Sd1));
}

}  // namespace
}  // namespace lego::testing

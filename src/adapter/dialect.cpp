#include "adapter/dialect.h"

#include <algorithm>
#include <array>

#include "base/help.h"

namespace lego {
namespace {

constexpr DialectInfo kDialects[] = {
    {.dialect = Dialect::Peft,
     .name = "peft",
     .sentence =
         LEGO_HELP("Hugging Face PEFT: a folder with adapter_model.safetensors and adapter_config.json."),
     .naming = Naming::Transformers,
     .tensorFile = "adapter_model.safetensors",
     .configFile = "adapter_config.json",
     .hasEmbeddings = true,
     .hasConvolutions = true,
     .stacks = StackLayout::Rows,
     .scales = ScalePlace::EachModule},
    {.dialect = Dialect::Kohya,
     .name = "kohya",
     .sentence =
         LEGO_HELP("kohya-ss sd-scripts and LyCORIS: one file, flat names such as lora_unet_down_blocks_0."),
     .naming = Naming::Diffusion,
     .tensorFile = "lora.safetensors",
     .hasConvolutions = true,
     .scales = ScalePlace::EachModule,
     .alphaTensors = true},
    {.dialect = Dialect::Diffusers,
     .name = "diffusers",
     .sentence =
         LEGO_HELP("diffusers (old, middle and current names) and ai-toolkit: one file, names such as "
                   "unet.down_blocks.0."),
     .naming = Naming::Diffusion,
     .tensorFile = "pytorch_lora_weights.safetensors",
     .hasConvolutions = true,
     .scales = ScalePlace::EachModule},
    {.dialect = Dialect::Comfy,
     .name = "comfy",
     .sentence = LEGO_HELP(
         "ComfyUI and original names: one file, diffusion_model.double_blocks.0, with or without that "
         "prefix."),
     .naming = Naming::Diffusion,
     .tensorFile = "lora.safetensors",
     .hasConvolutions = true,
     .scales = ScalePlace::EachModule,
     .alphaTensors = true},
    {.dialect = Dialect::XLabs,
     .name = "xlabs",
     .sentence =
         LEGO_HELP("XLabs' adapters for Flux: one file, names such as double_blocks.0.processor.qkv_lora1."),
     .naming = Naming::Diffusion,
     .tensorFile = "lora.safetensors"},
    {.dialect = Dialect::ControlLora,
     .name = "control_lora",
     .sentence = LEGO_HELP("Stability AI's Control-LoRA: one file, original names with .down and .up."),
     .naming = Naming::Diffusion,
     .tensorFile = "control-lora.safetensors",
     .hasConvolutions = true},
    {.dialect = Dialect::Mlx,
     .name = "mlx",
     .sentence = LEGO_HELP("MLX: a folder with adapters.safetensors and adapter_config.json."),
     .naming = Naming::Transformers,
     .tensorFile = "adapters.safetensors",
     .configFile = "adapter_config.json",
     .transposed = true,
     .hasEmbeddings = true,
     .keysTellEmbeddings = false,
     .stacks = StackLayout::Axis,
     .scales = ScalePlace::Config,
     .hasOneRank = true},
    {.dialect = Dialect::Gguf,
     .name = "gguf",
     .sentence = LEGO_HELP(
         "llama.cpp: one GGUF file, names such as blk.0.attn_q. Needs the base model's config.json or GGUF "
         "where it is not all there is."),
     .naming = Naming::Transformers,
     .tensorFile = "adapter.gguf",
     .file = FileKind::Gguf,
     .hasEmbeddings = true,
     .keysTellEmbeddings = false,
     .stacks = StackLayout::Axis},
    {.dialect = Dialect::OnnxAdapter,
     .name = "onnx",
     .sentence = LEGO_HELP(
         "ONNX Runtime: one .onnx_adapter file, its tensors named after the graph's inputs. Written, "
         "not read."),
     .naming = Naming::Transformers,
     .tensorFile = "adapter.onnx_adapter",
     .file = FileKind::OnnxAdapter,
     .transposed = true,
     .isRead = false},
};

/// An ending of a key, after the module's path.
struct Suffix {
  std::string_view text;
  Part part;
  bool isEmbedding = false;
};

/// Beginnings that tell a dialect's keys from those of others, and its endings.
struct Grammar {
  std::span<const std::string_view> prefixes;  // none: any
  bool prefixIsPath;                           // or else it is cut off
  bool hasDots;                                // whether paths have dots
  std::span<const Suffix> suffixes;
};

// Saved files carry no adapter name; some third-party ones keep PEFT's default one.
constexpr Suffix kPeftSuffixes[] = {
    {".lora_A.weight", Part::A},
    {".lora_B.weight", Part::B},
    {".lora_A.default.weight", Part::A},
    {".lora_B.default.weight", Part::B},
    {".lora_embedding_A", Part::A, true},
    {".lora_embedding_B", Part::B, true},
    {".lora_embedding_A.default", Part::A, true},
    {".lora_embedding_B.default", Part::B, true},
};
constexpr Suffix kKohyaSuffixes[] = {
    {".lora_down.weight", Part::A}, {".lora_up.weight", Part::B}, {".alpha", Part::Alpha}};
// In the files of kohya, ComfyUI and diffusers alike.
constexpr Suffix kLycorisSuffixes[] = {
    {".lora_mid.weight", Part::Mid}, {".diff", Part::Diff},         {".hada_w1_a", Part::HadaW1A},
    {".hada_w1_b", Part::HadaW1B},   {".hada_t1", Part::HadaT1},    {".hada_w2_a", Part::HadaW2A},
    {".hada_w2_b", Part::HadaW2B},   {".hada_t2", Part::HadaT2},    {".lokr_w1", Part::LokrW1},
    {".lokr_w1_a", Part::LokrW1A},   {".lokr_w1_b", Part::LokrW1B}, {".lokr_w2", Part::LokrW2},
    {".lokr_w2_a", Part::LokrW2A},   {".lokr_w2_b", Part::LokrW2B}, {".lokr_t2", Part::LokrT2},
};
// PEFT saves them without an ending, OneTrainer with one.
constexpr Suffix kMagnitudeSuffixes[] = {{".lora_magnitude_vector", Part::Magnitude},
                                         {".lora_magnitude_vector.weight", Part::Magnitude},
                                         {".lora_magnitude_vector.default", Part::Magnitude},
                                         {".lora_magnitude_vector.default.weight", Part::Magnitude}};
// ComfyUI takes all of these (comfy/weight_adapter/lora.py); the second half are diffusers' middle and old
// ones.
constexpr Suffix kDiffusionSuffixes[] = {
    {".lora_A.weight", Part::A},
    {".lora_B.weight", Part::B},
    {".lora_A.default.weight", Part::A},
    {".lora_B.default.weight", Part::B},
    {".lora_A", Part::A},
    {".lora_B", Part::B},
    {".lora_down.weight", Part::A},
    {".lora_up.weight", Part::B},
    {".alpha", Part::Alpha},
    {".lora.down.weight", Part::A},
    {".lora.up.weight", Part::B},
    {".lora_linear_layer.down.weight", Part::A},
    {".lora_linear_layer.up.weight", Part::B},
    {"_lora.down.weight", Part::A},
    {"_lora.up.weight", Part::B},
};
constexpr Suffix kXLabsSuffixes[] = {{".down.weight", Part::A}, {".up.weight", Part::B}};
constexpr Suffix kControlSuffixes[] = {{".down", Part::A}, {".up", Part::B}};
constexpr Suffix kMlxSuffixes[] = {{".lora_a", Part::A}, {".lora_b", Part::B}};

constexpr Suffix kGgufSuffixes[] = {{".weight.lora_a", Part::A}, {".weight.lora_b", Part::B}};

constexpr std::string_view kPeftPrefixes[] = {"base_model.model."};
constexpr std::string_view kKohyaPrefixes[] = {
    "lora_unet_",       "lora_te_",       "lora_te1_",         "lora_te2_",        "lora_te3_",
    "lora_prior_unet_", "lora_prior_te_", "lora_transformer_", "lora_controlnet_", "lycoris_"};
constexpr std::string_view kDiffusersPrefixes[] = {"unet.",         "transformer.",    "transformer_2.",
                                                   "text_encoder.", "text_encoder_2.", "text_encoder_3.",
                                                   "prior.",        "decoder.",        "controlnet."};
// The blocks of SGM's UNet and of Flux, for files without ComfyUI's prefix.
constexpr std::string_view kComfyPrefixes[] = {"diffusion_model.", "text_encoders.", "double_blocks.",
                                               "single_blocks.",   "input_blocks.",  "middle_block.",
                                               "output_blocks."};
constexpr std::string_view kControlPrefixes[] = {"input_blocks.", "middle_block.",     "time_embed.",
                                                 "label_emb.",    "input_hint_block.", "zero_convs."};

Grammar grammarOf(Dialect dialect) {
  switch (dialect) {
    case Dialect::Peft: return {kPeftPrefixes, false, true, kPeftSuffixes};
    case Dialect::Kohya: return {kKohyaPrefixes, true, false, kKohyaSuffixes};
    case Dialect::Diffusers: return {kDiffusersPrefixes, true, true, kDiffusionSuffixes};
    case Dialect::Comfy: return {kComfyPrefixes, true, true, kDiffusionSuffixes};
    case Dialect::XLabs: return {{}, true, true, kXLabsSuffixes};
    case Dialect::ControlLora: return {kControlPrefixes, true, true, kControlSuffixes};
    case Dialect::Mlx: return {{}, true, true, kMlxSuffixes};
    case Dialect::Gguf: return {{}, true, true, kGgufSuffixes};
    case Dialect::OnnxAdapter: return {};
  }
  return {};
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// `key`: up to the suffix .down.weight or .up.weight.
bool isXLabs(std::string_view key) {
  const std::string_view name = key.substr(key.rfind('.') + 1);
  constexpr std::array kNames = {"qkv_lora1",  "qkv_lora2", "proj_lora1",
                                 "proj_lora2", "qkv_lora",  "proj_lora"};
  return contains(key, ".processor.") && std::ranges::find(kNames, name) != kNames.end();
}

/// diffusers' old attention processors as the modules that they belong to (DIFFUSERS_OLD_TO_PEFT and
/// UNET_TO_DIFFUSERS of its state_dict_utils.py): "attn1.processor.to_q_lora" is "attn1.to_q", and in text
/// encoders "self_attn.to_q_lora" is "self_attn.q_proj".
std::string currentPath(std::string path) {
  constexpr std::string_view kProcessor = ".processor.";
  const bool isText = path.starts_with("text_encoder");
  // All of them, so that a path is read again as itself.
  for (size_t at; (at = path.find(kProcessor)) != std::string::npos;)
    path.replace(at, kProcessor.size(), ".");
  const size_t dot = path.rfind('.');
  if (dot == std::string::npos) return path;
  const std::string name = path.substr(dot + 1);
  const auto renamed = [&](const char* to) { return path.substr(0, dot + 1) + to; };
  if (name == "to_out") return renamed(isText ? "out_proj" : "to_out.0");
  if (isText && name == "to_q") return renamed("q_proj");
  if (isText && name == "to_k") return renamed("k_proj");
  if (isText && name == "to_v") return renamed("v_proj");
  return path;
}

bool hasLycoris(Dialect dialect) {
  return dialect == Dialect::Kohya || dialect == Dialect::Comfy || dialect == Dialect::Diffusers;
}

/// Control-LoRA's and MLX's endings are so short that a path must show it is one.
bool fits(Dialect dialect, std::string_view path, std::string_view name) {
  const auto factorOfXLabs = [&] {
    return std::ranges::any_of(kXLabsSuffixes, [&](const Suffix& suffix) {
      return name.ends_with(suffix.text) && isXLabs(name.substr(0, name.size() - suffix.text.size()));
    });
  };
  switch (dialect) {
    case Dialect::XLabs: return factorOfXLabs();
    case Dialect::Comfy: return !factorOfXLabs();
    case Dialect::Mlx: return !path.starts_with("base_model.model.");
    default: return true;
  }
}

}  // namespace

const char* nameOf(ScalePlace place) {
  switch (place) {
    case ScalePlace::Nowhere: return "nowhere";
    case ScalePlace::Config: return "config";
    case ScalePlace::EachModule: return "each module";
  }
  return "";
}

const char* nameOf(FileKind kind) {
  switch (kind) {
    case FileKind::Safetensors: return "safetensors";
    case FileKind::Gguf: return "gguf";
    case FileKind::OnnxAdapter: return "onnx_adapter";
  }
  return "";
}

std::span<const DialectInfo> dialects() { return kDialects; }

const DialectInfo& infoOf(Dialect dialect) {
  return *std::ranges::find(kDialects, dialect, &DialectInfo::dialect);
}

std::optional<Dialect> dialectOf(std::string_view name) {
  const auto found =
      std::ranges::find(kDialects, name, [](const DialectInfo& info) { return std::string_view(info.name); });
  return found == std::end(kDialects) ? std::nullopt : std::optional(found->dialect);
}

std::optional<Key> parseKey(Dialect dialect, std::string_view name) {
  const Grammar grammar = grammarOf(dialect);
  const auto prefix =
      std::ranges::find_if(grammar.prefixes, [&](std::string_view text) { return name.starts_with(text); });
  if (prefix == grammar.prefixes.end() && !grammar.prefixes.empty()) return std::nullopt;
  const size_t cut = grammar.prefixes.empty() ? 0 : prefix->size();
  const auto read = [&](const Suffix& suffix) -> std::optional<Key> {
    if (!name.ends_with(suffix.text) || name.size() <= cut + suffix.text.size()) return std::nullopt;
    std::string_view path = name.substr(0, name.size() - suffix.text.size());
    if (!grammar.hasDots && contains(path, ".")) return std::nullopt;
    if (!fits(dialect, path, name)) return std::nullopt;
    if (!grammar.prefixIsPath) path = path.substr(cut);
    const bool isDiffusers = dialect == Dialect::Diffusers;
    return Key{isDiffusers ? currentPath(std::string(path)) : std::string(path), suffix.part,
               suffix.isEmbedding};
  };
  for (const Suffix& suffix : grammar.suffixes) {
    if (auto key = read(suffix)) return key;
  }
  for (const Suffix& suffix : kLycorisSuffixes) {
    if (auto key = hasLycoris(dialect) ? read(suffix) : std::nullopt) return key;
  }
  for (const Suffix& suffix : kMagnitudeSuffixes) {
    if (auto key = hasMagnitudes(dialect) ? read(suffix) : std::nullopt) return key;
  }
  return std::nullopt;
}

StackLayout layoutOf(Dialect dialect, ModuleKind kind) {
  if (kind != ModuleKind::Convolution) return infoOf(dialect).stacks;
  return dialect == Dialect::Peft ? StackLayout::Groups : StackLayout::None;
}

bool hasMagnitudes(Dialect dialect) { return dialect == Dialect::Peft || dialect == Dialect::Diffusers; }

ExtraText extraOf(Dialect dialect, std::string_view name) {
  const auto ends = [&](std::string_view text) { return name.ends_with(text); };
  if (contains(name, "lora_magnitude_vector") || ends(".dora_scale") ||
      (dialect == Dialect::Mlx && ends(".m")))
    return {ExtraKind::Dora, "a DoRA magnitude, which needs the base model's weights"};
  if (ends(".bias") && contains(name, ".lora_B.")) return {ExtraKind::LoraBias, "a bias of lora_B"};
  if (ends(".diff") || ends(".diff_b"))
    return {ExtraKind::Diff, "a difference of a bias or a normalisation (.diff, .diff_b)"};
  if (ends(".w_norm") || ends(".b_norm")) return {ExtraKind::Norm, "a trained normalisation"};
  if (ends(".lokr_t1")) return {ExtraKind::Other, "a core of LoKr's small factor, which no program writes"};
  if (ends(".scalar")) return {ExtraKind::Other, "a scalar of LyCORIS that multiplies the module's delta"};
  if (contains(name, ".bias_indices") || contains(name, ".bias_values") || contains(name, ".bias_size"))
    return {ExtraKind::Other, "a sparse residual of the weight"};
  if (contains(name, ".oft_") || ends(".rescale"))
    return {ExtraKind::Other, "a factor of OFT, which multiplies the base weight"};
  if (name.starts_with("bundle_emb.")) return {ExtraKind::Embedding, "a bundled embedding"};
  if (ends(".reshape_weight")) return {ExtraKind::Other, "a changed shape of the base weight"};
  if (contains(name, "modules_to_save"))
    return {ExtraKind::ModulesToSave, "a fully trained module (modules_to_save)"};
  if (dialect == Dialect::Peft && !name.starts_with(kPeftPrefixes[0]))
    return {ExtraKind::Other, "not a key of PEFT (its keys begin with 'base_model.model.')"};
  if (ends(".bias")) return {ExtraKind::Bias, "a trained bias"};
  if (ends(".weight"))
    return {ExtraKind::ModulesToSave, "a full weight (modules_to_save or a resized embedding)"};
  return {ExtraKind::Other, "not a LoRA factor"};
}

std::string keyOf(Dialect dialect, const std::string& path, ModuleKind kind, Part part) {
  const auto either = [&](const char* a, const char* b) { return path + (part == Part::A ? a : b); };
  if (part == Part::Alpha) return path + ".alpha";
  if (part == Part::Magnitude)
    return (dialect == Dialect::Peft ? "base_model.model." : "") + path + ".lora_magnitude_vector";
  switch (dialect) {
    case Dialect::Peft:
      return "base_model.model." + (kind == ModuleKind::Embedding
                                        ? either(".lora_embedding_A", ".lora_embedding_B")
                                        : either(".lora_A.weight", ".lora_B.weight"));
    case Dialect::Kohya:
    case Dialect::Comfy: return either(".lora_down.weight", ".lora_up.weight");
    case Dialect::Diffusers: return either(".lora_A.weight", ".lora_B.weight");
    case Dialect::XLabs: return either(".down.weight", ".up.weight");
    case Dialect::ControlLora: return either(".down", ".up");
    case Dialect::Mlx: return either(".lora_a", ".lora_b");
    case Dialect::Gguf: return either(".weight.lora_a", ".weight.lora_b");
    case Dialect::OnnxAdapter: return either(".lora_A.weight", ".lora_B.weight");
  }
  return {};
}

}  // namespace lego

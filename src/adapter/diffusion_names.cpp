#include "adapter/diffusion_names.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/checked.h"

namespace lego {
namespace {

enum class Naming : uint8_t { Canonical, Original };

// Templates: `#` is a number, `.` the separator of the naming at hand, `.` or `_`.

/// A module below a place. Flux.1's carry their shape in units of the hidden size, because names alone do not
/// tell Flux.1 from Flux.2. total 0: of any shape, and the same module in both namings.
struct Row {
  std::string_view canonical;
  std::string_view original{};  ///< empty: the same
  uint8_t in = 0;               ///< inputs
  uint8_t begin = 0;            ///< first row in the original module
  uint8_t rows = 0;             ///< rows that are this module's
  uint8_t total = 0;            ///< rows of the original module
  uint8_t canonicalRow = 0;     ///< where the rows begin in the canonical module

  constexpr std::string_view name(Naming naming) const {
    return naming == Naming::Canonical || original.empty() ? canonical : original;
  }
};

constexpr Row kUNetBasic[] = {{"conv_in", "input_blocks.0.0"},
                              {"conv_out", "out.2"},
                              {"time_embedding.linear_1", "time_embed.0"},
                              {"time_embedding.linear_2", "time_embed.2"}};
constexpr Row kSdxlBasic[] = {{"add_embedding.linear_1", "label_emb.0.0"},
                              {"add_embedding.linear_2", "label_emb.0.2"}};
constexpr Row kResnet[] = {{"conv1", "in_layers.2"},
                           {"conv2", "out_layers.3"},
                           {"time_emb_proj", "emb_layers.1"},
                           {"conv_shortcut", "skip_connection"}};
constexpr Row kAttention[] = {{"proj_in"},
                              {"proj_out"},
                              {"transformer_blocks.#.attn1.to_q"},
                              {"transformer_blocks.#.attn1.to_k"},
                              {"transformer_blocks.#.attn1.to_v"},
                              {"transformer_blocks.#.attn1.to_out.0"},
                              {"transformer_blocks.#.attn2.to_q"},
                              {"transformer_blocks.#.attn2.to_k"},
                              {"transformer_blocks.#.attn2.to_v"},
                              {"transformer_blocks.#.attn2.to_out.0"},
                              {"transformer_blocks.#.ff.net.0.proj"},
                              {"transformer_blocks.#.ff.net.2"}};
constexpr Row kDownsampler[] = {{"conv", "op"}};
constexpr Row kUpsampler[] = {{"conv"}};

// Text encoders have diffusers' names everywhere.
constexpr Row kClipLayer[] = {{"self_attn.q_proj"},   {"self_attn.k_proj"}, {"self_attn.v_proj"},
                              {"self_attn.out_proj"}, {"mlp.fc1"},          {"mlp.fc2"}};
constexpr Row kClipProjection[] = {{"text_projection"}};
constexpr Row kT5Block[] = {
    {"layer.0.SelfAttention.q"},   {"layer.0.SelfAttention.k"},     {"layer.0.SelfAttention.v"},
    {"layer.0.SelfAttention.o"},   {"layer.1.DenseReluDense.wi_0"}, {"layer.1.DenseReluDense.wi_1"},
    {"layer.1.DenseReluDense.wo"},
};

// Rows with the same original name stand together, by `begin`.
constexpr Row kFluxDouble[] = {
    {"attn.to_q", "img_attn.qkv", 1, 0, 1, 3},        {"attn.to_k", "img_attn.qkv", 1, 1, 1, 3},
    {"attn.to_v", "img_attn.qkv", 1, 2, 1, 3},        {"attn.to_out.0", "img_attn.proj", 1, 0, 1, 1},
    {"ff.net.0.proj", "img_mlp.0", 1, 0, 4, 4},       {"ff.net.2", "img_mlp.2", 4, 0, 1, 1},
    {"norm1.linear", "img_mod.lin", 1, 0, 6, 6},      {"attn.add_q_proj", "txt_attn.qkv", 1, 0, 1, 3},
    {"attn.add_k_proj", "txt_attn.qkv", 1, 1, 1, 3},  {"attn.add_v_proj", "txt_attn.qkv", 1, 2, 1, 3},
    {"attn.to_add_out", "txt_attn.proj", 1, 0, 1, 1}, {"ff_context.net.0.proj", "txt_mlp.0", 1, 0, 4, 4},
    {"ff_context.net.2", "txt_mlp.2", 4, 0, 1, 1},    {"norm1_context.linear", "txt_mod.lin", 1, 0, 6, 6}};
constexpr Row kFluxSingle[] = {
    {"attn.to_q", "linear1", 1, 0, 1, 7}, {"attn.to_k", "linear1", 1, 1, 1, 7},
    {"attn.to_v", "linear1", 1, 2, 1, 7}, {"proj_mlp", "linear1", 1, 3, 4, 7},
    {"proj_out", "linear2", 5, 0, 1, 1},  {"norm.linear", "modulation.lin", 1, 0, 3, 3}};
constexpr Row kFluxBasic[] = {
    {"x_embedder", "img_in"},
    {"context_embedder", "txt_in"},
    {"time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"},
    {"time_text_embed.timestep_embedder.linear_2", "time_in.out_layer", 1, 0, 1, 1},
    {"time_text_embed.text_embedder.linear_1", "vector_in.in_layer"},
    {"time_text_embed.text_embedder.linear_2", "vector_in.out_layer", 1, 0, 1, 1},
    {"time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"},
    {"time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer", 1, 0, 1, 1},
    {"proj_out", "final_layer.linear"},
    // The original code splits its output into shift and scale, diffusers into scale and shift.
    {"norm_out.linear", "final_layer.adaLN_modulation.1", 1, 0, 1, 2, 1},
    {"norm_out.linear", "final_layer.adaLN_modulation.1", 1, 1, 1, 2, 0}};

enum class Kind : uint8_t {
  UNetBasic,
  SdxlBasic,
  DownResnet,
  DownAttention,
  Downsampler,
  MidResnet,
  MidAttention,
  UpResnet,
  UpAttention,
  Upsampler,
  ClipLayer,
  Clip2Layer,
  ClipProjection,
  T5Block,
  FluxDouble,
  FluxSingle,
  FluxBasic
};

enum Component : uint8_t { kUNet = 1, kClip = 2, kClip2 = 4, kT5 = 8, kFlux = 16 };

/// A part of a model with modules of the same names below it.
struct Place {
  Kind kind;
  Component component;
  std::string_view canonical;
  std::string_view original;
  std::span<const Row> rows;
};

constexpr std::string_view kClipPath = "text_model.encoder.layers.#", kT5Path = "encoder.block.#";
constexpr Place kPlaces[] = {
    {Kind::UNetBasic, kUNet, "", "", kUNetBasic},
    {Kind::SdxlBasic, kUNet, "", "", kSdxlBasic},
    {Kind::DownResnet, kUNet, "down_blocks.#.resnets.#", "input_blocks.#.0", kResnet},
    {Kind::DownAttention, kUNet, "down_blocks.#.attentions.#", "input_blocks.#.1", kAttention},
    {Kind::Downsampler, kUNet, "down_blocks.#.downsamplers.0", "input_blocks.#.0", kDownsampler},
    {Kind::MidResnet, kUNet, "mid_block.resnets.#", "middle_block.#", kResnet},
    {Kind::MidAttention, kUNet, "mid_block.attentions.0", "middle_block.1", kAttention},
    {Kind::UpResnet, kUNet, "up_blocks.#.resnets.#", "output_blocks.#.0", kResnet},
    {Kind::UpAttention, kUNet, "up_blocks.#.attentions.#", "output_blocks.#.1", kAttention},
    {Kind::Upsampler, kUNet, "up_blocks.#.upsamplers.0", "output_blocks.#.#", kUpsampler},
    {Kind::ClipLayer, kClip, kClipPath, "", kClipLayer},
    {Kind::Clip2Layer, kClip2, kClipPath, "", kClipLayer},
    {Kind::ClipProjection, kClip2, "", "", kClipProjection},
    {Kind::T5Block, kT5, kT5Path, "", kT5Block},
    {Kind::FluxDouble, kFlux, "transformer_blocks.#", "double_blocks.#", kFluxDouble},
    {Kind::FluxSingle, kFlux, "single_transformer_blocks.#", "single_blocks.#", kFluxSingle},
    {Kind::FluxBasic, kFlux, "", "", kFluxBasic},
};

/// Numbers of a canonical path: the block or layer, the layer in the block, the transformer block in that.
using Numbers = std::array<uint32_t, 3>;

/// Published configs: `transformer_layers_per_block` by level, 0 where a level has none; `layers_per_block`
/// is 2.
struct UNet {
  uint32_t levels;
  std::array<uint32_t, 4> down;
  uint32_t middle;
  std::array<uint32_t, 4> up;
};
constexpr UNet kSd = {4, {1, 1, 1, 0}, 1, {0, 1, 1, 1}};
constexpr UNet kSdxl = {3, {0, 2, 10, 0}, 10, {10, 2, 0, 0}};
constexpr uint32_t kLayersPerBlock = 2;

const UNet& unetOf(DiffusionFamily family) { return family == DiffusionFamily::Sdxl ? kSdxl : kSd; }

bool existsIn(Kind kind, const Numbers& numbers, DiffusionFamily family) {
  const auto [block, layer, depth] = numbers;
  const bool flux = family == DiffusionFamily::Flux, sdxl = family == DiffusionFamily::Sdxl;
  const UNet& unet = unetOf(family);
  switch (kind) {
    case Kind::UNetBasic: return !flux;
    case Kind::SdxlBasic: return sdxl;
    case Kind::DownResnet: return !flux && block < unet.levels && layer < kLayersPerBlock;
    case Kind::DownAttention:
      return !flux && block < unet.levels && layer < kLayersPerBlock && depth < unet.down[block];
    case Kind::Downsampler: return !flux && block < unet.levels - 1;
    case Kind::MidResnet: return !flux && block < 2;
    case Kind::MidAttention: return !flux && depth < unet.middle;
    case Kind::UpResnet: return !flux && block < unet.levels && layer < kLayersPerBlock + 1;
    case Kind::UpAttention:
      return !flux && block < unet.levels && layer < kLayersPerBlock + 1 && depth < unet.up[block];
    case Kind::Upsampler: return !flux && block < unet.levels - 1;
    // CLIP ViT-L has 12 layers; SD2 uses 23 of OpenCLIP ViT-H, SDXL all 32 of ViT-bigG. T5 XXL has 24 blocks.
    case Kind::ClipLayer: return block < (family == DiffusionFamily::Sd2 ? 23u : 12u);
    case Kind::Clip2Layer: return sdxl && block < 32;
    case Kind::ClipProjection: return sdxl;
    case Kind::T5Block: return flux && block < 24;
    case Kind::FluxDouble: return flux && block < 19;
    case Kind::FluxSingle: return flux && block < 38;
    case Kind::FluxBasic: return flux;
  }
  return false;
}

DiffusionFamilies familiesWith(Kind kind, const Numbers& numbers) {
  DiffusionFamilies families = 0;
  for (const DiffusionFamily family : kDiffusionFamilies)
    if (existsIn(kind, numbers, family)) families |= setOf(family);
  return families;
}

/// A place's numbers in the original naming. The UNet's lists there count on over all levels: the input's
/// begin with conv_in and have a downsampler after each level, the output's upsampler is the last of its
/// level's last.
std::array<uint32_t, 2> originalNumbers(Kind kind, const Numbers& numbers, DiffusionFamily family) {
  const auto [block, layer, depth] = numbers;
  constexpr uint32_t kStride = kLayersPerBlock + 1;
  switch (kind) {
    case Kind::DownResnet:
    case Kind::DownAttention: return {kStride * block + layer + 1, 0};
    case Kind::Downsampler: return {kStride * block + kStride, 0};
    case Kind::MidResnet: return {2 * block, 0};  // 1 is the attention
    case Kind::UpResnet:
    case Kind::UpAttention: return {kStride * block + layer, 0};
    case Kind::Upsampler: return {kStride * block + kLayersPerBlock, unetOf(family).up[block] > 0 ? 2u : 1u};
    default: return {block, 0};
  }
}

/// The inverse, where there is a module with these numbers. `depth` is left 0.
std::optional<Numbers> canonicalNumbers(Kind kind, const std::array<uint32_t, 2>& original) {
  constexpr uint32_t kStride = kLayersPerBlock + 1;
  Numbers numbers{original[0], 0, 0};
  switch (kind) {
    case Kind::DownResnet:
    case Kind::DownAttention:
    case Kind::Downsampler:
      if (original[0] == 0) return std::nullopt;  // conv_in
      numbers = {(original[0] - 1) / kStride, (original[0] - 1) % kStride, 0};
      break;
    case Kind::UpResnet:
    case Kind::UpAttention:
    case Kind::Upsampler: numbers = {original[0] / kStride, original[0] % kStride, 0}; break;
    case Kind::MidResnet: numbers[0] = original[0] / 2; break;
    default: break;
  }
  if (kind == Kind::Downsampler || kind == Kind::Upsampler) numbers[1] = 0;
  for (const DiffusionFamily family : kDiffusionFamilies)
    if (existsIn(kind, numbers, family) && originalNumbers(kind, numbers, family) == original) return numbers;
  return std::nullopt;
}

/// Takes what the template matches off the front of `name` and its numbers, in order, to `numbers`.
bool consume(std::string_view pattern, char separator, std::string_view& name, std::span<uint32_t> numbers) {
  constexpr size_t kMaxDigits = 3;  // no model has 1000 blocks
  size_t at = 0, found = 0;
  for (const char c : pattern) {
    if (at == name.size()) return false;
    if (c != '#') {
      if (name[at++] != (c == '.' ? separator : c)) return false;
      continue;
    }
    const size_t first = at;
    uint32_t number = 0;
    for (; at < name.size() && at - first < kMaxDigits && name[at] >= '0' && name[at] <= '9'; ++at)
      number = 10 * number + static_cast<uint32_t>(name[at] - '0');
    const bool leadingZero = at - first > 1 && name[first] == '0';
    if (at == first || leadingZero || found == numbers.size()) return false;
    numbers[found++] = number;
  }
  name.remove_prefix(at);
  return true;
}

/// The template with `.` as separator and these numbers.
void append(std::string& to, std::string_view pattern, std::span<const uint32_t> numbers) {
  size_t used = 0;
  for (const char c : pattern) {
    if (c == '#')
      to += std::to_string(numbers[used++]);
    else
      to += c;
  }
}

/// What follows a prefix: names in that naming, of these components.
struct Prefix {
  std::string_view text;
  Naming naming;
  uint8_t components;
};

constexpr Prefix kCanonicalPrefixes[] = {{"unet.", Naming::Canonical, kUNet},
                                         {"transformer.", Naming::Canonical, kFlux},
                                         {"text_encoder.", Naming::Canonical, kClip},
                                         {"text_encoder_2.", Naming::Canonical, kClip2 | kT5}};
constexpr Prefix kKohyaPrefixes[] = {{"lora_unet_", Naming::Canonical, kUNet},
                                     {"lora_unet_", Naming::Original, kUNet | kFlux},
                                     {"lora_te_", Naming::Canonical, kClip},
                                     {"lora_te1_", Naming::Canonical, kClip},
                                     // T5 too: OneTrainer's Flux, where it is the second one.
                                     {"lora_te2_", Naming::Canonical, kClip2 | kT5},
                                     {"lora_te3_", Naming::Canonical, kT5},
                                     {"lora_transformer_", Naming::Canonical, kFlux}};
constexpr Prefix kOriginalPrefixes[] = {{"", Naming::Original, kUNet | kFlux},
                                        {"text_encoders.clip_l.transformer.", Naming::Canonical, kClip},
                                        {"text_encoders.clip_h.transformer.", Naming::Canonical, kClip},
                                        {"text_encoders.clip_g.transformer.", Naming::Canonical, kClip2},
                                        {"text_encoders.t5xxl.transformer.", Naming::Canonical, kT5}};

struct Found {
  const Place* place = nullptr;
  const Row* row = nullptr;
  Numbers numbers{};
  Naming naming = Naming::Canonical;
};

/// The first row of the tables that has the name.
std::optional<Found> find(std::span<const Prefix> prefixes, std::string_view name, char separator) {
  for (const Prefix& prefix : prefixes) {
    if (!name.starts_with(prefix.text)) continue;
    const bool original = prefix.naming == Naming::Original;
    for (const Place& place : kPlaces) {
      if ((place.component & prefix.components) == 0) continue;
      const std::string_view path = original ? place.original : place.canonical;
      std::string_view below = name.substr(prefix.text.size());
      std::array<uint32_t, 2> at{};
      if (!consume(path, separator, below, at)) continue;
      if (!path.empty() && !consume(".", separator, below, {})) continue;
      std::optional<Numbers> numbers = Numbers{at[0], at[1], 0};
      if (original) numbers = canonicalNumbers(place.kind, at);
      if (!numbers) continue;
      for (const Row& row : place.rows) {
        std::string_view rest = below;
        std::array<uint32_t, 1> depth{};
        if (!consume(row.name(prefix.naming), separator, rest, depth) || !rest.empty()) continue;
        (*numbers)[2] = depth[0];
        if (familiesWith(place.kind, *numbers) == 0) break;
        return Found{&place, &row, *numbers, prefix.naming};
      }
    }
  }
  return std::nullopt;
}

/// A name below its prefix, dotted. `family` decides only where an upsampler stands.
std::string nameIn(Naming naming, const Found& found, const Row& row, DiffusionFamily family) {
  const bool original = naming == Naming::Original;
  std::string name;
  if (original)
    append(name, found.place->original, originalNumbers(found.place->kind, found.numbers, family));
  else
    append(name, found.place->canonical, found.numbers);
  if (!name.empty()) name += '.';
  append(name, row.name(naming), std::span(found.numbers).subspan(2));
  return name;
}

std::string_view canonicalPrefix(Component component) {
  return std::ranges::find_if(kCanonicalPrefixes,
                              [&](const Prefix& p) { return (p.components & component) != 0; })
      ->text;
}

/// Whether the canonical module is rows of another one, or has its rows in another order there.
bool isFused(const Row& row) { return row.rows != row.total; }

std::vector<CanonicalPart> partsOf(std::optional<Found> found, uint64_t in, uint64_t out) {
  std::vector<CanonicalPart> parts;
  if (!found || out == 0) return parts;
  const auto pathOf = [&](const Row& row) {
    return std::string(canonicalPrefix(found->place->component)) +
           nameIn(Naming::Canonical, *found, row, DiffusionFamily::Sd1);
  };
  const Row& first = *found->row;
  if (found->naming == Naming::Canonical || first.total == 0) {
    parts.push_back({pathOf(first), 0, out, 0});
    return parts;
  }
  const uint64_t unit = in / first.in;
  if (unit == 0 || in % first.in != 0 || out % first.total != 0 || out / first.total != unit) return parts;
  for (const Row& row : found->place->rows)
    if (row.original == first.original)
      parts.push_back({pathOf(row), row.begin * unit, row.rows * unit, row.canonicalRow * unit});
  return parts;
}

std::optional<Found> findCanonical(std::string_view canonical) {
  return find(kCanonicalPrefixes, canonical, '.');
}

/// findCanonical, where the family has the module and it is one by itself there.
std::optional<Found> findWhole(std::string_view canonical, DiffusionFamily family) {
  std::optional<Found> found = findCanonical(canonical);
  if (found && (!existsIn(found->place->kind, found->numbers, family) || isFused(*found->row))) found.reset();
  return found;
}

std::string flat(std::string_view prefix, std::string name) {
  std::ranges::replace(name, '.', '_');
  return std::string(prefix) + name;
}

}  // namespace

std::vector<CanonicalPart> fromKohya(std::string_view flat, uint64_t in, uint64_t out) {
  return partsOf(find(kKohyaPrefixes, flat, '_'), in, out);
}

std::vector<CanonicalPart> fromOriginal(std::string_view dotted, uint64_t in, uint64_t out) {
  return partsOf(find(kOriginalPrefixes, dotted, '.'), in, out);
}

DiffusionFamilies familiesOf(std::string_view canonical, uint64_t in) {
  const std::optional<Found> found = findCanonical(canonical);
  if (!found) return 0;
  const DiffusionFamilies families = familiesWith(found->place->kind, found->numbers);
  // Widths of the published configs: `cross_attention_dim` of the UNets, `hidden_size` of the text encoders.
  DiffusionFamilies byWidth = families;
  const bool readsPrompt = canonical.ends_with(".attn2.to_k") || canonical.ends_with(".attn2.to_v");
  const bool readsHidden = found->place->kind == Kind::ClipLayer && !canonical.ends_with(".fc2");
  constexpr DiffusionFamilies kSd1 = setOf(DiffusionFamily::Sd1), kSd2 = setOf(DiffusionFamily::Sd2),
                              kXl = setOf(DiffusionFamily::Sdxl), kFlux1 = setOf(DiffusionFamily::Flux);
  if (readsPrompt || readsHidden) {
    if (in == 768) byWidth = readsPrompt ? kSd1 : kSd1 | kXl | kFlux1;
    if (in == 1024) byWidth = kSd2;
    if (in == 2048 && readsPrompt) byWidth = kXl;
  }
  return families & byWidth;
}

std::optional<std::string> toKohya(std::string_view canonical, DiffusionFamily family) {
  const std::optional<Found> found = findWhole(canonical, family);
  if (!found) return std::nullopt;
  const bool first = family == DiffusionFamily::Sd1 || family == DiffusionFamily::Sd2;
  const Component component = found->place->component;
  const bool original = component == kFlux || (component == kUNet && !first);
  const std::string_view prefix = component == kClip    ? (first ? "lora_te_" : "lora_te1_")
                                  : component == kClip2 ? "lora_te2_"
                                  : component == kT5    ? "lora_te3_"
                                                        : "lora_unet_";
  return flat(prefix, nameIn(original ? Naming::Original : Naming::Canonical, *found, *found->row, family));
}

std::optional<std::string> toOriginal(std::string_view canonical, DiffusionFamily family) {
  const std::optional<Found> found = findWhole(canonical, family);
  if (!found) return std::nullopt;
  const Component component = found->place->component;
  if (component == kUNet || component == kFlux) return nameIn(Naming::Original, *found, *found->row, family);
  const std::string_view encoder = component == kT5                 ? "t5xxl"
                                   : component == kClip2            ? "clip_g"
                                   : family == DiffusionFamily::Sd2 ? "clip_h"
                                                                    : "clip_l";
  return "text_encoders." + std::string(encoder) + ".transformer." +
         nameIn(Naming::Canonical, *found, *found->row, family);
}

std::optional<FusedPart> fusedPartOf(std::string_view canonical, uint64_t in, uint64_t out) {
  const std::optional<Found> found = findCanonical(canonical);
  if (!found || !isFused(*found->row) || in == 0) return std::nullopt;
  const Row& row = *found->row;
  FusedPart part;
  uint64_t ownRows = 0;  // in units, as in the table
  std::string_view last;
  for (const Row& other : found->place->rows) {
    if (other.original != row.original) continue;
    if (other.canonical != last) ++part.count;
    last = other.canonical;
    if (other.canonical != row.canonical) continue;
    part.position = part.count - 1;
    ownRows += other.rows;
  }
  const uint64_t unit = in / row.in;
  const std::optional<uint64_t> rows = checkedMultiply(unit, row.total);
  if (in % row.in != 0 || out % ownRows != 0 || out / ownRows != unit || !rows) return std::nullopt;
  part.rows = *rows;
  part.original = nameIn(Naming::Original, *found, row, DiffusionFamily::Flux);
  part.kohya = flat("lora_unet_", part.original);
  return part;
}

}  // namespace lego

// Module names of diffusion models in the naming of diffusers, of kohya's trainers and of the original code.
//
// A canonical path is diffusers' own, its component in front: `unet.`, `transformer.`, `text_encoder.`,
// `text_encoder_2.`. The tables hold Stable Diffusion 1 and 2, SDXL and Flux.1; a name none of them has gives
// nothing. Other models share some of these names (Flux.2 and HunyuanVideo with Flux.1, SD3 its text
// encoders): take a file's names for certain only if every one of them is found and familiesOf() leaves one
// family for all.
//
// Checked against kohya-ss/sd-scripts (networks/lora.py, lora_flux.py, convert_flux_lora.py,
// library/sdxl_model_util.py), huggingface/diffusers (loaders/lora_conversion_utils.py,
// loaders/single_file_utils.py, scripts/convert_flux_to_diffusers.py) and ComfyUI (comfy/lora.py, utils.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lego {

enum class DiffusionFamily : uint8_t { Sd1, Sd2, Sdxl, Flux };
inline constexpr DiffusionFamily kDiffusionFamilies[] = {DiffusionFamily::Sd1, DiffusionFamily::Sd2,
                                                         DiffusionFamily::Sdxl, DiffusionFamily::Flux};

/// A set of families.
using DiffusionFamilies = uint8_t;
constexpr DiffusionFamilies setOf(DiffusionFamily family) {
  return static_cast<DiffusionFamilies>(1u << static_cast<unsigned>(family));
}

/// Rows of a module of another naming that are rows of a canonical one: output rowBegin + i of the first is
/// output canonicalRow + i of the second, for 0 <= i < rows. Both read the same input.
struct CanonicalPart {
  std::string path;
  uint64_t rowBegin = 0;
  uint64_t rows = 0;
  uint64_t canonicalRow = 0;
};

/// Where a canonical module is not a module by itself in kohya's and the original naming.
struct FusedPart {
  std::string kohya;      ///< the fused module, with kohya's prefix
  std::string original;   ///< the same in the original naming
  uint32_t position = 0;  ///< of this module among the canonical ones it is made of
  uint32_t count = 0;     ///< how many those are: 1 where only its rows are in another order
  uint64_t rows = 0;      ///< outputs of the fused module
};

/// Kohya's flat name with its prefix (lora_unet_, lora_te_, lora_te1_, lora_te2_, lora_te3_; OneTrainer's
/// lora_transformer_) -> the canonical parts of the module with `in` inputs and `out` outputs, by rowBegin,
/// together exactly `out` rows. Both dialects of SDXL's UNet are known. T5 is taken for Flux's. Empty where
/// no table has the name, or where Flux.1 has the name with another ratio of `out` to `in`.
std::vector<CanonicalPart> fromKohya(std::string_view flat, uint64_t in, uint64_t out);

/// The same for dotted original names (`input_blocks.4.1.proj_in`, `double_blocks.0.img_attn.qkv`), without
/// the `diffusion_model.` that ComfyUI puts in front, and for its text encoders with their
/// `text_encoders.clip_l.transformer.` (clip_h, clip_g, t5xxl).
std::vector<CanonicalPart> fromOriginal(std::string_view dotted, uint64_t in, uint64_t out);

/// Families that have the canonical module; empty where no table has it. `in`, the module's inputs, tells
/// some of them apart: what reads the prompt's embedding, or CLIP's hidden state, has 768 in SD1, 1024 in
/// SD2, and so on. An `in` that none of them has, such as 0 where it is not known, tells nothing.
DiffusionFamilies familiesOf(std::string_view canonical, uint64_t in);

/// Canonical path -> kohya's flat name as sd-scripts writes it for that family: diffusers' UNet names for SD1
/// and SD2, SGM's for SDXL, the original ones for Flux. nullopt where the family has no such module, or has
/// it only as a part of another (fusedPartOf).
std::optional<std::string> toKohya(std::string_view canonical, DiffusionFamily family);

/// Canonical path -> original name, as fromOriginal takes it; nullopt as for toKohya.
std::optional<std::string> toOriginal(std::string_view canonical, DiffusionFamily family);

/// The module that holds the canonical one, with `in` inputs and `out` outputs, among others or with its rows
/// in another order; nullopt where there is none or its shape is not Flux.1's. The rows are those parts of
/// fromKohya(fused.kohya, in, fused.rows) that have this path; the other parts are its siblings.
std::optional<FusedPart> fusedPartOf(std::string_view canonical, uint64_t in, uint64_t out);

}  // namespace lego

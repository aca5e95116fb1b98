// llama.cpp's names of a transformer's tensors and of Hugging Face's modules, and the order of rows in which
// they differ. Sources: gguf-py/gguf/tensor_mapping.py and the converter classes in conversion/ of
// ggml-org/llama.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lego {

/// The ggml tensor of a Hugging Face module, without ".weight": "model.layers.3.self_attn.q_proj" ->
/// "blk.3.attn_q". Nothing for modules that have none of their own (norms, single experts), and for those
/// whose rows the converter splits or reorders otherwise than permuteHeads() does, such as GPT-NeoX's fused
/// query_key_value: under that name their factors would mean something else.
std::optional<std::string> ggmlName(std::string_view path);

/// One expert of a tensor in which all of a layer's are stacked: (experts x out x in).
struct ExpertName {
  std::string tensor;  ///< "blk.3.ffn_up_exps"
  uint32_t expert = 0;

  bool operator==(const ExpertName&) const = default;
};
/// "model.layers.3.mlp.experts.7.up_proj" -> {"blk.3.ffn_up_exps", 7}.
std::optional<ExpertName> ggmlExpert(std::string_view path);

/// One expert as MLX keeps it, in a stack of all of a layer's.
/// "model.layers.3.mlp.experts.7.up_proj" -> {"model.layers.3.mlp.switch_mlp.up_proj", 7}.
/// Source: mlx-lm mlx_lm/models/qwen3_moe.py and mixtral.py, sanitize().
std::optional<ExpertName> mlxExpert(std::string_view path);

/// The ways back, to an expert's path in transformers. Nothing where a name, or for GGUF the architecture, is
/// not known for certain.
std::optional<std::string> hfExpertOfMlx(std::string_view stack, uint32_t expert);
std::optional<std::string> hfExpertOfGgml(std::string_view ggmlName, uint32_t expert,
                                          std::string_view architecture);

/// The way back for one architecture (general.architecture), to the module path of its text-only *ForCausalLM
/// class: a model inside a multimodal one has a prefix more, which no GGUF file tells. Nothing where the
/// architecture is not in the table or the name has no certain origin.
std::optional<std::string> hfPath(std::string_view ggmlName, std::string_view architecture);

/// Whether the converter of an architecture reorders the rows of attn_q and attn_k as permuteHeads() does:
/// those whose rotary embedding llama.cpp applies to neighbouring rows, where Hugging Face pairs the halves
/// of a head. Nothing for architectures that are not known for certain: writing q or k for them would be a
/// guess.
std::optional<bool> permutesHeads(std::string_view architecture);

/// Whether `rows` rows are `heads` heads of an even number of rows each. Errors: shape_mismatch.
Status checkHeads(uint64_t rows, uint64_t heads);

/// Reorders one column of q_proj's or k_proj's lora_B in place, from Hugging Face's order to llama.cpp's:
/// with d = rows / heads, row h d + j d/2 + i goes to row h d + 2 i + j (j in {0, 1}, i < d/2). `heads` are
/// the attention heads for q, the key-value heads for k. checkHeads() must hold; `scratch` has at least d
/// floats.
void permuteHeads(std::span<float> column, uint32_t heads, std::span<float> scratch);
/// From llama.cpp's order back to Hugging Face's.
void restoreHeads(std::span<float> column, uint32_t heads, std::span<float> scratch);

}  // namespace lego

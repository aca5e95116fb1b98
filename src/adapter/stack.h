// The experts of a mixture whose factors share one pair of tensors, a stack: each is a module of its own. So
// is each group of a convolution, which is called an expert here, too.
//
//   peft         A (experts r x in), B (out x r experts): expert e has rows e r to e r + r - 1 of A and
//   columns
//                e, e + experts, e + 2 experts, ... of B (`target_parameters`)
//   peft, convolutions of several groups: A (groups r x in), B (groups out x r), kernels behind them
//   mlx, gguf    A (experts x r x in), B (experts x out x r), none of them transposed
//
// Sources: huggingface/peft src/peft/tuners/lora/layer.py, ParamWrapper.get_delta_weight; ml-explore/mlx-lm
// mlx_lm/tuner/lora.py, LoRASwitchLinear; ggml-org/llama.cpp src/llama-graph.cpp, build_lora_mm_id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "adapter/dialect.h"
#include "base/result.h"

namespace lego {

/// "model.layers.0.mlp.experts[3]": the path of one expert of the stack `model.layers.0.mlp.experts`.
std::string expertPath(std::string_view stack, uint32_t expert);
/// The stack of such a path.
std::string stackOf(std::string_view expertPath);
/// A stack's path without the `.base_layer` that PEFT puts in for each further parameter of one module.
std::string unwrapped(std::string path);

/// The factors of one expert, as parts of a stack's: `a` as (r x in), `b` with `sliceB` as (out x r).
struct ExpertFactors {
  TensorInfo a, b;
  Slice sliceB;
};
/// `a` and `b` are a stack of `experts` in the layout that is not None, with sides that agree.
ExpertFactors expertOf(StackLayout layout, const TensorInfo& a, const TensorInfo& b, uint32_t expert,
                       uint32_t experts);

/// Adds the experts of a stack to the catalogue, whose modules are then out of order. Of `stack`, `a` and `b`
/// are those of all experts, everything else is one expert's. Errors: shape_mismatch, for more experts than
/// limits allow.
Status addExperts(Catalogue& catalogue, const AdapterModule& stack, StackLayout layout, uint64_t experts);

}  // namespace lego

// Every cap on untrusted input, in one place, with its reason.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lego::limits {

/// The reference safetensors reader's own cap. A Llama-3-70B adapter with all modules needs 0.3 MB.
inline constexpr uint64_t kHeaderBytes = 100'000'000;

/// Metadata and tensor table of a GGUF file. Most of it is the vocabulary: 256,000 tokens with scores, types
/// and merges take 10 to 15 MB. The caller must hold as much at a time.
inline constexpr uint64_t kGgufHeaderBytes = 64 << 20;

/// Longest array of GGUF metadata whose integers are kept: one per layer, of which the largest models have a
/// few hundred. Vocabularies start at thousands.
inline constexpr uint64_t kGgufArrayValues = 1024;

/// Parameters of an .onnx_adapter: ONNX Runtime's verifier follows 1,000,000 tables, of which one is the
/// root. The largest adapters have some thousands.
inline constexpr uint64_t kOnnxParameters = 999'999;

/// Name of one such parameter. Real ones are module paths: 120 bytes. Below 0x01010101 on purpose: a length
/// that lies within another name, which holds no NUL, is at least that, so names cannot share bytes and grow
/// without bound.
inline constexpr uint64_t kOnnxNameBytes = 4096;

/// PEFT writes 1 to 3 KB; long rank_pattern tables of real adapters reach 100 KB. Bounds the DOM that
/// the JSON library builds.
inline constexpr uint64_t kConfigBytes = 4'000'000;

/// Deepest nesting of adapter_config.json. PEFT nests two levels; sub-configs of variants four.
inline constexpr size_t kJsonDepth = 32;

/// safetensors tensors of more dimensions are not factors (Conv3d has five); bounds shape vectors.
inline constexpr size_t kDimensions = 8;

/// Length of one regular expression of a rank or alpha pattern. Real ones are module paths: 120 bytes.
inline constexpr size_t kPatternBytes = 4096;

/// States of one compiled expression: stops counted repetitions such as (a{1000}){1000} from growing.
inline constexpr size_t kPatternStates = 20'000;

/// Sum over adapters of their ranks in one module. 200 adapters of rank 16 pool 3,200 units; at the cap
/// one matrix over the units takes 134 MB, and the half a dozen of a merge still fit 32-bit memory.
inline constexpr uint64_t kPooledUnits = 4096;

/// Pieces, of a million elements or less, that all tensors which are no factors are kept in: together as many
/// elements as a model of 65 billion weights has. Bounds the plan, which has some hundred bytes for each.
inline constexpr size_t kExtraPieces = size_t{1} << 16;

/// Experts of one stack, and of all stacks of one adapter: each becomes a module, of which a small file could
/// otherwise claim millions. The largest mixtures known have 512 in a layer and 70,000 in all.
inline constexpr uint64_t kStackExperts = 4096;
inline constexpr uint64_t kExperts = 1 << 18;

/// Number of adapters in one merge; each needs an open file.
inline constexpr size_t kAdapters = 1024;

/// Rows or columns of a factor. The largest vocabulary embedding known has 262,144 rows.
inline constexpr uint64_t kFactorSide = uint64_t{1} << 28;

/// Restarts and refinement rounds that a recipe may ask of k-means.
inline constexpr uint32_t kRestarts = 10'000;

/// Lloyd iterations of one start (the reference implementations' max_iter).
inline constexpr uint32_t kLloydIterations = 300;

}  // namespace lego::limits

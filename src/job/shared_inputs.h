// Which modules of a model read the same vector, told by their names.
#pragma once

#include <string>
#include <string_view>

namespace lego {

/// The same for modules that read the same input (query, key and value projections of one attention block,
/// gate and up projections of one feed-forward block), different for all others. Known are the names of llama
/// and its kin, BERT, T5, DistilBERT, DeBERTa and diffusers; where a cross attention's keys and values read
/// another vector than its queries, these are kept apart. Callers also compare input sizes.
std::string sharedInputKey(std::string_view path);

}  // namespace lego

// Which modules of a model read the same vector, and which write what another reads, told by their names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lego {

/// The same for modules that read the same input (query, key and value projections of one attention block,
/// gate and up projections of one feed-forward block), different for all others. Known are the names of llama
/// and its kin, BERT, T5, DistilBERT, DeBERTa and diffusers; where a cross attention's keys and values read
/// another vector than its queries, these are kept apart. Callers also compare input sizes.
std::string sharedInputKey(std::string_view path);

/// A module that writes what another reads.
struct FeedingModule {
  std::string path;
  double strength = 0;  ///< weight of its outputs' covariance beside that of the reader's own rows
};

/// The modules that feed the last module of a gated feed-forward block, which reads up(x) * act(gate(x));
/// none for all others. Strengths: measured on validation data of minibench (docs/methods.md); anything from
/// 3 to 30 comes within half a point.
std::vector<FeedingModule> feedingModules(std::string_view path);

}  // namespace lego

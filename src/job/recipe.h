// What the user asks for: everything that, besides the input files, decides the output bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "merge/options.h"

namespace lego {

struct Recipe {
  std::string method = "lego";
  std::vector<double> weights;  ///< one per adapter; empty: all 1
  uint32_t rank = 0;            ///< 0: the largest rank among the adapters
  uint64_t seed = 0;
  double scale = 1;
  std::string dtype = "same";  ///< "same", "f64", "f32", "f16", "bf16"
  std::vector<OptionValue> options;
  /// Units that are the first centroids of every module (LEGO): Lloyd's algorithm alone then runs from
  /// them, as in the reference implementations. For reproducing published runs; empty: search.
  std::vector<uint32_t> start;
};

}  // namespace lego

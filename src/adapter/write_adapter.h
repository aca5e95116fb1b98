// A merged adapter's names: keys, shapes, config and metadata in the dialect that it is written in.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapter/catalogue.h"
#include "base/result.h"

namespace lego {

/// One module of an adapter that is written.
struct MergedModule {
  std::string path;  ///< as the dialect has it
  ModuleKind kind = ModuleKind::Linear;
  uint64_t in = 0, out = 0;
  std::vector<uint64_t> kernel;  ///< as AdapterModule::kernel
  uint64_t rank = 0;             ///< ranks in the file; of a stack, those of each expert
  double scale = 1;              ///< its delta is scale * B A; 1 where the dialect cannot say it

  uint64_t experts = 0;  ///< of a stack (adapter/stack.h); 0: it is none

  double alpha() const { return scale * static_cast<double>(rank); }
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// Whether the dialect can name and shape a module, or a stack. Errors: bad_format.
Status checkWritable(Dialect dialect, const std::string& path, ModuleKind kind, bool isStack = false);

/// Whether a module's keys are read again as those of a module with this name (the dialect's own), and its
/// factors as of the same kind. Errors: bad_format.
Status checkReadable(Dialect dialect, const std::string& name, ModuleKind kind);

/// Whether A is written in x rank, and B rank x out; never so in stacks.
std::pair<bool, bool> turnedFactors(Dialect dialect, ModuleKind kind);

/// Keys and shapes of a module's factors; places are left to the caller.
struct WrittenFactors {
  TensorInfo a, b;
};
WrittenFactors factorsOf(Dialect dialect, const MergedModule& module, DType dtype);

/// The text of the dialect's config, empty where it has none. `modules` by path.
std::string configOf(Dialect dialect, const AdapterInfo& info, std::span<const MergedModule> modules);

/// What the dialect itself puts into the metadata of a safetensors file.
Metadata formatMetadata(Dialect dialect, const AdapterInfo& info, std::span<const MergedModule> modules);

/// What the metadata of several tensor files have in common, without what no longer holds for their merge:
/// hashes, sizes of the network, formats. Counts of training tags (ss_tag_frequency, from which user
/// interfaces take trigger words) are added up, trigger phrases listed.
Metadata uniteMetadata(std::span<const Metadata* const> files);

}  // namespace lego

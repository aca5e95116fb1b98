#include "job/source_units.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>

#include "adapter/ggml_names.h"
#include "base/order.h"
#include "job/dora.h"
#include "tensor/convert.h"

namespace lego {
namespace {

constexpr uint32_t kInfinityBits = 0x7F800000u;

Error notFinite(std::span<const AdapterFile> adapters, const PlannedSource& source, bool isA) {
  return {Code::notFinite,
          "the factor holds NaN or infinity, so its training or conversion went wrong",
          adapters[source.adapter].file,
          isA ? source.a.name : source.b.name,
          {}};
}

/// What all of a source's units are multiplied by, and their largest entries. Errors: not_finite.
Status foldSource(const PlannedSource& source, std::span<const AdapterFile> adapters,
                  std::span<const uint32_t> magnitudeA, std::span<const uint32_t> magnitudeB,
                  SourceUnits& units) {
  units.foldA = source.foldIntoB ? 1 : std::sqrt(std::abs(source.scale));
  units.foldB = source.foldIntoB ? source.scale : std::copysign(units.foldA, source.scale);
  for (uint32_t r = 0; r < source.rank; ++r) {
    if (magnitudeA[r] >= kInfinityBits) return notFinite(adapters, source, true);
    if (magnitudeB[r] >= kInfinityBits) return notFinite(adapters, source, false);
    units.maxA.push_back(units.foldA * std::bit_cast<float>(magnitudeA[r]));
    units.maxB.push_back(std::abs(units.foldB) * std::bit_cast<float>(magnitudeB[r]));
  }
  return {};
}

Status unpackSource(const Kernels& kernels, const PlannedModule& module, const PlannedSource& source,
                    std::span<const AdapterFile> adapters, std::span<const std::byte> input, float* unitsA,
                    float* unitsB, Workspace& workspace, SourceUnits& units) {
  const size_t in = static_cast<size_t>(module.in), out = static_cast<size_t>(module.out);
  const size_t strideA = unitStride(in), strideB = unitStride(out);
  std::vector<uint32_t> magnitudeA(source.rank), magnitudeB(source.rank);
  const std::byte *a = input.data() + source.atA, *b = input.data() + source.atB;
  float *rowsA = unitsA + units.first * strideA, *rowsB = unitsB + units.first * strideB;
  if (source.expanded) {
    std::array<const std::byte*, 8> data{};
    for (size_t i = 0; i < data.size(); ++i) {
      if (source.expanded->tensors[i]) data[i] = input.data() + source.atExpanded[i];
    }
    Status done = expandUnits(source.expanded->expansion, {data[0], data[1], data[2], data[3]},
                              {data[4], data[5], data[6], data[7]},
                              {rowsA, strideA, magnitudeA, rowsB, strideB, magnitudeB}, workspace.expansion);
    if (!done) return done;
  } else {
    const auto unpackA = source.transposedA ? kernels.unpackColumns : kernels.unpackRows;
    const auto unpackB = source.transposedB ? kernels.unpackRows : kernels.unpackColumns;
    const auto view = [](const TensorInfo& tensor, const std::byte* data, bool turned, size_t rows,
                         size_t columns) {
      return MatrixView{tensor.dtype, data, turned ? columns : rows, turned ? rows : columns};
    };
    unpackA(view(source.a, a, source.transposedA, source.rank, in), rowsA, strideA, magnitudeA);
    if (!source.sliceB.isWhole()) {
      gather(b, source.sliceB, bitsOf(source.b.dtype) / 8, source.rank, workspace.part.data());
      b = workspace.part.data();
    }
    unpackB(view(source.b, b, source.transposedB, out, source.rank), rowsB, strideB, magnitudeB);
  }
  if (source.rowHeads > 0) {
    std::vector<float> scratch(out / source.rowHeads);
    for (uint32_t r = 0; r < source.rank; ++r)
      restoreHeads({rowsB + r * strideB, out}, source.rowHeads, scratch);
  }
  if (source.magnitude) {
    auto gains = doraGains(module, source, adapters, input, rowsA, rowsB);
    if (!gains) return gains.error();
    for (uint32_t r = 0; r < source.rank; ++r) {
      float* b = rowsB + r * strideB;
      for (size_t o = 0; o < out; ++o) b[o] = static_cast<float>(b[o] * (*gains)[o]);
      magnitudeB[r] = maxMagnitudeBits(b, out);
    }
    units.gains = std::move(*gains);
  }
  return foldSource(source, adapters, magnitudeA, magnitudeB, units);
}

/// Units of each of a module's sources, one after the other; `work` finds out what is known of them.
template <typename Work>
Result<std::vector<SourceUnits>> unitsOf(const PlannedModule& module, const Work& work) {
  std::vector<SourceUnits> units;
  uint32_t row = 0;
  for (const PlannedSource& source : module.sources) {
    SourceUnits own;
    own.first = row;
    if (Status done = work(source, own); !done) return done.error();
    row += source.rank;
    units.push_back(std::move(own));
  }
  return units;
}

}  // namespace

Status Workspace::reserve(const WorkspaceSize& size) {
  if (Status got = unitsA.reserve(size.unitsA); !got) return got;
  if (Status got = expansion.reserve(size.expansion); !got) return got;
  if (Status got = part.reserve(size.part); !got) return got;
  return unitsB.reserve(size.unitsB);
}

Result<std::vector<SourceUnits>> unpackModule(const Kernels& kernels, const PlannedModule& module,
                                              std::span<const AdapterFile> adapters,
                                              std::span<const std::byte> input, float* unitsA, float* unitsB,
                                              Workspace& workspace) {
  return unitsOf(module, [&](const PlannedSource& source, SourceUnits& own) {
    return unpackSource(kernels, module, source, adapters, input, unitsA, unitsB, workspace, own);
  });
}

Result<std::vector<SourceUnits>> foldModule(const PlannedModule& module,
                                            std::span<const AdapterFile> adapters,
                                            std::span<const uint32_t> magnitudeA,
                                            std::span<const uint32_t> magnitudeB) {
  return unitsOf(module, [&](const PlannedSource& source, SourceUnits& own) {
    return foldSource(source, adapters, magnitudeA.subspan(own.first, source.rank),
                      magnitudeB.subspan(own.first, source.rank), own);
  });
}

std::vector<uint32_t> adapterOrder(const Plan& plan, std::span<const size_t> group,
                                   const std::vector<std::vector<SourceUnits>>& units) {
  std::map<uint32_t, std::vector<double>> keys;  // by adapter
  for (size_t g = 0; g < group.size(); ++g) {
    const auto& sources = plan.modules[group[g]].sources;
    for (size_t s = 0; s < sources.size(); ++s) {
      auto& key = keys[sources[s].adapter];
      // Where the adapter lacks earlier modules, the others' keys go on with the same ones.
      key.push_back(static_cast<double>(g));
      key.insert(key.end(), units[g][s].maxA.begin(), units[g][s].maxA.end());
      key.insert(key.end(), units[g][s].maxB.begin(), units[g][s].maxB.end());
      key.push_back(sources[s].weight);
    }
  }
  std::vector<uint32_t> order;
  for (const auto& [adapter, key] : keys) order.push_back(adapter);
  sortStable(order, [&](uint32_t i, uint32_t j) { return keys[i] > keys[j]; });
  return order;
}

}  // namespace lego

// What crosses between JavaScript and the core, and how it is made from the core's own types.
// Sizes and offsets are doubles, exact to 2^53.
#pragma once

#include <emscripten/val.h>

#include <cmath>
#include <string>
#include <vector>

#include "adapter/dialect.h"
#include "job/rank_rule.h"
#include "job/session.h"
#include "merge/registry.h"
#include "shape.h"

// A view of the core's memory, valid until the next call into the core.
EMSCRIPTEN_DECLARE_VAL_TYPE(BytesView);

namespace lego::bindings {

template <>
struct ShapeOf<BytesView> {
  static constexpr Shape shape{Shape::Kind::Bytes, sizeof(BytesView)};
};

struct ErrorValue {
  std::string code, message, file, tensor;
  double offset = -1;
};
LEGO_VALUE(ErrorValue, code, message, file, tensor, offset)

inline ErrorValue valueOf(const Error& error) {
  return {codeInfo(error.code).name, describe(error), error.file, error.tensor,
          error.offset ? static_cast<double>(*error.offset) : -1};
}

/// Empty where the work succeeded.
inline ErrorValue valueOf(const Status& status) { return status ? ErrorValue{} : valueOf(status.error()); }

template <typename T>
BytesView viewOf(const T* data, size_t count) {
  return BytesView(
      emscripten::val(emscripten::typed_memory_view(count, reinterpret_cast<const uint8_t*>(data))));
}
inline BytesView emptyView() { return viewOf("", 0); }

struct SizeValue {
  ErrorValue error;
  double bytes = 0;
};
LEGO_VALUE(SizeValue, error, bytes)

struct BytesValue {
  ErrorValue error;
  BytesView bytes = emptyView();
};
LEGO_VALUE(BytesValue, error, bytes)

/// Where a file says what its own tensors hash to (PlannedHashes).
struct HashesValue {
  bool areWritten = false;
  double dataBegin = 0, modelAt = 0, legacyAt = 0;
  BytesView legacyHeader = emptyView();
};
LEGO_VALUE(HashesValue, areWritten, dataBegin, modelAt, legacyAt, legacyHeader)

/// As Footprint. `readSlots`: slots of batches that are read while others are worked on.
struct FootprintValue {
  uint32_t threads = 1, readSlots = 0, readBuffers = 0, lanes = 1, shards = 1;
  double memoryBytes = 0;
};
LEGO_VALUE(FootprintValue, threads, readSlots, readBuffers, lanes, shards, memoryBytes)

inline Footprint footprintOf(const FootprintValue& value) {
  return {.threads = value.threads,
          .slots = Footprint::batchesInWork(value.threads) + value.readSlots,
          .readBuffers = value.readBuffers,
          .lanes = value.lanes,
          .shards = value.shards,
          .memoryBytes = static_cast<uint64_t>(value.memoryBytes)};
}

struct OpenValue {
  std::string label, file, configFile;
  double fileSize = 0;
  bool hasConfig = false;
};
LEGO_VALUE(OpenValue, label, file, configFile, fileSize, hasConfig)

struct ModuleValue {
  std::string path, kind, dtype;
  double in = 0, out = 0;
  uint32_t rank = 0;
  double alpha = 0, scale = 0;
};
LEGO_VALUE(ModuleValue, path, kind, dtype, in, out, rank, alpha, scale)

struct UnsupportedValue {
  std::string tensor, reason, kind;
};
LEGO_VALUE(UnsupportedValue, tensor, reason, kind)

struct ReadValue {
  uint32_t adapter = 0;
  double offset = 0, length = 0, at = 0;
};
LEGO_VALUE(ReadValue, adapter, offset, length, at)

inline ReadValue readValue(const ReadRange& read) {
  return {read.adapter, static_cast<double>(read.offset), static_cast<double>(read.length),
          static_cast<double>(read.at)};
}

/// An added adapter.
struct OpenedValue {
  ErrorValue error;
  std::vector<ReadValue> alphas;  ///< ranges that setAlphas() needs
};
LEGO_VALUE(OpenedValue, error, alphas)

struct AdapterValue {
  std::string label, format, reason, baseModel, taskType;
  std::vector<ModuleValue> modules;
  std::vector<UnsupportedValue> unsupported;
  std::vector<std::string> notices;
  double bytes = 0;
};
LEGO_VALUE(AdapterValue, label, format, reason, baseModel, taskType, modules, unsupported, notices, bytes)

inline AdapterValue adapterValue(const AdapterFile& adapter) {
  const Catalogue& catalogue = adapter.catalogue;
  AdapterValue value{adapter.label,
                     infoOf(catalogue.dialect).name,
                     catalogue.reason,
                     catalogue.info.baseModel,
                     catalogue.info.taskType,
                     {},
                     {},
                     catalogue.notices,
                     0};
  for (const AdapterModule& module : catalogue.modules) {
    value.modules.push_back({module.path, nameOf(module.kind), std::string(nameOf(module.a.dtype)),
                             static_cast<double>(module.in), static_cast<double>(module.out),
                             static_cast<uint32_t>(module.rank), module.alpha, module.scale});
    value.bytes += static_cast<double>(bytesOf(module));
  }
  for (const Unsupported& item : catalogue.unsupported)
    value.unsupported.push_back({item.tensor, item.reason, infoOf(item.kind).name});
  return value;
}

struct OptionText {
  std::string name, value;
};
LEGO_VALUE(OptionText, name, value)

struct ModuleWeightValue {
  uint32_t adapter = 0;
  std::string glob;
  double weight = 1;
};
LEGO_VALUE(ModuleWeightValue, adapter, glob, weight)

struct ModuleRankValue {
  std::string glob;
  uint32_t rank = 0;
};
LEGO_VALUE(ModuleRankValue, glob, rank)

struct RecipeValue {
  std::string method;
  std::vector<double> weights;
  std::vector<ModuleWeightValue> moduleWeights;
  uint32_t rank = 0;
  std::string rankRule;
  double rankValue = 0;
  std::vector<ModuleRankValue> moduleRanks;
  double seed = 0, scale = 1;
  std::string dtype, format, onnxNameA, onnxNameB;
  bool onnxMatMul = true;
  bool metadata = true, keepScales = false;
  std::vector<OptionText> policies, options;
  std::vector<std::string> inputHashes;
};
LEGO_VALUE(RecipeValue, method, weights, moduleWeights, rank, rankRule, rankValue, moduleRanks, seed, scale,
           dtype, format, onnxNameA, onnxNameB, onnxMatMul, metadata, keepScales, policies, inputHashes,
           options)

/// Errors: bad_rank, for a rule that is none; bad_policy.
inline Result<Recipe> recipeOf(const RecipeValue& value) {
  Recipe recipe;
  recipe.method = value.method;
  recipe.weights = value.weights;
  for (const auto& entry : value.moduleWeights)
    recipe.moduleWeights.push_back({entry.adapter, entry.glob, entry.weight});
  recipe.rank = value.rank;
  const auto rule = rankRuleOf(value.rankRule);
  if (!rule) return Error{Code::badRank, "there is no rank rule " + shownName(value.rankRule), {}, {}, {}};
  recipe.rule = {*rule, value.rankValue};
  for (const auto& entry : value.moduleRanks) recipe.moduleRanks.push_back({entry.glob, entry.rank});
  recipe.seed = static_cast<uint64_t>(value.seed);
  recipe.scale = value.scale;
  recipe.dtype = value.dtype;
  recipe.format = value.format;
  recipe.onnxNameA = value.onnxNameA;
  recipe.onnxNameB = value.onnxNameB;
  recipe.onnxMatMul = value.onnxMatMul;
  for (const auto& [name, wanted] : value.policies) {
    const auto kind = extraKindOf(name);
    const auto policy = policyOf(wanted);
    if (!kind || !policy)
      return Error{Code::badPolicy, "there is no policy " + shownName(name + "=" + wanted), {}, {}, {}};
    recipe.policies.emplace_back(*kind, *policy);
  }
  recipe.inputHashes = value.inputHashes;
  recipe.metadata = value.metadata;
  recipe.keepScales = value.keepScales;
  for (const auto& option : value.options) recipe.options.push_back({option.name, option.value});
  return recipe;
}

struct PlannedModuleValue {
  std::string path, kind;
  double in = 0, out = 0;
  uint32_t units = 0, rank = 0;
  std::vector<uint32_t> ranks;
};
LEGO_VALUE(PlannedModuleValue, path, kind, in, out, units, rank, ranks)

struct BatchValue {
  uint32_t modules = 0;
  double inputBytes = 0, outputBegin = 0, outputEnd = 0;
  std::vector<ReadValue> reads;
};
LEGO_VALUE(BatchValue, modules, inputBytes, outputBegin, outputEnd, reads)

struct TensorValue {
  std::string name, dtype;
  std::vector<double> shape;
  double begin = 0, end = 0;
};
LEGO_VALUE(TensorValue, name, dtype, shape, begin, end)

struct ExtraValue {
  uint32_t adapter = 0;
  std::string tensor, kind, policy;
};
LEGO_VALUE(ExtraValue, adapter, tensor, kind, policy)

struct PlanValue {
  ErrorValue error;
  std::string method, dtype, format, tensorFile, configFile, config;
  bool ranksAreKnown = true;
  std::vector<PlannedModuleValue> modules;
  std::vector<BatchValue> batches;
  std::vector<TensorValue> tensors;
  double inputBytes = 0, outputBytes = 0, peakBytes = 0;
  uint32_t lanes = 1;  ///< among which the batches are to be shared out
  uint32_t slots = 1;  ///< batches that a core has room for
  std::vector<std::string> notices;
  std::vector<ExtraValue> extras;  ///< what is no factor, and what happens to it
  std::vector<double> fileSizes;   ///< of the adapters' tensor files
};
LEGO_VALUE(PlanValue, error, method, dtype, format, tensorFile, configFile, config, ranksAreKnown, modules,
           batches, tensors, inputBytes, outputBytes, peakBytes, lanes, slots, notices, extras, fileSizes)

struct InputReportValue {
  uint32_t adapter = 0;
  double norm = 0, relativeError = 0, cosine = 0;
};
LEGO_VALUE(InputReportValue, adapter, norm, relativeError, cosine)

struct ReportValue {
  double norm = 0, targetNorm = 0, relativeError = 0, cosine = 0, retainedEnergy = 0, conflict = 0,
         seconds = 0, inertia = 0;
  std::vector<InputReportValue> inputs;
  std::vector<std::vector<double>> pairCosines;
  std::vector<double> mergedNorms;
  std::vector<uint32_t> labels;
  std::vector<std::vector<uint32_t>> clusters;
  std::vector<double> centroidNorms;
  std::vector<uint32_t> nearZero;
};
LEGO_VALUE(ReportValue, norm, targetNorm, relativeError, cosine, retainedEnergy, conflict, seconds, inertia,
           inputs, pairCosines, mergedNorms, labels, clusters, centroidNorms, nearZero)

inline std::vector<std::vector<double>> rowsOf(const Matrix& matrix) {
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < matrix.rows(); ++i) rows.emplace_back(matrix.row(i).begin(), matrix.row(i).end());
  return rows;
}

inline ReportValue reportValue(const ModuleReport& report) {
  const Quality& quality = report.quality;
  ReportValue value{quality.norm,
                    quality.targetNorm,
                    quality.relativeError(),
                    quality.cosine(),
                    quality.retainedEnergy(),
                    quality.relation.conflict,
                    report.seconds,
                    report.inertia,
                    {},
                    rowsOf(quality.relation.cosine),
                    report.mergedNorm,
                    report.labels,
                    report.clusters,
                    report.centroidNorm,
                    report.nearZero};
  for (size_t i = 0; i < report.adapter.size(); ++i) {
    const double norm = quality.relation.norm[i];
    value.inputs.push_back({report.adapter[i], norm,
                            norm > 0 ? quality.inputError[i] / norm : (quality.norm > 0 ? INFINITY : 0),
                            quality.inputCosine[i]});
  }
  return value;
}

/// How the adapters of a module stand to each other.
struct SurveyValue {
  std::vector<uint32_t> adapters;
  std::vector<double> norms;
  std::vector<std::vector<double>> pairCosines, sharedInputs, sharedOutputs;
  double conflict = 0;
  std::vector<double> energies;  ///< what each rank would be worth
};
LEGO_VALUE(SurveyValue, adapters, norms, pairCosines, sharedInputs, sharedOutputs, conflict, energies)

inline SurveyValue surveyValue(const ModuleSurvey& survey) {
  return {survey.adapter,
          survey.relation.norm,
          rowsOf(survey.relation.cosine),
          rowsOf(survey.shared.input),
          rowsOf(survey.shared.output),
          survey.relation.conflict,
          survey.energies};
}

inline TensorValue tensorValue(const TensorInfo& tensor) {
  return {tensor.name,
          std::string(nameOf(tensor.dtype)),
          {tensor.shape.begin(), tensor.shape.end()},
          static_cast<double>(tensor.begin),
          static_cast<double>(tensor.end)};
}

inline PlannedModuleValue plannedValue(const PlannedModule& module, size_t adapters) {
  PlannedModuleValue value{
      module.path,  nameOf(module.kind), static_cast<double>(module.in),    static_cast<double>(module.out),
      module.units, module.rank,         std::vector<uint32_t>(adapters, 0)};
  for (const PlannedSource& source : module.sources) value.ranks[source.adapter] = source.rank;
  return value;
}

inline BatchValue batchValue(const PlannedBatch& batch) {
  BatchValue value{static_cast<uint32_t>(batch.endModule - batch.firstModule),
                   static_cast<double>(batch.inputBytes),
                   static_cast<double>(batch.outputBegin),
                   static_cast<double>(batch.outputEnd),
                   {}};
  for (const ReadRange& read : batch.reads) value.reads.push_back(readValue(read));
  return value;
}

inline PlanValue planValue(const Plan& plan, std::span<const AdapterFile> adapters) {
  PlanValue value;
  value.method = plan.method->name;
  value.dtype = std::string(nameOf(plan.dtype));
  const DialectInfo& format = infoOf(plan.dialect);
  value.format = format.name;
  value.tensorFile = format.tensorFile;
  value.configFile = format.configFile ? format.configFile : "";
  value.config = plan.config;
  value.ranksAreKnown = plan.ranksAreKnown;
  for (const TensorInfo& tensor : plan.constants) value.tensors.push_back(tensorValue(tensor));
  for (const PlannedModule& module : plan.modules) {
    value.modules.push_back(plannedValue(module, adapters.size()));
    value.tensors.push_back(tensorValue(module.a));
    value.tensors.push_back(tensorValue(module.b));
    if (module.magnitude) value.tensors.push_back(tensorValue(*module.magnitude));
  }
  for (const PlannedBatch& batch : plan.batches) value.batches.push_back(batchValue(batch));
  value.inputBytes = static_cast<double>(plan.inputBytes);
  value.outputBytes = static_cast<double>(plan.outputBytes);
  value.peakBytes = static_cast<double>(plan.peakBytes);
  value.lanes = static_cast<uint32_t>(plan.footprint.lanes);
  value.slots = static_cast<uint32_t>(plan.footprint.slots);
  value.notices = plan.notices;
  for (const TensorInfo& tensor : plan.extraTensors) value.tensors.push_back(tensorValue(tensor));
  for (const ExtraFate& fate : plan.extraFates)
    value.extras.push_back({fate.adapter, fate.tensor, infoOf(fate.kind).name, nameOf(fate.policy)});
  for (const AdapterFile& adapter : adapters)
    value.fileSizes.push_back(static_cast<double>(adapter.fileSize));
  return value;
}

}  // namespace lego::bindings

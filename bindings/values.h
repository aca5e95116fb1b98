// Value objects: what crosses between JavaScript and the core, and how it is made from the core's own types.
// Sizes and offsets are doubles, exact to 2^53.
#pragma once

#include <emscripten/bind.h>

#include <string>
#include <vector>

#include "job/session.h"
#include "merge/registry.h"

// A view of the core's memory, valid until the next call into the core.
EMSCRIPTEN_DECLARE_VAL_TYPE(BytesView);

namespace lego::bindings {

struct ErrorValue {
  std::string code, message, file, tensor;
  double offset = -1;
};

inline ErrorValue valueOf(const Error& error) {
  return {codeInfo(error.code).name, describe(error), error.file, error.tensor,
          error.offset ? static_cast<double>(*error.offset) : -1};
}

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

struct BytesValue {
  ErrorValue error;
  BytesView bytes = emptyView();
};

struct OpenValue {
  std::string label, file, configFile;
  double fileSize = 0;
  bool hasConfig = false;
};

struct ModuleValue {
  std::string path, kind, dtype;
  double in = 0, out = 0;
  uint32_t rank = 0;
  double alpha = 0, scale = 0;
};

struct UnsupportedValue {
  std::string tensor, reason;
};

struct AdapterValue {
  ErrorValue error;
  std::string label, baseModel, taskType;
  std::vector<ModuleValue> modules;
  std::vector<UnsupportedValue> unsupported;
  std::vector<std::string> notices;
  double bytes = 0;
};

struct OptionText {
  std::string name, value;
};

struct RecipeValue {
  std::string method;
  std::vector<double> weights;
  uint32_t rank = 0;
  double seed = 0, scale = 1;
  std::string dtype;
  std::vector<OptionText> options;
};

struct PlannedModuleValue {
  std::string path, kind;
  double in = 0, out = 0;
  uint32_t units = 0, rank = 0;
  std::vector<uint32_t> ranks;
};

struct ReadValue {
  uint32_t adapter = 0;
  double offset = 0, length = 0, at = 0;
};

struct BatchValue {
  uint32_t modules = 0;
  double inputBytes = 0, outputBegin = 0, outputEnd = 0;
  std::vector<ReadValue> reads;
};

struct TensorValue {
  std::string name, dtype;
  std::vector<double> shape;
  double begin = 0, end = 0;
};

struct PlanValue {
  ErrorValue error;
  std::string method, dtype, config;
  std::vector<PlannedModuleValue> modules;
  std::vector<BatchValue> batches;
  std::vector<TensorValue> tensors;
  double inputBytes = 0, outputBytes = 0, peakBytes = 0;
  std::vector<std::string> notices;
};

struct ReportValue {
  double norm = 0, targetNorm = 0, relativeError = 0, cosine = 0, inertia = 0;
  std::vector<uint32_t> labels;
  std::vector<std::vector<uint32_t>> clusters;
  std::vector<uint32_t> nearZero;
};

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
  for (const ReadRange& read : batch.reads)
    value.reads.push_back({read.adapter, static_cast<double>(read.offset), static_cast<double>(read.length),
                           static_cast<double>(read.at)});
  return value;
}

struct CodeValue {
  std::string name, sentence;
};
inline std::vector<CodeValue> errorCodes() {
  std::vector<CodeValue> codes;
  for (size_t i = 0; i < codeCount(); ++i) {
    const CodeInfo info = codeInfo(static_cast<Code>(i));
    codes.push_back({info.name, info.sentence});
  }
  return codes;
}

struct OptionInfoValue {
  std::string name, type;
  std::vector<std::string> choices;
  double minimum = 0, maximum = 0, standard = 0;
  std::string sentence;
};
struct MethodValue {
  std::string name, family, sentence, source;
  bool takesRank = false, takesNegativeWeights = false;
  std::vector<OptionInfoValue> options;
};
inline std::vector<MethodValue> methodTable() {
  std::vector<MethodValue> table;
  for (const MethodInfo& method : methods()) {
    MethodValue value{method.name,
                      nameOf(method.family),
                      method.sentence,
                      method.source,
                      method.takesRank,
                      method.takesNegativeWeights,
                      {}};
    for (const OptionInfo& option : method.options) {
      const bool choice = option.type == OptionInfo::Type::Choice;
      const char* number = option.type == OptionInfo::Type::Integer ? "integer" : "number";
      value.options.push_back({option.name, choice ? "choice" : number,
                               choice ? splitChoices(option.choices) : std::vector<std::string>(),
                               option.minimum, option.maximum, option.standard, option.sentence});
    }
    table.push_back(std::move(value));
  }
  return table;
}

}  // namespace lego::bindings

// What JavaScript sees of the core: value objects, one session class, three tables. Nothing throws: each
// result carries an error, whose code is empty where there is none. Sizes and offsets are doubles, exact to
// 2^53. The only file of the project that includes Emscripten's headers, with vector_values.h.

#include <emscripten/bind.h>

#include <string>
#include <vector>

#include "format/safetensors.h"
#include "job/session.h"
#include "merge/registry.h"
#include "vector_values.h"

using emscripten::val;

// A view of the core's memory, valid until the next call into the core.
EMSCRIPTEN_DECLARE_VAL_TYPE(BytesView);

namespace {

using namespace lego;

struct ErrorValue {
  std::string code, message, file, tensor;
  double offset = -1;
};

ErrorValue valueOf(const Error& error) {
  return {codeInfo(error.code).name, describe(error), error.file, error.tensor,
          error.offset ? static_cast<double>(*error.offset) : -1};
}

template <typename T>
BytesView viewOf(const T* data, size_t count) {
  return BytesView(val(emscripten::typed_memory_view(count, reinterpret_cast<const uint8_t*>(data))));
}
BytesView emptyView() { return viewOf("", 0); }

struct SizeValue {
  ErrorValue error;
  double bytes = 0;
};

struct BytesValue {
  ErrorValue error;
  BytesView bytes = emptyView();
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

TensorValue tensorValue(const TensorInfo& tensor) {
  return {tensor.name,
          std::string(nameOf(tensor.dtype)),
          {tensor.shape.begin(), tensor.shape.end()},
          static_cast<double>(tensor.begin),
          static_cast<double>(tensor.end)};
}

PlannedModuleValue plannedValue(const PlannedModule& module, size_t adapters) {
  PlannedModuleValue value{
      module.path,  nameOf(module.kind), static_cast<double>(module.in),    static_cast<double>(module.out),
      module.units, module.rank,         std::vector<uint32_t>(adapters, 0)};
  for (const PlannedSource& source : module.sources) value.ranks[source.adapter] = source.rank;
  return value;
}

BatchValue batchValue(const PlannedBatch& batch) {
  BatchValue value{static_cast<double>(batch.inputBytes),
                   static_cast<double>(batch.outputBegin),
                   static_cast<double>(batch.outputEnd),
                   {}};
  for (const ReadRange& read : batch.reads)
    value.reads.push_back({read.adapter, static_cast<double>(read.offset), static_cast<double>(read.length),
                           static_cast<double>(read.at)});
  return value;
}

/// Size in bytes of a file's prefix and header, from its first eight bytes and its size.
SizeValue headerSize(const std::string& file, const std::string& prefix, double fileSize) {
  const auto size =
      safetensors::headerSize(std::as_bytes(std::span(prefix)), static_cast<uint64_t>(fileSize));
  if (size) return {{}, static_cast<double>(*size)};
  Error error = size.error();
  error.file = file;
  return {valueOf(error), 0};
}

class SessionHandle {
 public:
  explicit SessionHandle(uint32_t threads) : session_(threads) {}

  /// `header`: the first headerSize() bytes of the file. `config`: the text of adapter_config.json.
  AdapterValue addAdapter(const std::string& label, const std::string& file, double fileSize,
                          const std::string& header, bool hasConfig, const std::string& configFile,
                          const std::string& config) {
    AdapterValue value;
    const Status added = session_.addAdapter(
        {label, file, configFile}, std::as_bytes(std::span(header)), static_cast<uint64_t>(fileSize),
        hasConfig ? std::optional<std::string_view>(config) : std::nullopt);
    if (!added) {
      value.error = valueOf(added.error());
      return value;
    }
    const AdapterFile& adapter = session_.adapters().back();
    value.label = adapter.label;
    value.baseModel = adapter.catalogue.info.baseModel;
    value.taskType = adapter.catalogue.info.taskType;
    value.notices = adapter.catalogue.notices;
    for (const AdapterModule& module : adapter.catalogue.modules) {
      value.modules.push_back({module.path, nameOf(module.kind), std::string(nameOf(module.a.dtype)),
                               static_cast<double>(module.in), static_cast<double>(module.out),
                               static_cast<uint32_t>(module.rank), module.alpha, module.scale});
      value.bytes += static_cast<double>((module.a.end - module.a.begin) + (module.b.end - module.b.begin));
    }
    for (const Unsupported& item : adapter.catalogue.unsupported)
      value.unsupported.push_back({item.tensor, item.reason});
    return value;
  }

  PlanValue makePlan(const RecipeValue& recipe) {
    Recipe asked{recipe.method, recipe.weights, recipe.rank, static_cast<uint64_t>(recipe.seed),
                 recipe.scale,  recipe.dtype,   {},          {}};
    for (const OptionText& option : recipe.options) asked.options.push_back({option.name, option.value});
    PlanValue value;
    if (const Status planned = session_.makePlan(asked); !planned) {
      value.error = valueOf(planned.error());
      return value;
    }
    const Plan& plan = session_.plan();
    value.method = plan.method->name;
    value.dtype = std::string(nameOf(plan.dtype));
    value.config = plan.config;
    for (const PlannedModule& module : plan.modules) {
      value.modules.push_back(plannedValue(module, session_.adapters().size()));
      value.tensors.push_back(tensorValue(module.a));
      value.tensors.push_back(tensorValue(module.b));
    }
    for (const PlannedBatch& batch : plan.batches) value.batches.push_back(batchValue(batch));
    value.inputBytes = static_cast<double>(plan.inputBytes);
    value.outputBytes = static_cast<double>(plan.outputBytes);
    value.peakBytes = static_cast<double>(plan.peakBytes);
    value.notices = plan.notices;
    return value;
  }

  /// First bytes of the output's tensor file.
  BytesView outputHeader() const {
    return viewOf(session_.plan().header.data(), session_.plan().header.size());
  }

  /// Memory that a batch's reads are written to.
  BytesValue input(double bytes) {
    const auto memory = session_.input(static_cast<uint64_t>(bytes));
    if (!memory) return {valueOf(memory.error()), emptyView()};
    return {{}, viewOf(memory->data(), memory->size())};
  }

  /// Merges a batch; the bytes are the output file's from the batch's outputBegin to its outputEnd.
  BytesValue run(uint32_t batch) {
    const auto output = session_.run(batch);
    if (!output) return {valueOf(output.error()), emptyView()};
    return {{}, viewOf(output->data(), output->size())};
  }

  /// One per module of the plan.
  std::vector<ReportValue> reports() const {
    std::vector<ReportValue> values;
    for (const ModuleReport& report : session_.reports()) {
      const Quality& quality = report.quality;
      values.push_back({quality.norm, quality.targetNorm, quality.relativeError(), quality.cosine(),
                        report.inertia, report.labels, report.clusters, report.nearZero});
    }
    return values;
  }

  double progress() { return session_.context().fraction(); }
  uint32_t threads() const { return static_cast<uint32_t>(session_.threads()); }

  /// Address of a 32-bit word in the core's memory; another thread that sets it to 1 cancels a running batch.
  uint32_t cancelAddress() {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(session_.context().cancelFlag()));
  }

 private:
  Session session_;
};

struct CodeValue {
  std::string name, sentence;
};
std::vector<CodeValue> errorCodes() {
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
  bool takesRank = false;
  std::vector<OptionInfoValue> options;
};
std::vector<MethodValue> methodTable() {
  std::vector<MethodValue> table;
  for (const MethodInfo& method : methods()) {
    MethodValue value{method.name,   nameOf(method.family), method.sentence,
                      method.source, method.takesRank,      {}};
    for (const OptionInfo& option : method.options) {
      const bool choice = option.type == OptionInfo::Type::Choice;
      value.options.push_back({option.name, choice ? "choice" : "integer",
                               choice ? splitChoices(option.choices) : std::vector<std::string>(),
                               option.minimum, option.maximum, option.standard, option.sentence});
    }
    table.push_back(std::move(value));
  }
  return table;
}

}  // namespace

EMSCRIPTEN_BINDINGS(lora_lego) {
  using emscripten::register_type;
  using emscripten::value_object;

  register_type<BytesView>("Uint8Array");
  register_type<std::vector<std::string>>("string[]");
  register_type<std::vector<double>>("number[]");
  register_type<std::vector<uint32_t>>("number[]");
  register_type<std::vector<std::vector<uint32_t>>>("number[][]");
  register_type<std::vector<ModuleValue>>("ModuleValue[]");
  register_type<std::vector<UnsupportedValue>>("UnsupportedValue[]");
  register_type<std::vector<OptionText>>("OptionText[]");
  register_type<std::vector<PlannedModuleValue>>("PlannedModuleValue[]");
  register_type<std::vector<ReadValue>>("ReadValue[]");
  register_type<std::vector<BatchValue>>("BatchValue[]");
  register_type<std::vector<TensorValue>>("TensorValue[]");
  register_type<std::vector<ReportValue>>("ReportValue[]");
  register_type<std::vector<CodeValue>>("CodeValue[]");
  register_type<std::vector<OptionInfoValue>>("OptionInfoValue[]");
  register_type<std::vector<MethodValue>>("MethodValue[]");

  value_object<ErrorValue>("ErrorValue")
      .field("code", &ErrorValue::code)
      .field("message", &ErrorValue::message)
      .field("file", &ErrorValue::file)
      .field("tensor", &ErrorValue::tensor)
      .field("offset", &ErrorValue::offset);
  value_object<SizeValue>("SizeValue").field("error", &SizeValue::error).field("bytes", &SizeValue::bytes);
  value_object<BytesValue>("BytesValue")
      .field("error", &BytesValue::error)
      .field("bytes", &BytesValue::bytes);
  value_object<ModuleValue>("ModuleValue")
      .field("path", &ModuleValue::path)
      .field("kind", &ModuleValue::kind)
      .field("dtype", &ModuleValue::dtype)
      .field("in", &ModuleValue::in)
      .field("out", &ModuleValue::out)
      .field("rank", &ModuleValue::rank)
      .field("alpha", &ModuleValue::alpha)
      .field("scale", &ModuleValue::scale);
  value_object<UnsupportedValue>("UnsupportedValue")
      .field("tensor", &UnsupportedValue::tensor)
      .field("reason", &UnsupportedValue::reason);
  value_object<AdapterValue>("AdapterValue")
      .field("error", &AdapterValue::error)
      .field("label", &AdapterValue::label)
      .field("baseModel", &AdapterValue::baseModel)
      .field("taskType", &AdapterValue::taskType)
      .field("modules", &AdapterValue::modules)
      .field("unsupported", &AdapterValue::unsupported)
      .field("notices", &AdapterValue::notices)
      .field("bytes", &AdapterValue::bytes);
  value_object<OptionText>("OptionText").field("name", &OptionText::name).field("value", &OptionText::value);
  value_object<RecipeValue>("RecipeValue")
      .field("method", &RecipeValue::method)
      .field("weights", &RecipeValue::weights)
      .field("rank", &RecipeValue::rank)
      .field("seed", &RecipeValue::seed)
      .field("scale", &RecipeValue::scale)
      .field("dtype", &RecipeValue::dtype)
      .field("options", &RecipeValue::options);
  value_object<PlannedModuleValue>("PlannedModuleValue")
      .field("path", &PlannedModuleValue::path)
      .field("kind", &PlannedModuleValue::kind)
      .field("in", &PlannedModuleValue::in)
      .field("out", &PlannedModuleValue::out)
      .field("units", &PlannedModuleValue::units)
      .field("rank", &PlannedModuleValue::rank)
      .field("ranks", &PlannedModuleValue::ranks);
  value_object<ReadValue>("ReadValue")
      .field("adapter", &ReadValue::adapter)
      .field("offset", &ReadValue::offset)
      .field("length", &ReadValue::length)
      .field("at", &ReadValue::at);
  value_object<BatchValue>("BatchValue")
      .field("inputBytes", &BatchValue::inputBytes)
      .field("outputBegin", &BatchValue::outputBegin)
      .field("outputEnd", &BatchValue::outputEnd)
      .field("reads", &BatchValue::reads);
  value_object<TensorValue>("TensorValue")
      .field("name", &TensorValue::name)
      .field("dtype", &TensorValue::dtype)
      .field("shape", &TensorValue::shape)
      .field("begin", &TensorValue::begin)
      .field("end", &TensorValue::end);
  value_object<PlanValue>("PlanValue")
      .field("error", &PlanValue::error)
      .field("method", &PlanValue::method)
      .field("dtype", &PlanValue::dtype)
      .field("config", &PlanValue::config)
      .field("modules", &PlanValue::modules)
      .field("batches", &PlanValue::batches)
      .field("tensors", &PlanValue::tensors)
      .field("inputBytes", &PlanValue::inputBytes)
      .field("outputBytes", &PlanValue::outputBytes)
      .field("peakBytes", &PlanValue::peakBytes)
      .field("notices", &PlanValue::notices);
  value_object<ReportValue>("ReportValue")
      .field("norm", &ReportValue::norm)
      .field("targetNorm", &ReportValue::targetNorm)
      .field("relativeError", &ReportValue::relativeError)
      .field("cosine", &ReportValue::cosine)
      .field("inertia", &ReportValue::inertia)
      .field("labels", &ReportValue::labels)
      .field("clusters", &ReportValue::clusters)
      .field("nearZero", &ReportValue::nearZero);
  value_object<CodeValue>("CodeValue")
      .field("name", &CodeValue::name)
      .field("sentence", &CodeValue::sentence);
  value_object<OptionInfoValue>("OptionInfoValue")
      .field("name", &OptionInfoValue::name)
      .field("type", &OptionInfoValue::type)
      .field("choices", &OptionInfoValue::choices)
      .field("minimum", &OptionInfoValue::minimum)
      .field("maximum", &OptionInfoValue::maximum)
      .field("standard", &OptionInfoValue::standard)
      .field("sentence", &OptionInfoValue::sentence);
  value_object<MethodValue>("MethodValue")
      .field("name", &MethodValue::name)
      .field("family", &MethodValue::family)
      .field("sentence", &MethodValue::sentence)
      .field("source", &MethodValue::source)
      .field("takesRank", &MethodValue::takesRank)
      .field("options", &MethodValue::options);

  emscripten::class_<SessionHandle>("Session")
      .constructor<uint32_t>()
      .function("addAdapter", &SessionHandle::addAdapter)
      .function("makePlan", &SessionHandle::makePlan)
      .function("outputHeader", &SessionHandle::outputHeader)
      .function("input", &SessionHandle::input)
      .function("run", &SessionHandle::run)
      .function("reports", &SessionHandle::reports)
      .function("progress", &SessionHandle::progress)
      .function("threads", &SessionHandle::threads)
      .function("cancelAddress", &SessionHandle::cancelAddress);

  emscripten::function("headerSize", &headerSize);
  emscripten::function("errorCodes", &errorCodes);
  emscripten::function("methodTable", &methodTable);
}

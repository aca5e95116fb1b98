// What JavaScript sees of the core: value objects, one session class, two tables. Nothing throws: each
// result carries an error, whose code is empty where there is none.

#include <emscripten/bind.h>

#include <string>
#include <vector>

#include "format/container.h"
#include "job/session.h"
#include "values.h"
#include "vector_values.h"

using namespace lego;
using namespace lego::bindings;

namespace {

/// How many of a file's first bytes addAdapter() or setBase() needs, of which `prefix` are some: at least 8,
/// unless the file is shorter. Ask again with that many, until they are as many as were given.
SizeValue headerNeedsValue(const std::string& file, const std::string& prefix, double fileSize) {
  const auto size = lego::headerNeeds(std::as_bytes(std::span(prefix)), static_cast<uint64_t>(fileSize));
  if (size) return {{}, static_cast<double>(*size)};
  Error error = size.error();
  error.file = file;
  return {valueOf(error), 0};
}

class SessionHandle {
 public:
  /// `reference`: run on the readable kernels instead of the fast ones; same bytes.
  SessionHandle(const FootprintValue& footprint, bool reference)
      : session_(footprintOf(footprint), reference ? kReferenceKernels : kFastKernels) {}

  /// `header`: the first headerNeeds() bytes of the file. `config`: the bytes of adapter_config.json.
  AdapterValue addAdapter(const OpenValue& files, const std::string& header, const std::string& config) {
    return opened(
        session_.addAdapter({files.label, files.file, files.configFile}, std::as_bytes(std::span(header)),
                            static_cast<uint64_t>(files.fileSize),
                            files.hasConfig ? std::optional<std::string_view>(config) : std::nullopt));
  }

  /// `bytes`: the ranges that addAdapter() listed, one after the other.
  AdapterValue setAlphas(const std::string& bytes) {
    return opened(session_.setAlphas(std::as_bytes(std::span(bytes))));
  }

  /// The base model, for recipes that need it: the bytes of its config.json, or the first headerNeeds() bytes
  /// of its GGUF file.
  ErrorValue setBase(const std::string& file, const std::string& bytes, double fileSize) {
    return valueOf(session_.setBase(file, std::as_bytes(std::span(bytes)), static_cast<uint64_t>(fileSize)));
  }

  PlanValue makePlan(const RecipeValue& value) {
    const auto recipe = recipeOf(value);
    return planned(recipe ? session_.makePlan(*recipe) : recipe.error());
  }

  /// What a survey of a batch found, one for each of its modules.
  std::vector<SurveyValue> surveys(uint32_t batch) const {
    std::vector<SurveyValue> values;
    for (const ModuleSurvey& survey : ofBatch(session_.surveys(), batch))
      values.push_back(surveyValue(survey));
    return values;
  }
  /// What surveys found, as SurveyValue::energies, one for each module of the plan; then the plan with the
  /// ranks that follow.
  PlanValue chooseRanks(const std::vector<std::vector<double>>& energies) {
    for (size_t m = 0; m < energies.size(); ++m) session_.setEnergies(m, energies[m]);
    return planned(session_.chooseRanks());
  }

  /// First bytes of the output's tensor file.
  BytesView outputHeader() const {
    return viewOf(session_.plan().header.data(), session_.plan().header.size());
  }

  /// What is to be written over the header once all batches are written.
  HashesValue outputHashes() const {
    const auto& hashes = session_.plan().hashes;
    if (!hashes) return {};
    return {true, static_cast<double>(hashes->dataBegin), static_cast<double>(hashes->modelAt),
            static_cast<double>(hashes->legacyAt),
            viewOf(hashes->legacyHeader.data(), hashes->legacyHeader.size())};
  }

  /// Memory that a batch's reads are written to.
  BytesValue input(uint32_t batch) {
    const auto memory = session_.input(batch);
    if (!memory) return {valueOf(memory.error()), emptyView()};
    return {{}, viewOf(memory->data(), memory->size())};
  }

  /// Begins to merge a batch whose reads lie in its input, or to look at it. The error's code is empty if it
  /// could.
  ErrorValue start(uint32_t batch, bool isSurvey) {
    return valueOf(session_.start(batch, isSurvey ? Work::Survey : Work::Merge));
  }

  /// Waits for a batch. Of a merge: the bytes of the output file from the batch's outputBegin to its
  /// outputEnd.
  BytesValue finish(uint32_t batch) {
    const auto output = session_.finish(batch);
    if (!output) return {valueOf(output.error()), emptyView()};
    return {{}, viewOf(output->data(), output->size())};
  }

  /// One for each module of a batch that was merged.
  std::vector<ReportValue> reports(uint32_t batch) const {
    std::vector<ReportValue> values;
    for (const ModuleReport& report : ofBatch(session_.reports(), batch))
      values.push_back(reportValue(report));
    return values;
  }

  uint32_t threads() const { return static_cast<uint32_t>(session_.threads()); }

  /// Address of a 32-bit word in the core's memory; another thread that sets it to 1 cancels a running batch.
  uint32_t cancelAddress() {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(session_.context().cancelFlag()));
  }

 private:
  template <typename T>
  std::span<const T> ofBatch(std::span<const T> modules, uint32_t batch) const {
    const PlannedBatch& planned = session_.plan().batches[batch];
    return modules.subspan(planned.firstModule, planned.endModule - planned.firstModule);
  }

  /// The last added adapter.
  AdapterValue opened(const Status& status) const {
    AdapterValue value;
    if (!status) {
      value.error = valueOf(status.error());
      return value;
    }
    const AdapterFile& adapter = session_.adapters().back();
    value.label = adapter.label;
    value.format = infoOf(adapter.catalogue.dialect).name;
    value.reason = adapter.catalogue.reason;
    value.baseModel = adapter.catalogue.info.baseModel;
    value.taskType = adapter.catalogue.info.taskType;
    value.notices = adapter.catalogue.notices;
    for (const AdapterModule& module : adapter.catalogue.modules) {
      value.modules.push_back({module.path, nameOf(module.kind), std::string(nameOf(module.a.dtype)),
                               static_cast<double>(module.in), static_cast<double>(module.out),
                               static_cast<uint32_t>(module.rank), module.alpha, module.scale});
      value.bytes += static_cast<double>(bytesOf(module));
    }
    for (const Unsupported& item : adapter.catalogue.unsupported)
      value.unsupported.push_back({item.tensor, item.reason, infoOf(item.kind).name});
    for (const ReadRange& read : session_.alphaReads()) value.alphas.push_back(readValue(read));
    return value;
  }

  PlanValue planned(const Status& status) const {
    if (status) return planValue(session_.plan(), session_.adapters());
    PlanValue value;
    value.error = valueOf(status.error());
    return value;
  }

  Session session_;
};

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
  register_type<std::vector<std::vector<double>>>("number[][]");
  register_type<std::vector<ReportValue>>("ReportValue[]");
  register_type<std::vector<SurveyValue>>("SurveyValue[]");
  register_type<std::vector<InputReportValue>>("InputReportValue[]");
  register_type<std::vector<ModuleWeightValue>>("ModuleWeightValue[]");
  register_type<std::vector<ModuleRankValue>>("ModuleRankValue[]");
  register_type<std::vector<CodeValue>>("CodeValue[]");
  register_type<std::vector<FormatValue>>("FormatValue[]");
  register_type<std::vector<ExtraValue>>("ExtraValue[]");
  register_type<std::vector<ExtraKindValue>>("ExtraKindValue[]");
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
  value_object<HashesValue>("HashesValue")
      .field("areWritten", &HashesValue::areWritten)
      .field("dataBegin", &HashesValue::dataBegin)
      .field("modelAt", &HashesValue::modelAt)
      .field("legacyAt", &HashesValue::legacyAt)
      .field("legacyHeader", &HashesValue::legacyHeader);
  value_object<FootprintValue>("FootprintValue")
      .field("threads", &FootprintValue::threads)
      .field("slots", &FootprintValue::slots)
      .field("readBuffers", &FootprintValue::readBuffers)
      .field("lanes", &FootprintValue::lanes)
      .field("shards", &FootprintValue::shards)
      .field("batchBytes", &FootprintValue::batchBytes)
      .field("memoryBytes", &FootprintValue::memoryBytes);
  value_object<OpenValue>("OpenValue")
      .field("label", &OpenValue::label)
      .field("file", &OpenValue::file)
      .field("configFile", &OpenValue::configFile)
      .field("fileSize", &OpenValue::fileSize)
      .field("hasConfig", &OpenValue::hasConfig);
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
      .field("reason", &UnsupportedValue::reason)
      .field("kind", &UnsupportedValue::kind);
  value_object<AdapterValue>("AdapterValue")
      .field("error", &AdapterValue::error)
      .field("label", &AdapterValue::label)
      .field("format", &AdapterValue::format)
      .field("reason", &AdapterValue::reason)
      .field("baseModel", &AdapterValue::baseModel)
      .field("taskType", &AdapterValue::taskType)
      .field("modules", &AdapterValue::modules)
      .field("unsupported", &AdapterValue::unsupported)
      .field("notices", &AdapterValue::notices)
      .field("bytes", &AdapterValue::bytes)
      .field("alphas", &AdapterValue::alphas);
  value_object<OptionText>("OptionText").field("name", &OptionText::name).field("value", &OptionText::value);
  value_object<ModuleWeightValue>("ModuleWeightValue")
      .field("adapter", &ModuleWeightValue::adapter)
      .field("glob", &ModuleWeightValue::glob)
      .field("weight", &ModuleWeightValue::weight);
  value_object<ModuleRankValue>("ModuleRankValue")
      .field("glob", &ModuleRankValue::glob)
      .field("rank", &ModuleRankValue::rank);
  value_object<RecipeValue>("RecipeValue")
      .field("method", &RecipeValue::method)
      .field("weights", &RecipeValue::weights)
      .field("moduleWeights", &RecipeValue::moduleWeights)
      .field("rank", &RecipeValue::rank)
      .field("rankRule", &RecipeValue::rankRule)
      .field("rankValue", &RecipeValue::rankValue)
      .field("moduleRanks", &RecipeValue::moduleRanks)
      .field("seed", &RecipeValue::seed)
      .field("scale", &RecipeValue::scale)
      .field("dtype", &RecipeValue::dtype)
      .field("format", &RecipeValue::format)
      .field("onnxNameA", &RecipeValue::onnxNameA)
      .field("onnxNameB", &RecipeValue::onnxNameB)
      .field("onnxMatMul", &RecipeValue::onnxMatMul)
      .field("metadata", &RecipeValue::metadata)
      .field("keepScales", &RecipeValue::keepScales)
      .field("policies", &RecipeValue::policies)
      .field("inputHashes", &RecipeValue::inputHashes)
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
      .field("modules", &BatchValue::modules)
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
  value_object<ExtraValue>("ExtraValue")
      .field("adapter", &ExtraValue::adapter)
      .field("tensor", &ExtraValue::tensor)
      .field("kind", &ExtraValue::kind)
      .field("policy", &ExtraValue::policy);
  value_object<ExtraKindValue>("ExtraKindValue")
      .field("name", &ExtraKindValue::name)
      .field("sentence", &ExtraKindValue::sentence)
      .field("policies", &ExtraKindValue::policies);
  value_object<PlanValue>("PlanValue")
      .field("error", &PlanValue::error)
      .field("method", &PlanValue::method)
      .field("dtype", &PlanValue::dtype)
      .field("format", &PlanValue::format)
      .field("tensorFile", &PlanValue::tensorFile)
      .field("configFile", &PlanValue::configFile)
      .field("config", &PlanValue::config)
      .field("ranksAreKnown", &PlanValue::ranksAreKnown)
      .field("modules", &PlanValue::modules)
      .field("batches", &PlanValue::batches)
      .field("tensors", &PlanValue::tensors)
      .field("inputBytes", &PlanValue::inputBytes)
      .field("outputBytes", &PlanValue::outputBytes)
      .field("peakBytes", &PlanValue::peakBytes)
      .field("lanes", &PlanValue::lanes)
      .field("notices", &PlanValue::notices)
      .field("extras", &PlanValue::extras)
      .field("fileSizes", &PlanValue::fileSizes);
  value_object<InputReportValue>("InputReportValue")
      .field("adapter", &InputReportValue::adapter)
      .field("norm", &InputReportValue::norm)
      .field("relativeError", &InputReportValue::relativeError)
      .field("cosine", &InputReportValue::cosine);
  value_object<ReportValue>("ReportValue")
      .field("norm", &ReportValue::norm)
      .field("targetNorm", &ReportValue::targetNorm)
      .field("relativeError", &ReportValue::relativeError)
      .field("cosine", &ReportValue::cosine)
      .field("retainedEnergy", &ReportValue::retainedEnergy)
      .field("conflict", &ReportValue::conflict)
      .field("seconds", &ReportValue::seconds)
      .field("inertia", &ReportValue::inertia)
      .field("inputs", &ReportValue::inputs)
      .field("pairCosines", &ReportValue::pairCosines)
      .field("mergedNorms", &ReportValue::mergedNorms)
      .field("labels", &ReportValue::labels)
      .field("clusters", &ReportValue::clusters)
      .field("centroidNorms", &ReportValue::centroidNorms)
      .field("nearZero", &ReportValue::nearZero);
  value_object<SurveyValue>("SurveyValue")
      .field("adapters", &SurveyValue::adapters)
      .field("norms", &SurveyValue::norms)
      .field("pairCosines", &SurveyValue::pairCosines)
      .field("sharedInputs", &SurveyValue::sharedInputs)
      .field("sharedOutputs", &SurveyValue::sharedOutputs)
      .field("energies", &SurveyValue::energies)
      .field("conflict", &SurveyValue::conflict);
  value_object<CodeValue>("CodeValue")
      .field("name", &CodeValue::name)
      .field("sentence", &CodeValue::sentence);
  value_object<FormatValue>("FormatValue")
      .field("name", &FormatValue::name)
      .field("sentence", &FormatValue::sentence)
      .field("tensorFile", &FormatValue::tensorFile)
      .field("configFile", &FormatValue::configFile)
      .field("isRead", &FormatValue::isRead)
      .field("container", &FormatValue::container)
      .field("scales", &FormatValue::scales)
      .field("hasAlphas", &FormatValue::hasAlphas)
      .field("hasConvolutions", &FormatValue::hasConvolutions)
      .field("hasEmbeddings", &FormatValue::hasEmbeddings)
      .field("hasStacks", &FormatValue::hasStacks);
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
      .field("aliases", &MethodValue::aliases)
      .field("family", &MethodValue::family)
      .field("sentence", &MethodValue::sentence)
      .field("source", &MethodValue::source)
      .field("rank", &MethodValue::rank)
      .field("choosesRank", &MethodValue::choosesRank)
      .field("takesNegativeWeights", &MethodValue::takesNegativeWeights)
      .field("reshapes", &MethodValue::reshapes)
      .field("mostAdapters", &MethodValue::mostAdapters)
      .field("options", &MethodValue::options);

  emscripten::class_<SessionHandle>("Session")
      .constructor<const FootprintValue&, bool>()
      .function("addAdapter", &SessionHandle::addAdapter)
      .function("setAlphas", &SessionHandle::setAlphas)
      .function("setBase", &SessionHandle::setBase)
      .function("makePlan", &SessionHandle::makePlan)
      .function("surveys", &SessionHandle::surveys)
      .function("chooseRanks", &SessionHandle::chooseRanks)
      .function("outputHeader", &SessionHandle::outputHeader)
      .function("outputHashes", &SessionHandle::outputHashes)
      .function("input", &SessionHandle::input)
      .function("start", &SessionHandle::start)
      .function("finish", &SessionHandle::finish)
      .function("reports", &SessionHandle::reports)
      .function("threads", &SessionHandle::threads)
      .function("cancelAddress", &SessionHandle::cancelAddress);

  emscripten::function("headerNeeds", &headerNeedsValue);
  emscripten::function("errorCodes", &errorCodes);
  emscripten::function("formatTable", &formatTable);
  emscripten::function("extraTable", &extraTable);
  emscripten::function("methodTable", &methodTable);
}

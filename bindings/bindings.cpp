// What JavaScript sees of the core: one session class, and the values that it takes and gives. Nothing
// throws: each result carries an error, whose code is empty where there is none.

#include <emscripten/bind.h>

#include <string>
#include <vector>

#include "convert.h"
#include "format/container.h"
#include "job/session.h"
#include "values.h"

using namespace lego;
using namespace lego::bindings;

namespace {

/// How many of a file's first bytes addAdapter() or setBase() needs, of which `prefix` are some: at least 8,
/// unless the file is shorter. Ask again with that many, until they are as many as were given.
Js<SizeValue> headerNeedsValue(const std::string& file, const std::string& prefix, double fileSize) {
  const auto size = lego::headerNeeds(std::as_bytes(std::span(prefix)), static_cast<uint64_t>(fileSize));
  if (size) return toJs(SizeValue{{}, static_cast<double>(*size)});
  Error error = size.error();
  error.file = file;
  return toJs(SizeValue{valueOf(error), 0});
}

class SessionHandle {
 public:
  /// `reference`: run on the readable kernels instead of the fast ones; same bytes.
  SessionHandle(uint32_t threads, bool reference)
      : session_(threads, reference ? kReferenceKernels : kFastKernels) {}

  /// `header`: the first headerNeeds() bytes of the file. `config`: the bytes of adapter_config.json.
  Js<AdapterValue> addAdapter(const Js<OpenValue>& value, const std::string& header,
                              const std::string& config) {
    const OpenValue files = fromJs(value);
    return opened(
        session_.addAdapter({files.label, files.file, files.configFile}, std::as_bytes(std::span(header)),
                            static_cast<uint64_t>(files.fileSize),
                            files.hasConfig ? std::optional<std::string_view>(config) : std::nullopt));
  }

  /// `bytes`: the ranges that addAdapter() listed, one after the other.
  Js<AdapterValue> setAlphas(const std::string& bytes) {
    return opened(session_.setAlphas(std::as_bytes(std::span(bytes))));
  }

  /// The base model, for recipes that need it: the bytes of its config.json, or the first headerNeeds() bytes
  /// of its GGUF file.
  Js<ErrorValue> setBase(const std::string& file, const std::string& bytes, double fileSize) {
    return toJs(
        valueOf(session_.setBase(file, std::as_bytes(std::span(bytes)), static_cast<uint64_t>(fileSize))));
  }

  Js<PlanValue> makePlan(const Js<RecipeValue>& value) {
    const auto recipe = recipeOf(fromJs(value));
    return planned(recipe ? session_.makePlan(*recipe) : recipe.error());
  }

  /// Looks at a batch, for the ranks that the recipe's rule asks for. The error's code is empty if it could.
  Js<ErrorValue> survey(uint32_t batch) { return toJs(valueOf(session_.survey(batch))); }
  /// After a survey of every batch: the plan with the ranks that were found.
  Js<PlanValue> chooseRanks() { return planned(session_.chooseRanks()); }

  /// One per module of the plan, once every batch was surveyed.
  Js<std::vector<SurveyValue>> surveys() const {
    std::vector<SurveyValue> values;
    for (const ModuleSurvey& survey : session_.surveys()) values.push_back(surveyValue(survey));
    return toJs(values);
  }

  /// First bytes of the output's tensor file.
  BytesView outputHeader() const {
    return viewOf(session_.plan().header.data(), session_.plan().header.size());
  }

  /// What is to be written over the header once all batches are written.
  Js<HashesValue> outputHashes() const {
    const auto& hashes = session_.plan().hashes;
    if (!hashes) return toJs(HashesValue{});
    return toJs(HashesValue{true, static_cast<double>(hashes->dataBegin),
                            static_cast<double>(hashes->modelAt), static_cast<double>(hashes->legacyAt),
                            viewOf(hashes->legacyHeader.data(), hashes->legacyHeader.size())});
  }

  /// Memory that a batch's reads are written to.
  Js<BytesValue> input(uint32_t batch) {
    const auto memory = session_.input(batch);
    if (!memory) return toJs(BytesValue{valueOf(memory.error()), emptyView()});
    return toJs(BytesValue{{}, viewOf(memory->data(), memory->size())});
  }

  /// Merges a batch; the bytes are the output file's from the batch's outputBegin to its outputEnd.
  Js<BytesValue> run(uint32_t batch) {
    const auto output = session_.run(batch);
    if (!output) return toJs(BytesValue{valueOf(output.error()), emptyView()});
    return toJs(BytesValue{{}, viewOf(output->data(), output->size())});
  }

  /// One per module of the plan.
  Js<std::vector<ReportValue>> reports() const {
    std::vector<ReportValue> values;
    for (const ModuleReport& report : session_.reports()) values.push_back(reportValue(report));
    return toJs(values);
  }

  double progress() { return session_.context().fraction(); }
  uint32_t threads() const { return static_cast<uint32_t>(session_.threads()); }

  /// Address of a 32-bit word in the core's memory; another thread that sets it to 1 cancels a running batch.
  uint32_t cancelAddress() {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(session_.context().cancelFlag()));
  }

 private:
  /// The last added adapter.
  Js<AdapterValue> opened(const Status& status) const {
    AdapterValue value;
    if (!status) {
      value.error = valueOf(status.error());
      return toJs(value);
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
    return toJs(value);
  }

  Js<PlanValue> planned(const Status& status) const {
    if (status) return toJs(planValue(session_.plan(), session_.adapters()));
    PlanValue value;
    value.error = valueOf(status.error());
    return toJs(value);
  }

  Session session_;
};

}  // namespace

EMSCRIPTEN_BINDINGS(lora_lego) {
  using emscripten::register_type;

  register_type<BytesView>("Uint8Array");
  register_type<Js<ErrorValue>>("ErrorValue");
  register_type<Js<SizeValue>>("SizeValue");
  register_type<Js<BytesValue>>("BytesValue");
  register_type<Js<HashesValue>>("HashesValue");
  register_type<Js<OpenValue>>("OpenValue");
  register_type<Js<AdapterValue>>("AdapterValue");
  register_type<Js<RecipeValue>>("RecipeValue");
  register_type<Js<PlanValue>>("PlanValue");
  register_type<Js<std::vector<SurveyValue>>>("SurveyValue[]");
  register_type<Js<std::vector<ReportValue>>>("ReportValue[]");

  emscripten::class_<SessionHandle>("Session")
      .constructor<uint32_t, bool>()
      .function("addAdapter", &SessionHandle::addAdapter)
      .function("setAlphas", &SessionHandle::setAlphas)
      .function("setBase", &SessionHandle::setBase)
      .function("makePlan", &SessionHandle::makePlan)
      .function("survey", &SessionHandle::survey)
      .function("chooseRanks", &SessionHandle::chooseRanks)
      .function("surveys", &SessionHandle::surveys)
      .function("outputHeader", &SessionHandle::outputHeader)
      .function("outputHashes", &SessionHandle::outputHashes)
      .function("input", &SessionHandle::input)
      .function("run", &SessionHandle::run)
      .function("reports", &SessionHandle::reports)
      .function("progress", &SessionHandle::progress)
      .function("threads", &SessionHandle::threads)
      .function("cancelAddress", &SessionHandle::cancelAddress);

  emscripten::function("headerNeeds", &headerNeedsValue);
}

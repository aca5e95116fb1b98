// What JavaScript sees of the core: one session, and the values that it takes and gives. Nothing
// throws: each result carries an error, whose code is empty where there is none.

#include <emscripten/bind.h>

#include <memory>
#include <string>
#include <vector>

#include "convert.h"
#include "format/container.h"
#include "job/session.h"
#include "values.h"

namespace lego::bindings {
namespace {

/// How many of a file's first bytes addAdapter() or setBase() needs, of which `prefix` are some: at least 8,
/// unless the file is shorter. Ask again with that many, until they are as many as were given.
Js<SizeValue> headerNeeds(const std::string& file, const BytesView& prefix, double fileSize) {
  const std::string bytes = bytesFrom(prefix);
  const auto size = lego::headerNeeds(std::as_bytes(std::span(bytes)), static_cast<uint64_t>(fileSize));
  if (size) return toJs(SizeValue{{}, static_cast<double>(*size)});
  Error error = size.error();
  error.file = file;
  return toJs(SizeValue{valueOf(error), 0});
}

// Calls of a worker follow one another: there is one session at a time. As an object of JavaScript it would
// bring in Embind's classes, a third of the glue.
std::unique_ptr<Session> session;

/// Before any of the functions below. `reference`: run on the readable kernels instead of the fast ones; same
/// bytes.
void openSession(const Js<FootprintValue>& footprint, bool reference) {
  session =
      std::make_unique<Session>(footprintOf(fromJs(footprint)), reference ? kReferenceKernels : kFastKernels);
}

/// Gives its memory back.
void closeSession() { session.reset(); }

template <typename T>
std::span<const T> ofBatch(std::span<const T> modules, uint32_t batch) {
  const PlannedBatch& planned = session->plan().batches[batch];
  return modules.subspan(planned.firstModule, planned.endModule - planned.firstModule);
}

Js<PlanValue> planned(const Status& status) {
  if (status) return toJs(planValue(session->plan(), session->adapters()));
  PlanValue value;
  value.error = valueOf(status.error());
  return toJs(value);
}

/// `header`: the first headerNeeds() bytes of the file. `config`: the bytes of adapter_config.json.
Js<OpenedValue> addAdapter(const Js<OpenValue>& value, const BytesView& header, const BytesView& config) {
  const OpenValue files = fromJs(value);
  const std::string headerBytes = bytesFrom(header), configText = bytesFrom(config);
  const Status added =
      session->addAdapter({files.label, files.file, files.configFile}, std::as_bytes(std::span(headerBytes)),
                          static_cast<uint64_t>(files.fileSize),
                          files.hasConfig ? std::optional<std::string_view>(configText) : std::nullopt);
  OpenedValue opened{valueOf(added), {}};
  if (!added) return toJs(opened);
  for (const ReadRange& read : session->alphaReads()) opened.alphas.push_back(readValue(read));
  return toJs(opened);
}

/// `values`: the ranges that addAdapter() listed, one after the other.
Js<ErrorValue> setAlphas(const BytesView& values) {
  const std::string bytes = bytesFrom(values);
  return toJs(valueOf(session->setAlphas(std::as_bytes(std::span(bytes)))));
}

/// What the last added adapter holds.
Js<AdapterValue> adapter() { return toJs(adapterValue(session->adapters().back())); }

/// The base model, for recipes that need it: the bytes of its config.json, or the first headerNeeds() bytes
/// of its GGUF file.
Js<ErrorValue> setBase(const std::string& file, const BytesView& start, double fileSize) {
  const std::string bytes = bytesFrom(start);
  return toJs(
      valueOf(session->setBase(file, std::as_bytes(std::span(bytes)), static_cast<uint64_t>(fileSize))));
}

Js<PlanValue> makePlan(const Js<RecipeValue>& value) {
  const auto recipe = recipeOf(fromJs(value));
  return planned(recipe ? session->makePlan(*recipe) : recipe.error());
}

/// What a survey of a batch found, one for each of its modules.
Js<std::vector<SurveyValue>> surveys(uint32_t batch) {
  std::vector<SurveyValue> values;
  for (const ModuleSurvey& survey : ofBatch(session->surveys(), batch)) values.push_back(surveyValue(survey));
  return toJs(values);
}
/// What surveys found, as SurveyValue::energies, one for each module of the plan; then the plan with the
/// ranks that follow.
Js<PlanValue> chooseRanks(const Js<std::vector<std::vector<double>>>& value) {
  auto energies = fromJs(value);
  for (size_t m = 0; m < energies.size(); ++m) session->setEnergies(m, std::move(energies[m]));
  return planned(session->chooseRanks());
}

/// First bytes of the output's tensor file.
BytesView outputHeader() { return viewOf(session->plan().header.data(), session->plan().header.size()); }

/// What is to be written over the header once all batches are written.
Js<HashesValue> outputHashes() {
  const auto& hashes = session->plan().hashes;
  if (!hashes) return toJs(HashesValue{});
  return toJs(HashesValue{true, static_cast<double>(hashes->dataBegin), static_cast<double>(hashes->modelAt),
                          static_cast<double>(hashes->legacyAt),
                          viewOf(hashes->legacyHeader.data(), hashes->legacyHeader.size())});
}

/// Memory that a batch's reads are written to.
Js<BytesValue> input(uint32_t batch) {
  const auto memory = session->input(batch);
  if (!memory) return toJs(BytesValue{valueOf(memory.error()), emptyView()});
  return toJs(BytesValue{{}, viewOf(memory->data(), memory->size())});
}

/// Begins to merge a batch whose reads lie in its input, or to look at it. The error's code is empty if it
/// could.
Js<ErrorValue> start(uint32_t batch, bool isSurvey) {
  return toJs(valueOf(session->start(batch, isSurvey ? Work::Survey : Work::Merge)));
}

/// Waits for a batch. Of a merge: the bytes of the output file from the batch's outputBegin to its
/// outputEnd.
Js<BytesValue> finish(uint32_t batch) {
  const auto output = session->finish(batch);
  if (!output) return toJs(BytesValue{valueOf(output.error()), emptyView()});
  return toJs(BytesValue{{}, viewOf(output->data(), output->size())});
}

/// One for each module of a batch that was merged; once.
Js<std::vector<ReportValue>> reports(uint32_t batch) {
  std::vector<ReportValue> values;
  for (const ModuleReport& report : ofBatch(session->reports(), batch)) values.push_back(reportValue(report));
  session->dropReports(batch);
  return toJs(values);
}

uint32_t threads() { return static_cast<uint32_t>(session->threads()); }

/// Address of a 32-bit word in the core's memory; another thread that sets it to 1 cancels a running batch.
uint32_t cancelAddress() {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(session->context().cancelFlag()));
}

}  // namespace

EMSCRIPTEN_BINDINGS(lora_lego) {
  using emscripten::register_type;

  register_type<BytesView>("Uint8Array");
  register_type<Js<ErrorValue>>("ErrorValue");
  register_type<Js<SizeValue>>("SizeValue");
  register_type<Js<BytesValue>>("BytesValue");
  register_type<Js<HashesValue>>("HashesValue");
  register_type<Js<FootprintValue>>("FootprintValue");
  register_type<Js<std::vector<std::vector<double>>>>("number[][]");
  register_type<Js<OpenValue>>("OpenValue");
  register_type<Js<OpenedValue>>("OpenedValue");
  register_type<Js<AdapterValue>>("AdapterValue");
  register_type<Js<RecipeValue>>("RecipeValue");
  register_type<Js<PlanValue>>("PlanValue");
  register_type<Js<std::vector<SurveyValue>>>("SurveyValue[]");
  register_type<Js<std::vector<ReportValue>>>("ReportValue[]");

  emscripten::function("headerNeeds", &headerNeeds);
  emscripten::function("openSession", &openSession);
  emscripten::function("closeSession", &closeSession);
  emscripten::function("addAdapter", &addAdapter);
  emscripten::function("setAlphas", &setAlphas);
  emscripten::function("adapter", &adapter);
  emscripten::function("setBase", &setBase);
  emscripten::function("makePlan", &makePlan);
  emscripten::function("surveys", &surveys);
  emscripten::function("chooseRanks", &chooseRanks);
  emscripten::function("outputHeader", &outputHeader);
  emscripten::function("outputHashes", &outputHashes);
  emscripten::function("input", &input);
  emscripten::function("start", &start);
  emscripten::function("finish", &finish);
  emscripten::function("reports", &reports);
  emscripten::function("threads", &threads);
  emscripten::function("cancelAddress", &cancelAddress);
}

}  // namespace lego::bindings

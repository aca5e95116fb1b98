#include "job/session.h"

#include <algorithm>
#include <cstring>

#include "adapter/modules.h"
#include "adapter/read_adapter.h"
#include "base/limits.h"
#include "format/container.h"
#include "job/extras.h"
#include "job/rank_rule.h"
#include "tensor/convert.h"

namespace lego {
namespace {

Error inFile(Error error, const std::string& file) {
  if (error.file.empty()) error.file = file;
  return error;
}

}  // namespace

Session::Session(const Footprint& footprint, const Kernels& kernels)
    : footprint_(footprint), kernels_(kernels), slots_(footprint.slots), pool_(footprint.threads) {
  footprint_.threads = pool_.size();
  context_.useThreads(pool_);
}

Status Session::addAdapter(const AdapterNames& names, std::span<const std::byte> bytes, uint64_t fileSize,
                           std::optional<std::string_view> configText) {
  if (adapters_.size() == limits::kAdapters)
    return Error{
        Code::badOption, "more than " + std::to_string(limits::kAdapters) + " adapters", names.file, {}, {}};
  const auto file = readContainer(bytes, fileSize);
  if (!file) return inFile(file.error(), names.file);
  std::optional<AdapterConfig> config;
  if (configText) {
    auto read = readAdapterConfig(*configText);
    if (!read) return inFile(read.error(), names.configFile);
    config = std::move(*read);
  }
  auto catalogue = readAdapter(*file, config);
  if (!catalogue) return inFile(catalogue.error(), names.file);
  adapters_.push_back({names.label, names.file, fileSize, std::move(*catalogue)});
  return {};
}

std::vector<ReadRange> Session::alphaReads() const {
  std::vector<ReadRange> reads;
  uint64_t at = 0;
  for (const auto& [module, tensor] : adapters_.back().catalogue.alphas) {
    const uint64_t length = tensor.end - tensor.begin;
    reads.push_back({static_cast<uint32_t>(adapters_.size() - 1), tensor.begin, length, at});
    at += length;
  }
  return reads;
}

Status Session::setAlphas(std::span<const std::byte> bytes) {
  AdapterFile& adapter = adapters_.back();
  std::vector<double> values;
  for (const ReadRange& read : alphaReads()) {
    if (read.at + read.length > bytes.size())
      return Error{Code::internal, "the alphas were not read whole", adapter.file, {}, {}};
    float value = 0;
    toFloat(adapter.catalogue.alphas[values.size()].tensor.dtype, bytes.data() + read.at, 1, &value);
    values.push_back(value);
  }
  if (Status set = lego::setAlphas(adapter.catalogue, values); !set) return inFile(set.error(), adapter.file);
  return {};
}

Status Session::setBase(const std::string& name, std::span<const std::byte> bytes, uint64_t fileSize) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const bool isGguf = text.starts_with("GGUF");
  // Byte 7 is the top of a length in a safetensors file, and never zero in a text.
  if (!isGguf && text.size() > 8 && text[7] == 0) {
    const auto file = readContainer(bytes, fileSize);
    if (!file) return inFile(file.error(), name);
    if (!baseWeights_) baseWeights_ = std::make_shared<BaseWeights>();
    baseWeights_->add(name, file->header);
    return {};
  }
  auto base = isGguf ? Result<BaseModel>(BaseModel{}) : readBaseConfig(text);
  if (isGguf) {
    const auto file = readContainer(bytes, fileSize);
    if (!file) return inFile(file.error(), name);
    base = readBaseGguf(*file->gguf, file->header);
  }
  if (!base) return inFile(base.error(), name);
  base_ = std::move(*base);
  return {};
}

Status Session::makePlan(const Recipe& asked) {
  plan_.reset();
  for (const AdapterFile& adapter : adapters_) {
    if (!adapter.catalogue.alphas.empty())
      return Error{Code::internal, "the adapter's alphas were not read", adapter.file, {}, {}};
  }
  Recipe recipe = asked;
  if (base_) recipe.base = base_;
  if (baseWeights_) recipe.baseWeights = baseWeights_;
  auto plan = lego::makePlan(adapters_, recipe, footprint_);
  if (!plan) return plan.error();
  plan_ = std::move(*plan);
  reports_.assign(plan_->modules.size(), {});
  surveys_.assign(plan_->modules.size(), {});
  forgetInputs();
  return {};
}

void Session::forgetInputs() {
  workspaces_.clear();
  for (Slot& slot : slots_) slot.batch.reset();
  turn_ = 0;
}

Status Session::reserve() {
  uint64_t input = 0, output = 0;
  for (const PlannedBatch& batch : plan_->batches) {
    input = std::max(input, batch.inputBytes);
    output = std::max(output, batch.outputEnd - batch.outputBegin);
  }
  for (Slot& slot : std::span(slots_).first(plan_->footprint.slots)) {
    if (Status got = slot.input.reserve(input); !got) return got;
    if (Status got = slot.output.reserve(output); !got) return got;
  }
  const size_t groups = plan_->groups.size();
  std::vector<Workspace> workspaces(plan_->footprint.groupsInWork(groups));
  pool_.limit(workspaces.size(), plan_->footprint.helpersWith(groups));
  const WorkspaceSize size = workspaceSize(*plan_);
  for (Workspace& workspace : workspaces) {
    if (Status got = workspace.reserve(size); !got) return got;
  }
  workspaces_ = std::move(workspaces);
  return {};
}

Session::Slot* Session::slotOf(size_t batch) {
  const auto slot = std::ranges::find(slots_, std::optional(batch), &Slot::batch);
  return slot == slots_.end() ? nullptr : &*slot;
}

Result<std::span<std::byte>> Session::input(size_t batch) {
  if (workspaces_.empty()) {
    if (Status got = reserve(); !got) return got.error();
  }
  Slot& slot = slots_[turn_];
  if (slot.isTaken) return Error{Code::internal, "more batches are read than there are slots", {}, {}, {}};
  turn_ = (turn_ + 1) % plan_->footprint.slots;
  for (Slot& other : slots_) {
    if (other.batch == batch) other.batch.reset();
  }
  slot.batch = batch;
  slot.isTaken = true;
  return slot.input.span(static_cast<size_t>(plan_->batches[batch].inputBytes));
}

std::span<std::byte> Session::part(Slot& slot, const TensorInfo& tensor) {
  const uint64_t begin = batchOf(slot).outputBegin;
  return {slot.output.data() + (tensor.begin - begin), static_cast<size_t>(tensor.end - tensor.begin)};
}

Status Session::surveyGroup(Slot& slot, const PlannedGroup& group, Workspace& workspace) {
  const auto bytes = static_cast<size_t>(batchOf(slot).inputBytes);
  auto surveys =
      surveyStep(*plan_, group, adapters_, {slot.input.data(), bytes}, workspace, kernels_, context_);
  if (!surveys) return surveys.error();
  for (size_t g = 0; g < surveys->size(); ++g) surveys_[group.modules[g]] = std::move((*surveys)[g]);
  return {};
}

Status Session::mergeGroup(Slot& slot, const PlannedGroup& group, Workspace& workspace) {
  const auto bytes = static_cast<size_t>(batchOf(slot).inputBytes);
  std::vector<ModuleOutput> outputs;
  for (const size_t m : group.modules) {
    const PlannedModule& module = plan_->modules[m];
    outputs.push_back({part(slot, module.a), part(slot, module.b),
                       module.magnitude ? part(slot, *module.magnitude) : std::span<std::byte>()});
  }
  auto reports =
      runStep(*plan_, group, adapters_, {slot.input.data(), bytes}, outputs, workspace, kernels_, context_);
  if (!reports) return reports.error();
  for (size_t g = 0; g < reports->size(); ++g) reports_[group.modules[g]] = std::move((*reports)[g]);
  return {};
}

Status Session::start(size_t index, Work work) {
  Slot* const slot = slotOf(index);
  if (!slot) return Error{Code::internal, "a batch was started before its input was read", {}, {}, {}};
  const PlannedBatch& batch = plan_->batches[index];
  for (size_t p = batch.firstPair; p < batch.endPair && work == Work::Merge; ++p) {
    const PlannedPair& pair = plan_->pairs[p];
    for (const TensorInfo* tensor : {&pair.a, &pair.b}) {
      if (pair.isShared) std::ranges::fill(part(*slot, *tensor), std::byte{0});
    }
  }
  slot->work = work;
  slot->isTaken = true;
  slot->loop.count = batch.endGroup - batch.firstGroup;
  slot->errors.assign(slot->loop.count, std::nullopt);
  slot->loop.body = [this, slot, first = batch.firstGroup](size_t i, size_t thread) {
    const PlannedGroup& group = plan_->groups[first + i];
    const Status done = slot->work == Work::Survey ? surveyGroup(*slot, group, workspaces_[thread])
                                                   : mergeGroup(*slot, group, workspaces_[thread]);
    if (!done) slot->errors[i] = done.error();
  };
  pool_.start(slot->loop);
  return {};
}

Result<std::span<const std::byte>> Session::finish(size_t index) {
  Slot* const slot = slotOf(index);
  if (!slot || !slot->loop.body)
    return Error{Code::internal, "a batch was to be finished that was not started", {}, {}, {}};
  pool_.finish(slot->loop);
  slot->loop.body = nullptr;
  slot->isTaken = false;
  for (auto& error : slot->errors) {
    if (error) return std::move(*error);
  }
  if (slot->work == Work::Survey) return std::span<const std::byte>();
  if (Status written = writeRest(*slot); !written) return written.error();
  const PlannedBatch& batch = plan_->batches[index];
  return std::span<const std::byte>(slot->output.data(),
                                    static_cast<size_t>(batch.outputEnd - batch.outputBegin));
}

Status Session::writeRest(Slot& slot) {
  const PlannedBatch& batch = batchOf(slot);
  for (size_t e = batch.firstExtra; e < batch.endExtra; ++e) {
    const PlannedExtra& extra = plan_->extras[e];
    Status made = mergeExtra(extra, adapters_, {slot.input.data(), static_cast<size_t>(batch.inputBytes)},
                             part(slot, extra.out));
    if (!made) return made.error();
  }
  for (const PlannedFiller& filler : plan_->fillers) {
    if (filler.at >= batch.outputBegin && filler.at < batch.outputEnd)
      std::memcpy(slot.output.data() + (filler.at - batch.outputBegin), filler.bytes.data(),
                  filler.bytes.size());
  }
  return {};
}

Status Session::survey(size_t batch) {
  if (Status begun = start(batch, Work::Survey); !begun) return begun;
  const auto done = finish(batch);
  return done ? Status() : Status(done.error());
}

Result<std::span<const std::byte>> Session::run(size_t batch) {
  if (Status begun = start(batch, Work::Merge); !begun) return begun.error();
  return finish(batch);
}

void Session::dropReports(size_t index) {
  const PlannedBatch& batch = plan_->batches[index];
  for (size_t m = batch.firstModule; m < batch.endModule; ++m) reports_[m] = {};
}

void Session::setEnergies(size_t module, std::vector<double> energies) {
  surveys_[module].energies = std::move(energies);
}

Status Session::chooseRanks() {
  std::vector<std::vector<double>> energies;
  for (const ModuleSurvey& survey : surveys_) energies.push_back(survey.energies);
  const auto ranks = ranksByRule(*plan_, energies);
  if (!ranks) return ranks.error();
  auto plan = lego::makePlan(adapters_, plan_->recipe, footprint_, *ranks);
  if (!plan) return plan.error();
  plan_ = std::move(*plan);
  forgetInputs();
  return {};
}

}  // namespace lego

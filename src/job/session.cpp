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
  auto plan = lego::makePlan(adapters_, recipe, pool_.size());
  if (!plan) return plan.error();
  plan_ = std::move(*plan);
  reports_.assign(plan_->modules.size(), {});
  surveys_.assign(plan_->modules.size(), {});
  workspaces_.clear();
  // With a survey every byte is read twice.
  context_.begin(plan_->inputBytes * (plan_->ranksAreKnown ? 1 : 2));
  return {};
}

Status Session::reserve() {
  uint64_t input = 0, output = 0;
  for (const PlannedBatch& batch : plan_->batches) {
    input = std::max(input, batch.inputBytes);
    output = std::max(output, batch.outputEnd - batch.outputBegin);
  }
  if (Status got = input_.reserve(input); !got) return got;
  if (Status got = output_.reserve(output); !got) return got;
  std::vector<Workspace> workspaces(pool_.size());
  const WorkspaceSize size = workspaceSize(*plan_);
  for (Workspace& workspace : workspaces) {
    if (Status got = workspace.reserve(size); !got) return got;
  }
  workspaces_ = std::move(workspaces);
  return {};
}

Result<std::span<std::byte>> Session::input(size_t batch) {
  if (workspaces_.empty()) {
    if (Status got = reserve(); !got) return got.error();
  }
  return input_.span(static_cast<size_t>(plan_->batches[batch].inputBytes));
}

Status Session::forEachGroup(const PlannedBatch& batch,
                             const std::function<Status(const PlannedGroup&, Workspace&)>& work) {
  if (workspaces_.empty())
    return Error{Code::internal, "a batch was run before its input was read", {}, {}, {}};
  const size_t count = batch.endGroup - batch.firstGroup;
  std::vector<std::optional<Error>> errors(count);
  pool_.forEach(count, [&](size_t i, size_t thread) {
    const PlannedGroup& group = plan_->groups[batch.firstGroup + i];
    if (Status done = work(group, workspaces_[thread]); !done) {
      errors[i] = done.error();
      return;
    }
    for (const size_t m : group.modules) context_.advance(plan_->modules[m].inputBytes);
  });
  for (auto& error : errors) {
    if (error) return std::move(*error);
  }
  return {};
}

Status Session::survey(size_t index) {
  const PlannedBatch& batch = plan_->batches[index];
  return forEachGroup(batch, [&](const PlannedGroup& group, Workspace& workspace) -> Status {
    auto surveys =
        surveyStep(*plan_, group, adapters_, {input_.data(), static_cast<size_t>(batch.inputBytes)},
                   workspace, kernels_, context_);
    if (!surveys) return surveys.error();
    for (size_t g = 0; g < surveys->size(); ++g) surveys_[group.modules[g]] = std::move((*surveys)[g]);
    return {};
  });
}

Status Session::chooseRanks() {
  std::vector<std::vector<double>> energies;
  for (const ModuleSurvey& survey : surveys_) energies.push_back(survey.energies);
  const auto ranks = ranksByRule(*plan_, energies);
  if (!ranks) return ranks.error();
  auto plan = lego::makePlan(adapters_, plan_->recipe, pool_.size(), *ranks);
  if (!plan) return plan.error();
  plan_ = std::move(*plan);
  workspaces_.clear();
  return {};
}

Result<std::span<const std::byte>> Session::run(size_t index) {
  const PlannedBatch& batch = plan_->batches[index];
  const auto part = [&](const TensorInfo& tensor) {
    return std::span(output_.data() + (tensor.begin - batch.outputBegin),
                     static_cast<size_t>(tensor.end - tensor.begin));
  };
  for (size_t p = batch.firstPair; p < batch.endPair; ++p) {
    const PlannedPair& pair = plan_->pairs[p];
    for (const TensorInfo* tensor : {&pair.a, &pair.b}) {
      if (pair.isShared) std::ranges::fill(part(*tensor), std::byte{0});
    }
  }
  Status done = forEachGroup(batch, [&](const PlannedGroup& group, Workspace& workspace) -> Status {
    std::vector<ModuleOutput> outputs;
    for (const size_t m : group.modules) {
      const PlannedModule& module = plan_->modules[m];
      outputs.push_back({part(module.a), part(module.b),
                         module.magnitude ? part(*module.magnitude) : std::span<std::byte>()});
    }
    auto reports = runStep(*plan_, group, adapters_, {input_.data(), static_cast<size_t>(batch.inputBytes)},
                           outputs, workspace, kernels_, context_);
    if (!reports) return reports.error();
    for (size_t g = 0; g < reports->size(); ++g) reports_[group.modules[g]] = std::move((*reports)[g]);
    return {};
  });
  if (!done) return done.error();
  for (size_t e = batch.firstExtra; e < batch.endExtra; ++e) {
    const PlannedExtra& extra = plan_->extras[e];
    Status made =
        mergeExtra(extra, adapters_, {input_.data(), static_cast<size_t>(batch.inputBytes)}, part(extra.out));
    if (!made) return made.error();
    for (const auto& source : extra.sources) context_.advance(source.tensor.end - source.tensor.begin);
  }
  for (const PlannedFiller& filler : plan_->fillers) {
    if (filler.at >= batch.outputBegin && filler.at < batch.outputEnd)
      std::memcpy(output_.data() + (filler.at - batch.outputBegin), filler.bytes.data(), filler.bytes.size());
  }
  return std::span<const std::byte>(output_.data(), static_cast<size_t>(batch.outputEnd - batch.outputBegin));
}

}  // namespace lego

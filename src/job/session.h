// A merge from open files to written bytes, driven from outside: whoever holds it reads and writes.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/context.h"
#include "base/parallel.h"
#include "job/plan.h"
#include "job/step.h"

namespace lego {

/// Names of an adapter's files, for messages.
struct AdapterNames {
  std::string label;
  std::string file;
  std::string configFile;
};

/// Use: addAdapter() for each input, makePlan(), then for each batch of the plan fill input() as its reads
/// say and call run(). Not for use by two threads at once, but for context().
class Session {
 public:
  /// `threads`: how many modules are worked on at a time, at least 1.
  explicit Session(size_t threads, const Kernels& kernels = kFastKernels)
      : pool_(threads), kernels_(kernels) {}

  /// Adds an adapter from the first headerNeeds() bytes of its file and its config's text.
  /// Errors: those of readContainer, readAdapterConfig and lego::readAdapter.
  Status addAdapter(const AdapterNames& names, std::span<const std::byte> header, uint64_t fileSize,
                    std::optional<std::string_view> config);
  /// Where the last added adapter keeps alphas as tensors: their places in its file. Read them, and give the
  /// bytes, one after the other, to setAlphas(); until then it cannot be merged.
  std::vector<ReadRange> alphaReads() const;
  /// Errors: bad_alpha.
  Status setAlphas(std::span<const std::byte> bytes);
  std::span<const AdapterFile> adapters() const { return adapters_; }

  /// Tells what the base model is, for recipes that do not: the text of its config.json, or the first
  /// headerNeeds() bytes of its GGUF file, or of one of its safetensors files, each in a call of its own. The
  /// latter are counted on behind the adapters in the plan's reads. Errors: bad_config, those of
  /// readContainer.
  Status setBase(const std::string& name, std::span<const std::byte> bytes, uint64_t fileSize);

  /// Errors: those of lego::makePlan.
  Status makePlan(const Recipe& recipe);
  /// The plan, once made.
  const Plan& plan() const { return *plan_; }

  /// Memory for a batch's input. The first call gets all memory that the plan will need, so that none is
  /// got and lost piece by piece. Errors: out_of_memory.
  Result<std::span<std::byte>> input(size_t batch);

  /// Where the plan's ranks are not known: looks at a batch whose reads lie in input(). Errors: as run().
  Status survey(size_t batch);
  /// After a survey of every batch: makes the plan anew with the ranks that the recipe's rule gives.
  /// Errors: those of ranksByRule and makePlan.
  Status chooseRanks();

  /// Merges a batch whose reads lie in input(). Returns the bytes of the output file from the batch's
  /// outputBegin to its outputEnd; they stay valid until the next call.
  /// Errors: those of runStep; of several modules, that of the first in file order.
  Result<std::span<const std::byte>> run(size_t batch);

  /// One per module of the plan; those of batches that have not run are empty.
  std::span<const ModuleReport> reports() const { return reports_; }

  /// One per module of the plan; those of batches that survey() has not looked at are empty.
  std::span<const ModuleSurvey> surveys() const { return surveys_; }

  size_t threads() const { return pool_.size(); }
  Context& context() { return context_; }

 private:
  Status reserve();
  /// Calls work(group, workspace) for each group of a batch, several at a time; the first error in file
  /// order.
  Status forEachGroup(const PlannedBatch& batch,
                      const std::function<Status(const PlannedGroup&, Workspace&)>& work);

  ThreadPool pool_;
  Kernels kernels_;
  Context context_;
  std::vector<AdapterFile> adapters_;
  std::optional<BaseModel> base_;
  std::shared_ptr<BaseWeights> baseWeights_;
  std::optional<Plan> plan_;
  Buffer<std::byte> input_, output_;
  std::vector<Workspace> workspaces_;
  std::vector<ModuleReport> reports_;
  std::vector<ModuleSurvey> surveys_;
};

}  // namespace lego

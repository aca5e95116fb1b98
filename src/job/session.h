// A merge from open files to written bytes, driven from outside: whoever holds it reads and writes.
#pragma once

#include <cstddef>
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

/// What is done with a batch: look at its modules, for the ranks that they suggest, or merge them.
enum class Work { Survey, Merge };

/// Use: addAdapter() for each input, makePlan(), then for each batch of the plan, in any order, fill input()
/// as its reads say, start() it and finish() it. With several slots a batch can be read and another be
/// written while others are worked on. Not for use by two threads at once, but for context() and what input()
/// and finish() have returned.
class Session {
 public:
  explicit Session(const Footprint& footprint, const Kernels& kernels = kFastKernels);
  /// One batch at a time.
  explicit Session(size_t threads, const Kernels& kernels = kFastKernels)
      : Session(Footprint{.threads = threads}, kernels) {}

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

  /// Memory for a batch's input, in the slot whose turn it is; what finish() returned for that slot's last
  /// batch stays valid until the new one is started. The first call gets all memory that the plan will need,
  /// so that none is got and lost piece by piece. Errors: out_of_memory; internal if that slot's batch is not
  /// finished.
  Result<std::span<std::byte>> input(size_t batch);

  /// Begins with a batch whose reads lie in its input(); the pool's other threads go on with it whatever the
  /// caller does. Errors: internal if its input was not asked for.
  Status start(size_t batch, Work work);
  /// Waits for a batch that was started, taking part in the work. Of a merge: the bytes of the output file
  /// from the batch's outputBegin to its outputEnd. Errors: those of runStep; of several modules, that of the
  /// first in file order.
  Result<std::span<const std::byte>> finish(size_t batch);

  /// start() and finish().
  Status survey(size_t batch);
  Result<std::span<const std::byte>> run(size_t batch);

  /// What each rank of a module would be worth (ModuleSurvey::energies), found by a survey elsewhere.
  void setEnergies(size_t module, std::vector<double> energies);
  /// Where the plan's ranks are not known, once each module's energies are: makes the plan anew with the
  /// ranks that the recipe's rule gives. Errors: those of ranksByRule and makePlan.
  Status chooseRanks();

  /// One per module of the plan; those of batches that have not run are empty.
  std::span<const ModuleReport> reports() const { return reports_; }
  /// Gives the memory of a batch's reports back: of many modules and adapters they are megabytes.
  void dropReports(size_t batch);

  /// One per module of the plan; those of batches that survey() has not looked at are empty.
  std::span<const ModuleSurvey> surveys() const { return surveys_; }

  size_t threads() const { return pool_.size(); }
  Context& context() { return context_; }

 private:
  /// A batch that is read, worked on or written.
  struct Slot {
    Buffer<std::byte> input, output;
    std::optional<size_t> batch;  ///< whose input was asked for last
    bool isTaken = false;         ///< from input() to finish()
    Work work = Work::Merge;
    Loop loop;
    std::vector<std::optional<Error>> errors;  ///< of each group
  };

  Status reserve();
  /// Of the plan before.
  void forgetInputs();
  Slot* slotOf(size_t batch);
  const PlannedBatch& batchOf(const Slot& slot) const { return plan_->batches[*slot.batch]; }
  std::span<std::byte> part(Slot& slot, const TensorInfo& tensor);
  Status surveyGroup(Slot& slot, const PlannedGroup& group, Workspace& workspace);
  Status mergeGroup(Slot& slot, const PlannedGroup& group, Workspace& workspace);
  /// What is written beside modules.
  Status writeRest(Slot& slot);

  Footprint footprint_;
  Kernels kernels_;
  Context context_;
  std::vector<AdapterFile> adapters_;
  std::optional<BaseModel> base_;
  std::shared_ptr<BaseWeights> baseWeights_;
  std::optional<Plan> plan_;
  std::vector<Slot> slots_;
  size_t turn_ = 0;  ///< of the slots, the one that takes the next batch
  std::vector<Workspace> workspaces_;
  std::vector<ModuleReport> reports_;
  std::vector<ModuleSurvey> surveys_;
  // Last: its threads end before anything that they work on.
  ThreadPool pool_;
};

}  // namespace lego

#include "adapter/extra.h"

#include <algorithm>

#include "base/help.h"

namespace lego {
namespace {

constexpr Policy kRefused[] = {Policy::Refuse, Policy::Drop};
constexpr Policy kMerged[] = {Policy::Refuse, Policy::Drop, Policy::Merge};
constexpr Policy kKept[] = {Policy::Refuse, Policy::Drop, Policy::First, Policy::Average, Policy::Sum};

constexpr ExtraInfo kKinds[] = {
    {ExtraKind::Dora, "dora", LEGO_HELP("DoRA magnitudes (lora_magnitude_vector, dora_scale)"), kMerged},
    {ExtraKind::LoraBias, "lora_bias", LEGO_HELP("biases of lora_B"), kKept},
    {ExtraKind::Bias, "bias", LEGO_HELP("trained biases"), kKept},
    {ExtraKind::ModulesToSave, "modules_to_save", LEGO_HELP("weights that were trained in full"), kKept},
    {ExtraKind::Diff, "diff", LEGO_HELP("differences of biases and normalisations (.diff, .diff_b)"), kKept},
    {ExtraKind::Norm, "norm", LEGO_HELP("trained normalisations (w_norm, b_norm)"), kKept},
    {ExtraKind::Embedding, "embedding", LEGO_HELP("embeddings that come along (bundle_emb)"), kKept},
    {ExtraKind::Other, "other", LEGO_HELP("everything else that is no factor"), kRefused},
};

constexpr std::pair<Policy, const char*> kPolicies[] = {
    {Policy::Refuse, "refuse"},   {Policy::Drop, "drop"}, {Policy::First, "first"},
    {Policy::Average, "average"}, {Policy::Sum, "sum"},   {Policy::Merge, "merge"}};

}  // namespace

bool ExtraInfo::allows(Policy policy) const { return std::ranges::find(policies, policy) != policies.end(); }

std::span<const ExtraInfo> extraKinds() { return kKinds; }

const ExtraInfo& infoOf(ExtraKind kind) { return *std::ranges::find(kKinds, kind, &ExtraInfo::kind); }

std::optional<ExtraKind> extraKindOf(std::string_view name) {
  const auto found =
      std::ranges::find(kKinds, name, [](const ExtraInfo& info) { return std::string_view(info.name); });
  return found == std::end(kKinds) ? std::nullopt : std::optional(found->kind);
}

const char* nameOf(Policy policy) {
  return std::ranges::find(kPolicies, policy, [](const auto& entry) { return entry.first; })->second;
}

std::optional<Policy> policyOf(std::string_view name) {
  const auto found =
      std::ranges::find(kPolicies, name, [](const auto& entry) { return std::string_view(entry.second); });
  return found == std::end(kPolicies) ? std::nullopt : std::optional(found->first);
}

}  // namespace lego

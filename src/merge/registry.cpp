#include "merge/registry.h"

#include <algorithm>

#include "base/limits.h"
#include "merge/cat.h"
#include "merge/least_interference.h"
#include "merge/lego.h"
#include "merge/svd.h"

namespace lego {
namespace {

using Type = OptionInfo::Type;

constexpr OptionInfo kLegoOptions[] = {
    {"restarts", Type::Integer, "", 1, limits::kRestarts, 2,
     "Independent k-means starts, each with a share of the local search; more find slightly better "
     "clusters."},
    {"parameter_reweight", Type::Choice, "linf|l2|off", 0, 0, 0,
     "Scales each centroid to its members' mean norm: largest entry (published), Euclidean, or not at all."},
    {"output_reweight", Type::Choice, "on|off", 0, 0, 0,
     "Multiplies the result by sqrt(mean rank / k), against the variance that averaging loses."},
    {"gauge", Type::Choice, "raw|balanced", 0, 0, 0,
     "Units are clustered as stored (raw, published), or each is first freed of its scale and sign "
     "(balanced)."},
};

constexpr OptionInfo kLeastInterferenceOptions[] = {
    {"eps", Type::Number, "", 1e-3, 10, 0.1,
     "Pull towards the adapters' mean where they say nothing; results hardly change from 0.03 to 0.3."},
};

constexpr MethodInfo kMethods[] = {
    {"lego", MethodFamily::Mean,
     "Clusters the ranks of all adapters and keeps the k reweighted cluster centres.",
     "LoRA-LEGO, arXiv 2409.16167", true, true, GramPrecision::Single, kLegoOptions, mergeLego},
    {"svd",
     MethodFamily::ExactSum,
     "Best approximation of rank k to the weighted sum of the adapters.",
     "Eckart and Young 1936, through the P x P core",
     true,
     true,
     GramPrecision::Double,
     {},
     mergeSvd},
    {"cat",
     MethodFamily::ExactSum,
     "Exact weighted sum of the adapters; the ranks add up.",
     "PEFT add_weighted_adapter 'cat', without its extra scale",
     false,
     true,
     GramPrecision::Single,
     {},
     mergeCat},
    {"least_interference", MethodFamily::Mean,
     "Keeps what each adapter does on the inputs that it works on, and disturbs the others least.",
     "RegMean, arXiv 2212.09849, with each adapter's row space in place of activations", true, false,
     GramPrecision::Double, kLeastInterferenceOptions, mergeLeastInterference},
};

}  // namespace

std::span<const MethodInfo> methods() { return kMethods; }

const MethodInfo* findMethod(std::string_view name) {
  const auto method = std::ranges::find(kMethods, name, &MethodInfo::name);
  return method == std::end(kMethods) ? nullptr : method;
}

const char* nameOf(MethodFamily family) { return family == MethodFamily::ExactSum ? "exact sum" : "mean"; }

}  // namespace lego

#include "merge/registry.h"

#include <algorithm>

#include "base/help.h"
#include "base/limits.h"
#include "merge/breadcrumbs.h"
#include "merge/cat.h"
#include "merge/dare.h"
#include "merge/della.h"
#include "merge/dense_methods.h"
#include "merge/iso_c.h"
#include "merge/knots.h"
#include "merge/least_interference.h"
#include "merge/lego.h"
#include "merge/lego_delta.h"
#include "merge/magnitude_prune.h"
#include "merge/peft_methods.h"
#include "merge/prune.h"
#include "merge/spherical.h"
#include "merge/svd.h"
#include "merge/ties.h"
#include "merge/tsv_m.h"

namespace lego {
namespace {

using Type = OptionInfo::Type;

constexpr OptionInfo kRestarts = {
    "restarts",
    Type::Integer,
    "",
    1,
    limits::kRestarts,
    2,
    LEGO_HELP("Independent k-means starts, each with a share of the local search; more find slightly better "
              "clusters.")};
constexpr OptionInfo kCanonical = {
    "canonical",
    Type::Choice,
    "off|on",
    0,
    0,
    0,
    LEGO_HELP(
        "Replaces each adapter by its singular value decomposition first, so that its ranks do not depend on "
        "how training mixed them.")};
constexpr OptionInfo kDensity = {"density",
                                 Type::Number,
                                 "",
                                 1e-3,
                                 1,
                                 0.5,
                                 LEGO_HELP("Share of each adapter's entries that is kept; 1 keeps all.")};
constexpr OptionInfo kSign = {"sign",
                              Type::Choice,
                              "total|frequency",
                              0,
                              0,
                              0,
                              LEGO_HELP("An entry's sign is that of the adapters' sum (total), or that which "
                                        "more adapters have (frequency).")};
constexpr OptionInfo kConvention = {
    "convention",
    Type::Choice,
    "peft|mergekit",
    0,
    0,
    0,
    LEGO_HELP("The sign is elected without weights, and the sum divided by the number of those that agree "
              "(peft), or "
              "with weights, and divided by their sum (mergekit: weights are then relative).")};
constexpr OptionInfo kPico = {
    "pico",
    Type::Choice,
    "off|on",
    0,
    0,
    0,
    LEGO_HELP(
        "Damps output directions that several adapters share, and gives the result their mean norm (PICO).")};

constexpr OptionInfo kLegoOptions[] = {
    kRestarts,
    {"parameter_reweight", Type::Choice, "linf|l2|off", 0, 0, 0,
     LEGO_HELP("Scales each centroid to its members' mean norm: largest entry (published), Euclidean, or not "
               "at all.")},
    {"output_reweight", Type::Choice, "on|off", 0, 0, 0,
     LEGO_HELP("Multiplies the result by sqrt(mean rank / k), against the variance that averaging loses.")},
    {"gauge", Type::Choice, "raw|balanced", 0, 0, 0,
     LEGO_HELP("Units are clustered as stored (raw, published), or each is first freed of its scale and sign "
               "(balanced).")},
    kCanonical,
};
constexpr OptionInfo kLegoDeltaOptions[] = {
    kRestarts,
    {"metric", Type::Choice, "cosine|product", 0, 0, 0,
     LEGO_HELP(
         "Clusters the directions of the units' rank-1 matrices (cosine) or these themselves (product).")},
    {"representative", Type::Choice, "sum|mean|norm", 0, 0, 0,
     LEGO_HELP("A cluster becomes the best rank-1 approximation of its members' sum, of their mean (weights "
               "are then "
               "relative), or the sum's direction with the members' mean norm.")},
    kCanonical,
};
constexpr OptionInfo kLeastInterferenceOptions[] = {
    {"eps", Type::Number, "", 1e-3, 10, 1,
     LEGO_HELP("How strongly the result is held to the prior; accuracy hardly changes from 0.3 to 2.")},
    {"shared_inputs", Type::Choice, "on|off", 0, 0, 0,
     LEGO_HELP("Lets modules that read the same input (query, key and value; gate and up) learn from each "
               "other, and a "
               "feed-forward block's last one from those that feed it.")},
    {"prior", Type::Choice, "fitted|mean", 0, 0, 0,
     LEGO_HELP("What the result is where the adapters say nothing: their sum, in which copies count once "
               "(fitted), or "
               "their mean.")},
    {"covariance", Type::Choice, "raw|unit", 0, 0, 0,
     LEGO_HELP("An adapter has more say in modules that it changes more (raw), or the same in all (unit).")},
};
constexpr OptionInfo kPicoOptions[] = {kPico};
constexpr OptionInfo kElectingOptions[] = {kDensity, kSign, kConvention, kPico};
constexpr OptionInfo kThinningOptions[] = {kDensity, kPico};
constexpr OptionInfo kDellaOptions[] = {kDensity,
                                        {"epsilon", Type::Number, "", 0, 0.5, 0.15,
                                         LEGO_HELP("How far the largest and smallest entry of a row are kept "
                                                   "more and less often than the density says.")},
                                        kSign,
                                        kConvention,
                                        kPico};
constexpr OptionInfo kBreadcrumbsOptions[] = {
    kDensity,
    {"gamma", Type::Number, "", 0, 0.5, 0.01,
     LEGO_HELP("Share of the entries, the largest, that is left out.")},
    kPico};
constexpr OptionInfo kFullElectingOptions[] = {kDensity, kSign, kConvention};
constexpr OptionInfo kPeftElectingOptions[] = {kDensity, kSign};
constexpr OptionInfo kDensityOptions[] = {kDensity};

constexpr const char* kSvdAliases[] = {"task_arithmetic", "linear"};

// The first is what users get who name none: best in docs/quality.md, whatever the adapters.
const MethodInfo kMethods[] = {
    {.name = "least_interference",
     .family = MethodFamily::Mean,
     .sentence = LEGO_HELP(
         "Keeps what each adapter does on the inputs that it works on, and disturbs the others least."),
     .source = LEGO_HELP("RegMean, arXiv 2212.09849, with each adapter's row space in place of activations"),
     .takesNegativeWeights = false,
     .matrices = 11,
     .options = kLeastInterferenceOptions,
     .run = mergeLeastInterference,
     .energies = leastInterferenceEnergies},
    {.name = "lego",
     .family = MethodFamily::Mean,
     .sentence = LEGO_HELP("Clusters the ranks of all adapters and keeps the k reweighted cluster centres."),
     .source = LEGO_HELP("LoRA-LEGO, arXiv 2409.16167"),
     .precision = MethodPrecision::Single,
     .options = kLegoOptions,
     .run = mergeLego,
     .energies = legoEnergies},
    {.name = "svd",
     .aliases = kSvdAliases,
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP("Best approximation of rank k to the weighted sum of the adapters."),
     .source = LEGO_HELP("Task arithmetic, arXiv 2212.04089, cut to rank k by Eckart and Young 1936"),
     .precision = MethodPrecision::Mixed,
     .options = kPicoOptions,
     .run = mergeSvd,
     .energies = sumEnergies},
    {.name = "cat",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP("Exact weighted sum of the adapters; the ranks add up."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'cat', without its extra scale"),
     .rank = RankKind::AllUnits,
     .precision = MethodPrecision::Single,
     .run = mergeCat},
    {.name = "lego_delta",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP("Clusters the ranks by what they do to the weights and adds up each cluster."),
     .source = LEGO_HELP("LEGO's idea on rank-1 matrices, by kernel k-means; docs/numerics.md"),
     .options = kLegoDeltaOptions,
     .run = mergeLegoDelta,
     .energies = legoDeltaEnergies},
    {.name = "ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP(
         "Trims each adapter, elects a sign for each entry and averages what agrees, in the core space."),
     .source = LEGO_HELP("TIES, arXiv 2306.01708, in Core Space, arXiv 2509.17786"),
     .options = kElectingOptions,
     .run = CoreMethod{mergeTies}},
    {.name = "dare_linear",
     .family = MethodFamily::ExactSum,
     .sentence =
         LEGO_HELP("Drops entries at random, scales up the rest and adds the adapters, in the core space."),
     .source = LEGO_HELP("DARE, arXiv 2311.03099, in Core Space, arXiv 2509.17786"),
     .options = kThinningOptions,
     .run = CoreMethod{mergeDareLinear}},
    {.name = "dare_ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP("DARE's random dropping with TIES' election of signs, in the core space."),
     .source = LEGO_HELP("DARE, arXiv 2311.03099, in Core Space, arXiv 2509.17786"),
     .options = kElectingOptions,
     .run = CoreMethod{mergeDareTies}},
    {.name = "della",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP("As dare_ties, but large entries are dropped less often than small ones."),
     .source = LEGO_HELP("DELLA, arXiv 2406.11617, in Core Space, arXiv 2509.17786"),
     .options = kDellaOptions,
     .run = CoreMethod{mergeDella}},
    {.name = "breadcrumbs",
     .family = MethodFamily::ExactSum,
     .sentence =
         LEGO_HELP("Leaves out the largest and the smallest entries and adds the rest, in the core space."),
     .source = LEGO_HELP("Model Breadcrumbs, arXiv 2312.06795, in Core Space, arXiv 2509.17786"),
     .options = kBreadcrumbsOptions,
     .run = CoreMethod{mergeBreadcrumbs}},
    {.name = "magnitude_prune",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP("Keeps each adapter's largest entries and adds them, in the core space."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'magnitude_prune', in Core Space, arXiv 2509.17786"),
     .options = kThinningOptions,
     .run = CoreMethod{mergeMagnitudePrune}},
    {.name = "slerp",
     .family = MethodFamily::Mean,
     .sentence =
         LEGO_HELP("Goes from one adapter to a second along a great circle; the weights say how far."),
     .source = LEGO_HELP("Shoemake 1985; mergekit 'slerp'"),
     .takesNegativeWeights = false,
     .mostAdapters = 2,
     .options = kPicoOptions,
     .run = CoreMethod{mergeSlerp}},
    {.name = "karcher",
     .family = MethodFamily::Mean,
     .sentence =
         LEGO_HELP("Averages the directions of any number of adapters on the sphere, and their norms apart."),
     .source = LEGO_HELP("Riemannian centre of mass, Karcher 1977; mergekit 'karcher'"),
     .takesNegativeWeights = false,
     .options = kPicoOptions,
     .run = CoreMethod{mergeKarcher}},
    {.name = "iso_c",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP(
         "The weighted sum with all its directions made equally strong; reshapes even one adapter."),
     .source = LEGO_HELP("Iso-C, arXiv 2502.04959"),
     .reshapes = true,
     .options = kPicoOptions,
     .run = CoreMethod{mergeIsoC}},
    {.name = "tsv_m",
     .family = MethodFamily::Consensus,
     .sentence =
         LEGO_HELP("Makes the adapters' singular vectors orthogonal to each other before it adds them."),
     .source = LEGO_HELP("Task Singular Vectors, arXiv 2412.00081"),
     .options = kPicoOptions,
     .run = CoreMethod{mergeTsvM}},
    {.name = "knots_ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP("TIES on the adapters' coordinates in a shared output basis."),
     .source = LEGO_HELP("KnOTS, arXiv 2410.19735"),
     .options = kFullElectingOptions,
     .run = EntryMethod{mergeKnotsTies}},
    {.name = "knots_dare_ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP("DARE-TIES on the adapters' coordinates in a shared output basis."),
     .source = LEGO_HELP("KnOTS, arXiv 2410.19735"),
     .options = kFullElectingOptions,
     .run = EntryMethod{mergeKnotsDareTies}},
    {.name = "prune",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP("Keeps the k ranks that do most, untouched; for making one adapter smaller."),
     .source = LEGO_HELP("Unit-norm pruning, the baseline of arXiv 2409.16167"),
     .precision = MethodPrecision::Single,
     .run = mergePrune,
     .energies = pruneEnergies},
    {.name = "dense_ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP("TIES on the deltas' own entries, then rank k; a hundred times slower than ties."),
     .source = LEGO_HELP("TIES, arXiv 2306.01708; PEFT 'ties_svd'"),
     .rank = RankKind::UpToSides,
     .options = kFullElectingOptions,
     .run = EntryMethod{mergeDenseTies}},
    {.name = "dense_dare_linear",
     .family = MethodFamily::ExactSum,
     .sentence =
         LEGO_HELP("DARE on the deltas' own entries, then rank k; a hundred times slower than dare_linear."),
     .source = LEGO_HELP("DARE, arXiv 2311.03099; PEFT 'dare_linear_svd'"),
     .rank = RankKind::UpToSides,
     .options = kDensityOptions,
     .run = EntryMethod{mergeDenseDareLinear}},
    {.name = "dense_dare_ties",
     .family = MethodFamily::Consensus,
     .sentence = LEGO_HELP(
         "DARE-TIES on the deltas' own entries, then rank k; a hundred times slower than dare_ties."),
     .source = LEGO_HELP("DARE, arXiv 2311.03099; PEFT 'dare_ties_svd'"),
     .rank = RankKind::UpToSides,
     .options = kFullElectingOptions,
     .run = EntryMethod{mergeDenseDareTies}},
    {.name = "dense_magnitude_prune",
     .family = MethodFamily::ExactSum,
     .sentence = LEGO_HELP(
         "Pruning of the deltas' own entries, then rank k; a hundred times slower than magnitude_prune."),
     .source = LEGO_HELP("PEFT 'magnitude_prune_svd'"),
     .rank = RankKind::UpToSides,
     .options = kDensityOptions,
     .run = EntryMethod{mergeDenseMagnitudePrune}},
    {.name = "peft_linear",
     .family = MethodFamily::Factors,
     .sentence = LEGO_HELP("PEFT's linear: adds the A's and the B's, with cross terms between adapters."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'linear'"),
     .rank = RankKind::Equal,
     .precision = MethodPrecision::Single,
     .run = EntryMethod{mergePeftLinear}},
    {.name = "peft_ties",
     .family = MethodFamily::Factors,
     .sentence = LEGO_HELP("PEFT's ties: TIES on the A's and on the B's."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'ties'"),
     .rank = RankKind::Equal,
     .precision = MethodPrecision::Single,
     .options = kPeftElectingOptions,
     .run = EntryMethod{mergePeftTies}},
    {.name = "peft_dare_linear",
     .family = MethodFamily::Factors,
     .sentence = LEGO_HELP("PEFT's dare_linear: DARE on the A's and on the B's; here with a seed."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'dare_linear'"),
     .rank = RankKind::Equal,
     .precision = MethodPrecision::Single,
     .options = kDensityOptions,
     .run = EntryMethod{mergePeftDareLinear}},
    {.name = "peft_dare_ties",
     .family = MethodFamily::Factors,
     .sentence = LEGO_HELP("PEFT's dare_ties: DARE-TIES on the A's and on the B's; here with a seed."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'dare_ties'"),
     .rank = RankKind::Equal,
     .precision = MethodPrecision::Single,
     .options = kPeftElectingOptions,
     .run = EntryMethod{mergePeftDareTies}},
    {.name = "peft_magnitude_prune",
     .family = MethodFamily::Factors,
     .sentence = LEGO_HELP("PEFT's magnitude_prune: keeps the largest entries of each A and of each B."),
     .source = LEGO_HELP("PEFT add_weighted_adapter 'magnitude_prune'"),
     .rank = RankKind::Equal,
     .precision = MethodPrecision::Single,
     .options = kDensityOptions,
     .run = EntryMethod{mergePeftMagnitudePrune}},
};

}  // namespace

std::span<const MethodInfo> methods() { return kMethods; }

const MethodInfo* findMethod(std::string_view name) {
  const auto method = std::ranges::find_if(kMethods, [&](const MethodInfo& info) {
    return info.name == name || std::ranges::find(info.aliases, name) != info.aliases.end();
  });
  return method == std::end(kMethods) ? nullptr : method;
}

const char* nameOf(RankKind rank) {
  switch (rank) {
    case RankKind::UpToUnits: return "up to units";
    case RankKind::UpToSides: return "up to sides";
    case RankKind::AllUnits: return "all units";
    case RankKind::Equal: return "equal";
  }
  return "";
}

const char* nameOf(MethodFamily family) {
  switch (family) {
    case MethodFamily::ExactSum: return "exact sum";
    case MethodFamily::Consensus: return "consensus";
    case MethodFamily::Mean: return "mean";
    case MethodFamily::Factors: return "factors";
  }
  return "";
}

}  // namespace lego

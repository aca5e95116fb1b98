#include "merge/entry_stream.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace lego {
namespace {

// Rows made at a time: a multiple of the four that the assembling kernel does together.
constexpr size_t kPanelRows = 16;

// The magnitude of a binary32 has 31 bits: the upper 16 tell it roughly, the lower 15 exactly.
constexpr unsigned kLowerBits = 15;
constexpr size_t kUpperBins = size_t{1} << 16, kLowerBins = size_t{1} << kLowerBits;

uint32_t magnitudeBits(float value) { return std::bit_cast<uint32_t>(value) & 0x7FFFFFFFu; }

/// Goes down through the bins until `left` elements are found; takes from `left` what lies above that bin.
size_t binOf(const std::vector<uint64_t>& bins, uint64_t& left) {
  size_t bin = bins.size() - 1;
  for (; bin > 0 && bins[bin] < left; --bin) left -= bins[bin];
  return bin;
}

}  // namespace

uint64_t EntryStream::bytes(uint64_t tasks, uint64_t columns) {
  const uint64_t histogram = (kUpperBins + kLowerBins) * sizeof(uint64_t);
  return tasks * (kPanelRows * columns * sizeof(float) + columns * sizeof(double) + histogram) +
         2 * kPanelRows * columns * sizeof(double);
}

Result<EntryStream> EntryStream::open(TaskMatrices tasks, const Thinning& thinning, const Joining& joining,
                                      std::vector<double> weights, uint64_t seed, const Context& context) {
  EntryStream stream;
  stream.tasks_ = std::move(tasks);
  stream.thinning_ = thinning;
  stream.joining_ = joining;
  stream.weights_ = std::move(weights);
  stream.seed_ = seed;
  const uint64_t floats = uint64_t{stream.tasks_.count} * kPanelRows * stream.tasks_.stride;
  if (Status got = stream.panel_.reserve(floats); !got) return got.error();
  if (thinning.kind == Thinning::Kind::Magnitude) {
    if (Status found = stream.findCuts(context); !found) return found.error();
  }
  return stream;
}

Status EntryStream::findCuts(const Context& context) {
  const uint64_t count = keptCount(thinning_.density, uint64_t{tasks_.rows} * tasks_.columns);
  for (size_t task = 0; task < tasks_.count; ++task) {
    if (count == 0) {
      cuts_.emplace_back(std::numeric_limits<double>::infinity(), 0);
      continue;
    }
    std::vector<uint64_t> upper(kUpperBins), lower(kLowerBins);
    size_t bin = 0;
    uint64_t left = count;
    for (const bool rough : {true, false}) {
      for (size_t first = 0; first < tasks_.rows; first += kPanelRows) {
        if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
        const size_t rows = std::min(kPanelRows, tasks_.rows - first);
        tasks_.fill(task, first, rows, panel_.data());
        for (size_t r = 0; r < rows; ++r) {
          const float* row = panel_.data() + r * tasks_.stride;
          for (size_t c = 0; c < tasks_.columns; ++c) {
            const uint32_t bits = magnitudeBits(row[c]);
            if (rough) {
              ++upper[bits >> kLowerBits];
            } else if (bits >> kLowerBits == bin) {
              ++lower[bits & (kLowerBins - 1)];
            }
          }
        }
      }
      if (rough) bin = binOf(upper, left);
    }
    const size_t exact = binOf(lower, left);
    const auto bits = static_cast<uint32_t>(bin << kLowerBits | exact);
    cuts_.emplace_back(std::bit_cast<float>(bits), left);
  }
  return {};
}

Status EntryStream::pass(const std::function<void(size_t first, const Matrix& panel)>& use,
                         const Context& context) {
  std::vector<MagnitudeCut> cuts = cuts_;
  std::vector<Random> randoms;
  for (size_t i = 0; i < tasks_.count; ++i) randoms.push_back(maskRandom(seed_, i));
  Matrix row(tasks_.count, tasks_.columns);
  std::vector<std::span<const double>> views;
  for (size_t i = 0; i < tasks_.count; ++i) views.emplace_back(row.row(i));
  for (size_t first = 0; first < tasks_.rows; first += kPanelRows) {
    if (context.cancelled()) return Error{Code::cancelled, {}, {}, {}, {}};
    const size_t rows = std::min(kPanelRows, tasks_.rows - first);
    const size_t floats = kPanelRows * tasks_.stride;
    for (size_t i = 0; i < tasks_.count; ++i) tasks_.fill(i, first, rows, panel_.data() + i * floats);
    Matrix merged(rows, tasks_.columns);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < tasks_.count; ++i) {
        const float* source = panel_.data() + i * floats + r * tasks_.stride;
        const auto target = row.row(i);
        for (size_t c = 0; c < tasks_.columns; ++c) {
          double value = source[c];
          if (thinning_.kind == Thinning::Kind::Magnitude) {
            if (!cuts[i].keeps(std::abs(value))) value = 0;
          } else if (thinning_.kind == Thinning::Kind::Random) {
            value = randoms[i].uniform() < thinning_.density ? value / thinning_.density : 0;
          }
          target[c] = value;
        }
      }
      joinEntries(joining_, views, weights_, merged.row(r));
    }
    use(first, merged);
  }
  return {};
}

}  // namespace lego

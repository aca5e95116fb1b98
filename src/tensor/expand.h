// Deltas that are stored otherwise than as one pair of factors -> units as rows, exactly: LoCon with a core
// tensor, LoHa, LoKr, full differences. A unit is a row of A (length in = channels x kernel, kernel axes
// innermost) with a column of B (length out), so that delta = sum of b a^T, before any scale.
// Sources of the formulas: KohakuBlueleaf/LyCORIS, lycoris/functional/{general,locon,loha,lokr}.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "format/header.h"

namespace lego {

/// How the factors of a source make its delta.
enum class Composition : uint8_t {
  Single,     ///< the first factor is the delta: LoRA, LoCon, full differences
  Hadamard,   ///< first and second factor multiplied entry by entry: LoHa
  Kronecker,  ///< the Kronecker product of the first (small) and the second factor, which has the kernel:
              ///< LoKr
};

/// The tensors of one factor, a matrix out x in: either `full`, or `up` and `down`, or these with `mid`.
/// More axes than given here must have length 1, which lets 1 x 1 kernels be stored in either way.
struct FactorTensors {
  /// (out, in, kernel...): `diff`, `lokr_w1`, `lokr_w2`
  const TensorInfo* full = nullptr;
  /// (out, rank): `lora_up`, `hada_w1_a`, `lokr_w1_a`; with a mid in Hadamard and Kronecker (rank, out)
  const TensorInfo* up = nullptr;
  /// (rank, in, kernel...) or, flattened, (rank, in x kernel): `lora_down`, `hada_w1_b`, `lokr_w1_b`; with a
  /// mid (rank, in)
  const TensorInfo* down = nullptr;
  /// (rank of up, rank of down, kernel...), Tucker's core: `lora_mid`, `hada_t1`, `lokr_t2`
  const TensorInfo* mid = nullptr;
};

/// Where the tensors of a factor lie in memory: row-major, little-endian, of any alignment; null where the
/// factor has none.
struct FactorData {
  const std::byte* full = nullptr;
  const std::byte* up = nullptr;
  const std::byte* down = nullptr;
  const std::byte* mid = nullptr;
};

/// What is known about a factor from its shapes. Sides are at most limits::kFactorSide.
struct FactorLayout {
  DType full = DType::F32, up = DType::F32, down = DType::F32, mid = DType::F32;
  bool isFull = false, hasMid = false, upIsTransposed = false;
  uint64_t rank = 0;      ///< columns of up; a full factor has none
  uint64_t downRank = 0;  ///< rows of down, which differs from rank only where there is a mid
  uint64_t out = 0;
  uint64_t channels = 0;    ///< columns of down or full, without the kernel where that is known
  uint64_t kernelSize = 1;  ///< product of the kernel axes; 1 where they are flattened into the channels
  /// Pairs of rows that the factor is made into: its rank, or the length of its shorter side (of equal ones,
  /// `out`), whose unit vectors then stand in one place and the rows or columns of the factor in the other.
  uint64_t units = 0;

  uint64_t in() const { return channels * kernelSize; }
  /// The factors have a rank above the shorter side, and are multiplied.
  bool isMultiplied() const { return !isFull && units < rank; }
};

/// What is known about a delta from the shapes of its tensors.
struct Expansion {
  Composition composition = Composition::Single;
  FactorLayout first, second;
  uint32_t units = 0;
  uint64_t in = 0, out = 0;
  std::vector<uint64_t> kernel;  ///< kernel axes; empty for matrices, and where the file has them flattened
  /// What alpha is divided by to give the scale. 0: the scale is 1, whatever alpha says (a full difference,
  /// and LoKr of two full factors). LoRA, LoCon and LoHa: rows of (the first) down. LoKr: rows of the first
  /// factor's down, or, where that factor is full, of the second's.
  uint64_t alphaRank = 0;
  /// Programs disagree about alphaRank. Where LoKr's two factors differ in rank, LyCORIS takes the first's,
  /// ComfyUI the second's; where up and down differ around a mid, ComfyUI takes down's, and so does what
  /// LyCORIS extracts from a model, but LyCORIS' merging takes up's. Trainers write equal ranks.
  bool alphaRankDisputed = false;
  /// LoHa whose products of ranks exceed the shorter side: the delta itself, and unit vectors.
  bool isDense = false;
  /// Doubles that expandUnits() works in.
  uint64_t scratch = 0;
};

/// Checks the shapes and dtypes of a delta's tensors. `second` is for Hadamard and Kronecker.
///
/// The number of units is the least of what the form allows without a decomposition:
///   Single     rank of up; of a full difference the shorter side
///   Hadamard   product of the two ranks, or the shorter side
///   Kronecker  product of what its two factors need: rank, or shorter side
///
/// Errors name the tensor: unpaired_factor (a tensor is missing, or does not belong there),
/// unsupported_dtype, shape_mismatch, rank_mismatch, rank_zero, rank_above_units (more than
/// limits::kPooledUnits).
Result<Expansion> planExpansion(Composition composition, const FactorTensors& first,
                                const FactorTensors& second = {});

/// Where units go: rows of A (`in` floats) and of B (`out` floats), so many floats apart, and for each row
/// its maxMagnitudeBits. Spans have one element per unit.
struct UnitTarget {
  float* a = nullptr;
  size_t strideA = 0;
  std::span<uint32_t> magnitudeA;
  float* b = nullptr;
  size_t strideB = 0;
  std::span<uint32_t> magnitudeB;
};

/// Writes the units of a delta. Those of two factors stand in the order first unit, second unit (the second
/// changes fastest).
///
/// Where there is nothing to sum, entries are stored values, or products of two of them in binary32. Sums
/// (over the rank of down with a mid; over ranks where factors are multiplied) are made in double, in
/// ascending order of the rank, and rounded to binary32 once; of a factor with a mid that is multiplied on,
/// the sum with the mid is rounded first. A product beyond binary32 becomes infinite, which its magnitude
/// tells. Errors: out_of_memory (for `scratch`, which grows to Expansion::scratch).
Status expandUnits(const Expansion& expansion, const FactorData& first, const FactorData& second,
                   const UnitTarget& target, Buffer<double>& scratch);

}  // namespace lego

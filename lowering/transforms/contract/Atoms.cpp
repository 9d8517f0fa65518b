#include "bitloom/lowering/transforms/contract/Atoms.h"

#include <algorithm>
#include <bit>

namespace bitloom::loops {

// Best first.
static constexpr Atom table[] = {
    {.name = "vpdpbusd zmm",
     .family = Family::Cpu_x86,
     .feature = "avx512vnni",
     .intrinsic = "llvm.x86.avx512.vpdpbusd.512",
     .left = Atom::Left::Broadcast,
     .lanes = 16,
     .block = 4,
     .rows = 1,
     .unsignedRight = true},
    {.name = "vpdpbusd ymm",
     .family = Family::Cpu_x86,
     .feature = "avxvnni",
     .intrinsic = "llvm.x86.avx512.vpdpbusd.256",
     .left = Atom::Left::Broadcast,
     .lanes = 8,
     .block = 4,
     .rows = 1,
     .unsignedRight = true},
    {.name = "vpmaddwd ymm",
     .family = Family::Cpu_x86,
     .feature = "avx2",
     .intrinsic = "llvm.x86.avx2.pmadd.wd",
     .left = Atom::Left::Broadcast,
     .lanes = 8,
     .block = 2,
     .rows = 1,
     .unsignedRight = false,
     .words = true},
    {.name = "smmla",
     .family = Family::Cpu_aarch64,
     .feature = "i8mm",
     .intrinsic = "llvm.aarch64.neon.smmla.v4i32.v16i8",
     .left = Atom::Left::Matrix,
     .lanes = 2,
     .block = 8,
     .rows = 2,
     .unsignedRight = false,
     .scalable = "llvm.aarch64.sve.smmla.nxv4i32"},
    {.name = "ummla",
     .family = Family::Cpu_aarch64,
     .feature = "i8mm",
     .intrinsic = "llvm.aarch64.neon.ummla.v4i32.v16i8",
     .left = Atom::Left::Matrix,
     .lanes = 2,
     .block = 8,
     .rows = 2,
     .unsignedRight = true,
     .unsignedLeft = true,
     .scalable = "llvm.aarch64.sve.ummla.nxv4i32"},
    {.name = "usmmla",
     .family = Family::Cpu_aarch64,
     .feature = "i8mm",
     .intrinsic = "llvm.aarch64.neon.usmmla.v4i32.v16i8",
     .left = Atom::Left::Matrix,
     .lanes = 2,
     .block = 8,
     .rows = 2,
     .unsignedRight = false,
     .unsignedLeft = true,
     .scalable = "llvm.aarch64.sve.usmmla.nxv4i32"},
    {.name = "bfmmla",
     .family = Family::Cpu_aarch64,
     .feature = "bf16",
     .intrinsic = "llvm.aarch64.neon.bfmmla",
     .left = Atom::Left::Matrix,
     .lanes = 2,
     .block = 4,
     .rows = 2,
     .unsignedRight = false,
     .bfloats = true,
     .scalable = "llvm.aarch64.sve.bfmmla"},
    {.name = "usdot",
     .family = Family::Cpu_aarch64,
     .feature = "i8mm",
     .intrinsic = "llvm.aarch64.neon.usdot.v4i32.v16i8",
     .left = Atom::Left::Element,
     .lanes = 4,
     .block = 4,
     .rows = 1,
     .unsignedRight = true,
     .scalable = "llvm.aarch64.sve.usdot.lane.nxv4i32"},
    {.name = "sdot",
     .family = Family::Cpu_aarch64,
     .feature = "dotprod",
     .intrinsic = "llvm.aarch64.neon.sdot.v4i32.v16i8",
     .left = Atom::Left::Element,
     .lanes = 4,
     .block = 4,
     .rows = 1,
     .unsignedRight = false,
     .scalable = "llvm.aarch64.sve.sdot.lane.nxv4i32"},
    {.name = "udot",
     .family = Family::Cpu_aarch64,
     .feature = "dotprod",
     .intrinsic = "llvm.aarch64.neon.udot.v4i32.v16i8",
     .left = Atom::Left::Element,
     .lanes = 4,
     .block = 4,
     .rows = 1,
     .unsignedRight = true,
     .unsignedLeft = true},
};

Atom atomFor(const Target &target, const Packing &packing, const Factors &factors) {
  auto fits = [&](const Atom &atom) {
    return atom.family == target.family && target.has(atom.feature) && atom.lanes == packing.lanes &&
           atom.block == packing.block && !atom.unsignedLeft && !atom.bfloats && !factors.floats;
  };
  // As the weight is, where there is a choice; biased fields read as unsigned.
  const bool isUnsigned = !factors.signedWeight || packing.bias == Packing::Bias::All;
  for (const Atom &atom : table)
    if (fits(atom) && (atom.left == Atom::Left::Matrix || atom.unsignedRight == isUnsigned))
      return atom;
  for (const Atom &atom : table)
    if (fits(atom))
      return atom;
  return {.name = factors.floats ? "fma" : "multiply and add",
          .family = target.family,
          .feature = "",
          .intrinsic = "",
          .left = Atom::Left::Repeated,
          .lanes = packing.lanes,
          .block = packing.block,
          .rows = 1,
          .unsignedRight = false};
}

std::optional<Atom> byteProductsFor(const Target &target, bool unsignedLeft, bool unsignedRight) {
  std::optional<Atom> signedAsUnsigned;
  for (const Atom &atom : table) {
    if (atom.family != target.family || !target.has(atom.feature) || atom.rows != 1 || atom.words ||
        atom.lanes * atom.block * 8 != target.vectorBits)
      continue;
    if (atom.unsignedLeft == unsignedLeft && atom.unsignedRight == unsignedRight)
      return atom;
    if (atom.unsignedRight && !atom.unsignedLeft && !unsignedLeft && !unsignedRight)
      signedAsUnsigned = atom;
  }
  return signedAsUnsigned;
}

std::optional<Atom> matrixProductsFor(const Target &target, const MatrixFactors &factors) {
  for (const Atom &atom : table)
    if (atom.family == target.family && target.has(atom.feature) && atom.left == Atom::Left::Matrix &&
        atom.bfloats == factors.bfloats && atom.unsignedLeft == factors.unsignedLeft &&
        atom.unsignedRight == factors.unsignedRight)
      return atom;
  return {};
}

TileShape tileShapeFor(const Target &target, const Atom &atom, const Packing &packing, const FieldPlan &plan,
                       int64_t rows) {
  // Half of the registers for the sums, the other half for what comes in, and what is carried from group to group.
  int budget = target.vectorRegisters / 2;
  int registers = 1; // of an accumulator
  if (atom.left == Atom::Left::Repeated)
    registers = std::max(1, atom.lanes * atom.block * 32 / target.vectorBits);
  const int64_t accumulators = std::max(1, budget / registers);
  const int64_t wanted = int64_t(std::bit_ceil(uint64_t((rows + atom.rows - 1) / atom.rows)));
  // Many rows by one unit's columns: what is taken apart is used as often as can be, and other rows' operands are only
  // loaded. So with an instruction for it, and two columns' vectors left, half a unit by twice as many rows. What the
  // rows leave of the registers goes to more columns.
  int64_t across = plan.unit.values, sums = plan.operands();
  while (*atom.intrinsic && plan.method != FieldPlan::Method::Ladder && across > 2 && wanted * across > accumulators) {
    across /= 2;
    sums /= 2;
  }
  const int64_t blocks = std::clamp<int64_t>(int64_t(std::bit_floor(uint64_t(accumulators / sums))), 1, wanted);
  while (across * 2 * atom.lanes <= packing.rows && sums * 2 * blocks <= accumulators) {
    across *= 2;
    sums *= 2;
  }
  TileShape shape{blocks * atom.rows, across * packing.lanes, 1};
  // Eight sums under way keep two pipelines of four cycles busy.
  const int64_t busy = sums * blocks * registers;
  while (busy * shape.chains < 8 && busy * shape.chains * 2 <= budget)
    shape.chains *= 2;
  return shape;
}

// Whether all bytes of a unit are multiplied under the same masks.
static bool isAlikeInEveryByte(const FieldPlan &plan) {
  const size_t rungs = plan.rungs.size(), perByte = rungs / size_t(plan.unit.bytes);
  if (plan.method != FieldPlan::Method::Ladder || rungs % size_t(plan.unit.bytes))
    return false;
  for (size_t i = 0; i < rungs; ++i)
    if (plan.rungs[i].byte != int(i / perByte) || plan.rungs[i].mask != plan.rungs[i % perByte].mask)
      return false;
  return true;
}

std::optional<SegmentShape> segmentShapeFor(const Target &target, const Atom &atom, const Packing &packing,
                                            const FieldPlan &plan, int64_t rows) {
  const int64_t segment = int64_t{atom.lanes} * atom.block, units = packing.rows / (plan.unit.values * packing.lanes);
  const int64_t perUnit = isAlikeInEveryByte(plan) ? plan.unit.bytes : 1, segments = units * perUnit;
  if (!target.scalableVectors || !*atom.scalable || segments < 2)
    return {};
  constexpr int64_t longest = 64, accumulators = 16; // bytes of the vectors that gain; registers for the sums
  const int64_t operands = plan.operands() / perUnit;
  // NEON loads four vectors by one instruction: where each is multiplied once, half as many products save nothing.
  SegmentShape shape{.tile = {},
                     .vectors = std::clamp<int64_t>(segments * segment / longest, 1, std::max<int64_t>(perUnit, 2)),
                     .operands = operands,
                     .perUnit = perUnit,
                     .ofASegment = operands,
                     .fewest = operands == 1 ? 4 : 2};
  int64_t blocks = std::min<int64_t>(int64_t(std::bit_ceil(uint64_t((rows + atom.rows - 1) / atom.rows))), 8);
  const bool isLadder = plan.method == FieldPlan::Method::Ladder; // which wants all of its sums
  auto sums = [&] { return blocks * shape.vectors * shape.operands; };
  while (!isLadder && shape.operands > 1 && sums() > accumulators)
    shape.operands /= 2;
  while (blocks > 1 && sums() > accumulators)
    blocks /= 2;
  while (shape.vectors > 1 && sums() > accumulators)
    --shape.vectors;
  const int64_t most = std::max<int64_t>(shape.vectors * longest / segment / perUnit, 1); // units
  const int64_t columns = std::min(units, int64_t(std::bit_floor(uint64_t(most)))) * plan.unit.values * atom.lanes;
  shape.tile = {.rows = blocks * atom.rows, .columns = columns, .chains = 1};
  while (sums() * shape.tile.chains < 8 && shape.tile.chains < 4)
    shape.tile.chains *= 2;
  return shape;
}

} // namespace bitloom::loops

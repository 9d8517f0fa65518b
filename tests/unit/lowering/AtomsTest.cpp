#include "bitloom/lowering/transforms/contract/Atoms.h"
#include "bitloom/lib/packing/PackingFor.h"

#include <gtest/gtest.h>

using namespace bitloom;
using namespace bitloom::loops;

namespace {

std::string atomOf(const char *name, int bits, int64_t rows, Factors factors) {
  Target target = parseTarget(name);
  return atomFor(target, packingFor(target, bits, rows), factors).name;
}

std::string productsOf(const char *name, bool unsignedLeft, bool unsignedRight) {
  auto atom = byteProductsFor(parseTarget(name), unsignedLeft, unsignedRight);
  return atom ? atom->name : "none";
}

std::string matricesOf(const char *name, MatrixFactors factors) {
  auto atom = matrixProductsFor(parseTarget(name), factors);
  return atom ? atom->name : "none";
}

int64_t asSigned(int byte) { return static_cast<int8_t>(byte); }

} // namespace

TEST(Atoms, EachTargetItsOwn) {
  const Factors isSigned{true, false}, isUnsigned{false, false};
  EXPECT_EQ(atomOf("aarch64+dotprod", 4, 1, isSigned), "sdot");
  EXPECT_EQ(atomOf("aarch64+dotprod", 4, 1, isUnsigned), "sdot");
  EXPECT_EQ(atomOf("aarch64+i8mm", 4, 1, isSigned), "sdot");
  EXPECT_EQ(atomOf("aarch64+i8mm", 4, 1, isUnsigned), "usdot");
  EXPECT_EQ(atomOf("aarch64+i8mm", 4, 16, isUnsigned), "smmla");
  EXPECT_EQ(atomOf("x86-64-v3", 4, 1, isSigned), "vpmaddwd ymm");
  EXPECT_EQ(atomOf("x86-64-v3+avxvnni", 4, 1, isSigned), "vpdpbusd ymm");
  EXPECT_EQ(atomOf("x86-64-v4+avx512vnni", 4, 1, isUnsigned), "vpdpbusd zmm");
  EXPECT_EQ(atomOf("x86-64", 4, 1, isSigned), "multiply and add");
  EXPECT_EQ(atomOf("aarch64+dotprod", 4, 1, {true, true}), "fma");
}

TEST(Atoms, SumsOfProductsOfBytes) {
  EXPECT_EQ(productsOf("aarch64+i8mm", false, false), "sdot");
  EXPECT_EQ(productsOf("aarch64+i8mm", false, true), "usdot");
  EXPECT_EQ(productsOf("aarch64+dotprod", true, true), "udot");
  EXPECT_EQ(productsOf("aarch64+dotprod", false, true), "none");
  EXPECT_EQ(productsOf("x86-64-v4+avx512vnni", false, false), "vpdpbusd zmm");
  EXPECT_EQ(productsOf("x86-64-v4+avx512vnni", true, true), "none");
  EXPECT_EQ(productsOf("x86-64-v3", false, false), "none");
}

TEST(Atoms, ProductsOfMatrices) {
  EXPECT_EQ(matricesOf("aarch64+i8mm", {false, false, false}), "smmla");
  EXPECT_EQ(matricesOf("aarch64+i8mm", {false, true, true}), "ummla");
  EXPECT_EQ(matricesOf("aarch64+i8mm", {false, true, false}), "usmmla");
  EXPECT_EQ(matricesOf("aarch64+i8mm", {false, false, true}), "none");
  EXPECT_EQ(matricesOf("aarch64+bf16", {true, false, false}), "bfmmla");
  EXPECT_EQ(matricesOf("aarch64+i8mm", {true, false, false}), "none");
  EXPECT_EQ(matricesOf("aarch64+dotprod", {false, false, false}), "none");
  EXPECT_EQ(matricesOf("x86-64-v4+avx512bf16", {true, false, false}), "none");
}

// In vectors of any length: whole units; sums in half of the registers, in whole passes. Bytes of a unit are as good as
// units where a row of activations is multiplied by each of them alike: 6 bits under one mask, 7 bits too.
TEST(Atoms, VectorsOfAnyLength) {
  for (const char *name : {"aarch64+sve2", "aarch64+i8mm+sve2", "aarch64+i8mm"})
    for (int bits = 1; bits <= 8; ++bits)
      for (int64_t rows : {1, 3, 17})
        for (bool isSigned : {true, false}) {
          const Target target = parseTarget(name);
          const Packing packing = packingFor(target, bits, rows);
          SCOPED_TRACE(target.name + ", " + std::to_string(rows) + " rows, " + packing.toString());
          const Atom atom = atomFor(target, packing, {isSigned, false});
          const FieldPlan plan = planFields(packing, isSigned, atom.unsignedRight, rows == 1, /*floats=*/false);
          auto shape = segmentShapeFor(target, atom, packing, plan, rows);
          ASSERT_EQ(shape.has_value(), target.scalableVectors);
          if (!shape)
            continue;
          EXPECT_LE(shape->tile.rows / atom.rows * shape->vectors * shape->operands * shape->tile.chains, 16);
          EXPECT_EQ(shape->ofASegment % shape->operands, 0);
          EXPECT_EQ(plan.operands(), shape->perUnit * shape->ofASegment);
          const bool isAlike = plan.method == FieldPlan::Method::Ladder && (bits == 6 || bits == 7);
          EXPECT_EQ(shape->perUnit, isAlike ? packing.unit().bytes : 1);
          EXPECT_EQ(packing.rows % shape->tile.columns, 0);
          EXPECT_EQ(shape->tile.columns % (plan.unit.values * atom.lanes), 0);
          EXPECT_EQ(shape->fewest, bits == 8 ? 4 : 2);
        }
}

// What the sums over a ladder's rungs are put together to is the product with the packed number, for every value beside
// any others in the same bytes.
TEST(Fields, LaddersAreExact) {
  for (int bits = 1; bits <= 7; ++bits)
    for (auto bias : {Packing::Bias::None, Packing::Bias::Low}) {
      Packing packing{.bits = bits, .order = Packing::Order::Columns, .block = 1, .lanes = 1, .bias = bias};
      packing.rows = packing.unit().values;
      const FieldPlan plan = planFields(packing, /*isSigned=*/true, /*unsignedOperand=*/false, /*oneRow=*/true,
                                        /*floats=*/false);
      if (bias == Packing::Bias::None) {
        EXPECT_EQ(plan.method == FieldPlan::Method::Ladder, bits == 1 || bits == 7);
        if (plan.method != FieldPlan::Method::Ladder)
          continue;
      }
      SCOPED_TRACE(packing.toString());
      ASSERT_EQ(plan.method, FieldPlan::Method::Ladder);
      const int64_t steps = 64, rows = packing.rows;
      std::vector<int8_t> values, other;
      for (int64_t i = 0; i < rows * steps; ++i)
        values.push_back(static_cast<int8_t>(packing.lowest(true) + i * 37 % (1 << bits)));
      for (int64_t k = 0; k < steps; ++k)
        other.push_back(static_cast<int8_t>(k * 91 % 256 - 128));
      const std::vector<uint8_t> bytes = packRows(packing, values, rows, steps);
      auto sumOf = [&](const Rung &rung) {
        int64_t sum = 0;
        for (int64_t k = 0; k < steps; ++k)
          sum += other[size_t(k)] * asSigned(bytes[size_t(k * plan.unit.bytes + rung.byte)] & rung.mask);
        return sum;
      };
      int64_t total = 0;
      for (int8_t x : other)
        total += x;
      for (size_t value = 0; value < size_t(rows); ++value) {
        const Field &field = plan.fields[value];
        int64_t sum = 0, wanted = 0;
        for (const Field::Part &part : field.parts) {
          const size_t rung = size_t(part.rung);
          int64_t own = sumOf(plan.rungs[rung]) - (plan.rungs[rung].overlaps ? sumOf(plan.rungs[rung - 1]) : 0);
          sum += (part.isNegative ? -own : own) << part.shift;
        }
        sum += total * (int64_t(field.offset) << field.scale);
        for (int64_t k = 0; k < steps; ++k)
          wanted += int64_t(values[value * size_t(steps) + size_t(k)]) * other[size_t(k)];
        EXPECT_EQ(sum, wanted << field.scale) << "value " << value;
      }
    }
}

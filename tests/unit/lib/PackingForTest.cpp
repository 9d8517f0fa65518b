#include "bitloom/lib/packing/PackingFor.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

using namespace bitloom;

namespace {

std::string spelled(const char *target, int bits, int64_t rows) {
  return packingFor(parseTarget(target), bits, rows).toString();
}

} // namespace

TEST(PackingFor, EachInstructionHasItsVectors) {
  EXPECT_EQ(spelled("aarch64+dotprod", 4, 1), "bits=4,order=columns,block=4,rows=64,lanes=4,bias=low");
  EXPECT_EQ(spelled("aarch64+dotprod", 3, 1), "bits=3,order=columns,block=4,rows=32,lanes=4,bias=low");
  EXPECT_EQ(spelled("aarch64+dotprod", 7, 1), "bits=7,order=columns,block=4,rows=32,lanes=4,bias=none");
  EXPECT_EQ(spelled("aarch64", 4, 1), "bits=4,order=columns,block=1,rows=32,lanes=16,bias=low");
  EXPECT_EQ(spelled("x86-64-v3", 8, 1), "bits=8,order=columns,block=2,rows=32,lanes=8,bias=none");
  EXPECT_EQ(spelled("x86-64", 8, 1), "bits=8,order=columns,block=1,rows=16,lanes=16,bias=none");
  EXPECT_EQ(spelled("x86-64-v4+avx512vnni", 4, 1), "bits=4,order=columns,block=4,rows=64,lanes=16,bias=all");
}

// Matrices are for two rows or more, and activations lie as they take them.
TEST(PackingFor, MatricesNeedRows) {
  EXPECT_EQ(spelled("aarch64+dotprod+i8mm", 4, 1), spelled("aarch64+dotprod", 4, 1));
  EXPECT_EQ(spelled("aarch64+dotprod+i8mm", 4, 2), "bits=4,order=columns,block=8,rows=4,lanes=2,bias=none");
  Target matrices = parseTarget("aarch64+dotprod+i8mm");
  EXPECT_EQ(activationPackingFor(matrices, 1).rows, 1);
  EXPECT_EQ(activationPackingFor(matrices, 16).toString(), "bits=8,order=columns,block=8,rows=8,lanes=2,bias=none");
}

// A block of a panel fills vectors of 64 bytes.
TEST(PackingFor, VectorsOfAnyLengthHaveSeveralUnits) {
  EXPECT_EQ(spelled("aarch64+sve2", 4, 1), spelled("aarch64+dotprod", 4, 1));
  EXPECT_EQ(spelled("aarch64+sve2", 3, 1), "bits=3,order=columns,block=4,rows=128,lanes=4,bias=low");
  EXPECT_EQ(spelled("aarch64+i8mm+sve2", 6, 16), "bits=6,order=columns,block=8,rows=32,lanes=2,bias=none");
  EXPECT_EQ(spelled("aarch64+sve2", 1, 1), "bits=1,order=columns,block=4,rows=128,lanes=4,bias=none");
  EXPECT_EQ(spelled("aarch64+i8mm+sve2", 4, 16), "bits=4,order=columns,block=8,rows=16,lanes=2,bias=none");
}

TEST(PackingFor, IsLegalForEveryWidth) {
  for (const char *target : {"aarch64", "aarch64+dotprod", "aarch64+dotprod+i8mm", "aarch64+i8mm+sve2", "x86-64",
                             "x86-64-v3", "x86-64-v4", "x86-64-v4+avx512vnni"})
    for (int bits = 1; bits <= 8; ++bits)
      for (int64_t rows : {1, 2, 64})
        EXPECT_EQ(packingFor(parseTarget(target), bits, rows).bits, bits);
}

// A plane's rows of a block are lines of 128 bytes, those of a second one of 64 or, of W5, 64 beside 256.
TEST(PackingFor, GpusHaveLinesOfTheirCopyEngine) {
  const int rows[] = {8, 4, 4, 2, 4, 4, 4, 1};
  for (int bits = 1; bits <= 8; ++bits) {
    const Packing packing = packingFor(parseTarget("sm_90a"), bits);
    EXPECT_EQ(packing.order, Packing::Order::Fragments);
    EXPECT_EQ(packing.rows, rows[bits - 1]) << bits;
    EXPECT_EQ(packing, packingFor(parseTarget("sm_80"), bits, 64));
  }
  EXPECT_EQ(spelled("sm_90a", 3, 1), "bits=3,order=fragments,block=128,rows=4");
  EXPECT_THROW(packingFor(parseTarget("sm_90a"), 9), UserError);
  EXPECT_THROW(activationPackingFor(parseTarget("sm_90a"), 1), UserError);
}

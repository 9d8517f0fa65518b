// Extents that do not fit: the user's file and line, and what was expected.
#include "Body.h"

#include <gtest/gtest.h>

namespace bitloom::test {

// Each body stands on one line, which the error names.
#define EXPECT_ERROR(message, ...) EXPECT_EQ(errorOf([](const Body &k) { __VA_ARGS__; }), errorAt(__LINE__, message))

TEST(Extents, OfOperands) {
  EXPECT_ERROR("expected operands of one shape (or extents of 1), got [4] and [8]", k.x(span(0, 4)) + k.x(span(0, 8)));
  EXPECT_ERROR("expected operands of one shape (or extents of 1), got [2, 3] and [4, 3]",
               zeros<f32>({2, 3}) * zeros<f32>({4, 3}));
  EXPECT_ERROR("expected operands of one shape (or extents of 1), got [8] and [2]",
               fma(k.x(span(0, 8)), 2.0f, zeros<f32>({2})));
  EXPECT_ERROR("expected extents of 1 or more, got [0]", zeros<f32>({0}));
  EXPECT_EQ(errorOf([](const Body &k) { zeros<f32>({2, 1}) + zeros<f32>({1, 3}); }), "");
}

TEST(Extents, OfDot) {
  EXPECT_ERROR("dot: expected b to have 8 rows, the columns of a, got [4, 8] and [4, 8]",
               dot(zeros<f32>({4, 8}), zeros<f32>({4, 8}), zeros<f32>({4, 8})));
  EXPECT_ERROR("dot: expected an accumulator of shape [4, 2], got [4, 8]",
               dot(zeros<f32>({4, 8}), zeros<f32>({8, 2}), zeros<f32>({4, 8})));
}

TEST(Extents, OfShapes) {
  EXPECT_ERROR("reshape: expected a shape of 8 elements, as in [8], got [3, 3]", reshape<2>(k.x(span(0, 8)), {3, 3}));
  EXPECT_ERROR("reshape: expected a shape of 8 elements, as in [8], got [3, -1]", reshape<2>(k.x(span(0, 8)), {3, -1}));
  EXPECT_ERROR("expand: expected a dimension from 0 to 1, got 2", expand(k.x(span(0, 8)), 2));
  EXPECT_ERROR("broadcast: expected extents of 1 or those of [4, 8], got [2, 8]",
               broadcast(zeros<f32>({2, 8}), {4, 8}));
  EXPECT_ERROR("trans: expected a permutation of 0 to 1", trans(zeros<f32>({2, 8}), {0, 0}));
  EXPECT_ERROR("split: expected a last extent of 2, got [2, 8]", split(zeros<f32>({2, 8})));
}

TEST(Extents, OfReductions) {
  EXPECT_ERROR("reduce: expected an axis from 0 to 0, got 1", sum(k.x(span(0, 8)), 1));
  EXPECT_ERROR("scan: expected an axis from 0 to 1, got -1", cumsum(zeros<f32>({2, 8}), -1));
  EXPECT_ERROR("extent: expected a dimension from 0 to 0, got 1", k.x.extent(1));
  EXPECT_ERROR("program_id: expected an axis from 0 to 2, got 3", program_id(3));
}

TEST(Extents, OfHints) {
  EXPECT_ERROR("split: expected 0 to 8, got 9", hints({.split = 9}));
  EXPECT_ERROR("multicast: expected 1 to 8, got 0", hints({.multicast = 0}));
  EXPECT_ERROR("multicast: expected 1 to 8, got 9", hints({.multicast = 9}));
  EXPECT_ERROR("cluster: expected 1 to 8, got 0", hints({.cluster = 0}));
}

TEST(Extents, OfPackedValues) {
  EXPECT_ERROR("unpack: expected a multiple of 4 bytes, a block of bits=4,order=low,block=8, got 3",
               unpack<4>(zeros<u8>({3})));
  EXPECT_ERROR("pack: expected a multiple of 8 values, a block of bits=3,order=low,block=8, got 12",
               pack<3>(zeros<u8>({12})));
  EXPECT_ERROR("lut: expected a table of 1 to 256 elements, got 257", lut(zeros<f32>({257}), zeros<u8>({8})));
}

TEST(Extents, OfStores) {
  EXPECT_ERROR("store: expected a tile of shape [4], got [8]", k.out(span(0, 4)) = k.x(span(0, 8)));
}

// An error inside one of the named functions still stands at the user's line.
TEST(Extents, InNamedFunctions) {
  EXPECT_ERROR("expected operands of one shape (or extents of 1), got [4] and [8]",
               cat(k.x(span(0, 4)), k.x(span(0, 8))));
}

} // namespace bitloom::test

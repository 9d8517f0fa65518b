#include "bitloom/lib/layout/LinearLayout.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

using namespace bitloom;
using Vector = LinearLayout::Vector;

namespace {

using Rng = std::mt19937;

int below(Rng &rng, int bound) { return static_cast<int>(rng() % static_cast<unsigned>(bound)); }

// Any linear map between these spaces; sizes are given in bits.
LinearLayout randomLayout(Rng &rng, const std::vector<std::pair<std::string, int>> &ins,
                          const std::vector<std::pair<std::string, int>> &outs) {
  std::vector<LinearLayout::OutDim> outDims;
  for (const auto &[name, bits] : outs)
    outDims.push_back({name, 1 << bits});
  std::vector<LinearLayout::InDim> inDims;
  for (const auto &[name, bits] : ins) {
    inDims.push_back({name, {}});
    for (int bit = 0; bit < bits; ++bit) {
      Vector basis;
      for (const auto &out : outDims)
        basis.push_back(below(rng, out.size));
      inDims.back().bases.push_back(basis);
    }
  }
  return LinearLayout(inDims, outDims);
}

LinearLayout randomBijection(Rng &rng, const std::vector<std::pair<std::string, int>> &ins,
                             const std::vector<std::pair<std::string, int>> &outs) {
  for (;;)
    if (LinearLayout layout = randomLayout(rng, ins, outs); layout.isInvertible())
      return layout;
}

// All inputs, the first dim fastest: ascending flat inputs.
std::vector<Vector> inputsOf(const LinearLayout &layout) {
  std::vector<Vector> inputs;
  for (int64_t flat = 0; flat < int64_t{1} << layout.totalInBits(); ++flat) {
    Vector indices;
    int64_t rest = flat;
    for (const auto &in : layout.ins()) {
      indices.push_back(static_cast<int32_t>(rest & ((1 << in.bases.size()) - 1)));
      rest >>= in.bases.size();
    }
    inputs.push_back(indices);
  }
  return inputs;
}

Vector operator^(Vector a, const Vector &b) {
  for (size_t i = 0; i < a.size(); ++i)
    a[i] ^= b[i];
  return a;
}

Vector reversed(const Vector &v) { return {v.rbegin(), v.rend()}; }

// The smallest flat input of every image, by enumeration.
std::map<Vector, Vector> smallestInputs(const LinearLayout &layout) {
  std::map<Vector, Vector> first;
  for (const Vector &in : inputsOf(layout))
    first.emplace(layout.apply(in), in);
  return first;
}

} // namespace

TEST(Layout, IsLinear) {
  Rng rng(1);
  for (int trial = 0; trial < 20; ++trial) {
    LinearLayout l = randomLayout(rng, {{"register", 3}, {"lane", 4}}, {{"dim0", 3}, {"dim1", 5}});
    auto inputs = inputsOf(l);
    for (const Vector &a : inputs)
      for (const Vector &b : inputs)
        ASSERT_EQ(l.apply(a ^ b), l.apply(a) ^ l.apply(b));
  }
}

TEST(Layout, AppliesByName) {
  auto l = LinearLayout::parse("{register=[[0,1],[0,2]], lane=[[0,4],[1,0]]} -> [2,8]");
  EXPECT_EQ(l.apply({3, 2}), (Vector{1, 3}));
  EXPECT_EQ(l.apply({{"lane", 2}, {"register", 3}}), (Vector{1, 3}));
  EXPECT_EQ(l.apply({{"lane", 1}}), (Vector{0, 4}));
  EXPECT_EQ(l.basis("lane", 0, "dim1"), 4);
  EXPECT_THROW(l.apply({4, 0}), InternalError);
  EXPECT_THROW(l.apply({-1, 0}), InternalError);
  EXPECT_THROW(l.apply({0}), InternalError);
  EXPECT_THROW(l.apply({{"warp", 0}}), InternalError);
}

TEST(Layout, OneDimensional) {
  auto identity = LinearLayout::identity1D(16, "lane", "dim0");
  auto strided = LinearLayout::strided1D(8, 4, "lane", "dim0");
  auto zeros = LinearLayout::zeros1D(8, "lane", "dim0", 4);
  for (int i = 0; i < 16; ++i)
    EXPECT_EQ(identity.apply({i}), Vector{i});
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(strided.apply({i}), Vector{4 * i});
    EXPECT_EQ(zeros.apply({i}), Vector{0});
  }
  EXPECT_EQ(strided.outSize("dim0"), 32);
  EXPECT_TRUE(identity.isInvertible());
  EXPECT_TRUE(strided.isInjective());
  EXPECT_FALSE(strided.isSurjective());
  EXPECT_EQ(zeros.freeBits("lane"), 7);
  EXPECT_EQ(LinearLayout::identity1D(1, "lane", "dim0").inBits("lane"), 0);
}

TEST(Layout, ProductStacksBits) {
  Rng rng(2);
  for (int trial = 0; trial < 50; ++trial) {
    LinearLayout low = randomLayout(rng, {{"register", 2}, {"lane", 2}}, {{"dim0", 2}, {"dim1", 1}});
    LinearLayout high = randomLayout(rng, {{"warp", 1}, {"register", 2}}, {{"dim1", 2}, {"dim2", 1}});
    LinearLayout product = low * high;
    EXPECT_EQ(product.inDims(), (std::vector<std::string>{"register", "lane", "warp"}));
    EXPECT_EQ(product.outShape(), (Vector{4, 8, 2}));
    for (const Vector &a : inputsOf(low))
      for (const Vector &h : inputsOf(high)) {
        Vector l = low.apply(a), u = high.apply(h);
        ASSERT_EQ(product.apply({a[0] + 4 * h[1], a[1], h[0]}), (Vector{l[0], l[1] + 2 * u[0], u[1]}));
      }
    LinearLayout third = randomLayout(rng, {{"lane", 1}}, {{"dim0", 1}});
    EXPECT_EQ((low * high) * third, low * (high * third));
    EXPECT_EQ(low * LinearLayout(), low);
    EXPECT_EQ(LinearLayout() * low, low);
  }
}

TEST(Layout, ComposeIsCompositionAndAssociative) {
  Rng rng(3);
  for (int trial = 0; trial < 50; ++trial) {
    LinearLayout f = randomLayout(rng, {{"register", 3}, {"lane", 3}}, {{"a", 2}, {"b", 3}});
    LinearLayout g = randomLayout(rng, {{"b", 4}, {"a", 2}}, {{"c", 2}, {"d", 2}}); // reordered, and larger along b
    LinearLayout h = randomLayout(rng, {{"c", 2}, {"d", 3}}, {{"e", 5}});
    for (const Vector &x : inputsOf(f)) {
      Vector y = f.apply(x);
      ASSERT_EQ(f.compose(g).apply(x), g.apply({y[1], y[0]}));
    }
    EXPECT_EQ(f.compose(g).compose(h), f.compose(g.compose(h)));
  }
  auto wide = LinearLayout::identity1D(8, "lane", "a"), narrow = LinearLayout::identity1D(4, "a", "b");
  EXPECT_THROW(wide.compose(narrow), InternalError);
  EXPECT_THROW(wide.compose(wide), InternalError);
}

TEST(Layout, InverseUndoesBijections) {
  Rng rng(4);
  for (int trial = 0; trial < 50; ++trial) {
    LinearLayout l = randomBijection(rng, {{"register", 3}, {"lane", 4}}, {{"dim0", 2}, {"dim1", 5}});
    LinearLayout inverse = l.invert();
    for (const Vector &x : inputsOf(l))
      ASSERT_EQ(inverse.apply(reversed(l.apply(x))), reversed(x));
    EXPECT_EQ(inverse.invert(), l);
  }
  EXPECT_THROW(LinearLayout::zeros1D(2, "lane", "dim0").invert(), InternalError);
}

TEST(Layout, PseudoinverseIsTheSmallestPreimage) {
  Rng rng(5);
  int surjective = 0;
  for (int trial = 0; trial < 100; ++trial) {
    LinearLayout l = randomLayout(rng, {{"register", 3}, {"lane", 4}}, {{"dim0", 2}, {"dim1", 3}});
    if (!l.isSurjective()) {
      EXPECT_THROW(l.pseudoinvert(), InternalError);
      continue;
    }
    ++surjective;
    LinearLayout r = l.pseudoinvert();
    for (const auto &[image, input] : smallestInputs(l))
      ASSERT_EQ(reversed(r.apply(reversed(image))), input);
  }
  EXPECT_GT(surjective, 20);
}

TEST(Layout, InvertAndComposeFindsTheNearestPlace) {
  Rng rng(6);
  for (int trial = 0; trial < 60; ++trial) {
    // The source may hold replicas and need not be surjective; the destination only reads what the source holds.
    LinearLayout source = randomLayout(rng, {{"register", 2}, {"lane", 2}, {"warp", 2}}, {{"dim0", 2}, {"dim1", 2}});
    LinearLayout destination =
        randomLayout(rng, {{"lane", 3}, {"register", 3}}, {{"register", 2}, {"lane", 2}, {"warp", 2}}).compose(source);
    destination = destination.transposeOuts({1, 0}); // matched by name
    LinearLayout c = destination.invertAndCompose(source);
    EXPECT_EQ(c.outDims(), source.inDims());
    for (const Vector &x : inputsOf(destination)) {
      Vector at = c.apply(x);
      Vector image = source.apply(at);
      ASSERT_EQ(reversed(image), destination.apply(x));
      Vector self{x[1] & 3, x[0] & 3, 0};
      auto distance = [&](const Vector &place) { return reversed(place ^ self); }; // warp weighs most
      for (const Vector &other : inputsOf(source))
        if (source.apply(other) == image) {
          ASSERT_LE(distance(at), distance(other));
        }
    }
  }
}

TEST(Layout, ConversionToItselfMovesNothing) {
  // Replicas across lanes and warps stay where they are, too.
  for (const std::vector<int32_t> &shape : {Vector{64}, Vector{16, 8}, Vector{4, 32, 16}}) {
    LinearLayout l = LinearLayout::blocked(shape, 4, 4);
    LinearLayout c = l.invertAndCompose(l);
    for (const Vector &x : inputsOf(l))
      ASSERT_EQ(c.apply(x), x);
  }
  LinearLayout row = LinearLayout::blocked({8}, 1, 1), wide = LinearLayout::blocked({64}, 1, 1);
  EXPECT_THROW(wide.invertAndCompose(row), InternalError);
}

TEST(Layout, FreeBitsTellReplicasApart) {
  Rng rng(7);
  for (int trial = 0; trial < 100; ++trial) {
    LinearLayout l = randomLayout(rng, {{"register", 3}, {"lane", 3}}, {{"dim0", 2}, {"dim1", 2}});
    int32_t freeRegisters = l.freeBits("register"), freeLanes = l.freeBits("lane");
    std::map<Vector, int> holders;
    auto smallest = smallestInputs(l);
    for (const Vector &x : inputsOf(l))
      if (!(x[0] & freeRegisters) && !(x[1] & freeLanes)) {
        ++holders[l.apply(x)];
        ASSERT_EQ(smallest[l.apply(x)], x);
      }
    EXPECT_EQ(holders.size(), smallest.size());
    EXPECT_EQ(holders.size(), size_t{1} << l.rank());
    for (const auto &[image, count] : holders)
      ASSERT_EQ(count, 1);
    LinearLayout dense = l.removeFreeBits("lane").removeFreeBits("register");
    EXPECT_TRUE(dense.isInjective());
    EXPECT_EQ(smallestInputs(dense).size(), smallest.size());
  }
  auto l = LinearLayout::parse("{register=[[0],[1],[0],[1],[2]]} -> [4]");
  EXPECT_EQ(l.freeBits("register"), 0b01101);
  EXPECT_EQ(l.removeZeroBases("register").toString(), "{register=[[1],[1],[2]]} -> [4]");
  EXPECT_EQ(l.removeFreeBits("register").toString(), "{register=[[1],[2]]} -> [4]");
}

TEST(Layout, BlockedCoversEveryElementOnce) {
  for (const Vector &shape : {Vector{1}, Vector{32}, Vector{4096}, Vector{1, 1}, Vector{128, 64}, Vector{2, 4096},
                              Vector{512, 1}, Vector{4, 8, 16}, Vector{}})
    for (int vector : {1, 2, 8})
      for (int warps : {1, 4, 8}) {
        LinearLayout l = LinearLayout::blocked(shape, vector, warps);
        EXPECT_TRUE(l.isSurjective());
        EXPECT_EQ(l.inSize("lane"), 32);
        EXPECT_EQ(l.inSize("warp"), warps);
        EXPECT_EQ(l.freeBits("register"), 0); // no thread holds an element twice
        EXPECT_EQ(l.outShape(), shape);
        int64_t elements = 1;
        for (int extent : shape)
          elements *= extent;
        int64_t holders = 0;
        for (const Vector &x : inputsOf(l))
          holders += !(x[1] & l.freeBits("lane")) && !(x[2] & l.freeBits("warp"));
        EXPECT_EQ(holders, elements);
        if (!shape.empty()) {
          EXPECT_GE(l.contiguousRegisters("dim" + std::to_string(shape.size() - 1)), std::min(vector, shape.back()));
        }
      }
}

TEST(Layout, BlockedIsCoalesced) {
  auto l = LinearLayout::blocked({64, 32}, 4, 2);
  EXPECT_EQ(l.toString(), "{register=[[0,1],[0,2],[8,0],[16,0],[32,0]], lane=[[0,4],[0,8],[0,16],[1,0],[2,0]], "
                          "warp=[[4,0]]} -> [64,32]");
  // Too small: half the lanes and all warps hold replicas.
  auto small = LinearLayout::blocked({4, 8}, 2, 2);
  EXPECT_EQ(small.toString(), "{register=[[0,1]], lane=[[0,2],[0,4],[1,0],[2,0],[0,0]], warp=[[0,0]]} -> [4,8]");
  EXPECT_EQ(small.freeBits("lane"), 16);
  EXPECT_EQ(small.freeBits("warp"), 1);
  EXPECT_THROW(LinearLayout::blocked({17}, 1, 1), InternalError);
  EXPECT_EQ(LinearLayout::paddedShape({1, 3, 17, 199, 4097}), (Vector{1, 4, 32, 256, 8192}));
}

TEST(Layout, ReductionProjects) {
  auto l = LinearLayout::blocked({64, 32}, 4, 2);
  auto rows = l.dropOutDim("dim1").numberOuts();
  for (const Vector &x : inputsOf(l))
    ASSERT_EQ(rows.apply(x), Vector{l.apply(x)[0]});
  EXPECT_EQ(rows.freeBits("register"), 3); // the vector along the row is reduced within the thread,
  EXPECT_EQ(rows.freeBits("lane"), 7);     // then over eight lanes by shuffles
  EXPECT_EQ(rows.freeBits("warp"), 0);     // and never across warps
  EXPECT_EQ(rows.removeZeroBases("register").toString(),
            "{register=[[8],[16],[32]], lane=[[0],[0],[0],[1],[2]], warp=[[4]]} -> [64]");
  auto columns = l.dropOutDim("dim0").numberOuts();
  EXPECT_EQ(columns.outShape(), Vector{32});
  EXPECT_EQ(columns.freeBits("warp"), 1);
}

TEST(Layout, OutputDims) {
  Rng rng(8);
  LinearLayout l = randomLayout(rng, {{"register", 3}, {"lane", 3}}, {{"dim0", 2}, {"dim1", 3}, {"dim2", 1}});
  auto transposed = l.transposeOuts({2, 0, 1});
  auto reshaped = l.reshapeOuts({8, 8});
  auto expanded = l.addOutDim("x", 1);
  EXPECT_EQ(transposed.outDims(), (std::vector<std::string>{"dim2", "dim0", "dim1"}));
  EXPECT_EQ(expanded.outDims(), (std::vector<std::string>{"dim0", "x", "dim1", "dim2"}));
  for (const Vector &x : inputsOf(l)) {
    Vector y = l.apply(x);
    int flat = (y[0] * 8 + y[1]) * 2 + y[2]; // row-major
    ASSERT_EQ(transposed.apply(x), (Vector{y[2], y[0], y[1]}));
    ASSERT_EQ(reshaped.apply(x), (Vector{flat / 8, flat % 8}));
    ASSERT_EQ(expanded.apply(x), (Vector{y[0], 0, y[1], y[2]}));
    ASSERT_EQ(l.sublayout({"lane"}, {"dim2", "dim0"}).apply({x[1]}),
              (Vector{l.apply({0, x[1]})[0], l.apply({0, x[1]})[2]}));
  }
  EXPECT_EQ(reshaped.reshapeOuts(l.outs()), l);
  EXPECT_EQ(transposed.transposeOuts({1, 2, 0}), l);
  EXPECT_EQ(expanded.dropOutDim("x"), l);
  EXPECT_EQ(transposed.numberOuts().outDims(), l.outDims());
  EXPECT_EQ(l.renameOutDim("dim1", "x").outSize("x"), 8);
  EXPECT_THROW(l.renameOutDim("dim1", "dim0"), InternalError);
  EXPECT_THROW(l.reshapeOuts(Vector{8, 4}), InternalError);
  EXPECT_THROW(l.transposeOuts({0, 0, 1}), InternalError);
  EXPECT_THROW(l.dropOutDim("dim3"), InternalError);
}

TEST(Layout, ContiguousRegistersAreTheWidestAccess) {
  auto width = [](const char *text, const char *dim) { return LinearLayout::parse(text).contiguousRegisters(dim); };
  EXPECT_EQ(width("{register=[[0,1],[0,2],[1,0]], lane=[[0,4]]} -> [2,8]", "dim1"), 4);
  EXPECT_EQ(width("{register=[[0,1],[0,2],[1,0]], lane=[[0,4]]} -> [2,8]", "dim0"), 1);
  EXPECT_EQ(width("{register=[[0,2],[0,1]], lane=[[0,4]]} -> [2,8]", "dim1"), 1);
  EXPECT_EQ(width("{register=[[0,1],[1,2]], lane=[[0,4]]} -> [2,8]", "dim1"), 2);
  // A lane that swaps neighbours (a swizzle) leaves runs of 2.
  EXPECT_EQ(width("{register=[[0,1],[0,2]], lane=[[1,2]]} -> [2,8]", "dim1"), 2);
  // Against the definition, on random layouts that start out with a run.
  Rng rng(9);
  for (int trial = 0; trial < 300; ++trial) {
    LinearLayout tail = randomLayout(rng, {{"register", 1}, {"lane", 2}}, {{"dim0", 1}, {"dim1", 1 + below(rng, 3)}});
    LinearLayout l = LinearLayout::identity1D(1 << below(rng, 3), "register", "dim1") * tail;
    auto holds = [&](int n) {
      for (const Vector &x : inputsOf(l)) {
        Vector start = l.apply({{"register", x[0] & -n}, {"lane", x[1]}});
        if (start[0] % n != 0)
          return false; // dim1 comes first in the product
        start[0] += x[0] % n;
        if (l.apply(x) != start)
          return false;
      }
      return true;
    };
    int n = 1;
    while (2 * n <= l.inSize("register") && holds(2 * n))
      n *= 2;
    ASSERT_EQ(l.contiguousRegisters("dim1"), n) << l.toString();
  }
}

TEST(Layout, TextRoundTrips) {
  Rng rng(10);
  std::set<std::string> texts;
  for (int trial = 0; trial < 100; ++trial) {
    LinearLayout l = trial % 2 ? randomLayout(rng, {{"register", 2}, {"lane", 0}}, {{"dim0", 4}, {"dim1", 3}})
                               : randomLayout(rng, {{"column", 3}, {"bit", 2}}, {{"byte", 2}, {"bit", 3}});
    LinearLayout again = LinearLayout::parse(l.toString());
    EXPECT_EQ(again, l);
    EXPECT_EQ(again.hash(), l.hash());
    texts.insert(l.toString());
  }
  EXPECT_GT(texts.size(), 90u);
  EXPECT_EQ(LinearLayout::parse(LinearLayout().toString()), LinearLayout());
  auto swapped = LinearLayout::parse("{ register = [ [1, 0] ] , lane=[]}->[ dim1=2 , dim0=2 ]");
  EXPECT_EQ(swapped.toString(), "{register=[[1,0]], lane=[]} -> [dim1=2,dim0=2]");
  EXPECT_EQ(swapped.describe(), "register 1 -> (1, 0)\nof dim1:2 dim0:2\n");
}

TEST(Layout, MalformedTextIsTheUsersError) {
  auto messageOf = [](const char *text) -> std::string {
    try {
      LinearLayout::parse(text);
    } catch (const UserError &error) {
      return error.what();
    }
    return "parsed";
  };
  EXPECT_EQ(messageOf("{register=[[1]} -> [2]"), "expected ']' at column 15 of a layout, got '} -> [2]'");
  EXPECT_EQ(messageOf("{register=[[1]]}"), "expected '->' at column 17 of a layout, got the end");
  EXPECT_EQ(messageOf("{register=[[2]]} -> [2]"), "expected coordinates in [0, 2) along dim0, got 2 in a basis of "
                                                  "register, in the layout {register=[[2]]} -> [2]");
  EXPECT_EQ(messageOf("{} -> [3]"),
            "expected a power of two in [1, 2^30] as size of dim0, got 3, in the layout {} -> [3]");
  EXPECT_EQ(messageOf("{} -> [a=2,4]"),
            "expected names on all output dims or on none at column 12 of a layout, got '4]'");
  EXPECT_NE(messageOf("{lane=[], lane=[]} -> []"), "parsed");
  EXPECT_NE(messageOf("{lane=[[0,0]]} -> [2]"), "parsed");
  EXPECT_NE(messageOf("{lane=[[99999999999]]} -> [2]"), "parsed");
  EXPECT_NE(messageOf("{} -> [2] tail"), "parsed");
  EXPECT_NE(messageOf(""), "parsed");
}

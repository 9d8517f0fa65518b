// Plans of exchanges between layouts, against what they say one element and one bank at a time.
#include "bitloom/lib/layout/Exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <random>
#include <set>

using namespace bitloom;
using Vector = LinearLayout::Vector;

namespace {

using Rng = std::mt19937;

int below(Rng &rng, int bound) { return int(rng() % unsigned(bound)); }

// A tile of 2^bits elements in threads of so many warps, each element somewhere: its bits go to those of register, lane
// and warp in any order, the others are replicas. Or, mixed, sums of bits do. `warpsFirst`: the tile's highest bits are
// the warps'.
LinearLayout randomTile(Rng &rng, int bits, int warpBits, bool isMixed, bool warpsFirst = false) {
  const int rows = below(rng, bits + 1), spread = std::max(0, bits - (warpsFirst ? warpBits : 0));
  std::vector<int32_t> flat;
  for (int bit = 0; bit < spread; ++bit)
    flat.push_back(1 << bit);
  std::shuffle(flat.begin(), flat.end(), rng);
  const int inThread = warpsFirst ? 5 : 5 + warpBits, registers = std::max(0, spread - inThread) + below(rng, 3);
  flat.resize(size_t(std::max(registers + inThread, spread)), 0);
  std::shuffle(flat.begin(), flat.end(), rng);
  if (isMixed)
    for (int step = 0; step < 2 * bits; ++step) { // keeps the span
      int to = below(rng, int(flat.size())), other = below(rng, int(flat.size()));
      if (to != other)
        flat[size_t(to)] ^= flat[size_t(other)];
    }
  std::vector<LinearLayout::InDim> ins = {{"register", {}}, {"lane", {}}, {"warp", {}}};
  for (size_t i = 0; i < flat.size(); ++i)
    ins[i < 5 ? 1 : i < size_t(inThread) ? 2 : 0].bases.push_back({flat[i]});
  if (warpsFirst)
    for (int bit = 0; bit < warpBits; ++bit)
      ins[2].bases.push_back({spread + bit < bits ? 1 << (spread + bit) : 0});
  return LinearLayout(ins, LinearLayout::axes({1 << bits})).reshapeOuts({1 << rows, 1 << (bits - rows)});
}

// The wavefronts of the worst warp, access by access: for each run of neighbours that a thread has, what the lanes of a
// phase want of each bank.
int64_t wavefronts(const LinearLayout &tile, const LinearLayout &order, int64_t bytes, int32_t vector, bool &isWhole) {
  const LinearLayout places = tile.compose(order.invert());
  const int phases = std::max(1, int(vector * bytes / 4)), lanes = 32 / phases;
  int64_t worst = 0;
  for (int warp = 0; warp < tile.inSize("warp"); ++warp) {
    int64_t count = 0;
    std::vector<std::map<int32_t, int>> runs(32);     // of each lane: first offsets, and the elements it has from there
    std::map<int32_t, std::vector<int32_t>> accesses; // by lane 0's: those of all lanes
    for (int r = 0; r < tile.inSize("register"); ++r) {
      std::vector<int32_t> at;
      for (int lane = 0; lane < 32; ++lane)
        at.push_back(places.apply({{"register", r}, {"lane", lane}, {"warp", warp}})[0] / vector * vector);
      accesses[at[0]] = at;
      std::set<int32_t> inRun;
      for (int other = 0; other < tile.inSize("register"); ++other)
        if (int32_t o = places.apply({{"register", other}, {"lane", 31}, {"warp", warp}})[0];
            o / vector * vector == at[31])
          inRun.insert(o);
      isWhole &= int32_t(inRun.size()) == vector;
    }
    for (auto &[first, at] : accesses)
      for (int phase = 0; phase < phases; ++phase) {
        std::map<int64_t, std::set<int64_t>> words; // of each bank
        size_t most = 0;
        for (int lane = phase * lanes; lane < (phase + 1) * lanes; ++lane)
          for (int64_t word = at[size_t(lane)] * bytes / 4; word * 4 < (at[size_t(lane)] + vector) * bytes; ++word) {
            words[word % 32].insert(word);
            most = std::max(most, words[word % 32].size());
          }
        count += int64_t(most);
      }
    worst = std::max(worst, count);
  }
  return worst;
}

// Everything that these inputs reach.
std::set<int64_t> imagesOf(const LinearLayout &layout, const std::vector<std::string> &ins) {
  std::set<int64_t> images = {0};
  for (const std::string &in : ins)
    for (int bit = 0; bit < layout.inBits(in); ++bit) {
      const Vector basis = layout.basis(in, bit);
      const int64_t flat = int64_t(basis[0]) * layout.outs()[1].size + basis[1];
      for (int64_t image : std::set(images))
        images.insert(image ^ flat);
    }
  return images;
}

} // namespace

TEST(Exchange, CountsWavefronts) {
  Rng rng(1);
  for (int trial = 0; trial < 300; ++trial) {
    const int bits = 5 + below(rng, 6);
    const int64_t bytes = 1 << below(rng, 4);
    LinearLayout tile = randomTile(rng, bits, below(rng, 3), trial % 2);
    LinearLayout order = randomTile(rng, bits, 0, trial % 3 == 0); // of so many offsets, in any order
    std::vector<Vector> offsets;
    for (const char *in : {"register", "lane"})
      for (int bit = 0; bit < order.inBits(in); ++bit)
        if (!(order.freeBits(in) >> bit & 1))
          offsets.push_back(order.basis(in, bit));
    order = LinearLayout({{"offset", offsets}}, order.outs());
    order = order.reshapeOuts(tile.outs());
    bool isWhole = true;
    const SharedAccess access = sharedAccess(tile, order, bytes);
    EXPECT_EQ(access.wavefronts, wavefronts(tile, order, bytes, access.vector, isWhole))
        << tile.toString() << " in " << order.toString() << ", " << bytes << " bytes";
    EXPECT_TRUE(isWhole) << "an access moves registers of its thread";
    EXPECT_LE(access.vector * bytes, 16);
  }
}

// No conflict on either side, and no more wavefronts than with the widest vectors that both sides have in registers and
// no thread permutes.
TEST(Exchange, SwizzlesWithoutConflicts) {
  Rng rng(2);
  std::map<int, int> vectors;
  for (int trial = 0; trial < 500; ++trial) {
    const int bits = 1 + below(rng, 11), warpBits = below(rng, 4);
    const int64_t bytes = 1 << below(rng, 4);
    LinearLayout from = randomTile(rng, bits, warpBits, trial % 2);
    LinearLayout to = randomTile(rng, bits, warpBits, trial % 3 == 0).reshapeOuts(from.outs());
    const LinearLayout order = swizzledOrder(from, to, bytes);
    const std::string what =
        from.toString() + " to " + to.toString() + ", " + std::to_string(bytes) + " bytes, through " + order.toString();
    ASSERT_TRUE(order.isInvertible()) << what;
    ASSERT_EQ(order.outs(), from.outs());

    std::set<int64_t> threads = imagesOf(from, {"lane", "warp"}), registers = imagesOf(to, {"register"}), all;
    for (int64_t a : threads)
      for (int64_t b : imagesOf(to, {"lane", "warp"}))
        all.insert(a ^ b);
    int64_t both = 0, permuted = 0;
    for (int64_t image : imagesOf(from, {"register"}))
      both += registers.contains(image), permuted += registers.contains(image) && all.contains(image);
    const int64_t widest = std::min(both / permuted, 16 / bytes);
    int64_t total = 0, most = 0;
    for (const LinearLayout *side : {&from, &to}) {
      const SharedAccess access = sharedAccess(*side, order, bytes);
      EXPECT_EQ(access.wavefronts, access.least) << what;
      EXPECT_LE(access.vector * bytes, 16);
      ++vectors[access.vector];
      total += access.wavefronts;
      most += int64_t(imagesOf(*side, {"register"}).size()) / widest * std::max<int64_t>(1, widest * bytes / 4);
    }
    EXPECT_LE(total, most) << what;
  }
  for (int vector : {1, 2, 4, 8, 16})
    EXPECT_GT(vectors[vector], 2) << "of " << vector;
}

// A tile written by rows and read by columns, and a part of it that threads read more than once.
TEST(Exchange, SwizzlesTransposes) {
  for (int64_t bytes : {1, 2, 4, 8}) {
    const LinearLayout rows = LinearLayout::blocked({64, 64}, int32_t(16 / bytes), 4);
    const LinearLayout columns = rows.transposeOuts({1, 0}).numberOuts();
    const LinearLayout order = swizzledOrder(rows, columns, bytes);
    for (const LinearLayout &side : {rows, columns}) {
      const SharedAccess access = sharedAccess(side, order, bytes);
      EXPECT_EQ(access.wavefronts, access.least);
      EXPECT_LE(access.wavefronts, 64 * 64 / 4 * std::max<int64_t>(bytes, 4) / 128) << "a wavefront for 32 words";
    }
    const LinearLayout plain(
        {{"offset",
          {{0, 1}, {0, 2}, {0, 4}, {0, 8}, {0, 16}, {0, 32}, {1, 0}, {2, 0}, {4, 0}, {8, 0}, {16, 0}, {32, 0}}}},
        rows.outs());
    EXPECT_GT(sharedAccess(columns, plain, bytes).wavefronts, 4 * sharedAccess(columns, order, bytes).wavefronts);
  }
}

// What a plan says, carried out: every register of every thread gets the element that its layout names.
TEST(Exchange, Shuffles) {
  Rng rng(3);
  int packed = 0, arranged = 0, own = 0, impossible = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const int bits = 1 + below(rng, 10), warpBits = below(rng, 3);
    const int64_t bytes = 1 << below(rng, 4);
    LinearLayout from = randomTile(rng, bits, warpBits, trial % 2, true);
    LinearLayout to = randomTile(rng, bits, warpBits, trial % 3 == 0, true).reshapeOuts(from.outs());
    if (trial % 5 == 0) // the same lanes, other registers
      to = from;
    if (trial % 5 == 0)
      to = to * LinearLayout::zeros1D(2, "register", "dim0");
    const LinearLayout places = to.invertAndCompose(from);
    Vector start(3, 0); // register, lane, warp
    if (trial % 4 == 0)
      start = {below(rng, from.inSize("register")), below(rng, 32), 0};
    const std::optional<ShufflePlan> plan = planShuffles(places, start, bytes);
    if (!plan) { // lanes of the source that hold replicas cannot send different words
      ++impossible;
      EXPECT_FALSE(from.isInjective()) << from.toString() << " to " << to.toString();
      continue;
    }
    int32_t packedResult = 0;
    for (auto [of, at] : plan->packed)
      packedResult |= 1 << of;
    packed += !plan->packed.empty(), arranged += plan->before.size() && plan->after.size(),
        own += plan->shuffles() == 0;
    auto flip = [](const std::vector<Selection> &selections, int lane, int warp) {
      int32_t all = 0;
      for (const Selection &one : selections)
        if ((std::popcount(uint32_t(lane & one.lanes)) + std::popcount(uint32_t(warp & one.warps))) % 2)
          all ^= one.flip;
      return all;
    };
    std::set<std::pair<Vector, bool>> shuffled; // rounds, and whether they move anything
    for (int warp = 0; warp < 1 << warpBits; ++warp)
      for (int lane = 0; lane < 32; ++lane)
        for (int r = 0; r < to.inSize("register"); ++r) {
          const int round = (r & ~packedResult) ^ flip(plan->after, lane, warp);
          const Vector thread = plan->places.apply({{"register", round}, {"lane", lane}, {"warp", warp}});
          const Vector sent = plan->places.apply({{"register", round}});
          const int sender = thread[1] ^ plan->start[1];
          if (plan->isXor)
            ASSERT_EQ(sender, lane ^ sent[1] ^ plan->start[1]);
          shuffled.insert({sent, sender != lane});
          int source = sent[0] ^ plan->start[0] ^ flip(plan->before, sender, warp);
          for (auto [of, at] : plan->packed)
            source |= (r >> of & 1) << at;
          Vector wanted = places.apply({{"register", r}, {"lane", lane}, {"warp", warp}});
          for (size_t out = 0; out < wanted.size(); ++out)
            wanted[out] ^= start[out];
          ASSERT_EQ(from.apply({{"register", source}, {"lane", sender}, {"warp", warp}}), from.apply(wanted))
              << from.toString() << " to " << to.toString() << ", register " << r << " of lane " << lane;
        }
    const auto moving = std::ranges::count_if(shuffled, [](const auto &round) { return round.second; });
    EXPECT_LE(moving, plan->shuffles());
    if (plan->isXor)
      EXPECT_EQ(moving, plan->shuffles());
  }
  EXPECT_GT(packed, 300);
  EXPECT_GT(arranged, 200);
  EXPECT_GT(own, 50);
  EXPECT_GT(impossible, 0);
}

TEST(Exchange, ShufflesNothingBetweenWarps) {
  const LinearLayout rows = LinearLayout::blocked({64, 64}, 4, 4);
  const LinearLayout columns = rows.transposeOuts({1, 0}).numberOuts();
  EXPECT_FALSE(planShuffles(columns.invertAndCompose(rows), {0, 0, 0}, 4));
  EXPECT_TRUE(planShuffles(rows.invertAndCompose(rows), {1, 3, 0}, 4)) << "register, lane, warp";
  EXPECT_FALSE(planShuffles(rows.invertAndCompose(rows), {0, 0, 1}, 4));
}

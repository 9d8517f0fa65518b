#include "bitloom/lib/layout/Exchange.h"

#include "bitloom/lib/layout/Elimination.h"

#include <algorithm>
#include <bit>
#include <tuple>

namespace bitloom {
namespace {

constexpr const char *reg = "register", *lane = "lane", *warp = "warp";
constexpr int laneBits = 5, wordBytes = 4, lineBytes = 32 * wordBytes, mostBytes = 16; // of an access

int log2Of(int64_t value) { return std::countr_zero(uint64_t(value)); }

using Vectors = std::vector<uint64_t>;

// A subspace, by the vectors that span it.
class Span {
public:
  // Whether it does not lie in it yet.
  bool add(uint64_t vector) {
    for (uint64_t row : rows)
      if (vector & std::bit_floor(row))
        vector ^= row;
    if (vector)
      rows.push_back(vector);
    return vector != 0;
  }
  // Those of the vectors that were new, in their order.
  Vectors add(const Vectors &vectors) {
    Vectors added;
    std::ranges::copy_if(vectors, std::back_inserter(added), [&](uint64_t vector) { return add(vector); });
    return added;
  }
  int rank() const { return int(rows.size()); }

private:
  Vectors rows;
};

int rankOf(const Vectors &vectors) {
  Span span;
  span.add(vectors);
  return span.rank();
}

// A basis of what both sets span, by Zassenhaus: with a beside each a, and 0 beside each b, a sum of both that is 0 has
// beside it the part that a's make, which is one that b's make too.
Vectors intersection(const Vectors &a, const Vectors &b) {
  std::vector<std::pair<uint64_t, uint64_t>> rows;
  Vectors both;
  auto insert = [&](uint64_t vector, uint64_t beside) {
    for (auto [row, its] : rows)
      if (vector & std::bit_floor(row))
        vector ^= row, beside ^= its;
    if (vector)
      rows.push_back({vector, beside});
    else if (beside)
      both.push_back(beside);
  };
  for (uint64_t vector : a)
    insert(vector, vector);
  for (uint64_t vector : b)
    insert(vector, 0);
  return both;
}

// The sum of those of the vectors that the bits of `which` name.
uint64_t sumOf(const Vectors &vectors, uint64_t which) {
  uint64_t sum = 0;
  for (; which; which &= which - 1)
    sum ^= vectors[size_t(std::countr_zero(which))];
  return sum;
}

Vectors units(int bits) {
  Vectors vectors;
  for (int bit = 0; bit < bits; ++bit)
    vectors.push_back(uint64_t{1} << bit);
  return vectors;
}

Vectors joined(Vectors a, const Vectors &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The images of an input's bits, in row-major order of the tile.
struct Images {
  Vectors registers, lanes, warps;
  explicit Images(const LinearLayout &layout) {
    const LinearLayout flat = layout.reshapeOuts(std::vector{int32_t{1} << layout.totalOutBits()});
    for (auto [dim, images] : {std::pair(reg, &registers), std::pair(lane, &lanes), std::pair(warp, &warps)})
      for (int bit = 0; bit < flat.inBits(dim); ++bit)
        images->push_back(uint64_t(flat.basis(dim, bit)[0]));
  }
};

// Of the lanes' bits, those of the lanes that one wavefront serves.
Vectors served(const Vectors &lanes, int64_t bytes) {
  const int bits = laneBits - log2Of(std::max<int64_t>(bytes / wordBytes, 1));
  return Vectors(lanes.begin(), lanes.begin() + bits);
}

} // namespace

//===- Through shared memory --------------------------------------------------------------------------------------===//

// By linearity, the lanes that want something of one bank are as many at each bank that is wanted at all: the words
// that the lanes reach make a subspace, the banks of these another, and the map between them is linear.
SharedAccess sharedAccess(const LinearLayout &tile, const LinearLayout &order, int64_t elementBytes) {
  const Images places(tile.compose(order.invert()));
  const Vectors threads = joined(places.lanes, places.warps);
  Span registers;
  registers.add(places.registers);
  int run = 0;
  for (; run < log2Of(mostBytes / elementBytes); ++run) {
    const uint64_t bit = uint64_t{1} << run;
    if (Span(registers).add(bit) || std::ranges::any_of(threads, [&](uint64_t image) { return image & bit; }))
      break;
  }
  const int64_t bytes = elementBytes << run;
  Vectors words, banks;
  for (uint64_t image : served(places.lanes, bytes)) {
    words.push_back(image * uint64_t(elementBytes) / uint64_t(std::max<int64_t>(bytes, wordBytes)));
    banks.push_back(image * uint64_t(elementBytes) % lineBytes / uint64_t(std::max<int64_t>(bytes, wordBytes)));
  }
  SharedAccess access;
  access.vector = int32_t{1} << run;
  access.instructions = int64_t{1} << (registers.rank() - run);
  access.least = access.instructions * std::max<int64_t>(bytes / wordBytes, 1);
  access.wavefronts = access.least << (rankOf(words) - rankOf(banks));
  return access;
}

namespace {

// The tile's bits are a space over GF(2), an order a basis of it, from the offset's lowest bit on: V, the vector; the
// rest of the line of all banks; I, which line.
//
// A side moves vectors where V consists of its registers, and no thread's place permutes V: then V meets the span of
// what its threads add only in 0. There is a complement of V that has all of that in it; I and the line are chosen in
// this complement.
//
// Lanes meet at a bank if a sum of their images lies in I, or within a word. With E and F the images of the lanes that
// a wavefront serves on the two sides, together with a vector or a word there, so neither side has conflicts if I meets
// E and F in 0 alone. In the complement, let e be a basis of E modulo F, f one of F modulo E, and D a basis of the
// space modulo E + F: then the vectors e_k + f_k and D span such an I. (A sum of them in E has no part in D, and no f_k
// either, since these are independent modulo E; so it is 0. And likewise for F.) So do fewer of them, which leaves the
// others to fill the line: where V is smaller than a word, the first of these tell the elements of a word apart, and
// best are those that a register of a side decides.
//
// If both sides move V, then E and F are as large as the rest of a line, or smaller, and that always works. If one
// does, it does if the other's lanes reach all of V.
struct Sides {
  Images writer, reader;
  int bits;
  int64_t elementBytes;
  Vectors threads() const { return joined(joined(writer.lanes, writer.warps), joined(reader.lanes, reader.warps)); }
};

Vectors orderWith(const Sides &sides, const Vectors &vector, bool writes, bool reads) {
  const int run = int(vector.size());
  Vectors basis = vector; // then its complement
  Span all;
  all.add(basis);
  for (const Images *side : {writes ? &sides.writer : &sides.reader, reads ? &sides.reader : &sides.writer})
    basis = joined(basis, all.add(joined(side->lanes, side->warps)));
  basis = joined(basis, all.add(units(sides.bits)));
  const Vectors complement(basis.begin() + run, basis.end());
  const Elimination coordinates(basis);
  auto inComplement = [&](const Vectors &vectors) { // without what they have of V
    Vectors projected;
    for (uint64_t image : vectors)
      projected.push_back(*coordinates.preimage(image) >> run);
    return projected;
  };
  auto reached = [&](const Images &side, bool moves) {
    const Vectors lanes = served(side.lanes, moves ? sides.elementBytes << run : sides.elementBytes);
    if (moves)
      return inComplement(lanes);
    const size_t word = std::min(size_t(run), size_t(log2Of(std::max<int64_t>(wordBytes / sides.elementBytes, 1))));
    return inComplement(intersection(joined(lanes, Vectors(vector.begin(), vector.begin() + long(word))), complement));
  };
  const Vectors e = reached(sides.writer, writes), f = reached(sides.reader, reads);
  Span ofE, both;
  ofE.add(e);
  Vectors line = both.add(f), ownF = ofE.add(f), ownE = both.add(e), lines;
  for (size_t k = 0; k < ownE.size(); ++k)
    if (k < ownF.size())
      lines.push_back(ownE[k] ^ ownF[k]);
    else
      line.push_back(ownE[k]);
  const Vectors ofThreads = both.add(inComplement(sides.threads())); // first, so that the others hold for all threads
  const Vectors ofRegisters = both.add(inComplement(joined(sides.reader.registers, sides.writer.registers)));
  lines = joined(joined(ofRegisters, both.add(units(sides.bits - run))), joined(ofThreads, lines));
  const size_t room = size_t(std::max(0, log2Of(lineBytes / sides.elementBytes) - run));
  const size_t filled = std::min(room - std::min(room, line.size()), lines.size());
  line.insert(line.begin(), lines.begin(), lines.begin() + long(filled));
  lines.erase(lines.begin(), lines.begin() + long(filled));

  Vectors order = vector;
  for (uint64_t image : joined(line, lines))
    order.push_back(sumOf(complement, image));
  return order;
}

} // namespace

LinearLayout swizzledOrder(const LinearLayout &from, const LinearLayout &to, int64_t elementBytes) {
  const Sides sides{Images(from), Images(to), from.totalOutBits(), elementBytes};
  const size_t most = size_t(log2Of(mostBytes / elementBytes));
  Vectors common = intersection(sides.writer.registers, sides.reader.registers);
  std::ranges::sort(common);
  // Of these, as many as a vector has, that the threads do not permute.
  auto vectorOf = [&](Vectors vectors, const Vectors &threads) {
    Span span;
    span.add(threads);
    vectors = span.add(vectors);
    vectors.resize(std::min(vectors.size(), most));
    return vectors;
  };
  auto layoutOf = [&](const Vectors &order) {
    std::vector<LinearLayout::Vector> offsets;
    for (uint64_t image : order)
      offsets.push_back({int32_t(image)});
    return LinearLayout({{"offset", offsets}}, LinearLayout::axes({int32_t{1} << sides.bits})).reshapeOuts(from.outs());
  };
  const Vectors ofBoth = vectorOf(common, sides.threads());
  LinearLayout best = layoutOf(orderWith(sides, ofBoth, true, true));
  auto costOf = [&](const LinearLayout &order) { // none where lanes meet
    const SharedAccess write = sharedAccess(from, order, elementBytes), read = sharedAccess(to, order, elementBytes);
    return std::tuple(write.wavefronts > write.least || read.wavefronts > read.least,
                      write.wavefronts + read.wavefronts, write.instructions + read.instructions);
  };
  for (bool writes : {false, true}) {
    const Images &side = writes ? sides.writer : sides.reader, &other = writes ? sides.reader : sides.writer;
    const Vectors reached = intersection(side.registers, other.lanes);
    const Vectors vector = vectorOf(joined(ofBoth, joined(reached, side.registers)), joined(side.lanes, side.warps));
    for (size_t size = ofBoth.size() + 1; size <= vector.size(); ++size) {
      const Vectors part(vector.begin(), vector.begin() + long(size));
      if (LinearLayout order = layoutOf(orderWith(sides, part, writes, !writes)); costOf(order) < costOf(best))
        best = order;
    }
  }
  return best;
}

//===- Within warps -----------------------------------------------------------------------------------------------===//

namespace {

// What of a map from the bits of lane and warp to an index its values add to that, a selection for each independent
// one.
std::vector<Selection> selectionsOf(const Vectors &flips) {
  const Elimination elimination(flips);
  std::vector<Selection> selections;
  for (size_t bit = 0; bit < flips.size(); ++bit) {
    if (elimination.freeBits() >> bit & 1)
      continue;
    uint64_t threads = 0;
    for (size_t other = 0; other < flips.size(); ++other)
      threads |= (*elimination.preimage(flips[other]) >> bit & 1) << other;
    selections.push_back({int32_t(flips[bit]), int32_t(threads & ((1 << laneBits) - 1)), int32_t(threads >> laneBits)});
  }
  return selections;
}

// The inputs that a map takes to 0, as a basis: a sum of bits each.
Vectors kernelOf(const Vectors &images) {
  const Elimination elimination(images);
  Vectors kernel;
  for (size_t bit = 0; bit < images.size(); ++bit)
    if (elimination.freeBits() >> bit & 1)
      kernel.push_back(uint64_t{1} << bit ^ *elimination.preimage(images[bit]));
  return kernel;
}

} // namespace

// Register r of lane l wants register R(r) + S(l) of lane L(r) + M(l), all of them linear. One shuffle serves one
// register of each lane, and each lane gives it one word. If lanes that want different registers name the same lane,
// because M maps something to 0 that S does not, they must ask in other rounds: in round k, lane l asks for its
// register k + A(l), where A takes such a difference x to a register with L(A(x)) beyond what M and the others reach.
// So what lane l asks for in round k is register R(k) + P(l), P = S + RA, of lane L(k) + N(l), N = M + LA, and N maps
// to 0 only what P does. Then a lane m knows the word to give: m = L(k) + N(l), so P(l) = X(m + L(k)) for an X with XN
// = P. What depends on the warp alone is added to either.
std::optional<ShufflePlan> planShuffles(const LinearLayout &places, const LinearLayout::Vector &start,
                                        int64_t elementBytes) {
  auto outNamed = [&](const char *name) {
    return size_t(std::ranges::find(places.outs(), name, &LinearLayout::OutDim::name) - places.outs().begin());
  };
  const size_t regOut = outNamed(reg), laneOut = outNamed(lane), warpOut = outNamed(warp);
  auto images = [&](const char *in, size_t out) {
    Vectors all;
    for (int bit = 0; bit < places.inBits(in); ++bit)
      all.push_back(uint64_t(places.basis(in, bit)[out]));
    return all;
  };
  auto isZero = [](const Vectors &vectors) { return std::ranges::all_of(vectors, [](uint64_t v) { return v == 0; }); };
  if (start[warpOut] || !isZero(images(reg, warpOut)) || !isZero(images(lane, warpOut)) ||
      images(warp, warpOut) != units(places.inBits(warp)))
    return std::nullopt;
  Vectors r = images(reg, regOut), s = images(lane, regOut), ofWarp = images(warp, regOut);
  const Vectors l = images(reg, laneOut), m = images(lane, laneOut), laneOfWarp = images(warp, laneOut);

  ShufflePlan plan;
  uint64_t packedResult = 0, packedSource = 0;
  auto decidesAlone = [&](size_t bit) { // of the result's register, which of the source's holds the element
    int users = start[regOut] & int32_t(r[bit]) ? 1 : 0;
    for (const Vectors *vectors : {&r, &s, &ofWarp})
      users += int(std::ranges::count_if(*vectors, [&](uint64_t image) { return (image & r[bit]) != 0; }));
    return l[bit] == 0 && std::has_single_bit(r[bit]) && users == 1;
  };
  for (size_t bit = 0; bit < r.size() && elementBytes << plan.packed.size() < wordBytes; ++bit)
    if (decidesAlone(bit)) {
      plan.packed.push_back({int(bit), log2Of(int64_t(r[bit]))});
      packedResult |= uint64_t{1} << bit;
      packedSource |= r[bit];
    }
  for (uint64_t &image : r)
    image &= ~packedSource;

  Span reached;
  reached.add(m);
  Vectors differences, replicas; // bases of what M maps to 0, and S not; and of what both do
  {
    const Vectors kernel = kernelOf(m);
    Vectors wanted;
    for (uint64_t difference : kernel)
      wanted.push_back(sumOf(s, difference));
    Span distinct;
    for (size_t k = 0; k < kernel.size(); ++k)
      if (distinct.add(wanted[k]))
        differences.push_back(kernel[k]);
    for (uint64_t which : kernelOf(wanted))
      replicas.push_back(sumOf(kernel, which));
  }
  Vectors asked; // a register for each difference
  for (size_t bit = 0; bit < r.size() && asked.size() < differences.size(); ++bit)
    if (!(packedResult >> bit & 1) && reached.add(l[bit]))
      asked.push_back(uint64_t{1} << bit);
  if (asked.size() < differences.size())
    return std::nullopt;
  Span lanes;
  Vectors basis = joined(lanes.add(differences), lanes.add(replicas));
  basis = joined(basis, lanes.add(units(laneBits)));
  const Elimination coordinates(basis);
  Vectors a, n, p;
  for (int bit = 0; bit < laneBits; ++bit) {
    const uint64_t parts = *coordinates.preimage(uint64_t{1} << bit) & ((uint64_t{1} << differences.size()) - 1);
    a.push_back(sumOf(asked, parts));
    n.push_back(m[size_t(bit)] ^ sumOf(l, a.back()));
    p.push_back(s[size_t(bit)] ^ sumOf(r, a.back()));
  }
  const Elimination inverse(joined(n, units(laneBits)));
  auto x = [&](uint64_t given) { return sumOf(p, *inverse.preimage(given) & ((1 << laneBits) - 1)); };

  Vectors given;
  for (uint64_t bit : units(laneBits))
    given.push_back(x(bit));
  for (size_t bit = 0; bit < ofWarp.size(); ++bit)
    given.push_back(ofWarp[bit] ^ x(laneOfWarp[bit]));
  plan.before = selectionsOf(given);
  plan.after = selectionsOf(a);

  std::vector<LinearLayout::InDim> ins = {{reg, {}}, {lane, {}}, {warp, {}}};
  for (size_t bit = 0; bit < r.size(); ++bit)
    ins[0].bases.push_back(packedResult >> bit & 1
                               ? LinearLayout::Vector{0, 0}
                               : LinearLayout::Vector{int32_t(r[bit] ^ x(l[bit])), int32_t(l[bit])});
  for (uint64_t image : n)
    ins[1].bases.push_back({0, int32_t(image)});
  for (uint64_t image : laneOfWarp)
    ins[2].bases.push_back({0, int32_t(image)});
  plan.places = LinearLayout(ins, {places.outs()[regOut], places.outs()[laneOut]});
  const uint64_t startLane = uint64_t(start[laneOut]);
  plan.start = {int32_t(uint64_t(start[regOut]) ^ x(startLane)), int32_t(startLane)};
  plan.isXor = isZero(laneOfWarp) && n == units(laneBits);
  return plan;
}

// The rounds that differ.
static int64_t roundsOf(const LinearLayout &places) {
  return int64_t{1} << (places.inBits(reg) - std::popcount(uint32_t(places.freeBits(reg))));
}

int64_t ShufflePlan::shuffles() const {
  const int64_t rounds = roundsOf(places);
  if (!isXor)
    return rounds;
  Vectors lanes;
  for (int bit = 0; bit < places.inBits(reg); ++bit)
    lanes.push_back(uint64_t(places.basis(reg, bit)[1]));
  Span reached;
  reached.add(lanes);
  const int64_t own = rounds >> reached.rank();
  return reached.add(uint64_t(start[1])) ? rounds : rounds - own;
}

int64_t ShufflePlan::selects() const { return int64_t(before.size() + after.size()) * roundsOf(places); }

} // namespace bitloom

#include "bitloom/lib/layout/LinearLayout.h"

#include "bitloom/lib/layout/Elimination.h"
#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <bit>
#include <cctype>

namespace bitloom {
namespace {

constexpr int maxBits = 63;
constexpr int32_t maxSize = int32_t{1} << 30;

bool isPowerOfTwo(int64_t value) { return value > 0 && std::has_single_bit(static_cast<uint64_t>(value)); }
int log2Exact(int32_t size) { return std::countr_zero(static_cast<uint32_t>(size)); }

[[noreturn]] void fail(const std::string &message) { throw InternalError("linear layout: " + message); }

void require(bool condition, const std::string &message) {
  if (!condition)
    fail(message);
}

bool isIdentifier(std::string_view name) {
  auto isLetter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; };
  auto isRest = [&](char c) { return isLetter(c) || std::isdigit(static_cast<unsigned char>(c)); };
  return !name.empty() && isLetter(name[0]) && std::all_of(name.begin(), name.end(), isRest);
}

template <typename Dims> std::string namesOf(const Dims &dims) {
  std::string text = "{";
  for (const auto &dim : dims)
    text += (text.size() > 1 ? "," : "") + dim.name;
  return text + "}";
}

template <typename Dims> std::optional<size_t> find(const Dims &dims, std::string_view name) {
  for (size_t i = 0; i < dims.size(); ++i)
    if (dims[i].name == name)
      return i;
  return std::nullopt;
}

template <typename Dims> std::optional<std::string> badNames(const Dims &dims) {
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!isIdentifier(dims[i].name))
      return "expected an identifier as dim name, got '" + dims[i].name + "'";
    if (*find(dims, dims[i].name) != i)
      return "expected distinct dim names, got '" + dims[i].name + "' twice";
  }
  return std::nullopt;
}

std::string join(const std::vector<int32_t> &values, const char *separator) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i)
    text += (i ? separator : "") + std::to_string(values[i]);
  return text;
}

// --- Flat views: an image as one integer, last output dim lowest; an input as one integer, first input dim lowest. ---

uint64_t flatten(const LinearLayout::Vector &coordinates, const std::vector<LinearLayout::OutDim> &outs) {
  uint64_t flat = 0;
  for (size_t d = 0; d < outs.size(); ++d)
    flat = flat << log2Exact(outs[d].size) | static_cast<uint64_t>(coordinates[d]);
  return flat;
}

LinearLayout::Vector unflatten(uint64_t flat, const std::vector<LinearLayout::OutDim> &outs) {
  LinearLayout::Vector coordinates(outs.size());
  for (size_t d = outs.size(); d-- > 0;) {
    coordinates[d] = static_cast<int32_t>(flat & static_cast<uint64_t>(outs[d].size - 1));
    flat >>= log2Exact(outs[d].size);
  }
  return coordinates;
}

std::vector<uint64_t> columnsOf(const LinearLayout &layout) {
  std::vector<uint64_t> columns;
  for (const auto &in : layout.ins())
    for (const auto &basis : in.bases)
      columns.push_back(flatten(basis, layout.outs()));
  return columns;
}

LinearLayout::Vector splitInput(uint64_t flat, const std::vector<LinearLayout::InDim> &ins) {
  LinearLayout::Vector indices;
  for (const auto &in : ins) {
    indices.push_back(static_cast<int32_t>(flat & ((uint64_t{1} << in.bases.size()) - 1)));
    flat >>= in.bases.size();
  }
  return indices;
}

} // namespace

std::optional<std::string> LinearLayout::defect(const std::vector<InDim> &ins, const std::vector<OutDim> &outs) {
  if (auto bad = badNames(ins))
    return bad;
  if (auto bad = badNames(outs))
    return bad;
  int outBits = 0;
  for (const auto &out : outs) {
    if (!isPowerOfTwo(out.size) || out.size > maxSize)
      return "expected a power of two in [1, 2^30] as size of " + out.name + ", got " + std::to_string(out.size);
    outBits += log2Exact(out.size);
  }
  size_t inBits = 0;
  for (const auto &in : ins) {
    inBits += in.bases.size();
    if (in.bases.size() > 30)
      return "expected at most 30 bits in " + in.name + ", got " + std::to_string(in.bases.size());
    for (const auto &basis : in.bases) {
      if (basis.size() != outs.size())
        return "expected " + std::to_string(outs.size()) + " coordinates in each basis of " + in.name + ", got [" +
               join(basis, ",") + "]";
      for (size_t d = 0; d < outs.size(); ++d)
        if (basis[d] < 0 || basis[d] >= outs[d].size)
          return "expected coordinates in [0, " + std::to_string(outs[d].size) + ") along " + outs[d].name + ", got " +
                 std::to_string(basis[d]) + " in a basis of " + in.name;
    }
  }
  if (inBits > maxBits || outBits > maxBits)
    return "expected at most 63 input bits and 63 output bits, got more";
  return std::nullopt;
}

LinearLayout::LinearLayout(std::vector<InDim> ins, std::vector<OutDim> outs)
    : inDimList(std::move(ins)), outDimList(std::move(outs)) {
  if (auto bad = defect(inDimList, outDimList))
    fail(*bad);
}

LinearLayout LinearLayout::identity1D(int32_t size, std::string_view in, std::string_view out) {
  return strided1D(size, 1, in, out);
}

LinearLayout LinearLayout::strided1D(int32_t size, int32_t stride, std::string_view in, std::string_view out) {
  require(isPowerOfTwo(size) && isPowerOfTwo(stride) && int64_t{size} * stride <= maxSize,
          "expected powers of two with a product of at most 2^30 as size and stride, got " + std::to_string(size) +
              " and " + std::to_string(stride));
  InDim dim{std::string(in), {}};
  for (int32_t i = 1; i < size; i *= 2)
    dim.bases.push_back({i * stride});
  return LinearLayout({dim}, {{std::string(out), size * stride}});
}

LinearLayout LinearLayout::zeros1D(int32_t size, std::string_view in, std::string_view out, int32_t outSize) {
  require(isPowerOfTwo(size) && size <= maxSize, "expected a power of two as size, got " + std::to_string(size));
  std::vector<Vector> bases(static_cast<size_t>(log2Exact(size)), Vector{0});
  return LinearLayout({{std::string(in), bases}}, {{std::string(out), outSize}});
}

LinearLayout LinearLayout::blocked(const std::vector<int32_t> &shape, int32_t elementsPerThread, int32_t warps,
                                   int32_t lanes) {
  require(isPowerOfTwo(elementsPerThread) && isPowerOfTwo(warps) && isPowerOfTwo(lanes),
          "expected powers of two as elements per thread, warps and lanes, got " +
              join({elementsPerThread, warps, lanes}, ", "));
  std::vector<OutDim> outs = axes(shape);
  if (auto bad = defect({}, outs))
    fail(*bad);

  int total = 0;
  for (const auto &out : outs)
    total += log2Exact(out.size);
  int used = 0;
  auto take = [&](InDim &dim, int bits) {
    for (; bits > 0; --bits)
      dim.bases.push_back(used < total ? unflatten(uint64_t{1} << used++, outs) : Vector(outs.size(), 0));
  };
  InDim registers{"register", {}}, lane{"lane", {}}, warp{"warp", {}};
  take(registers, shape.empty() ? 0 : log2Exact(std::min(elementsPerThread, shape.back())));
  take(lane, log2Exact(lanes));
  take(warp, log2Exact(warps));
  take(registers, total - used);
  return LinearLayout({registers, lane, warp}, outs);
}

// --- Dims ---

std::vector<std::string> LinearLayout::inDims() const {
  std::vector<std::string> names;
  for (const auto &in : inDimList)
    names.push_back(in.name);
  return names;
}

std::vector<std::string> LinearLayout::outDims() const {
  std::vector<std::string> names;
  for (const auto &out : outDimList)
    names.push_back(out.name);
  return names;
}

bool LinearLayout::hasInDim(std::string_view dim) const { return find(inDimList, dim).has_value(); }
bool LinearLayout::hasOutDim(std::string_view dim) const { return find(outDimList, dim).has_value(); }

const LinearLayout::InDim &LinearLayout::inDim(std::string_view dim) const {
  auto index = find(inDimList, dim);
  if (!index)
    fail("expected an input dim of " + namesOf(inDimList) + ", got '" + std::string(dim) + "'");
  return inDimList[*index];
}

size_t LinearLayout::outIndex(std::string_view dim) const {
  auto index = find(outDimList, dim);
  if (!index)
    fail("expected an output dim of " + namesOf(outDimList) + ", got '" + std::string(dim) + "'");
  return *index;
}

int LinearLayout::inBits(std::string_view dim) const { return static_cast<int>(inDim(dim).bases.size()); }
int LinearLayout::outBits(std::string_view dim) const { return log2Exact(outSize(dim)); }
int32_t LinearLayout::inSize(std::string_view dim) const { return int32_t{1} << inBits(dim); }
int32_t LinearLayout::outSize(std::string_view dim) const { return outDimList[outIndex(dim)].size; }

LinearLayout::Vector LinearLayout::outShape() const {
  Vector shape;
  for (const auto &out : outDimList)
    shape.push_back(out.size);
  return shape;
}

int LinearLayout::totalInBits() const {
  size_t bits = 0;
  for (const auto &in : inDimList)
    bits += in.bases.size();
  return static_cast<int>(bits);
}

int LinearLayout::totalOutBits() const {
  int bits = 0;
  for (const auto &out : outDimList)
    bits += log2Exact(out.size);
  return bits;
}

const LinearLayout::Vector &LinearLayout::basis(std::string_view in, int bit) const {
  const InDim &dim = inDim(in);
  require(bit >= 0 && bit < static_cast<int>(dim.bases.size()), "expected a bit below " +
                                                                    std::to_string(dim.bases.size()) + " of " +
                                                                    dim.name + ", got " + std::to_string(bit));
  return dim.bases[static_cast<size_t>(bit)];
}

int32_t LinearLayout::basis(std::string_view in, int bit, std::string_view out) const {
  return basis(in, bit)[outIndex(out)];
}

// --- Evaluation ---

LinearLayout::Vector LinearLayout::apply(const Vector &indices) const {
  if (indices.size() != inDimList.size())
    fail("expected an index for each of " + namesOf(inDimList) + ", got " + std::to_string(indices.size()) +
         " indices");
  Vector result(outDimList.size(), 0);
  for (size_t i = 0; i < inDimList.size(); ++i) {
    const std::vector<Vector> &bases = inDimList[i].bases;
    auto index = static_cast<uint32_t>(indices[i]);
    if (uint64_t{index} >> bases.size() != 0)
      fail("expected an index in [0, " + std::to_string(int64_t{1} << bases.size()) + ") of " + inDimList[i].name +
           ", got " + std::to_string(indices[i]));
    for (; index != 0; index &= index - 1) {
      const Vector &basis = bases[static_cast<size_t>(std::countr_zero(index))];
      for (size_t d = 0; d < result.size(); ++d)
        result[d] ^= basis[d];
    }
  }
  return result;
}

LinearLayout::Vector LinearLayout::apply(const std::vector<std::pair<std::string_view, int32_t>> &indices) const {
  Vector ordered(inDimList.size(), 0);
  for (const auto &[name, index] : indices)
    ordered[static_cast<size_t>(&inDim(name) - inDimList.data())] = index;
  return apply(ordered);
}

// --- Algebra ---

LinearLayout LinearLayout::operator*(const LinearLayout &high) const {
  // Sizes of the stacked output dims; `high`'s coordinates move up by the bits of this layout's.
  std::vector<OutDim> outs = outDimList;
  std::vector<std::pair<size_t, int>> place; // of each output dim of `high`: its index in outs, its shift
  for (const auto &out : high.outDimList) {
    if (auto index = find(outDimList, out.name)) {
      int shift = log2Exact(outDimList[*index].size);
      require(shift + log2Exact(out.size) <= 30, "expected a product of at most 2^30 elements along " + out.name);
      outs[*index].size <<= log2Exact(out.size);
      place.emplace_back(*index, shift);
    } else {
      place.emplace_back(outs.size(), 0);
      outs.push_back(out);
    }
  }
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins)
    for (auto &basis : in.bases)
      basis.resize(outs.size(), 0);
  for (const auto &in : high.inDimList) {
    auto index = find(ins, in.name);
    if (!index) {
      index = ins.size();
      ins.push_back({in.name, {}});
    }
    for (const auto &basis : in.bases) {
      Vector lifted(outs.size(), 0);
      for (size_t d = 0; d < basis.size(); ++d)
        lifted[place[d].first] = basis[d] << place[d].second;
      ins[*index].bases.push_back(std::move(lifted));
    }
  }
  return LinearLayout(std::move(ins), std::move(outs));
}

LinearLayout LinearLayout::compose(const LinearLayout &next) const {
  require(outDimList.size() == next.inDimList.size(), "compose: expected the output dims " + namesOf(outDimList) +
                                                          " as input dims, got " + namesOf(next.inDimList));
  std::vector<size_t> position; // of each input dim of next among our output dims
  for (const auto &in : next.inDimList) {
    size_t index = outIndex(in.name);
    require(outDimList[index].size <= int32_t{1} << in.bases.size(),
            "compose: expected at most " + std::to_string(int32_t{1} << in.bases.size()) + " elements along " +
                in.name + ", got " + std::to_string(outDimList[index].size));
    position.push_back(index);
  }
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins)
    for (auto &basis : in.bases) {
      Vector indices;
      for (size_t index : position)
        indices.push_back(basis[index]);
      basis = next.apply(indices);
    }
  return LinearLayout(std::move(ins), next.outDimList);
}

LinearLayout LinearLayout::invert() const {
  require(isInvertible(), "invert: expected a bijection, got " + toString());
  return pseudoinvert();
}

LinearLayout LinearLayout::pseudoinvert() const {
  Elimination elimination(columnsOf(*this));
  require(elimination.rank() == totalOutBits(), "pseudoinvert: expected a surjective layout, got " + toString());
  std::vector<OutDim> outs;
  for (const auto &in : inDimList)
    outs.insert(outs.begin(), {in.name, int32_t{1} << in.bases.size()});
  std::vector<InDim> ins;
  int flatBit = 0;
  for (size_t d = outDimList.size(); d-- > 0;) {
    InDim in{outDimList[d].name, {}};
    for (int bit = 0; bit < log2Exact(outDimList[d].size); ++bit) {
      Vector indices = splitInput(*elimination.preimage(uint64_t{1} << flatBit++), inDimList);
      in.bases.emplace_back(indices.rbegin(), indices.rend());
    }
    ins.push_back(std::move(in));
  }
  return LinearLayout(std::move(ins), std::move(outs));
}

LinearLayout LinearLayout::invertAndCompose(const LinearLayout &source) const {
  require(outDimList.size() == source.outDimList.size(),
          "invertAndCompose: expected the output dims " + namesOf(source.outDimList) + ", got " + namesOf(outDimList));
  std::vector<size_t> position;
  for (const auto &out : source.outDimList)
    position.push_back(outIndex(out.name));
  std::vector<OutDim> outs;
  std::vector<int> firstBit; // of each input dim of source in its flat input
  int bits = 0;
  for (const auto &in : source.inDimList) {
    outs.push_back({in.name, int32_t{1} << in.bases.size()});
    firstBit.push_back(bits);
    bits += static_cast<int>(in.bases.size());
  }

  Elimination elimination(columnsOf(source));
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins) {
    auto same = find(source.inDimList, in.name);
    for (size_t bit = 0; bit < in.bases.size(); ++bit) {
      Vector wanted;
      std::optional<uint64_t> place;
      bool fits = true;
      for (size_t d = 0; d < position.size(); ++d) {
        wanted.push_back(in.bases[bit][position[d]]);
        fits = fits && wanted.back() < source.outDimList[d].size;
      }
      if (fits)
        place = elimination.preimage(flatten(wanted, source.outDimList));
      if (!place)
        fail("invertAndCompose: expected every image of " + toString() + " among those of " + source.toString());
      bool exists = same && bit < source.inDimList[*same].bases.size();
      uint64_t self = exists ? uint64_t{1} << (firstBit[*same] + static_cast<int>(bit)) : 0;
      in.bases[bit] = splitInput(self ^ elimination.smallest(*place ^ self), source.inDimList);
    }
  }
  return LinearLayout(std::move(ins), std::move(outs));
}

// --- Input dims ---

int32_t LinearLayout::freeBits(std::string_view dim) const {
  const InDim &wanted = inDim(dim);
  uint64_t mask = Elimination(columnsOf(*this)).freeBits();
  for (const auto &in : inDimList) {
    if (&in == &wanted)
      break;
    mask >>= in.bases.size();
  }
  return static_cast<int32_t>(mask & ((uint64_t{1} << wanted.bases.size()) - 1));
}

LinearLayout LinearLayout::removeBits(std::string_view dim, int32_t mask) const {
  LinearLayout result = *this;
  auto &bases = result.inDimList[static_cast<size_t>(&inDim(dim) - inDimList.data())].bases;
  std::vector<Vector> kept;
  for (size_t bit = 0; bit < bases.size(); ++bit)
    if (!(mask >> bit & 1))
      kept.push_back(bases[bit]);
  bases = std::move(kept);
  return result;
}

LinearLayout LinearLayout::removeZeroBases(std::string_view dim) const {
  const auto &bases = inDim(dim).bases;
  int32_t mask = 0;
  for (size_t bit = 0; bit < bases.size(); ++bit)
    if (std::all_of(bases[bit].begin(), bases[bit].end(), [](int32_t c) { return c == 0; }))
      mask |= int32_t{1} << bit;
  return removeBits(dim, mask);
}

LinearLayout LinearLayout::removeFreeBits(std::string_view dim) const { return removeBits(dim, freeBits(dim)); }

LinearLayout LinearLayout::sublayout(const std::vector<std::string> &inDims,
                                     const std::vector<std::string> &outDims) const {
  std::vector<bool> keepIn(inDimList.size()), keepOut(outDimList.size());
  for (const auto &name : inDims)
    keepIn[static_cast<size_t>(&inDim(name) - inDimList.data())] = true;
  for (const auto &name : outDims)
    keepOut[outIndex(name)] = true;
  std::vector<OutDim> outs;
  for (size_t d = 0; d < outDimList.size(); ++d)
    if (keepOut[d])
      outs.push_back(outDimList[d]);
  std::vector<InDim> ins;
  for (size_t i = 0; i < inDimList.size(); ++i) {
    if (!keepIn[i])
      continue;
    ins.push_back({inDimList[i].name, {}});
    for (const auto &basis : inDimList[i].bases) {
      Vector kept;
      for (size_t d = 0; d < outDimList.size(); ++d)
        if (keepOut[d])
          kept.push_back(basis[d]);
      ins.back().bases.push_back(std::move(kept));
    }
  }
  return LinearLayout(std::move(ins), std::move(outs));
}

// --- Output dims ---

LinearLayout LinearLayout::dropOutDim(std::string_view dim) const {
  std::vector<std::string> kept = outDims();
  kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(outIndex(dim)));
  return sublayout(inDims(), kept);
}

LinearLayout LinearLayout::addOutDim(std::string_view dim, int index, int32_t size) const {
  require(index >= 0 && index <= static_cast<int>(outDimList.size()),
          "expected a position in [0, " + std::to_string(outDimList.size()) + "], got " + std::to_string(index));
  std::vector<OutDim> outs = outDimList;
  outs.insert(outs.begin() + index, {std::string(dim), size});
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins)
    for (auto &basis : in.bases)
      basis.insert(basis.begin() + index, 0);
  return LinearLayout(std::move(ins), std::move(outs));
}

LinearLayout LinearLayout::renameOutDim(std::string_view from, std::string_view to) const {
  std::vector<OutDim> outs = outDimList;
  outs[outIndex(from)].name = to;
  return LinearLayout(inDimList, std::move(outs));
}

LinearLayout LinearLayout::numberOuts() const { return LinearLayout(inDimList, axes(outShape())); }

LinearLayout LinearLayout::transposeOuts(const std::vector<int> &order) const {
  std::vector<int> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  bool permutation = sorted.size() == outDimList.size();
  for (size_t i = 0; permutation && i < sorted.size(); ++i)
    permutation = sorted[i] == static_cast<int>(i);
  require(permutation, "transposeOuts: expected a permutation of " + std::to_string(outDimList.size()) +
                           " dims, got [" + join({order.begin(), order.end()}, ",") + "]");
  std::vector<OutDim> outs;
  for (int from : order)
    outs.push_back(outDimList[static_cast<size_t>(from)]);
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins)
    for (auto &basis : in.bases) {
      Vector moved;
      for (int from : order)
        moved.push_back(basis[static_cast<size_t>(from)]);
      basis = std::move(moved);
    }
  return LinearLayout(std::move(ins), std::move(outs));
}

LinearLayout LinearLayout::reshapeOuts(const std::vector<OutDim> &outs) const {
  if (auto bad = defect({}, outs))
    fail(*bad);
  int bits = 0;
  for (const auto &out : outs)
    bits += log2Exact(out.size);
  require(bits == totalOutBits(), "reshapeOuts: expected a shape of 2^" + std::to_string(totalOutBits()) +
                                      " elements, got 2^" + std::to_string(bits));
  std::vector<InDim> ins = inDimList;
  for (auto &in : ins)
    for (auto &basis : in.bases)
      basis = unflatten(flatten(basis, outDimList), outs);
  return LinearLayout(std::move(ins), outs);
}

// --- Properties ---

int LinearLayout::rank() const { return Elimination(columnsOf(*this)).rank(); }

int32_t LinearLayout::contiguousRegisters(std::string_view outDim, std::string_view inDim) const {
  const InDim &run = this->inDim(inDim);
  size_t along = outIndex(outDim);
  int bits = 0;
  auto isNext = [&](const Vector &basis) {
    for (size_t d = 0; d < basis.size(); ++d)
      if (basis[d] != (d == along ? int32_t{1} << bits : 0))
        return false;
    return true;
  };
  while (bits < static_cast<int>(run.bases.size()) && isNext(run.bases[static_cast<size_t>(bits)]))
    ++bits;
  // Any other basis must start above the run's bits: it bounds the run by its lowest bit along outDim.
  for (const auto &in : inDimList)
    for (size_t bit = &in == &run ? static_cast<size_t>(bits) : 0; bit < in.bases.size(); ++bit)
      if (int32_t coordinate = in.bases[bit][along]; coordinate != 0)
        bits = std::min(bits, std::countr_zero(static_cast<uint32_t>(coordinate)));
  return int32_t{1} << bits;
}

size_t LinearLayout::hash() const {
  size_t seed = 0;
  auto mix = [&](size_t value) { seed ^= value + 0x9e3779b97f4a7c15ull + (seed << 6) + (seed >> 2); };
  for (const auto &out : outDimList) {
    mix(std::hash<std::string>{}(out.name));
    mix(static_cast<size_t>(out.size));
  }
  for (const auto &in : inDimList) {
    mix(std::hash<std::string>{}(in.name));
    mix(in.bases.size());
    for (const auto &basis : in.bases)
      for (int32_t coordinate : basis)
        mix(static_cast<size_t>(coordinate));
  }
  return seed;
}

std::vector<LinearLayout::OutDim> LinearLayout::axes(const std::vector<int32_t> &shape) {
  std::vector<OutDim> outs;
  for (size_t d = 0; d < shape.size(); ++d)
    outs.push_back({"dim" + std::to_string(d), shape[d]});
  return outs;
}

std::vector<int32_t> LinearLayout::paddedShape(const std::vector<int64_t> &shape) {
  std::vector<int32_t> padded;
  for (int64_t extent : shape) {
    require(extent >= 1 && extent <= maxSize, "expected an extent in [1, 2^30], got " + std::to_string(extent));
    padded.push_back(static_cast<int32_t>(std::bit_ceil(static_cast<uint64_t>(extent))));
  }
  return padded;
}

} // namespace bitloom

// A linear layout: a map from the bits of one index space to the bits of another with L(a ^ b) = L(a) ^ L(b).
//
// Both spaces have named dimensions, each of a power-of-two size. Since L is linear over GF(2), it is determined by
// where each single input bit goes. That image is the bit's *basis vector*: one coordinate per output dim. L(x) is the
// xor of the basis vectors of the bits set in x, so L(0) = 0. A distributed tile is a layout (register, lane, warp) →
// (dim0, dim1); a shared-memory order is (offset) → (dim0, dim1); a packing is (column, bit) → (byte, bit).
//
// Two orders fix the meaning of "smallest", "free" and "reshape":
//   flat input   the FIRST input dim holds the lowest bits (register below lane below warp);
//   flat output  the LAST output dim holds the lowest bits (row-major).
//
// The representation is that of Zhou et al., "Linear Layouts: Robust Code Generation of Efficient Tensor Computation
// Using F2" (2025).
//
// Preconditions are checked in every build: a broken one throws InternalError, except in parse(), where it is the
// user's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitloom {

class LinearLayout {
public:
  using Vector = std::vector<int32_t>; // one coordinate per dim, in the order of the dims

  struct InDim {
    std::string name;          // an identifier, unique among the input dims
    std::vector<Vector> bases; // bases[k]: the image of index 1 << k; the dim's size is 1 << bases.size()
    bool operator==(const InDim &) const = default;
  };
  struct OutDim {
    std::string name; // an identifier, unique among the output dims
    int32_t size;     // a power of two in [1, 2^30]
    bool operator==(const OutDim &) const = default;
  };

  // No dims at all: the unit of operator*.
  LinearLayout() = default;
  // Coordinates of the bases lie in [0, size of the output dim); at most 63 input bits and 63 output bits in all.
  LinearLayout(std::vector<InDim> ins, std::vector<OutDim> outs);

  // i → i, for i in [0, size).
  static LinearLayout identity1D(int32_t size, std::string_view in, std::string_view out);
  // i → i * stride; the output dim has size * stride elements. stride is a power of two.
  static LinearLayout strided1D(int32_t size, int32_t stride, std::string_view in, std::string_view out);
  // i → 0, for i in [0, size); the output dim has size outSize. As a factor it says: these inputs are replicas.
  static LinearLayout zeros1D(int32_t size, std::string_view in, std::string_view out, int32_t outSize = 1);

  // The coalesced layout of a row-major tile, (register, lane, warp) → (dim0, …): the flat index takes its bits, low to
  // high, from the registers of one vector, the lanes, the warps and the remaining registers. All sizes are powers of
  // two (pad the shape with paddedShape). A vector never crosses a row: elementsPerThread is clamped to the last
  // extent. Lanes and warps that the tile is too small for hold replicas (zero bases). Surjective by construction.
  static LinearLayout blocked(const std::vector<int32_t> &shape, int32_t elementsPerThread, int32_t warps,
                              int32_t lanes = 32);

  // --- Dims ---
  const std::vector<InDim> &ins() const { return inDimList; }
  const std::vector<OutDim> &outs() const { return outDimList; }
  std::vector<std::string> inDims() const;
  std::vector<std::string> outDims() const;
  bool hasInDim(std::string_view dim) const;
  bool hasOutDim(std::string_view dim) const;
  int inBits(std::string_view dim) const; // log2 of inSize
  int outBits(std::string_view dim) const;
  int32_t inSize(std::string_view dim) const;
  int32_t outSize(std::string_view dim) const;
  Vector outShape() const; // the sizes of the output dims
  int totalInBits() const;
  int totalOutBits() const;
  const Vector &basis(std::string_view inDim, int bit) const;                    // the image of 1 << bit
  int32_t basis(std::string_view inDim, int bit, std::string_view outDim) const; // one coordinate of it

  // --- Evaluation ---
  // One index per input dim, each in [0, inSize); gives one coordinate per output dim.
  Vector apply(const Vector &indices) const;
  // By name; a dim that is not named counts as 0.
  Vector apply(const std::vector<std::pair<std::string_view, int32_t>> &indices) const;

  // --- Algebra ---
  // The product stacks the bits of `high` above those of this layout: dims of the same name grow (sizes multiply), the
  // others are appended. With a below inSize and A, H the factors: (A * H)(a + inSize·h) = A(a) + outSize·H(h), dim by
  // dim.
  LinearLayout operator*(const LinearLayout &high) const;
  LinearLayout &operator*=(const LinearLayout &high) { return *this = *this * high; }

  // This layout, then `next`: x → next(this(x)). The output dims here are the input dims of next (in any order), none
  // of them larger than it is there. Associative, since composition of functions is.
  LinearLayout compose(const LinearLayout &next) const;

  // The inverse map; needs isInvertible(). Output dims become input dims, in reverse order (so that row-major stays
  // row-major in the flat orders above), and input dims become output dims, reversed likewise.
  LinearLayout invert() const;
  // A right inverse R of a surjective layout: L(R(y)) = y, and R(y) is the smallest flat input with that image.
  // Dims as invert(). R is linear: the smallest preimage is the one whose free bits are all 0 (see freeBits), and
  // inputs with free bits 0 are closed under xor.
  LinearLayout pseudoinvert() const;

  // Where to read from: the map C, from the inputs of this layout to those of `source`, with source(C(x)) = this(x).
  // Both have the same output dims (by name); every image of this layout must be one of source's. Of all such places
  // C(x) is the nearest to x: the one whose xor with x (over input dims of the same name) is smallest with the last
  // input dim of source weighing most. So if source holds a value in x's own warp, C stays in that warp; and if also in
  // x's own lane, in that lane; without common dims C(x) is the smallest place. C is linear: with P a linear preimage,
  // S the embedding of x in source's inputs and m the map of an input to the smallest one with the same image (linear:
  // it clears the free bits by adding vectors of the kernel), C = S ^ m(P ^ S), and m(v) is the smallest v ^ k, hence
  // C(x) ^ S(x) the smallest P(x) ^ S(x) ^ k, k in the kernel.
  LinearLayout invertAndCompose(const LinearLayout &source) const;

  // --- Input dims ---
  // Bits of `inDim` whose basis vector is zero or depends on those of lower flat inputs: the mask of bits that tell
  // apart replicas only. Every image is reached by exactly one input whose free bits, of all dims, are 0: a free basis
  // vector is a sum of lower ones that are not free, and those are independent. That input is also the smallest
  // preimage: the kernel has one vector per free bit with that bit as its highest, so of two inputs with one image the
  // smaller has 0 in the highest bit in which they differ, a free one.
  int32_t freeBits(std::string_view inDim) const;
  // Drops the bits of `inDim` with a zero basis vector; the others close ranks.
  LinearLayout removeZeroBases(std::string_view inDim) const;
  // Drops all free bits of `inDim`, and so keeps the image: one register per value that a thread holds.
  LinearLayout removeFreeBits(std::string_view inDim) const;
  // Only these input dims (the others held at 0) and only these coordinates, in their present order.
  LinearLayout sublayout(const std::vector<std::string> &inDims, const std::vector<std::string> &outDims) const;

  // --- Output dims ---
  // Forgets a coordinate: what becomes of a tile that is reduced along `outDim`. Inputs that differed only there hold
  // replicas of one element afterwards.
  LinearLayout dropOutDim(std::string_view outDim) const;
  // Inserts an output dim that is always 0 at position `index` of the output dims.
  LinearLayout addOutDim(std::string_view outDim, int index, int32_t size = 1) const;
  LinearLayout renameOutDim(std::string_view from, std::string_view to) const;
  // Names the output dims dim0, dim1, … in their order.
  LinearLayout numberOuts() const;
  // Output dim i becomes the present output dim order[i] and keeps its name. order is a permutation.
  LinearLayout transposeOuts(const std::vector<int> &order) const;
  // The same flat (row-major) output under other dims of the same total size. Linear: it only regroups bits.
  LinearLayout reshapeOuts(const std::vector<OutDim> &outs) const;
  LinearLayout reshapeOuts(const std::vector<int32_t> &shape) const { return reshapeOuts(axes(shape)); }

  // --- Properties ---
  int rank() const; // of the matrix: 2^rank distinct images
  bool isSurjective() const { return rank() == totalOutBits(); }
  bool isInjective() const { return rank() == totalInBits(); }
  bool isInvertible() const { return isSurjective() && isInjective(); }
  // The largest power of two n such that every aligned run of n indices of `inDim` holds n consecutive coordinates of
  // `outDim`, ascending from a multiple of n, the other coordinates being equal: the widest vector access. The low bits
  // of inDim must be 1, 2, 4, … along outDim, and no other input may touch those bits of the coordinate (it would
  // permute the run).
  int32_t contiguousRegisters(std::string_view outDim, std::string_view inDim = "register") const;

  bool operator==(const LinearLayout &) const = default; // dims in the same order, bases and sizes equal
  size_t hash() const;

  // --- Text ---
  // {register=[[0,1],[0,2]], lane=[[0,4],[1,0]]} -> [2,8]
  // The sizes carry names, [byte=4,bit=8], unless these are dim0, dim1, …
  std::string toString() const;
  // Inverse of toString, spaces free. Throws UserError on malformed text or an illegal layout.
  static LinearLayout parse(std::string_view text);
  // A line per input bit, for people: "register 1 -> (0, 1)".
  std::string describe() const;

  // dim0 … dim<n-1> with these sizes.
  static std::vector<OutDim> axes(const std::vector<int32_t> &shape);
  // Each extent rounded up to a power of two. Extents in [1, 2^30].
  static std::vector<int32_t> paddedShape(const std::vector<int64_t> &shape);

private:
  // What is wrong with these as the parts of a layout, if anything.
  static std::optional<std::string> defect(const std::vector<InDim> &ins, const std::vector<OutDim> &outs);
  const InDim &inDim(std::string_view dim) const;
  size_t outIndex(std::string_view dim) const;
  LinearLayout removeBits(std::string_view dim, int32_t mask) const;

  std::vector<InDim> inDimList;
  std::vector<OutDim> outDimList;
};

} // namespace bitloom

template <> struct std::hash<bitloom::LinearLayout> {
  size_t operator()(const bitloom::LinearLayout &layout) const { return layout.hash(); }
};

// What each operation makes of the layouts of its tiles: the rules that layout assignment and the lowering share.
// A tile's layout maps (register, lane, warp) to (dim0, dim1, …) of its shape padded to powers of two.
#pragma once

#include "bitloom/lib/layout/LinearLayout.h"
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/IR/BuiltinTypes.h"

#include <optional>

namespace bitloom::nvptx {

inline constexpr const char *reg = "register", *lane = "lane", *warp = "warp"; // the input dims of every layout
inline constexpr int lanes = 32;

std::string dimName(int dim);            // dim0, dim1, …
int64_t bytesOf(mlir::Type element);     // in memory
int64_t paddedElements(mlir::Type tile); // each extent rounded up to a power of two
// What a register holds of an element: LLVM has no 8-bit floats, their bits are moved as i8.
mlir::Type registerType(mlir::Type element);

// The parsed encodings of tensor types.
class Layouts {
public:
  // InternalError: a tensor without a layout.
  const LinearLayout &of(mlir::Type tensor);

private:
  llvm::DenseMap<mlir::Attribute, std::unique_ptr<LinearLayout>> parsed;
};

mlir::RankedTensorType withLayout(mlir::RankedTensorType type, const LinearLayout &layout);
bool hasLayout(mlir::Type type);

// The coalesced layout. elementsPerThread: of one vector access; a power of two, clamped to what divides a row.
LinearLayout canonicalLayout(llvm::ArrayRef<int64_t> shape, int64_t elementsPerThread, int warps);

// With registers in the order of their elements, for wide accesses: their order is free otherwise.
LinearLayout withNeighboursFirst(const LinearLayout &layout);

// The order of the register's bits in which those that run along `out`, 1, 2, … up to below `most`, come first; as they
// are where no longer run of registers is won by it. And the layout with its register's bits in an order.
llvm::SmallVector<size_t> runFirst(const LinearLayout &layout, llvm::StringRef out, int64_t most);
LinearLayout withRegisterBits(const LinearLayout &layout, llvm::ArrayRef<size_t> order);
// The register of that layout that holds what `index` does where the bits are in that order.
size_t registerBefore(size_t index, llvm::ArrayRef<size_t> order);

// The result of a reduction along `axis`. Lanes and warps that differed only there hold replicas.
LinearLayout reducedLayout(const LinearLayout &source, int axis);
// Whether every input bit moves either along `axis` or across it, and those along it hold distinct elements.
bool isReducible(const LinearLayout &source, int axis);
// The layout of a broadcast's source in which every thread holds exactly what it needs for `result`.
LinearLayout broadcastSourceLayout(const LinearLayout &result, llvm::ArrayRef<int64_t> source);
// Of a tile of shape `to`, whose elements are those of `layout`'s tile of shape `from` in row-major order. None when
// padding sits in the middle of the order: then the map between the padded tiles is not linear.
std::optional<LinearLayout> reshapedLayout(const LinearLayout &layout, llvm::ArrayRef<int64_t> from,
                                           llvm::ArrayRef<int64_t> to);
// Dimension k of the result is dimension permutation[k] of `source`; and the inverse.
LinearLayout transposedLayout(const LinearLayout &source, llvm::ArrayRef<int32_t> permutation);
LinearLayout untransposedLayout(const LinearLayout &result, llvm::ArrayRef<int32_t> permutation);
// A new last dimension of extent 2 in the lowest register bit; and a tile without its last dimension.
LinearLayout joinedLayout(const LinearLayout &half);
LinearLayout halvedLayout(const LinearLayout &pair);
// Of a slice, when registers alone decide what is left out.
std::optional<LinearLayout> slicedLayout(const LinearLayout &source, llvm::ArrayRef<int64_t> offsets,
                                         llvm::ArrayRef<int64_t> result);

// Whether 4-bit values, packed for fragments, are looked up in a table of 16-bit ones: several at a time, in registers.
bool isLookupByWords(tile::LutOp lut);

// For packings of one plane. The byte that holds each value of `values`' tile, in the same thread and register ...
LinearLayout byteOfValueLayout(const LinearLayout &values, const Packing &packing);
// ... which is the layout of an unpack's bytes but for duplicate registers and their order.
LinearLayout bytesLayout(const LinearLayout &values, const Packing &packing);
// Of a pack's values, so that a thread holds all the values of its bytes: register (byte register) * 8/bits + f holds
// the one in the byte's bits [(f * bits) ^ bitXor, …).
LinearLayout valuesLayout(const LinearLayout &bytes, const Packing &packing);

} // namespace bitloom::nvptx

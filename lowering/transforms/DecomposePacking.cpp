// Planes of several widths become planes of one each, of a row each: a target only ever meets fields of 1, 2, 4 and 8
// bits.
//
// A value is the sum of its planes' fields, each shifted to its place. A signed one is then extended from its top bit
// by (v ^ s) - s with s = 2^(bits-1) (Warren, Hacker's Delight, 2-6): no target needs a shift of bytes for it.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lowering/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/PatternMatch.h"

namespace bitloom {
#define GEN_PASS_DEF_DECOMPOSEPACKING
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::tile;

namespace {

// Such an unpack is part of a product, which takes units of bytes apart as a whole.
bool isColumns(const Packing &packing) { return packing.order == Packing::Order::Columns; }

// The decomposition of one op. A block of several rows has all of a plane's, one after the other: past a plane, rows
// are those of the values.
struct Planes {
  IRRewriter &rewriter;
  Location loc;
  Packing packing;
  SmallVector<int64_t> panels; // the extents of the bytes but the last
  int64_t blocks;              // along the last dimension

  SmallVector<Packing::Plane> ofRow() {
    Packing row = packing;
    row.rows = 1;
    return llvm::to_vector(row.planes());
  }
  int64_t rowBytesOf(const Packing::Plane &plane) { return int64_t{packing.block} * plane.bits / 8; } // in a block
  int64_t bytesOf(const Packing::Plane &plane) { return packing.rows * rowBytesOf(plane); }
  int64_t offsetOf(const Packing::Plane &plane) { return int64_t{packing.rows} * plane.byteOffset; }
  PackingAttr attrOf(const Packing::Plane &plane) {
    return PackingAttr::get(rewriter.getContext(), packing.packingOf(plane).toString());
  }

  RankedTensorType bytesType(ArrayRef<int64_t> last) {
    SmallVector<int64_t> shape(panels);
    shape.append(last.begin(), last.end());
    return RankedTensorType::get(shape, rewriter.getI8Type());
  }
  RankedTensorType rowsType(const Packing::Plane &plane) {
    SmallVector<int64_t> shape(panels);
    if (packing.rows > 1)
      shape.back() *= packing.rows;
    shape.push_back(blocks * rowBytesOf(plane));
    return RankedTensorType::get(shape, rewriter.getI8Type());
  }
  Value splat(RankedTensorType type, int value) {
    return arith::ConstantOp::create(rewriter, loc, DenseElementsAttr::get(type, APInt(8, value)));
  }
  Value reshape(Value source, RankedTensorType type) {
    return source.getType() == type ? source : Value(ReshapeOp::create(rewriter, loc, type, source));
  }

  // [first, second, each] in a panel as [second, first, each].
  Value exchanged(Value source, int64_t first, int64_t second, int64_t each) {
    if (first == 1 || second == 1)
      return source;
    source = reshape(source, bytesType({first, second, each}));
    auto permutation = llvm::to_vector(llvm::seq<int32_t>(panels.size() + 3));
    std::swap(permutation[panels.size()], permutation[panels.size() + 1]);
    return TransposeOp::create(rewriter, loc, bytesType({second, first, each}), source, permutation);
  }
  Value asRows(Value bytes, const Packing::Plane &plane) {
    return reshape(exchanged(bytes, blocks, packing.rows, rowBytesOf(plane)), rowsType(plane));
  }
  Value asPanels(Value bytes, const Packing::Plane &plane) {
    return reshape(exchanged(bytes, packing.rows, blocks, rowBytesOf(plane)), bytesType({blocks * bytesOf(plane)}));
  }

  // `bytes` bytes of every block of blockBytes, from `offset` on.
  Value sliceBlocks(Value source, int64_t blockBytes, int64_t offset, int64_t bytes) {
    if (bytes == blockBytes)
      return source;
    bool one = blocks == 1; // then it is a slice of the tile as it was loaded, and may become a smaller load
    if (!one)
      source = reshape(source, bytesType({blocks, blockBytes}));
    RankedTensorType type = one ? bytesType({bytes}) : bytesType({blocks, bytes});
    SmallVector<int64_t> offsets(type.getRank());
    offsets.back() = offset;
    return reshape(SliceOp::create(rewriter, loc, type, source, offsets), bytesType({blocks * bytes}));
  }

  Value unpack(Value bytes, RankedTensorType type, bool isSigned) {
    Value value;
    for (const Packing::Plane &plane : ofRow()) {
      Value sliced = sliceBlocks(bytes, packing.bytesPerBlock(), offsetOf(plane), bytesOf(plane));
      Value field = UnpackOp::create(rewriter, loc, type, asRows(sliced, plane), /*isSigned=*/false, attrOf(plane));
      if (plane.shift)
        field = arith::ShLIOp::create(rewriter, loc, field, splat(type, plane.shift));
      value = value ? Value(arith::OrIOp::create(rewriter, loc, value, field)) : field;
    }
    if (!isSigned || packing.bits == 8)
      return value;
    Value sign = splat(type, 1 << (packing.bits - 1));
    return arith::SubIOp::create(rewriter, loc, arith::XOrIOp::create(rewriter, loc, value, sign), sign);
  }

  // The planes' bytes one after another in each block. The dialect has no concatenation of unequal parts: the parts are
  // cut to the unit of rows·block/8 bytes, of which a plane of p bits has p, and joined in pairs.
  Value pack(Value values, RankedTensorType type) {
    auto valuesType = cast<RankedTensorType>(values.getType());
    int64_t unit = int64_t{packing.rows} * packing.block / 8;
    SmallVector<Value> units(packing.bits);
    for (const Packing::Plane &plane : ofRow()) {
      Value field = values;
      if (plane.shift)
        field = arith::ShRUIOp::create(rewriter, loc, field, splat(valuesType, plane.shift));
      Value packed = asPanels(PackOp::create(rewriter, loc, rowsType(plane), field, attrOf(plane)), plane);
      for (int64_t i = 0; i < plane.bits; ++i)
        units[offsetOf(plane) / unit + i] =
            reshape(sliceBlocks(packed, bytesOf(plane), i * unit, unit), bytesType({blocks, unit}));
    }
    units.resize(llvm::PowerOf2Ceil(units.size()), units.back()); // what is added is sliced off again
    int64_t count = units.size();
    // Each join adds a faster dimension than the last one's, so the first pairs units half of them apart.
    SmallVector<int64_t> last = {blocks, unit};
    while (units.size() > 1) {
      size_t half = units.size() / 2;
      last.push_back(2);
      for (size_t i = 0; i < half; ++i)
        units[i] = JoinOp::create(rewriter, loc, bytesType(last), units[i], units[i + half]);
      units.resize(half);
    }
    Value joined = reshape(units.front(), bytesType({blocks, unit, count}));
    auto permutation = llvm::to_vector(llvm::seq<int32_t>(panels.size() + 3));
    std::swap(permutation.back(), permutation[permutation.size() - 2]);
    joined = TransposeOp::create(rewriter, loc, bytesType({blocks, count, unit}), joined, permutation);
    joined = reshape(joined, bytesType({blocks * count * unit}));
    return reshape(sliceBlocks(joined, count * unit, 0, packing.bytesPerBlock()), type);
  }
};

struct DecomposePackingPass : bitloom::impl::DecomposePackingBase<DecomposePackingPass> {
  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    auto planesOf = [&](Operation *op, const Packing &packing, Type bytes, Type values) {
      rewriter.setInsertionPoint(op);
      return Planes{rewriter, op->getLoc(), packing, llvm::to_vector(shapeOf(bytes).drop_back()),
                    shapeOf(values).back() / packing.block};
    };
    auto isPlane = [](const Packing &packing) {
      return llvm::isPowerOf2_32(uint32_t(packing.bits)) && packing.rows == 1;
    };
    getOperation().walk([&](Operation *op) {
      if (auto unpack = dyn_cast<UnpackOp>(op)) {
        const Packing packing = Packing::parse(unpack.getPacking().getSpelling());
        if ((!unpack.getIsSigned() && isPlane(packing)) || isColumns(packing))
          return;
        auto type = cast<RankedTensorType>(unpack.getType());
        Planes planes = planesOf(op, packing, unpack.getBytes().getType(), type);
        rewriter.replaceOp(op, planes.unpack(unpack.getBytes(), type, unpack.getIsSigned()));
      } else if (auto pack = dyn_cast<PackOp>(op)) {
        const Packing packing = Packing::parse(pack.getPacking().getSpelling());
        if (isPlane(packing) || isColumns(packing))
          return;
        Planes planes = planesOf(op, packing, pack.getType(), pack.getValues().getType());
        rewriter.replaceOp(op, planes.pack(pack.getValues(), cast<RankedTensorType>(pack.getType())));
      }
    });
  }
};

} // namespace

// Planes of several widths become planes of one each: a target only ever meets fields of 1, 2, 4 and 8 bits.
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
bool isColumns(PackingAttr attr) { return Packing::parse(attr.getSpelling()).order == Packing::Order::Columns; }

// The decomposition of one op.
struct Planes {
  IRRewriter &rewriter;
  Location loc;
  Packing packing;
  SmallVector<int64_t> rows; // the extents but the last
  int64_t blocks;            // along the last dimension

  int64_t bytesOf(const Packing::Plane &plane) { return int64_t{packing.block} * plane.bits / 8; }
  PackingAttr attrOf(const Packing::Plane &plane) {
    return PackingAttr::get(rewriter.getContext(), Packing{plane.bits, packing.order, packing.block}.toString());
  }

  RankedTensorType bytesType(ArrayRef<int64_t> last) {
    SmallVector<int64_t> shape(rows);
    shape.append(last.begin(), last.end());
    return RankedTensorType::get(shape, rewriter.getI8Type());
  }
  Value splat(RankedTensorType type, int value) {
    return arith::ConstantOp::create(rewriter, loc, DenseElementsAttr::get(type, APInt(8, value)));
  }
  Value reshape(Value source, RankedTensorType type) {
    return source.getType() == type ? source : Value(ReshapeOp::create(rewriter, loc, type, source));
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
    for (const Packing::Plane &plane : packing.planes()) {
      Value sliced = sliceBlocks(bytes, packing.bytesPerBlock(), plane.byteOffset, bytesOf(plane));
      Value field = UnpackOp::create(rewriter, loc, type, sliced, /*isSigned=*/false, attrOf(plane));
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
  // cut to the unit of block/8 bytes, of which a plane of p bits has p, and joined in pairs.
  Value pack(Value values, RankedTensorType type) {
    auto valuesType = cast<RankedTensorType>(values.getType());
    int64_t unit = packing.block / 8;
    SmallVector<Value> units(packing.bits);
    for (const Packing::Plane &plane : packing.planes()) {
      Value field = values;
      if (plane.shift)
        field = arith::ShRUIOp::create(rewriter, loc, field, splat(valuesType, plane.shift));
      Value packed = PackOp::create(rewriter, loc, bytesType({blocks * bytesOf(plane)}), field, attrOf(plane));
      for (int64_t i = 0; i < plane.bits; ++i)
        units[plane.byteOffset / unit + i] =
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
    auto permutation = llvm::to_vector(llvm::seq<int32_t>(rows.size() + 3));
    std::swap(permutation.back(), permutation[permutation.size() - 2]);
    joined = TransposeOp::create(rewriter, loc, bytesType({blocks, count, unit}), joined, permutation);
    joined = reshape(joined, bytesType({blocks * count * unit}));
    return reshape(sliceBlocks(joined, count * unit, 0, packing.bytesPerBlock()), type);
  }
};

struct DecomposePackingPass : bitloom::impl::DecomposePackingBase<DecomposePackingPass> {
  void runOnOperation() override {
    IRRewriter rewriter(&getContext());
    auto planesOf = [&](Operation *op, PackingAttr attr, Type values) {
      rewriter.setInsertionPoint(op);
      Packing packing = Packing::parse(attr.getSpelling());
      ArrayRef<int64_t> shape = shapeOf(values);
      return Planes{rewriter, op->getLoc(), packing, llvm::to_vector(shape.drop_back()), shape.back() / packing.block};
    };
    getOperation().walk([&](Operation *op) {
      if (auto unpack = dyn_cast<UnpackOp>(op)) {
        if (!unpack.getIsSigned() && llvm::isPowerOf2_64(unpack.getPacking().bits()))
          return;
        if (isColumns(unpack.getPacking()))
          return;
        auto type = cast<RankedTensorType>(unpack.getType());
        Planes planes = planesOf(op, unpack.getPacking(), type);
        rewriter.replaceOp(op, planes.unpack(unpack.getBytes(), type, unpack.getIsSigned()));
      } else if (auto pack = dyn_cast<PackOp>(op)) {
        if (llvm::isPowerOf2_64(pack.getPacking().bits()) || isColumns(pack.getPacking()))
          return;
        Planes planes = planesOf(op, pack.getPacking(), pack.getValues().getType());
        rewriter.replaceOp(op, planes.pack(pack.getValues(), cast<RankedTensorType>(pack.getType())));
      }
    });
  }
};

} // namespace

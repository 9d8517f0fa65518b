#include "bitloom/lowering/targets/nvptx/Layouts.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/transforms/Float8.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

std::string nvptx::dimName(int dim) { return "dim" + std::to_string(dim); }

Type nvptx::registerType(Type element) {
  return isFloat8(element) ? Type(IntegerType::get(element.getContext(), 8)) : element;
}

int64_t nvptx::bytesOf(Type element) { return std::max<int64_t>(1, element.getIntOrFloatBitWidth() / 8); }

int64_t nvptx::paddedElements(Type type) {
  int64_t elements = 1;
  for (int64_t extent : tile::shapeOf(type))
    elements *= llvm::PowerOf2Ceil(extent);
  return elements;
}

bool nvptx::hasLayout(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor && isa_and_nonnull<tile::LayoutAttr>(tensor.getEncoding());
}

const LinearLayout &Layouts::of(Type type) {
  if (!hasLayout(type))
    throw InternalError("expected a tile with a layout");
  Attribute encoding = cast<RankedTensorType>(type).getEncoding();
  std::unique_ptr<LinearLayout> &layout = parsed[encoding];
  if (!layout)
    layout = std::make_unique<LinearLayout>(LinearLayout::parse(cast<tile::LayoutAttr>(encoding).getSpelling()));
  return *layout;
}

RankedTensorType nvptx::withLayout(RankedTensorType type, const LinearLayout &layout) {
  return RankedTensorType::get(type.getShape(), type.getElementType(),
                               tile::LayoutAttr::get(type.getContext(), layout.toString()));
}

LinearLayout nvptx::canonicalLayout(ArrayRef<int64_t> shape, int64_t elementsPerThread, int warps) {
  int64_t last = shape.empty() ? 1 : shape.back();
  int64_t dividing = last & -last;
  return LinearLayout::blocked(LinearLayout::paddedShape({shape.begin(), shape.end()}),
                               int32_t(std::min(elementsPerThread, dividing)), warps);
}

static std::vector<LinearLayout::Vector> &registerBases(std::vector<LinearLayout::InDim> &ins) {
  return llvm::find_if(ins, [](const LinearLayout::InDim &in) { return in.name == reg; })->bases;
}

LinearLayout nvptx::withRegisterBits(const LinearLayout &layout, ArrayRef<size_t> order) {
  std::vector<LinearLayout::InDim> ins = layout.ins();
  std::vector<LinearLayout::Vector> &bases = registerBases(ins);
  const std::vector<LinearLayout::Vector> before = bases;
  for (auto [to, from] : llvm::enumerate(order))
    bases[to] = before[from];
  return LinearLayout(ins, layout.outs());
}

size_t nvptx::registerBefore(size_t index, ArrayRef<size_t> order) {
  size_t before = 0;
  for (auto [to, from] : llvm::enumerate(order))
    before |= (index >> to & 1) << from;
  return before;
}

SmallVector<size_t> nvptx::runFirst(const LinearLayout &layout, StringRef out, int64_t most) {
  std::vector<LinearLayout::InDim> ins = layout.ins();
  const std::vector<LinearLayout::Vector> &bases = registerBases(ins);
  const std::vector<std::string> dims = layout.outDims();
  const size_t dim = size_t(llvm::find(dims, out.str()) - dims.begin());
  SmallVector<size_t> order, unchanged;
  for (int32_t place = 1; place < most; place *= 2) {
    LinearLayout::Vector along(layout.outs().size(), 0);
    along[dim] = place;
    auto found = llvm::find(bases, along);
    if (found == bases.end())
      break;
    order.push_back(size_t(found - bases.begin()));
  }
  for (size_t bit = 0; bit < bases.size(); ++bit) {
    unchanged.push_back(bit);
    if (!llvm::is_contained(order, bit))
      order.push_back(bit);
  }
  const std::string name = out.str();
  return withRegisterBits(layout, order).contiguousRegisters(name) > layout.contiguousRegisters(name) ? order
                                                                                                      : unchanged;
}

LinearLayout nvptx::reducedLayout(const LinearLayout &source, int axis) {
  return source.dropOutDim(dimName(axis)).numberOuts().removeFreeBits(reg);
}

bool nvptx::isReducible(const LinearLayout &source, int axis) {
  for (const auto &in : source.ins()) {
    for (const auto &basis : in.bases) {
      bool along = basis[axis] != 0, across = false;
      for (size_t d = 0; d < basis.size(); ++d)
        across |= int(d) != axis && basis[d] != 0;
      if (along && (across || !llvm::isPowerOf2_32(basis[axis])))
        return false;
    }
    int32_t zeros = 0;
    for (size_t bit = 0; bit < in.bases.size(); ++bit)
      if (llvm::all_of(in.bases[bit], [](int32_t x) { return x == 0; }))
        zeros |= 1 << bit;
    if (source.freeBits(in.name) != zeros)
      return false;
  }
  return true;
}

LinearLayout nvptx::withNeighboursFirst(const LinearLayout &layout) {
  std::vector<LinearLayout::InDim> ins = layout.ins();
  for (auto &in : ins)
    if (in.name == reg)
      llvm::sort(in.bases);
  return LinearLayout(ins, layout.outs());
}

LinearLayout nvptx::broadcastSourceLayout(const LinearLayout &result, ArrayRef<int64_t> source) {
  LinearLayout layout = result;
  for (auto [d, extent] : llvm::enumerate(source))
    if (extent == 1)
      layout = layout.dropOutDim(dimName(d)).addOutDim(dimName(d), d, 1);
  layout = layout.removeFreeBits(reg);
  return llvm::count_if(source, [](int64_t extent) { return extent > 1; }) > 1 ? withNeighboursFirst(layout) : layout;
}

// Row-major order commutes with padding when, in groups of dimensions of equal extent, only the outermost is padded.
static bool isLinearReshape(ArrayRef<int64_t> from, ArrayRef<int64_t> to) {
  size_t i = 0, j = 0;
  while (i < from.size() || j < to.size()) {
    int64_t left = 1, right = 1;
    bool leftInner = true, rightInner = true; // dims after the group's first (ignoring extents of 1) are powers of two
    auto take = [](ArrayRef<int64_t> shape, size_t &at, int64_t &product, bool &inner) {
      if (product != 1 && !llvm::isPowerOf2_64(shape[at]))
        inner = false;
      product *= shape[at++];
    };
    if (i < from.size())
      take(from, i, left, leftInner);
    if (j < to.size())
      take(to, j, right, rightInner);
    while (left != right) {
      if (left < right)
        take(from, i, left, leftInner);
      else
        take(to, j, right, rightInner);
    }
    bool single = leftInner && rightInner;
    if (!single)
      return false;
  }
  return true;
}

std::optional<LinearLayout> nvptx::reshapedLayout(const LinearLayout &layout, ArrayRef<int64_t> from,
                                                  ArrayRef<int64_t> to) {
  if (!isLinearReshape(from, to))
    return std::nullopt;
  return layout.reshapeOuts(LinearLayout::paddedShape({to.begin(), to.end()}));
}

LinearLayout nvptx::transposedLayout(const LinearLayout &source, ArrayRef<int32_t> permutation) {
  return source.transposeOuts({permutation.begin(), permutation.end()}).numberOuts();
}

LinearLayout nvptx::untransposedLayout(const LinearLayout &result, ArrayRef<int32_t> permutation) {
  std::vector<int> inverse(permutation.size());
  for (auto [k, p] : llvm::enumerate(permutation))
    inverse[p] = k;
  return result.transposeOuts(inverse).numberOuts();
}

LinearLayout nvptx::joinedLayout(const LinearLayout &half) {
  std::vector<LinearLayout::InDim> ins = half.ins();
  std::vector<LinearLayout::OutDim> outs = half.outs();
  for (auto &in : ins) {
    for (auto &basis : in.bases)
      basis.push_back(0);
    if (in.name != reg)
      continue;
    LinearLayout::Vector last(outs.size() + 1, 0);
    last.back() = 1;
    in.bases.insert(in.bases.begin(), last);
  }
  outs.push_back({dimName(outs.size()), 2});
  return LinearLayout(ins, outs);
}

LinearLayout nvptx::halvedLayout(const LinearLayout &pair) { return reducedLayout(pair, int(pair.outs().size()) - 1); }

std::optional<LinearLayout> nvptx::slicedLayout(const LinearLayout &source, ArrayRef<int64_t> offsets,
                                                ArrayRef<int64_t> result) {
  std::vector<int32_t> padded = LinearLayout::paddedShape({result.begin(), result.end()});
  for (auto [offset, extent] : llvm::zip(offsets, padded))
    if (offset % extent)
      return std::nullopt;
  std::vector<LinearLayout::InDim> ins = source.ins();
  for (auto &in : ins) {
    std::vector<LinearLayout::Vector> kept;
    for (auto &basis : in.bases) {
      bool low = true, high = true;
      for (size_t d = 0; d < basis.size(); ++d) {
        low &= basis[d] < padded[d];
        high &= basis[d] % padded[d] == 0;
      }
      if (!low && !(high && in.name == reg))
        return std::nullopt;
      if (low)
        kept.push_back(basis);
    }
    in.bases = kept;
  }
  return LinearLayout(ins, LinearLayout::axes(padded));
}

//===- Packings ---------------------------------------------------------------------------------------------------===//

// Both ends of a map over a tile's dims that is the identity but for the last.
static LinearLayout onLastDim(const LinearLayout &tile, int32_t lastSize,
                              llvm::function_ref<int32_t(int32_t)> imageOfBit) {
  std::vector<LinearLayout::InDim> ins;
  std::vector<LinearLayout::OutDim> outs = tile.outs();
  outs.back().size = lastSize;
  for (auto [d, out] : llvm::enumerate(tile.outs())) {
    LinearLayout::InDim in{out.name, {}};
    for (int32_t bit = 1; bit < out.size; bit *= 2) {
      LinearLayout::Vector basis(outs.size(), 0);
      basis[d] = d + 1 == outs.size() ? imageOfBit(bit) : bit;
      in.bases.push_back(basis);
    }
    ins.push_back(in);
  }
  return LinearLayout(ins, outs);
}

static Packing::Plane onlyPlane(const Packing &packing) {
  std::vector<Packing::Plane> planes = packing.planes();
  if (planes.size() != 1)
    throw InternalError("expected a packing of one plane, got " + packing.toString());
  return planes.front();
}

LinearLayout nvptx::byteOfValueLayout(const LinearLayout &values, const Packing &packing) {
  Packing::Plane plane = onlyPlane(packing);
  int32_t columns = values.outs().back().size, bytesPerBlock = int32_t(packing.bytesPerBlock());
  LinearLayout byteOf = onLastDim(values, columns / packing.block * bytesPerBlock, [&](int32_t column) {
    if (column >= packing.block)
      return column / packing.block * bytesPerBlock;
    return plane.layout.sublayout({"column"}, {"byte"}).apply({column})[0];
  });
  return values.compose(byteOf);
}

LinearLayout nvptx::bytesLayout(const LinearLayout &values, const Packing &packing) {
  return withNeighboursFirst(byteOfValueLayout(values, packing).removeFreeBits(reg));
}

LinearLayout nvptx::valuesLayout(const LinearLayout &bytes, const Packing &packing) {
  Packing::Plane plane = onlyPlane(packing);
  LinearLayout columnOf = plane.layout.invert();
  int32_t bytesPerBlock = int32_t(packing.bytesPerBlock());
  int32_t columns = bytes.outs().back().size / bytesPerBlock * packing.block;
  LinearLayout firstColumn = onLastDim(bytes, columns, [&](int32_t byte) {
    if (byte >= bytesPerBlock)
      return byte / bytesPerBlock * packing.block;
    return columnOf.sublayout({"byte"}, {"column"}).apply({byte})[0];
  });
  LinearLayout layout = bytes.compose(firstColumn);
  std::vector<LinearLayout::InDim> ins = layout.ins();
  for (auto &in : ins) {
    if (in.name != reg)
      continue;
    std::vector<LinearLayout::Vector> fields;
    for (int32_t bit = plane.bits; bit < 8; bit *= 2) {
      LinearLayout::Vector basis(layout.outs().size(), 0);
      basis.back() = columnOf.sublayout({"bit"}, {"column"}).apply({bit})[0];
      fields.push_back(basis);
    }
    in.bases.insert(in.bases.begin(), fields.begin(), fields.end());
  }
  return LinearLayout(ins, layout.outs());
}

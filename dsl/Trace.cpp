// Traced operations become operations of the tile dialect; those on elements are in Elementwise.cpp.
#include "bitloom/dsl/internal/Scopes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <algorithm>
#include <numeric>

using namespace mlir;

namespace bitloom::trace {

//===- Values, types and places -----------------------------------------------------------------------------------===//

std::string shapeText(ArrayRef<int64_t> shape) {
  std::string text = "[";
  for (auto [i, extent] : llvm::enumerate(shape))
    text += (i ? ", " : "") + std::to_string(extent);
  return text + "]";
}

Shape shapeOf(Node node) {
  if (node.onHost())
    return {};
  ArrayRef<int64_t> shape = tile::shapeOf(valueOf(node).getType());
  return {shape.begin(), shape.end()};
}

Location locationOf(SourceLocation at, Value like) {
  if (at.known())
    return FileLineColLoc::get(session().builder.getContext(), at.file, at.line, 0);
  return like ? like.getLoc() : session().builder.getUnknownLoc();
}

Type typeOf(DType dtype) {
  OpBuilder &builder = session().builder;
  switch (factsOf(dtype).kind) {
  case DTypeKind::Bool:
    return builder.getI1Type();
  case DTypeKind::Signed:
  case DTypeKind::Unsigned:
    return builder.getIntegerType(factsOf(dtype).bits);
  case DTypeKind::Float:
    break;
  }
  switch (dtype) {
  case DType::f16:
    return builder.getF16Type();
  case DType::bf16:
    return builder.getBF16Type();
  case DType::f64:
    return builder.getF64Type();
  case DType::f8e4m3:
    return Float8E4M3FNType::get(builder.getContext());
  case DType::f8e5m2:
    return Float8E5M2Type::get(builder.getContext());
  default:
    return builder.getF32Type();
  }
}

// As a cast would have it: 8-bit floats saturate.
template <class T> static Node converted(Node number) { return Node::host(double(float(T(float(number.hostFloat))))); }

Value constantOf(Type type, Node number, Location at) {
  OpBuilder &builder = session().builder;
  if (isa<Float8E4M3FNType>(type))
    number = converted<f8e4m3>(number);
  if (isa<Float8E5M2Type>(type))
    number = converted<f8e5m2>(number);
  TypedAttr attr = isa<FloatType>(type) ? TypedAttr(builder.getFloatAttr(type, number.hostFloat))
                                        : TypedAttr(builder.getIntegerAttr(type, number.hostInt));
  return arith::ConstantOp::create(builder, at, attr);
}

Value valueOf(Node node, DType dtype, SourceLocation at) {
  return node.onHost() ? constantOf(typeOf(dtype), node, locationOf(at)) : valueOf(node);
}

Node literal(DType dtype, Node number) {
  return tracing() ? nodeOf(constantOf(typeOf(dtype), number, session().builder.getUnknownLoc())) : number;
}

Value splatTo(Value scalar, ArrayRef<int64_t> shape, Location at) {
  if (shape.empty())
    return scalar;
  return tensor::SplatOp::create(session().builder, at, scalar, RankedTensorType::get(shape, scalar.getType()));
}

static Value broadcastTo(Value value, ArrayRef<int64_t> shape, Location at) {
  if (tile::shapeOf(value.getType()) == shape)
    return value;
  if (!isa<RankedTensorType>(value.getType()))
    return splatTo(value, shape, at);
  return tile::BroadcastOp::create(session().builder, at, tile::tileOf(shape, tile::elementOf(value.getType())), value);
}

Shape unify(MutableArrayRef<Value> values, SourceLocation at) {
  Shape shape;
  for (Value value : values) {
    ArrayRef<int64_t> own = tile::shapeOf(value.getType());
    if (own.empty())
      continue;
    if (shape.empty()) {
      shape.assign(own.begin(), own.end());
      continue;
    }
    for (size_t i = 0; i < shape.size() && shape.size() == own.size(); ++i) {
      if (shape[i] != own[i] && shape[i] != 1 && own[i] != 1)
        throw UserError(at, "expected operands of one shape (or extents of 1), got " + shapeText(shape) + " and " +
                                shapeText(own));
      shape[i] = std::max(shape[i], own[i]);
    }
  }
  Location where = locationOf(at);
  for (Value &value : values)
    value = broadcastTo(value, shape, where);
  return shape;
}

void checkComputes(DType dtype, SourceLocation where) {
  if (isStorageFloat(dtype))
    throw UserError(where,
                    "expected elements to compute with, got " + std::string(nameOf(dtype)) + "; cast them first");
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

static void checkExtents(const Shape &shape, SourceLocation where) {
  for (int64_t extent : shape)
    if (extent < 1)
      throw UserError(where, "expected extents of 1 or more, got " + shapeText(shape));
}

Node splat(DType dtype, Node scalar, const Shape &shape, SourceLocation where) {
  checkExtents(shape, where);
  session(where);
  return nodeOf(splatTo(valueOf(scalar, dtype, where), shape, locationOf(where)));
}

Node iota(DType dtype, int64_t extent, SourceLocation where) {
  checkExtents({extent}, where);
  session(where);
  return nodeOf(
      tile::IotaOp::create(session().builder, locationOf(where), RankedTensorType::get({extent}, typeOf(dtype))));
}

Node reshape(Node node, const Shape &wanted, SourceLocation where) {
  session(where);
  Value a = valueOf(node);
  Shape from = shapeOf(node), to = wanted;
  int64_t total = 1, known = 1;
  for (int64_t extent : from)
    total *= extent;
  for (int64_t extent : to)
    known *= extent == -1 ? 1 : extent;
  for (int64_t &extent : to)
    if (extent == -1 && known && total % known == 0)
      extent = total / known, known = total;
  if (known != total || llvm::is_contained(to, -1))
    throw UserError(where, "reshape: expected a shape of " + std::to_string(total) + " elements, as in " +
                               shapeText(from) + ", got " + shapeText(wanted));
  if (from.empty())
    return nodeOf(splatTo(a, to, locationOf(where, a))); // a scalar has one element
  if (to.empty())
    throw UserError(where, "reshape: expected a rank of 1 or more, got 0");
  return nodeOf(tile::ReshapeOp::create(session().builder, locationOf(where, a),
                                        tile::tileOf(to, tile::elementOf(a.getType())), a));
}

Node transpose(Node node, const std::vector<int> &permutation, SourceLocation where) {
  session(where);
  Value a = valueOf(node);
  Shape from = shapeOf(node), to;
  std::vector<int> sorted = permutation;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i)
    if (sorted[i] != int(i) || sorted.size() != from.size())
      throw UserError(where, "trans: expected a permutation of 0 to " + std::to_string(from.size() - 1));
  for (int dim : permutation)
    to.push_back(from[dim]);
  return nodeOf(tile::TransposeOp::create(session().builder, locationOf(where, a),
                                          tile::tileOf(to, tile::elementOf(a.getType())), a,
                                          session().builder.getDenseI32ArrayAttr(permutation)));
}

Node broadcast(Node node, const Shape &shape, SourceLocation where) {
  session(where);
  Shape from = shapeOf(node);
  for (size_t i = 0; i < shape.size() && !from.empty(); ++i)
    if (from[i] != 1 && from[i] != shape[i])
      throw UserError(where,
                      "broadcast: expected extents of 1 or those of " + shapeText(shape) + ", got " + shapeText(from));
  return nodeOf(broadcastTo(valueOf(node), shape, locationOf(where, valueOf(node))));
}

Node join(Node left, Node right, SourceLocation where) {
  session(where);
  Value v[] = {valueOf(left), valueOf(right)};
  Shape shape = unify(v, where);
  shape.push_back(2);
  return nodeOf(tile::JoinOp::create(session().builder, locationOf(where, v[0]),
                                     tile::tileOf(shape, tile::elementOf(v[0].getType())), v[0], v[1]));
}

std::pair<Node, Node> split(Node node, SourceLocation where) {
  session(where);
  Value a = valueOf(node);
  Shape shape = shapeOf(node);
  if (shape.back() != 2)
    throw UserError(where, "split: expected a last extent of 2, got " + shapeText(shape));
  shape.pop_back();
  Type half = tile::tileOf(shape, tile::elementOf(a.getType()));
  auto op = tile::SplitOp::create(session().builder, locationOf(where, a), half, half, a);
  return {nodeOf(op.getLhs()), nodeOf(op.getRhs())};
}

Node slice(Node node, const Shape &offsets, const Shape &extents, SourceLocation where) {
  session(where);
  Value a = valueOf(node);
  Shape from = shapeOf(node);
  checkExtents(extents, where);
  for (size_t i = 0; i < from.size(); ++i)
    if (offsets[i] < 0 || offsets[i] + extents[i] > from[i])
      throw UserError(where, "slice: expected a rectangle within " + shapeText(from) + ", got " + shapeText(offsets) +
                                 " + " + shapeText(extents));
  return nodeOf(tile::SliceOp::create(session().builder, locationOf(where, a),
                                      tile::tileOf(extents, tile::elementOf(a.getType())), a,
                                      session().builder.getDenseI64ArrayAttr(offsets)));
}

//===- The grid and the views -------------------------------------------------------------------------------------===//

static int checkAxis(int axis, const char *name, SourceLocation at) {
  if (axis < 0 || axis > 2)
    throw UserError(at, std::string(name) + ": expected an axis from 0 to 2, got " + std::to_string(axis));
  return axis;
}
Node programId(int axis, SourceLocation at) {
  return nodeOf(tile::ProgramIdOp::create(session(at).builder, locationOf(at), checkAxis(axis, "program_id", at)));
}
Node numPrograms(int axis, SourceLocation at) {
  return nodeOf(tile::NumProgramsOp::create(session(at).builder, locationOf(at), checkAxis(axis, "num_programs", at)));
}

// Of a view whose last two dimensions are swapped in memory, the dimension there; else the same.
static int inMemory(Node view, int dim) {
  int rank = cast<tile::ViewType>(valueOf(view).getType()).getRank();
  return session().transposed.contains(view.value) && dim >= rank - 2 ? 2 * rank - 3 - dim : dim;
}
// The same of one item a dimension.
template <class T> static std::vector<T> inMemory(Node view, std::vector<T> items) {
  if (session().transposed.contains(view.value))
    std::swap(items[items.size() - 1], items[items.size() - 2]);
  return items;
}

Node extent(Node view, int dim, SourceLocation at) {
  session(at);
  return nodeOf(tile::ExtentOp::create(session().builder, locationOf(at), valueOf(view), inMemory(view, dim)));
}

// What memory holds for a dtype: a b1 is a byte there.
static DType stored(DType dtype) { return dtype == DType::b1 ? DType::u8 : dtype; }
static Value toStored(Node value, DType dtype, SourceLocation at) {
  return valueOf(cast(dtype, stored(dtype), value, at), stored(dtype), at);
}

static SmallVector<Value> valuesOf(const std::vector<Node> &nodes, SourceLocation at) {
  SmallVector<Value> values;
  for (Node node : nodes)
    values.push_back(valueOf(node, DType::i64, at));
  return values;
}

// Where a tile lies in memory. `turned`: its last two dimensions are swapped there.
namespace {
struct Rectangle {
  SmallVector<Value> offsets;
  std::vector<int> dims;
  Shape extents;
  bool turned = false;

  Rectangle(Node view, const std::vector<Node> &places, const std::vector<int> &kept, const Shape &shape,
            SourceLocation at)
      : offsets(valuesOf(inMemory(view, places), at)), extents(shape) {
    for (int dim : kept)
      dims.push_back(inMemory(view, dim));
    turned = !std::ranges::is_sorted(dims);
    if (turned) {
      std::swap(dims[dims.size() - 1], dims[dims.size() - 2]);
      std::swap(extents[extents.size() - 1], extents[extents.size() - 2]);
    }
  }
};
} // namespace

static Node withLastTwoSwapped(Node value, SourceLocation at) {
  std::vector<int> permutation(shapeOf(value).size());
  std::iota(permutation.begin(), permutation.end(), 0);
  std::swap(permutation[permutation.size() - 1], permutation[permutation.size() - 2]);
  return transpose(value, permutation, at);
}

Node load(Node view, DType dtype, const std::vector<Node> &offsets, const std::vector<int> &dims, const Shape &extents,
          std::optional<Node> other, SourceLocation at) {
  session(at);
  checkExtents(extents, at);
  Value fill = other ? toStored(*other, dtype, at) : Value();
  Rectangle place(view, offsets, dims, extents, at);
  Value loaded =
      tile::LoadOp::create(session().builder, locationOf(at), tile::tileOf(place.extents, typeOf(stored(dtype))),
                           valueOf(view), place.offsets, session().builder.getDenseI32ArrayAttr(place.dims), fill);
  Node result = place.turned ? withLastTwoSwapped(nodeOf(loaded), at) : nodeOf(loaded);
  return cast(stored(dtype), dtype, result, at);
}

void store(Node value, Node view, DType dtype, const std::vector<Node> &offsets, const std::vector<int> &dims,
           const Shape &extents, SourceLocation at) {
  session(at);
  checkExtents(extents, at);
  Value v = toStored(value, dtype, at);
  ArrayRef<int64_t> shape = tile::shapeOf(v.getType());
  bool fits = shape.empty() || shape.size() == extents.size();
  for (size_t i = 0; i < shape.size() && fits; ++i)
    fits = shape[i] == 1 || shape[i] == extents[i];
  if (!fits)
    throw UserError(at, "store: expected a tile of shape " + shapeText(extents) + ", got " + shapeText(shape));
  Rectangle place(view, offsets, dims, extents, at);
  Value whole = broadcastTo(v, extents, locationOf(at));
  if (place.turned)
    whole = valueOf(withLastTwoSwapped(nodeOf(whole), at));
  tile::StoreOp::create(session().builder, locationOf(at), whole, valueOf(view), place.offsets,
                        session().builder.getDenseI32ArrayAttr(place.dims));
}

// Brings indices, mask and value to one shape; scalar indices stay scalars.
static Shape unifyAccess(SmallVectorImpl<Value> &indices, Value &mask, Value *value, SourceLocation at) {
  SmallVector<Value> tiles;
  for (Value index : indices)
    if (!tile::shapeOf(index.getType()).empty())
      tiles.push_back(index);
  if (mask)
    tiles.push_back(mask);
  if (value)
    tiles.push_back(*value);
  Shape shape = unify(tiles, at);
  size_t next = 0;
  for (Value &index : indices)
    if (!tile::shapeOf(index.getType()).empty())
      index = tiles[next++];
  if (mask)
    mask = tiles[next++];
  if (value)
    *value = tiles[next++];
  return shape;
}

Node gather(Node view, DType dtype, const std::vector<Node> &nodes, std::optional<Node> mask, std::optional<Node> other,
            SourceLocation at) {
  session(at);
  SmallVector<Value> indices = valuesOf(inMemory(view, nodes), at);
  Value m = mask ? valueOf(*mask, DType::b1, at) : Value();
  Shape shape = unifyAccess(indices, m, nullptr, at);
  Value fill = other ? toStored(*other, dtype, at) : Value();
  Value loaded = tile::GatherOp::create(session().builder, locationOf(at, indices[0]),
                                        tile::tileOf(shape, typeOf(stored(dtype))), valueOf(view), indices, m, fill);
  return cast(stored(dtype), dtype, nodeOf(loaded), at);
}

void scatter(Node value, Node view, DType dtype, const std::vector<Node> &nodes, std::optional<Node> mask,
             SourceLocation at) {
  session(at);
  SmallVector<Value> indices = valuesOf(inMemory(view, nodes), at);
  Value m = mask ? valueOf(*mask, DType::b1, at) : Value(), v = toStored(value, dtype, at);
  unifyAccess(indices, m, &v, at);
  tile::ScatterOp::create(session().builder, locationOf(at, v), v, valueOf(view), indices, m);
}

static tile::Atomic atomicOf(Atomic op, bool sign) {
  switch (op) {
  case Atomic::Add:
    return tile::Atomic::Add;
  case Atomic::Max:
    return sign ? tile::Atomic::Max : tile::Atomic::MaxU;
  case Atomic::Min:
    return sign ? tile::Atomic::Min : tile::Atomic::MinU;
  case Atomic::And:
    return tile::Atomic::And;
  case Atomic::Or:
    return tile::Atomic::Or;
  case Atomic::Xor:
    return tile::Atomic::Xor;
  case Atomic::Exchange:
    return tile::Atomic::Exchange;
  }
  throw InternalError("an atomic operation with no lowering");
}

Node atomic(Atomic op, Node value, Node view, DType dtype, const std::vector<Node> &nodes, std::optional<Node> mask,
            SourceLocation at) {
  checkComputes(dtype, at);
  session(at);
  SmallVector<Value> indices = valuesOf(inMemory(view, nodes), at);
  Value m = mask ? valueOf(*mask, DType::b1, at) : Value(), v = toStored(value, dtype, at);
  unifyAccess(indices, m, &v, at);
  Value old = tile::AtomicOp::create(session().builder, locationOf(at, v), v.getType(), atomicOf(op, isSigned(dtype)),
                                     v, valueOf(view), indices, m);
  return cast(stored(dtype), dtype, nodeOf(old), at);
}

//===- Combining elements -----------------------------------------------------------------------------------------===//

// Traces a combiner into the region of `op`, whose sources have these element types.
static void traceCombiner(Region &region, ArrayRef<Type> elements, const Combine &combine, SourceLocation where) {
  Session::Impl &state = session(where);
  OpBuilder::InsertionGuard guard(state.builder);
  Location at = locationOf(where);
  SmallVector<Type> types(elements);
  types.append(elements.begin(), elements.end());
  Block *block = state.builder.createBlock(&region, {}, types, SmallVector<Location>(types.size(), at));
  state.push({Scope::Kind::Combiner, block, {}, {}, {}});
  std::vector<Node> left, right;
  for (size_t i = 0; i < elements.size(); ++i) {
    left.push_back(nodeOf(block->getArgument(i)));
    right.push_back(nodeOf(block->getArgument(elements.size() + i)));
  }
  SmallVector<Value> yields;
  for (Node node : combine(left, right))
    yields.push_back(valueOf(node));
  tile::YieldOp::create(state.builder, at, yields);
  state.scopes.pop_back();
  for (Operation &op : *block)
    for (Value operand : op.getOperands())
      if (operand.getParentBlock() != block)
        throw UserError(where, "expected a combiner of its arguments and constants alone, got one that uses a value of "
                               "the kernel around it");
}

static SmallVector<Value> sourcesOf(const std::vector<Node> &nodes, int axis, const char *name, SourceLocation at) {
  SmallVector<Value> sources;
  for (Node node : nodes)
    sources.push_back(valueOf(node));
  unify(sources, at);
  int rank = int(tile::shapeOf(sources[0].getType()).size());
  if (axis < 0 || axis >= rank)
    throw UserError(at, std::string(name) + ": expected an axis from 0 to " + std::to_string(rank - 1) + ", got " +
                            std::to_string(axis));
  return sources;
}

template <class Op>
static std::vector<Node> finishCombining(Op op, ArrayRef<Value> sources, const Combine &combine, SourceLocation at) {
  SmallVector<Type> elements;
  for (Value source : sources)
    elements.push_back(tile::elementOf(source.getType()));
  traceCombiner(op.getCombiner(), elements, combine, at);
  std::vector<Node> results;
  for (Value result : op.getResults())
    results.push_back(nodeOf(result));
  return results;
}

std::vector<Node> reduce(const std::vector<Node> &nodes, int axis, const Combine &combine, SourceLocation at) {
  session(at);
  SmallVector<Value> sources = sourcesOf(nodes, axis, "reduce", at);
  SmallVector<Type> results;
  for (Value source : sources) {
    SmallVector<int64_t> shape(tile::shapeOf(source.getType()));
    shape.erase(shape.begin() + axis);
    results.push_back(tile::tileOf(shape, tile::elementOf(source.getType())));
  }
  return finishCombining(tile::ReduceOp::create(session().builder, locationOf(at, sources[0]), results, sources, axis),
                         sources, combine, at);
}

std::vector<Node> scan(const std::vector<Node> &nodes, int axis, bool reverse, const Combine &combine,
                       SourceLocation at) {
  session(at);
  SmallVector<Value> sources = sourcesOf(nodes, axis, "scan", at);
  return finishCombining(tile::ScanOp::create(session().builder, locationOf(at, sources[0]),
                                              ValueRange(sources).getTypes(), sources, axis, reverse),
                         sources, combine, at);
}

Node dot(Node aNode, DType aType, Node bNode, DType bType, Node accNode, DType accType, bool tf32, SourceLocation at) {
  session(at);
  Value a = valueOf(aNode), b = valueOf(bNode), acc = valueOf(accNode);
  Shape as = shapeOf(aNode), bs = shapeOf(bNode), cs = shapeOf(accNode);
  if (as[1] != bs[0])
    throw UserError(at, "dot: expected b to have " + std::to_string(as[1]) + " rows, the columns of a, got " +
                            shapeText(as) + " and " + shapeText(bs));
  if (cs[0] != as[0] || cs[1] != bs[1])
    throw UserError(at,
                    "dot: expected an accumulator of shape " + shapeText({as[0], bs[1]}) + ", got " + shapeText(cs));
  auto op = tile::DotOp::create(session().builder, locationOf(at, a), acc.getType(), a, b, acc,
                                tf32 ? tile::DotPrecision::TF32 : tile::DotPrecision::Ieee,
                                /*unsignedA=*/!isSigned(aType), /*unsignedB=*/!isSigned(bType));
  return nodeOf(op.getResult());
}

//===- Packed values ----------------------------------------------------------------------------------------------===//

// The packing a user asked for, checked.
static tile::PackingAttr packingOf(std::string_view spelling, SourceLocation at) {
  try {
    Packing::parse(spelling).check();
  } catch (const UserError &error) {
    throw UserError(at, error.message());
  }
  return tile::PackingAttr::get(session().builder.getContext(), StringRef(spelling));
}

Node unpack(Node node, std::string_view spelling, bool isSigned, SourceLocation at) {
  session(at);
  Packing packing = Packing::parse(spelling);
  tile::PackingAttr attr = packingOf(spelling, at);
  Shape shape = shapeOf(node);
  if (shape.back() % packing.bytesPerBlock())
    throw UserError(at, "unpack: expected a multiple of " + std::to_string(packing.bytesPerBlock()) +
                            " bytes, a block of " + std::string(spelling) + ", got " + std::to_string(shape.back()));
  shape.back() = shape.back() / packing.bytesPerBlock() * packing.block;
  if (packing.rows > 1) {
    if (shape.size() < 2)
      throw UserError(at, "unpack: expected a dimension of rows for " + std::string(spelling) + ", got one dimension");
    shape[shape.size() - 2] *= packing.rows;
  }
  return nodeOf(tile::UnpackOp::create(session().builder, locationOf(at, valueOf(node)),
                                       RankedTensorType::get(shape, typeOf(DType::i8)), valueOf(node), isSigned, attr));
}

Node pack(Node node, std::string_view spelling, SourceLocation at) {
  session(at);
  Packing packing = Packing::parse(spelling);
  tile::PackingAttr attr = packingOf(spelling, at);
  Shape shape = shapeOf(node);
  if (shape.back() % packing.block)
    throw UserError(at, "pack: expected a multiple of " + std::to_string(packing.block) + " values, a block of " +
                            std::string(spelling) + ", got " + std::to_string(shape.back()));
  shape.back() = packing.bytesPerRow(shape.back());
  if (packing.rows > 1) {
    if (shape.size() < 2 || shape[shape.size() - 2] % packing.rows)
      throw UserError(at, "pack: expected a multiple of " + std::to_string(packing.rows) + " rows for " +
                              std::string(spelling));
    shape[shape.size() - 2] /= packing.rows;
  }
  return nodeOf(tile::PackOp::create(session().builder, locationOf(at, valueOf(node)),
                                     RankedTensorType::get(shape, typeOf(DType::i8)), valueOf(node), attr));
}

Node lut(Node table, Node indices, SourceLocation at) {
  session(at);
  Value t = valueOf(table), i = valueOf(indices);
  int64_t extent = shapeOf(table)[0];
  if (extent > 256)
    throw UserError(at, "lut: expected a table of 1 to 256 elements, got " + std::to_string(extent));
  bool scalar = shapeOf(indices).empty();
  if (scalar)
    i = splatTo(i, {1}, locationOf(at));
  Value found = tile::LutOp::create(session().builder, locationOf(at, i),
                                    tile::tileOf(tile::shapeOf(i.getType()), tile::elementOf(t.getType())), t, i);
  return scalar ? reduce(
                      {nodeOf(found)}, 0, [](const auto &left, const auto &) { return left; }, at)[0]
                : nodeOf(found);
}

//===- For people -------------------------------------------------------------------------------------------------===//

void print(std::string_view label, DType dtype, Node value, SourceLocation at) {
  session(at);
  tile::PrintOp::create(session().builder, locationOf(at), StringRef(label), valueOf(value, dtype, at),
                        !isSigned(dtype));
}

void assert_(Node condition, std::string_view message, SourceLocation at) {
  session(at);
  tile::AssertOp::create(session().builder, locationOf(at), valueOf(condition, DType::b1, at), StringRef(message));
}

} // namespace bitloom::trace

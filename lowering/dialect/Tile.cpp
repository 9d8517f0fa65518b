#include "bitloom/lowering/dialect/Tile.h"

#include "bitloom/lib/layout/LinearLayout.h"
#include "bitloom/lib/support/Error.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom::tile;

#include "lowering/dialect/TileDialect.cpp.inc"
#include "lowering/dialect/TileEnums.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "lowering/dialect/TileTypes.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "lowering/dialect/TileAttributes.cpp.inc"

// Layouts are printed once, at the top: #layout of registers, #shared of shared memory.
namespace {
struct Aliases : OpAsmDialectInterface {
  using OpAsmDialectInterface::OpAsmDialectInterface;
  AliasResult getAlias(Attribute attribute, raw_ostream &out) const override {
    auto layout = dyn_cast<LayoutAttr>(attribute);
    if (!layout)
      return AliasResult::NoAlias;
    out << (layout.getSpelling().starts_with("{offset") ? "shared" : "layout");
    return AliasResult::FinalAlias;
  }
};
} // namespace

void TileDialect::initialize() {
  addInterfaces<Aliases>();
  addTypes<
#define GET_TYPEDEF_LIST
#include "lowering/dialect/TileTypes.cpp.inc"
      >();
  addAttributes<
#define GET_ATTRDEF_LIST
#include "lowering/dialect/TileAttributes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "lowering/dialect/TileOps.cpp.inc"
      >();
}

Operation *TileDialect::materializeConstant(OpBuilder &builder, Attribute value, Type type, Location loc) {
  return arith::ConstantOp::materialize(builder, value, type, loc);
}

llvm::ArrayRef<int64_t> bitloom::tile::shapeOf(Type tile) {
  if (auto tensor = dyn_cast<RankedTensorType>(tile))
    return tensor.getShape();
  return {};
}

Type bitloom::tile::elementOf(Type tile) { return getElementTypeOrSelf(tile); }

Type bitloom::tile::tileOf(ArrayRef<int64_t> shape, Type element) {
  return shape.empty() ? element : RankedTensorType::get(shape, element);
}

//===- Types and attributes ---------------------------------------------------------------------------------------===//

Type ViewType::parse(AsmParser &parser) {
  SmallVector<int64_t> dims;
  Type element;
  bool strided = false;
  if (parser.parseLess() || parser.parseDimensionList(dims) || parser.parseType(element))
    return {};
  if (succeeded(parser.parseOptionalComma())) {
    if (parser.parseKeyword("strided"))
      return {};
    strided = true;
  }
  if (parser.parseGreater())
    return {};
  for (int64_t dim : dims)
    if (!ShapedType::isDynamic(dim)) {
      parser.emitError(parser.getNameLoc(), "expected every extent of a view to be '?', got ") << dim;
      return {};
    }
  return parser.getChecked<ViewType>(parser.getContext(), dims.size(), element, strided);
}

void ViewType::print(AsmPrinter &printer) const {
  printer << "<";
  for (int64_t i = 0; i < getRank(); ++i)
    printer << "?x";
  printer << getElementType() << (getStrided() ? ", strided>" : ">");
}

LogicalResult ViewType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t rank, Type element, bool) {
  if (rank < 1)
    return emitError() << "expected a view of rank 1 or more, got rank " << rank;
  if (!element.isSignlessInteger() && !isa<FloatType>(element))
    return emitError() << "expected integer or float elements, got " << element;
  return success();
}

LogicalResult RingType::verify(function_ref<InFlightDiagnostic()> emitError, ArrayRef<Type> tiles) {
  for (Type tile : tiles)
    if (auto tensor = dyn_cast<RankedTensorType>(tile); !tensor || !tensor.hasStaticShape())
      return emitError() << "expected a ring of tensors of static shape, got " << tile;
  return success();
}

int64_t PackingAttr::bits() { return bitloom::Packing::parse(getSpelling()).bits; }
int64_t PackingAttr::bytesFor(int64_t values) { return bitloom::Packing::parse(getSpelling()).bytesPerRow(values); }

// Both attributes hold a spelling that lib parses; its complaint becomes the diagnostic.
template <class Parse> static LogicalResult verifySpelling(function_ref<InFlightDiagnostic()> emitError, Parse parse) {
  try {
    parse();
    return success();
  } catch (const bitloom::UserError &error) {
    return emitError() << error.what();
  }
}

LogicalResult PackingAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringRef spelling) {
  return verifySpelling(emitError, [&] { bitloom::Packing::parse(spelling); });
}

LogicalResult LayoutAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringRef spelling) {
  return verifySpelling(emitError, [&] { bitloom::LinearLayout::parse(spelling); });
}

//===- Optional types in assembly: derived from another operand's -------------------------------------------------===//

using MaybeOperand = std::optional<OpAsmParser::UnresolvedOperand>; // its type stays null where it is absent

static ParseResult parseOtherType(OpAsmParser &, const MaybeOperand &operand, Type result, Type &other) {
  if (operand)
    other = elementOf(result);
  return success();
}
static void printOtherType(OpAsmPrinter &, Operation *, Value, Type, Type) {}

static ParseResult parseMaskType(OpAsmParser &parser, const MaybeOperand &operand, Type like, Type &mask) {
  if (!operand)
    return success();
  mask = parser.getBuilder().getI1Type();
  if (auto tensor = dyn_cast<RankedTensorType>(like))
    mask = tensor.clone(mask); // the layout too
  return success();
}
static void printMaskType(OpAsmPrinter &, Operation *, Value, Type, Type) {}

static ParseResult parseSameType(OpAsmParser &, Type like, Type &type) {
  type = like;
  return success();
}
static void printSameType(OpAsmPrinter &, Operation *, Type, Type) {}

static ParseResult parseSameTypes(OpAsmParser &, ArrayRef<Type> like, SmallVectorImpl<Type> &types) {
  types.assign(like.begin(), like.end());
  return success();
}
static void printSameTypes(OpAsmPrinter &, Operation *, TypeRange, TypeRange) {}

#define GET_OP_CLASSES
#include "lowering/dialect/TileOps.cpp.inc"

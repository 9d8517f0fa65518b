// Packed values straight to 16-bit floats, two in a word at a time, without taking bytes apart. A field of b bits that
// is or'ed into the mantissa of 2^m, whose last bit counts 1, makes the number 2^m + field; a subtraction makes that
// the field itself, exactly. At bit t of the mantissa the number is 2^m + 2^t · field, and a multiplication by 2^-t
// goes with the subtraction (Kim et al., "Who Says Elephants Can't Run: Bringing Large Scale MoE Models into Cloud
// Scale Production", 2022, section 3.2). A signed value has its top bit inverted, and 2^(b-1) subtracted as well. f16
// has m = 10, bf16 m = 7: there eight bits go by way of f32, whose upper half they fit.
//
// The two values of a word must lie 16 bits apart. So they do where the packing is in the order of fragments; elsewhere
// one permutation of bytes brings them there, for all the fields of those two bytes.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

#include <map>

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// Some bits of every value, and where they belong in it.
struct PlaneOfValue {
  Value fields; // unpacked
  int bits, shift;
};

struct PackedValue {
  SmallVector<PlaneOfValue> planes;
  int bits = 0;
  bool isSigned = false;
};

} // namespace

static std::optional<int64_t> splatOf(Value value) {
  APInt number;
  if (!matchPattern(value, m_ConstantInt(&number)))
    return std::nullopt;
  return int64_t(number.getZExtValue());
}

// The planes that the value is the sum of, as tile-decompose-packing leaves them.
static bool collectPlanes(Value value, int shift, PackedValue &packed) {
  Operation *op = value.getDefiningOp();
  if (auto either = dyn_cast_or_null<arith::OrIOp>(op))
    return collectPlanes(either.getLhs(), shift, packed) && collectPlanes(either.getRhs(), shift, packed);
  if (auto shifted = dyn_cast_or_null<arith::ShLIOp>(op))
    if (std::optional<int64_t> by = splatOf(shifted.getRhs()))
      return collectPlanes(shifted.getLhs(), shift + int(*by), packed);
  auto unpack = dyn_cast_or_null<tile::UnpackOp>(op);
  if (!unpack || unpack.getIsSigned())
    return false;
  packed.planes.push_back({unpack, int(unpack.getPacking().bits()), shift});
  packed.bits += packed.planes.back().bits;
  return true;
}

// The value as the cast reads it; none where it is no packed one.
static std::optional<PackedValue> packedValue(Operation *cast) {
  PackedValue packed;
  Value value = cast->getOperand(0);
  int64_t sign = 0;
  if (auto minus = value.getDefiningOp<arith::SubIOp>()) { // (v ^ sign) - sign
    auto flipped = minus.getLhs().getDefiningOp<arith::XOrIOp>();
    std::optional<int64_t> by = splatOf(minus.getRhs());
    if (!flipped || !by || splatOf(flipped.getRhs()) != by)
      return std::nullopt;
    sign = *by;
    value = flipped.getLhs();
  }
  if (!collectPlanes(value, 0, packed))
    return std::nullopt;
  packed.isSigned = sign || (packed.bits == 8 && isa<arith::SIToFPOp>(cast));
  if (packed.bits > 8 || (sign && sign != 1 << (packed.bits - 1)))
    return std::nullopt;
  llvm::sort(packed.planes, [](const PlaneOfValue &a, const PlaneOfValue &b) { return a.shift < b.shift; });
  int next = 0;
  for (const PlaneOfValue &plane : packed.planes) {
    if (plane.shift != next)
      return std::nullopt;
    next += plane.bits;
  }
  return packed;
}

namespace {

// The words of one cast.
class PackedCast {
public:
  PackedCast(Emitter &e, const PackedValue &packed, Type to) : e(e), b(e.builder), packed(packed), to(to) {}
  // Of the values in registers r and r + 1.
  Value word(int r);

private:
  struct Place { // of a field: its lowest bit in an i32
    Value word;
    int bit;
  };
  Place placeOf(const PlaneOfValue &plane, int r);
  Place together(const Place &low, const Place &high);
  Value moved(Value word, int by); // towards the low end
  Value permuted(Value low, Value high, int selector);
  Value throughF32(int r);
  Value word32(uint32_t bits) { return e.i32(int32_t(bits)); }
  Value number(double value); // in both halves

  Emitter &e;
  OpBuilder &b;
  const PackedValue &packed;
  Type to;
  std::map<std::pair<void *, int>, Value> movedWords;
  std::map<std::tuple<void *, void *, int>, Value> permutedWords;
  DenseMap<Value, Value> flipped; // words whose bytes have their top bits inverted
};

} // namespace

PackedCast::Place PackedCast::placeOf(const PlaneOfValue &plane, int r) {
  const Emitter::PackedFields &fields = *e.fields(plane.fields);
  Value byte = fields.bytes[r];
  int shift = fields.shifts[r];
  // A byte of a word that was loaded is read there.
  if (auto extract = byte.getDefiningOp<LLVM::ExtractElementOp>())
    if (auto cast = extract.getVector().getDefiningOp<LLVM::BitcastOp>(); cast && cast.getArg().getType().isInteger(32))
      if (std::optional<int64_t> index = splatOf(extract.getPosition()))
        return {cast.getArg(), int(*index) * 8 + shift};
  Value &wide = movedWords[{byte.getAsOpaquePointer(), 0}];
  if (!wide)
    wide = arith::ExtUIOp::create(b, e.loc, b.getI32Type(), byte);
  return {wide, shift};
}

Value PackedCast::moved(Value word, int by) {
  if (!by)
    return word;
  Value &result = movedWords[{word.getAsOpaquePointer(), by}];
  if (!result)
    result = by > 0 ? arith::ShRUIOp::create(b, e.loc, word, e.i32(by)).getResult()
                    : arith::ShLIOp::create(b, e.loc, word, e.i32(-by)).getResult();
  return result;
}

Value PackedCast::permuted(Value low, Value high, int selector) {
  Value &result = permutedWords[{low.getAsOpaquePointer(), high.getAsOpaquePointer(), selector}];
  if (!result)
    result = NVVM::PermuteOp::create(b, e.loc, b.getI32Type(), low, high, e.i32(selector), NVVM::PermuteMode::DEFAULT);
  return result;
}

// One place for both: that of the lower one, the other 16 bits above it.
PackedCast::Place PackedCast::together(const Place &low, const Place &high) {
  if (low.word == high.word && high.bit == low.bit + 16)
    return low;
  Value other = moved(high.word, high.bit % 8 - low.bit % 8);
  int lowByte = low.bit / 8, highByte = 4 + high.bit / 8;
  return {permuted(low.word, other, lowByte * 0x11 | highByte * 0x1100), low.bit % 8};
}

Value PackedCast::number(double value) {
  auto type = VectorType::get({2}, to);
  APFloat number(value);
  bool losesInfo = false;
  number.convert(cast<FloatType>(to).getFloatSemantics(), APFloat::rmNearestTiesToEven, &losesInfo);
  return arith::ConstantOp::create(b, e.loc, DenseElementsAttr::get(type, number));
}

// Bytes as the low end of the mantissa of 2^23, and what is left of that in the upper halves.
Value PackedCast::throughF32(int r) {
  Value halves[2];
  for (int i : {0, 1}) {
    Place place = placeOf(packed.planes.front(), r + i);
    Value word = place.word;
    if (packed.isSigned) {
      Value &inverted = flipped[word];
      if (!inverted)
        inverted = arith::XOrIOp::create(b, e.loc, word, word32(0x80808080));
      word = inverted;
    }
    Value bits = permuted(word, word32(0x4b000000), 0x7440 | place.bit / 8);
    Value above = arith::ConstantOp::create(b, e.loc, b.getF32FloatAttr(8388608.0f + (packed.isSigned ? 128 : 0)));
    Value value = arith::SubFOp::create(b, e.loc, e.fromBits(bits, b.getF32Type()), above);
    halves[i] = e.toBits(value);
  }
  return permuted(halves[0], halves[1], 0x7632);
}

Value PackedCast::word(int r) {
  const int mantissa = to.isF16() ? 10 : 7, bits = packed.bits;
  if (bits > mantissa)
    return throughF32(r);
  SmallVector<Place> places;
  const PlaneOfValue *widest = &packed.planes.front();
  for (const PlaneOfValue &plane : packed.planes) {
    places.push_back(together(placeOf(plane, r), placeOf(plane, r + 1)));
    if (plane.bits > widest->bits)
      widest = &plane;
  }
  // Where the widest plane lies already if the whole value fits there, else moved by a distance that others share.
  int base = places[widest - packed.planes.begin()].bit - widest->shift, at = 0;
  for (int period : {16, 8, 4})
    if (base >= 0 && base % period + bits <= mantissa) {
      at = base % period;
      break;
    }
  const uint32_t sign = packed.isSigned ? 1u << (bits - 1) : 0, above = to.isF16() ? 0x6400 : 0x4300;
  Value word;
  for (auto [plane, place] : llvm::zip(packed.planes, places)) {
    Value field = moved(place.word, place.bit - at - plane.shift);
    Value mask = word32((((1u << plane.bits) - 1) << (at + plane.shift)) * 0x10001u);
    // (field & mask) ^ word. In words of its own: the assembler makes two instructions of it where two are constants.
    word = e.ptx("lop3.b32 $0, $1, $2, $3, 0x6a;", "=r,r,r,r", b.getI32Type(),
                 {field, mask, word ? word : word32((above | sign << at) * 0x10001u)}, /*hasSideEffects=*/false);
  }
  auto pair = VectorType::get({2}, to);
  Value numbers = LLVM::BitcastOp::create(b, e.loc, pair, word);
  const double unit = std::ldexp(1.0, -at), least = std::ldexp(unit, mantissa) + sign;
  Value value;
  if (to.isF16() && at == 0)
    value = arith::SubFOp::create(b, e.loc, numbers, number(least));
  else
    value = LLVM::FMAOp::create(b, e.loc, pair, numbers, number(unit), number(-least));
  return LLVM::BitcastOp::create(b, e.loc, b.getI32Type(), value);
}

bool nvptx::lowerPackedCast(Emitter &e, Operation *op) {
  auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
  if (!isa<arith::UIToFPOp, arith::SIToFPOp>(op) || !type)
    return false;
  Type to = type.getElementType();
  const int count = e.registersOf(type);
  if ((!to.isF16() && !to.isBF16()) || count % 2)
    return false;
  std::optional<PackedValue> packed = packedValue(op);
  if (!packed)
    return false;
  for (const PlaneOfValue &plane : packed->planes)
    if (e.layout(plane.fields.getType()) != e.layout(type) || !e.fields(plane.fields))
      return false;
  PackedCast cast(e, *packed, to);
  SmallVector<Value> words;
  for (int r = 0; r < count; r += 2)
    words.push_back(cast.word(r));
  e.put(op->getResult(0), unpackWords(e, words, to, count));
  return true;
}

// Values of 4 bits looked up in a table of 16-bit numbers, four at a time. prmt takes four bytes out of eight, by the
// low three bits of four fields of four: with the fields of half a word as they lie there, of the first eight entries'
// and of the last eight's, and then of those two by the fields' top bits; the numbers' low and high bytes by
// themselves.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

bool nvptx::isLookupByWords(tile::LutOp lut) {
  auto unpack = lut.getIndices().getDefiningOp<tile::UnpackOp>();
  if (!unpack || unpack.getIsSigned() || tile::shapeOf(lut.getTable().getType())[0] != 16 ||
      bytesOf(tile::elementOf(lut.getTable().getType())) != 2)
    return false;
  Packing packing = Packing::parse(unpack.getPacking().getSpelling());
  return packing.bits == 4 && packing.order == Packing::Order::Fragments;
}

// The loaded word that the byte lies in, and which it is; null where it is none of such a word.
static std::pair<Value, int> wordOf(Value byte) {
  auto extract = byte.getDefiningOp<LLVM::ExtractElementOp>();
  auto cast = extract ? extract.getVector().getDefiningOp<LLVM::BitcastOp>() : nullptr;
  APInt index;
  if (!cast || !cast.getArg().getType().isInteger(32) || !matchPattern(extract.getPosition(), m_ConstantInt(&index)))
    return {};
  return {cast.getArg(), int(index.getZExtValue())};
}

bool nvptx::lowerPackedLookup(Emitter &e, tile::LutOp lut) {
  const Emitter::PackedFields *fields = isLookupByWords(lut) ? e.fields(lut.getIndices()) : nullptr;
  const LinearLayout &held = e.layout(lut.getTable().getType());
  if (!fields || e.layout(lut.getType()) != e.layout(lut.getIndices().getType()) || held.inSize(reg) != 16 ||
      e.registersOf(lut.getType()) % 2)
    return false;
  // Of registers r and r + 1: a word, and the bit in it where the first one's field starts, 16 below the other's.
  struct Pair {
    Value word;
    int bit;
  };
  SmallVector<Pair> pairs;
  for (int r = 0; r < e.registersOf(lut.getType()); r += 2) {
    auto [low, lowByte] = wordOf(fields->bytes[r]);
    auto [high, highByte] = wordOf(fields->bytes[r + 1]);
    if (!low || low != high || highByte != lowByte + 2 || fields->shifts[r] != fields->shifts[r + 1])
      return false;
    pairs.push_back({low, lowByte * 8 + fields->shifts[r]});
  }

  OpBuilder &b = e.builder;
  auto number = [&](uint32_t bits) { return e.i32(int32_t(bits)); };
  auto permuted = [&](Value low, Value high, Value selector) -> Value {
    return NVVM::PermuteOp::create(b, e.loc, b.getI32Type(), low, high, selector, NVVM::PermuteMode::DEFAULT);
  };
  // Four entries' low bytes in a word, and their high ones.
  SmallVector<Value> entries = packWords(e, e.get(lut.getTable()));
  Value table[2][4];
  for (int part : {0, 1})
    for (int four = 0; four < 4; ++four)
      table[part][four] = permuted(entries[2 * four], entries[2 * four + 1], number(part ? 0x7531 : 0x6420));
  DenseMap<Value, std::array<Value, 4>> found; // of a word's fields 4 · k and 4 · k + 16, in one word for each k
  auto lookUp = [&](Value word) {
    Value first = arith::AndIOp::create(b, e.loc, word, number(0x77777777));
    Value shifted = arith::ShRUIOp::create(b, e.loc, word, e.i32(1));
    Value top = arith::AndIOp::create(b, e.loc, shifted, number(0x44444444));
    Value second = arith::OrIOp::create(b, e.loc, top, number(0x32103210));
    Value bytes[2][2]; // of a half's four fields: of a half, of a part
    for (int half : {0, 1}) {
      auto moved = [&](Value selector) -> Value {
        return half ? arith::ShRUIOp::create(b, e.loc, selector, e.i32(16)).getResult() : selector;
      };
      Value entry = moved(first), eight = moved(second);
      for (int part : {0, 1})
        bytes[half][part] = permuted(permuted(table[part][0], table[part][1], entry),
                                     permuted(table[part][2], table[part][3], entry), eight);
    }
    std::array<Value, 4> words;
    for (int two : {0, 1}) {
      Value selector = number(two ? 0x7362 : 0x5140);
      Value low = permuted(bytes[0][0], bytes[0][1], selector), high = permuted(bytes[1][0], bytes[1][1], selector);
      words[2 * two] = permuted(low, high, number(0x5410));
      words[2 * two + 1] = permuted(low, high, number(0x7632));
    }
    return words;
  };
  SmallVector<Value> words;
  for (auto [word, bit] : pairs) {
    auto known = found.find(word);
    if (known == found.end())
      known = found.insert({word, lookUp(word)}).first;
    words.push_back(known->second[bit / 4]);
  }
  e.put(lut, unpackWords(e, words, tile::elementOf(lut.getType()), e.registersOf(lut.getType())));
  return true;
}

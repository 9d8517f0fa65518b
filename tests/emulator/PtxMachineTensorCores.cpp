// Matrix instructions. Fragments: a quarter q = lane / 4 of a warp holds row q, its lane % 4 names the columns; each
// 32-bit register holds 32 bits of neighbouring columns (PTX ISA, "Matrix Fragments for mma" and "… for wgmma").
#include "bitloom/tests/emulator/PtxMachine.h"

#include <cmath>
#include <cstring>

namespace bitloom::ptx {
namespace {

struct Shape {
  int m, n, k;
};

Shape shapeOf(const Instruction &i) {
  Shape shape{};
  for (const std::string &mod : i.mods)
    if (std::sscanf(mod.c_str(), "m%dn%dk%d", &shape.m, &shape.n, &shape.k) == 3)
      return shape;
  fail("unknown instruction: " + i.text);
}

struct Matrix { // row-major
  int columns;
  std::vector<double> values;
  Matrix(int rows, int columns) : columns(columns), values(size_t(rows) * columns) {}
  double *operator[](int row) { return values.data() + size_t(row) * columns; }
};

const std::vector<Operand> &partsOf(const Operand &o, size_t count, const Instruction &i) {
  if (o.kind != Operand::Vector || o.parts.size() != count)
    fail("expected " + std::to_string(count) + " registers: " + i.text);
  return o.parts;
}

// To the accumulator's type: sums of integers wrap, or stay at the ends of the range.
uint64_t accumulated(double value, Type type, bool saturates) {
  if (type.isFloat())
    return fromDouble(value, type);
  if (saturates)
    value = std::min(std::max(value, -0x1p31), 0x1p31 - 1);
  return uint64_t(int64_t(value)) & mask(32);
}

// Element e of an accumulator's fragment: its row within the warp's 16, or 8 rows on, and its column.
struct Place {
  int row, column;
};
Place accumulatorPlace(int lane, int e) {
  return {lane / 4 + 8 * (e >> 1 & 1), 8 * (e >> 2) + 2 * (lane % 4) + (e & 1)};
}

// Register r of a fragment of A (16 rows by 32 bytes or 16 of K), its element e.
Place operandPlace(int lane, int r, int e, int each) {
  return {lane / 4 + 8 * (r & 1), (r >> 1) * 4 * each + lane % 4 * each + e};
}

} // namespace

//===- ldmatrix and stmatrix --------------------------------------------------------------------------------------===//

// Matrix m of 8 rows of 16 bytes: lane 8 m + r gives row r's address, lane l holds row l / 4, columns 2 (l % 4) and the
// next; transposed, the rest.
void Machine::matrixMove(Lanes lanes, const Instruction &i) {
  const bool isLoad = i.op == "ldmatrix", isTransposed = i.has("trans");
  const int count = i.has("x4") ? 4 : i.has("x2") ? 2 : i.has("x1") ? 1 : 0;
  if (!count || !i.has("m8n8") || !i.has("b16") || lanes.size() != 32)
    fail("unknown instruction: " + i.text);
  const Operand &address = i.operands[isLoad ? 1 : 0], &fragment = i.operands[isLoad ? 0 : 1];
  auto registerOf = [&](int m) -> const Operand & {
    return fragment.kind == Operand::Vector ? partsOf(fragment, size_t(count), i)[m] : fragment;
  };
  for (int m = 0; m < count; ++m) {
    std::array<std::array<uint16_t, 8>, 8> matrix;
    for (int lane = 0; lane < 32 && !isLoad; ++lane)
      for (int e = 0; e < 2; ++e) {
        auto value = uint16_t(read(*lanes[lane], registerOf(m)) >> (16 * e));
        (isTransposed ? matrix[2 * (lane % 4) + e][lane / 4] : matrix[lane / 4][2 * (lane % 4) + e]) = value;
      }
    for (int row = 0; row < 8; ++row) {
      Thread &t = *lanes[8 * m + row];
      uint8_t *place = sharedAt(t, addressOf(t, address), 16, !isLoad, i);
      isLoad ? std::memcpy(matrix[row].data(), place, 16) : std::memcpy(place, matrix[row].data(), 16);
    }
    for (int lane = 0; lane < 32 && isLoad; ++lane) {
      uint64_t packed = 0;
      for (int e = 0; e < 2; ++e)
        packed |= uint64_t(isTransposed ? matrix[2 * (lane % 4) + e][lane / 4] : matrix[lane / 4][2 * (lane % 4) + e])
                  << (16 * e);
      write(*lanes[lane], registerOf(m), packed);
    }
  }
}

//===- mma --------------------------------------------------------------------------------------------------------===//

void Machine::mma(Lanes lanes, const Instruction &i) {
  const Shape shape = shapeOf(i);
  if (shape.m != 16 || shape.n != 8 || i.types.size() != 4 || !i.has("row") || !i.has("col") || i.has("sp"))
    fail("unknown instruction: " + i.text);
  const Type d = i.types[0], a = i.types[1], b = i.types[2], c = i.types[3];
  const int each = 32 / a.bits, registersOfB = shape.k / (4 * each);
  if (a.bits != b.bits || !registersOfB || shape.k % (4 * each))
    fail("unknown instruction: " + i.text);
  Matrix left(16, shape.k), right(8, shape.k);
  for (Thread *t : lanes) {
    const auto &partsA = partsOf(i.operands[1], size_t(2 * registersOfB), i);
    for (int r = 0; r < 2 * registersOfB; ++r)
      for (int e = 0; e < each; ++e) {
        Place at = operandPlace(t->lane(), r, e, each);
        left[at.row][at.column] = numberOf(read(*t, partsA[r]) >> (a.bits * e) & mask(a.bits), a);
      }
    for (int r = 0; r < registersOfB; ++r)
      for (int e = 0; e < each; ++e) {
        const Operand &o = i.operands[2];
        uint64_t bits = read(*t, o.kind == Operand::Vector ? partsOf(o, size_t(registersOfB), i)[r] : o);
        right[t->lane() / 4][r * 4 * each + t->lane() % 4 * each + e] =
            numberOf(bits >> (b.bits * e) & mask(b.bits), b);
      }
  }
  for (Thread *t : lanes) {
    const int perC = 32 / c.bits, perD = 32 / d.bits;
    std::array<uint64_t, 4> results{};
    for (int e = 0; e < 4; ++e) {
      Place at = accumulatorPlace(t->lane(), e);
      uint64_t bits = read(*t, partsOf(i.operands[3], size_t(4 / perC), i)[e / perC]);
      double sum = numberOf(bits >> (c.bits * (e % perC)) & mask(c.bits), c);
      for (int k = 0; k < shape.k; ++k)
        sum += left[at.row][k] * right[at.column][k];
      results[e / perD] |= accumulated(sum, d, i.has("satfinite")) << (d.bits * (e % perD));
    }
    for (int r = 0; r < 4 / perD; ++r)
      write(*t, partsOf(i.operands[0], size_t(4 / perD), i)[r], results[r]);
  }
}

//===- wgmma ------------------------------------------------------------------------------------------------------===//

namespace {

// The 64-bit matrix descriptor (PTX ISA, "Matrix Descriptor Format") as a map from elements to addresses.
struct Descriptor {
  uint64_t start, leading, stride;
  int swizzle; // bytes
  explicit Descriptor(uint64_t bits, const Instruction &i)
      : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4),
        swizzle(std::array{0, 128, 64, 32}[bits >> 62]) {
    if (bits >> 49 & 7)
      fail("unknown base offset of a matrix descriptor: " + i.text);
  }

  // Of 16 bytes. Canonical layouts, in pieces of 16 bytes (CUTLASS, mma_traits_sm90_gmma.hpp): w = swizzle / 16 of them
  // (1 without a swizzle) make a line.
  //   K-major:  row r, piece c of K:  (r % 8) w + (r / 8) stride + c (without a swizzle: c leading)
  //   MN-major: piece c of rows, k:   c % w + (c / w) leading + (k % 8) w + (k / 8) stride
  //             without a swizzle:    c stride + k % 8 + (k / 8) leading
  uint64_t kMajor(uint64_t row, uint64_t piece) const {
    uint64_t line = std::max(swizzle, 16);
    return place(start + row % 8 * line + row / 8 * stride + piece * (swizzle ? 16 : leading));
  }
  uint64_t mnMajor(uint64_t piece, uint64_t k) const {
    uint64_t line = std::max(swizzle, 16), across = line / 16;
    if (!swizzle)
      return start + piece * stride + k % 8 * 16 + k / 8 * leading;
    return place(start + piece % across * 16 + piece / across * leading + k % 8 * line + k / 8 * stride);
  }

private:
  uint64_t place(uint64_t address) const {
    uint64_t lines = swizzle / 16 - (swizzle != 0);
    return address ^ (address >> 7 & lines) << 4;
  }
};

} // namespace

void Machine::wgmma(Lanes lanes, const Instruction &i) {
  const Shape shape = shapeOf(i);
  if (i.types.size() != 3 || shape.m != 64 || shape.n < 8 || shape.n > 256 || shape.n % 8 || i.has("sp"))
    fail("unknown instruction: " + i.text);
  const Type d = i.types[0], a = i.types[1], b = i.types[2];
  if (a.bits != b.bits || shape.k * a.bits != 256)
    fail("expected operands of 32 bytes along K: " + i.text);
  const bool isFromRegisters = i.operands.at(1).kind == Operand::Vector;
  auto uniform = [&](const Operand &o) {
    uint64_t value = read(*lanes[0], o);
    for (Thread *t : lanes)
      if (read(*t, o) != value)
        fail("expected the same descriptor and scale in all threads: " + i.text);
    return value;
  };
  auto optional = [&](size_t k) { return k < i.operands.size() ? int64_t(read(*lanes[0], i.operands[k])) : 0; };
  uniform(i.operands.at(3));
  const bool accumulates = holds(*lanes[0], i.operands[3]);
  const double sign = d.isFloat() ? double(optional(4) * optional(5)) : 1;
  const bool transposesA = !isFromRegisters && optional(6), transposesB = optional(isFromRegisters ? 6 : 7);
  if ((transposesA || transposesB) && a.bits != 16)
    fail("expected operands along K: " + i.text);

  // What all warps know (any thread of a warp may have waited for it), and the stamp of the reads.
  Block &block = *lanes[0]->block;
  const size_t firstWarp = size_t(lanes[0]->id) / 32;
  Knowledge knows;
  int slot = block.warps[firstWarp].wgmmas.slot;
  if (slot < 0)
    slot = newSlot(true);
  for (size_t w = 0; w < 4; ++w) {
    Knowledge ofWarp;
    for (Thread &t : block.warps[firstWarp + w].threads)
      ofWarp.join(t.knows);
    w ? knows.meet(ofWarp) : void(knows = ofWarp);
    block.warps[firstWarp + w].wgmmas.slot = slot;
    ++block.warps[firstWarp + w].wgmmas.issued;
  }
  const SharedMemory::Access access{{slot, block.warps[firstWarp].wgmmas.issued}, &knows, false, true};

  const int perPiece = 128 / a.bits;
  auto gather = [&](Matrix &to, int rows, uint64_t bits, Type type, bool isTransposed) {
    Descriptor descriptor(bits, i);
    auto element = [&](const uint8_t *from, int e) {
      uint64_t value = 0;
      std::memcpy(&value, from + e * type.bits / 8, size_t(type.bits / 8));
      return numberOf(value, type);
    };
    if (!isTransposed)
      for (int row = 0; row < rows; ++row)
        for (int piece = 0; piece < 2; ++piece) {
          const uint8_t *from = block.memory.at(descriptor.kMajor(row, piece), 16, 16, access, i.text);
          for (int e = 0; e < perPiece; ++e)
            to[row][piece * perPiece + e] = element(from, e);
        }
    else
      for (int k = 0; k < shape.k; ++k)
        for (int piece = 0; piece < rows / perPiece; ++piece) {
          const uint8_t *from = block.memory.at(descriptor.mnMajor(piece, k), 16, 16, access, i.text);
          for (int e = 0; e < perPiece; ++e)
            to[piece * perPiece + e][k] = element(from, e);
        }
  };
  Matrix left(64, shape.k), right(shape.n, shape.k);
  gather(right, shape.n, uniform(i.operands[2]), b, transposesB);
  if (isFromRegisters) {
    const auto &parts = partsOf(i.operands[1], 4, i);
    const int each = 32 / a.bits;
    for (size_t l = 0; l < lanes.size(); ++l)
      for (int r = 0; r < 4; ++r)
        for (int e = 0; e < each; ++e) {
          Place at = operandPlace(int(l % 32), r, e, each);
          left[int(l / 32) * 16 + at.row][at.column] =
              numberOf(read(*lanes[l], parts[r]) >> (a.bits * e) & mask(a.bits), a);
        }
  } else {
    gather(left, 64, uniform(i.operands[1]), a, transposesA);
  }

  const int perRegister = 32 / d.bits, count = shape.n / 2;
  const auto &parts = partsOf(i.operands[0], size_t(count / perRegister), i);
  for (size_t l = 0; l < lanes.size(); ++l)
    for (int r = 0; r < count / perRegister; ++r) {
      uint64_t before = read(*lanes[l], parts[r]), after = 0;
      for (int e = 0; e < perRegister; ++e) {
        Place at = accumulatorPlace(int(l % 32), r * perRegister + e);
        const double *x = left[int(l / 32) * 16 + at.row], *y = right[at.column];
        double sum = 0;
        for (int k = 0; k < shape.k; ++k)
          sum += x[k] * y[k];
        sum *= sign;
        if (accumulates)
          sum += numberOf(before >> (d.bits * e) & mask(d.bits), d);
        after |= accumulated(sum, d, i.has("satfinite")) << (d.bits * e);
      }
      write(*lanes[l], parts[r], after);
    }
}

void Machine::wgmmaGroups(Lanes lanes, const Instruction &i) {
  Warp &warp = lanes[0]->block->warps[size_t(lanes[0]->id) / 32];
  if (i.has("commit_group")) {
    warp.wgmmas.commit();
  } else if (i.has("wait_group")) {
    Knowledge done;
    await(warp.wgmmas, read(*lanes[0], i.operands[0]), done);
    for (Thread *t : lanes)
      t->knows.join(done);
  } else if (!i.has("fence")) {
    fail("unknown instruction: " + i.text);
  }
}

} // namespace bitloom::ptx

// Products of tiles by instructions that multiply matrices of bytes or bf16 (contract/Atoms.h), two rows by two columns
// at once. Both tiles are copied into vectors as the instruction takes them.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

Buffer KernelLowering::matricesOfRows(Value tile, const Atom &atom, int64_t together) {
  Type element = elementOf(tile.getType());
  Buffer from = operandAs(tile, element, /*isUnsigned=*/false);
  const int64_t rows = from.shape[0], depth = from.shape[1], width = atom.rows * atom.block;
  Buffer result = allocate({rows / together, depth / atom.block, together * atom.block}, element);
  loop(0, rows, atom.rows, [&](Coord row) {
    loop(0, depth, width, [&](Coord k) {
      Value first = read(from, Place{{row, k}, 1, width}), second = read(from, Place{{row + 1, k}, 1, width});
      for (int64_t half = 0; half < 2; ++half) {
        SmallVector<int64_t> picked;
        for (int64_t i = 0; i < width; ++i)
          picked.push_back(i / atom.block * width + half * atom.block + i % atom.block);
        Place there{
            {dividedBy(row, together), dividedBy(k, atom.block) + half, times(modulo(row, together), atom.block)}};
        write(result, Place{there.at, 2, width}, shuffle(first, second, picked));
      }
    });
  });
  return result;
}

// Rows become columns: each round takes the first half of the vectors and the second by turns, and so moves a bit of an
// element's number from the top to the bottom.
KernelLowering::Values KernelLowering::perfectShuffles(Values vectors) {
  const int64_t count = int64_t(vectors.size()), width = lanesOf(vectors[0]);
  SmallVector<int64_t> low, high;
  for (int64_t i = 0; i < width; ++i) {
    low.push_back(i % 2 * width + i / 2);
    high.push_back(i % 2 * width + width / 2 + i / 2);
  }
  for (int64_t round = count; round > 1; round /= 2) {
    Values next;
    for (int64_t i = 0; i < count / 2; ++i) {
      next.push_back(shuffle(vectors[i], vectors[i + count / 2], low));
      next.push_back(shuffle(vectors[i], vectors[i + count / 2], high));
    }
    vectors = next;
  }
  return vectors;
}

// As many rows as a block has become columns.
Buffer KernelLowering::matricesOfColumns(Value tile, const Atom &atom, int64_t together) {
  Type element = elementOf(tile.getType());
  Buffer from = operandAs(tile, element, /*isUnsigned=*/false);
  const int64_t depth = from.shape[0], columns = from.shape[1], width = atom.lanes * atom.block;
  Buffer result = allocate({columns / together, depth / atom.block, together * atom.block}, element);
  loop(0, depth / atom.block, 1, [&](Coord block) {
    loop(0, columns, width, [&](Coord column) {
      Values vectors;
      for (int64_t k = 0; k < atom.block; ++k)
        vectors.push_back(read(from, Place{{times(block, atom.block) + k, column}, 1, width}));
      vectors = perfectShuffles(vectors);
      for (int64_t i = 0; i < atom.block; ++i) {
        Coord at = column + i * atom.lanes;
        Place there{{dividedBy(at, together), block, times(modulo(at, together), atom.block)}};
        write(result, Place{there.at, 2, width}, vectors[i]);
      }
    });
  });
  return result;
}

bool KernelLowering::lowerMatrixDot(DotOp op) {
  Type element = elementOf(op.getType()), left = elementOf(op.getA().getType()), right = elementOf(op.getB().getType());
  const bool bfloats = left.isBF16() && right.isBF16() && element.isF32();
  if (!bfloats && !(left.isInteger(8) && right.isInteger(8) && element.isInteger(32)))
    return false;
  std::optional<Atom> atom =
      matrixProductsFor(target, {bfloats, !bfloats && op.getUnsignedA(), !bfloats && op.getUnsignedB()});
  const int64_t rows = shapeOf(op.getType())[0], columns = shapeOf(op.getType())[1];
  const int64_t depth = shapeOf(op.getA().getType())[1];
  if (!atom || rows % atom->rows || columns % (atom->lanes * atom->block) || depth % (atom->rows * atom->block))
    return false;
  // Four by four accumulators: half of the registers, and more than enough products under way. In vectors of any length
  // eight by two, of 64 bytes.
  constexpr int64_t across = 8, acrossByLength = 16;
  const int64_t down = std::min<int64_t>(rows & -rows, 8), downByLength = std::min<int64_t>(rows & -rows, 16);
  const bool isByLength = target.scalableVectors && *atom->scalable && columns % acrossByLength == 0;
  explainChoice(op, [&] {
    return "dot of " + std::to_string(rows) + " x " + std::to_string(columns) + ": " + atom->name + ", " +
           std::to_string(down) + " x " + std::to_string(across) + " at once" +
           (isByLength ? ", " + std::to_string(downByLength) + " x " + std::to_string(acrossByLength) +
                             " in vectors of any length where they are longer than NEON's"
                       : "") +
           ", since " + target.name + " has " + atom->feature;
  });
  auto known = inPlace.find(op);
  Buffer result = known == inPlace.end() ? allocate({rows, columns}, element) : known->second;
  if (isByLength)
    forEitherLength([&] { multiplyMatrices(op, *atom, result, downByLength, acrossByLength, /*byLength=*/true); },
                    [&] { multiplyMatrices(op, *atom, result, down, across, /*byLength=*/false); });
  else
    multiplyMatrices(op, *atom, result, down, across, /*byLength=*/false);
  Operation *adds = adding.lookup(op);
  scopes.back()->buffers[adds ? Value(adds->getResult(0)) : op.getResult()] = result;
  return true;
}

void KernelLowering::multiplyMatrices(DotOp op, const Atom &atom, const Buffer &result, int64_t down, int64_t across,
                                      bool byLength) {
  const int64_t rows = shapeOf(op.getType())[0], columns = shapeOf(op.getType())[1];
  // Rows and columns change places in what was transposed.
  auto transposed = [&](Value tile) { return bufferOf(tile) ? TransposeOp() : tile.getDefiningOp<TransposeOp>(); };
  TransposeOp fromA = transposed(op.getA()), fromB = transposed(op.getB());
  if (rows % (atom.rows * atom.block))
    fromA = {};
  const Buffer left = fromA ? matricesOfColumns(fromA.getSource(), atom, down) : matricesOfRows(op.getA(), atom, down);
  const Buffer right =
      fromB ? matricesOfRows(fromB.getSource(), atom, across) : matricesOfColumns(op.getB(), atom, across);
  const int64_t width = atom.rows * atom.block, steps = left.shape[1], unroll = steps % 4 ? 1 : 4;
  const bool isNew = matchPattern(op.getAcc(), m_Zero()) || matchPattern(op.getAcc(), m_AnyZeroFloat());

  auto multiplyTile = [&](Coord row, Coord column) {
    SmallVector<Fragment> fragments;
    for (int64_t i = 0; i < down; i += atom.rows)
      for (int64_t j = 0; j < across; j += atom.lanes)
        fragments.push_back({row + i, column + j, atom.rows, atom.rows * atom.lanes, int64_t(fragments.size())});
    FragmentValues nothing;
    const Coord leftTile = dividedBy(row, down), rightTile = dividedBy(column, across);
    if (byLength) { // the rows of a register at a time: all of them are more than there are registers
      const Buffer products = matrixSumsByLength(atom, left, leftTile, right, rightTile, result.element);
      const size_t together = size_t(across / atom.lanes);
      for (size_t first = 0; first < fragments.size(); first += together) {
        ArrayRef<Fragment> some = ArrayRef(fragments).slice(first, together);
        Values sums;
        for (const Fragment &fragment : some) {
          Value product = readNow(products, Place{{Coord{{}, fragment.number * fragment.lanes}}, 0, fragment.lanes});
          sums.push_back(isNew ? product : added(evaluateFragment(op.getAcc(), fragment, nothing), product));
        }
        writeFragments(result, some, sums, adding.lookup(op));
      }
      return;
    }
    Values sums;
    for (const Fragment &fragment : fragments)
      sums.push_back(evaluateFragment(op.getAcc(), fragment, nothing));
    Value from = i64(0), to = i64(steps), by = i64(unroll);
    here();
    auto loop = scf::ForOp::create(builder, loc, from, to, by, sums);
    open(loop.getBody(), loop);
    sums.assign(loop.getRegionIterArgs().begin(), loop.getRegionIterArgs().end());
    for (int64_t i = 0; i < unroll; ++i) {
      Coord step{loop.getInductionVar(), i, unroll};
      Values lefts, rights;
      for (int64_t j = 0; j < down / atom.rows; ++j)
        lefts.push_back(read(left, Place{{leftTile, step, Coord{{}, j * width}}, 2, width}));
      for (int64_t j = 0; j < across / atom.lanes; ++j)
        rights.push_back(read(right, Place{{rightTile, step, Coord{{}, j * width}}, 2, width}));
      for (auto [number, sum] : llvm::enumerate(sums))
        sum = multiply(atom, lefts[number / rights.size()], rights[number % rights.size()], sum);
    }
    here();
    scf::YieldOp::create(builder, loc, sums);
    close();
    writeFragments(result, fragments, Values(loop.getResults()), adding.lookup(op));
  };
  const auto [rowsEnd, columnsEnd] = wantedOf(op);
  auto multiplyRows = [&, rowsEnd = rowsEnd](Coord column) {
    loop(0, rows, down, [&](Coord row) { multiplyTile(row, column); }, rowsEnd);
  };
  loop(0, columns, across, multiplyRows, columnsEnd);
}

} // namespace bitloom::loops

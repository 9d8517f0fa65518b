// Dots on the tensor cores by mma.sync: each warp has a part of the result, and loads the fragments of a and b that it
// needs from shared memory, eight rows of 16 bytes a matrix, by ldmatrix. Fragments are those of the PTX manual,
// "matrix fragments for mma.m16n8k16" and its like; ldmatrix gives them for any type whose depth is contiguous, and
// transposed for 16-bit ones whose rows are. The swizzle of shared memory (sharedForm) spreads a matrix over all the
// banks.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

#include <map>

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// An operand in shared memory, as one warp sees it: rows are those of m or n, depth is k.
class SharedFragments {
public:
  // The warp's part starts at the image of `warpRows`, one row a bit of the warp's index. Matrices: of a fragment, the
  // lower half of the depth of rows 0 to 7 first, then by isRowNext the next eight rows or the upper half.
  SharedFragments(Emitter &e, Value tile, int depthDim, const MmaAtom &atom, ArrayRef<int64_t> warpRows, bool isRowNext,
                  int matrices);
  // The words of the fragment at this row of the warp's part and this depth.
  SmallVector<Value> load(int64_t row, int64_t depth);

private:
  int32_t offsetOf(int64_t row, int64_t depth) const; // in elements

  Emitter &e;
  int depthDim, matrices;
  int64_t bytes;
  bool isTransposed;
  LinearLayout inverse;
  Value start, thread; // of the tile; what the thread's row of a matrix adds, in elements
  int32_t threadBits;
  std::map<int32_t, Value> addresses; // by the bits of an offset that the thread sets too
};

} // namespace

SharedFragments::SharedFragments(Emitter &e, Value tile, int depthDim, const MmaAtom &atom, ArrayRef<int64_t> warpRows,
                                 bool isRowNext, int matrices)
    : e(e), depthDim(depthDim), matrices(matrices) {
  auto type = cast<RankedTensorType>(tile.getType());
  bytes = bytesOf(type.getElementType());
  SharedForm form = *sharedFormOf(e.layout(type), type.getShape(), int(bytes));
  inverse = form.layout.invert();
  isTransposed = form.contiguous != depthDim;
  auto along = [&](bool isDepth, int64_t by) {
    LinearLayout::Vector basis(2, 0);
    basis[isDepth ? depthDim : 1 - depthDim] = int32_t(by);
    return basis;
  };
  std::vector<LinearLayout::Vector> lanesOf, warpsOf;
  for (int64_t line : {1, 2, 4})
    lanesOf.push_back(along(isTransposed, line));
  const LinearLayout::Vector rows = along(false, 8), half = along(true, atom.k / 2), none(2, 0);
  lanesOf.push_back(isRowNext ? rows : half);
  lanesOf.push_back(matrices == 2 ? none : isRowNext ? half : rows);
  for (int64_t row : warpRows)
    warpsOf.push_back(along(false, row));
  LinearLayout places =
      LinearLayout({{reg, {}}, {lane, lanesOf}, {warp, warpsOf}}, form.layout.outs()).compose(inverse);
  start = e.sharedTile(tile);
  thread = e.threadImage(places, 0);
  threadBits = e.threadBits(places, 0);
}

int32_t SharedFragments::offsetOf(int64_t row, int64_t depth) const {
  std::string rowName = dimName(1 - depthDim), depthName = dimName(depthDim);
  return inverse.apply({{rowName, int32_t(row)}, {depthName, int32_t(depth)}})[0];
}

SmallVector<Value> SharedFragments::load(int64_t row, int64_t depth) {
  OpBuilder &b = e.builder;
  int32_t offset = offsetOf(row, depth), shared = offset & threadBits;
  Value &address = addresses[shared];
  if (!address) {
    Value place = arith::XOrIOp::create(b, e.loc, thread, e.i32(shared));
    address = arith::AddIOp::create(b, e.loc, start, arith::MulIOp::create(b, e.loc, place, e.i32(bytes)));
  }
  std::string constraints;
  for (int i = 0; i < matrices; ++i)
    constraints += "=r,";
  Type word = b.getI32Type();
  Value loaded = e.ptx("ldmatrix.sync.aligned.m8n8.x" + std::to_string(matrices) + (isTransposed ? ".trans" : "") +
                           ".shared.b16 " + braced(0, matrices) + ", [$" + std::to_string(matrices) + " + " +
                           std::to_string((offset - shared) * bytes) + "];",
                       constraints + "r,~{memory}",
                       LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(matrices, word)), {address},
                       /*hasSideEffects=*/true);
  SmallVector<Value> words;
  for (int i = 0; i < matrices; ++i)
    words.push_back(LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i)));
  return words;
}

LogicalResult nvptx::lowerMma(Emitter &e, tile::DotOp dot) {
  RankedTensorType accType = dot.getType();
  std::optional<MmaForm> form = mmaForm(e.layout(accType), accType.getShape(), e.warps());
  // As the instruction sees it: a is what has its rows.
  bool swapped = form && form->swapped;
  auto [a, b, unsignedA, unsignedB, depthOfA] =
      swapped ? std::tuple(dot.getB(), dot.getA(), dot.getUnsignedB(), dot.getUnsignedA(), 0)
              : std::tuple(dot.getA(), dot.getB(), dot.getUnsignedA(), dot.getUnsignedB(), 1);
  const MmaAtom *atom = atomFor(a.getType().getElementType(), unsignedA, dot.getPrecision());
  const MmaAtom *right = atomFor(b.getType().getElementType(), unsignedB, dot.getPrecision());
  if (!form || !atom || !right || !isShared(b.getType()))
    throw InternalError("a product of tiles in shared memory: expected the fragments of a tensor core");
  int64_t m = accType.getDimSize(swapped), n = accType.getDimSize(!swapped), depth = a.getType().getDimSize(depthOfA);
  int64_t columns = n / form->alongN, rowStep = mmaRows * form->alongM;
  int64_t rowAtoms = m / rowStep, columnAtoms = columns / mmaColumns;

  SmallVector<int64_t> warpRows, warpColumns;
  for (int warps = 1; warps < e.warps(); warps *= 2) {
    warpRows.push_back(warps < form->alongM ? mmaRows * warps : 0);
    bool isAlongN = warps >= form->alongM && warps < form->alongM * form->alongN;
    warpColumns.push_back(isAlongN ? columns * (warps / form->alongM) : 0);
  }
  int64_t pair = std::min<int64_t>(columnAtoms, 2);
  SharedFragments rhs(e, b, 1 - depthOfA, *atom, warpColumns, /*isRowNext=*/false, int(2 * pair));
  std::optional<SharedFragments> lhs;
  SmallVector<Value> held;
  if (isShared(a.getType()))
    lhs.emplace(e, a, depthOfA, *atom, warpRows, /*isRowNext=*/true, 4);
  else
    held = packWords(e, e.get(a));

  const std::string text = "mma.sync.aligned.m16n8k" + std::to_string(atom->k) + ".row.col." +
                           std::string(atom->accumulator) + "." + std::string(atom->operand) + "." +
                           std::string(right->operand) + "." + std::string(atom->accumulator) + " " + braced(0, 4) +
                           ", " + braced(8, 4) + ", " + braced(12, 2) + ", " + braced(0, 4) + ";";
  Registers sums = e.get(dot.getAcc());
  for (int64_t k = 0; k < depth; k += atom->k) {
    SmallVector<Value> left, top; // four words an atom's rows, two an atom's columns
    for (int64_t i = 0; i < rowAtoms; ++i)
      if (lhs)
        llvm::append_range(left, lhs->load(i * rowStep, k));
      else
        left.append(held.begin() + (i * depth + k) / atom->k * 4, held.begin() + ((i * depth + k) / atom->k + 1) * 4);
    for (int64_t j = 0; j < columnAtoms; j += pair)
      llvm::append_range(top, rhs.load(j * mmaColumns, k));
    for (int64_t i = 0; i < rowAtoms; ++i)
      for (int64_t j = 0; j < columnAtoms; ++j) {
        SmallVector<Value> operands(left.begin() + 4 * i, left.begin() + 4 * i + 4);
        operands.append(top.begin() + 2 * j, top.begin() + 2 * j + 2);
        throughAccumulators(e, MutableArrayRef<Value>(sums).slice((i * columnAtoms + j) * 4, 4), text, ",r,r,r,r,r,r",
                            operands);
      }
  }
  e.put(dot, sums);
  return success();
}

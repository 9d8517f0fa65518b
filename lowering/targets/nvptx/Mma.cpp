#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

using Bases = std::vector<LinearLayout::Vector>;

// Bases 1, 2, … along dim `d` of two: from `from` up to below `to`.
static void appendAlong(Bases &bases, int d, int64_t from, int64_t to) {
  for (int64_t bit = from; bit < to; bit *= 2) {
    LinearLayout::Vector basis(2, 0);
    basis[d] = int32_t(bit);
    bases.push_back(basis);
  }
}

//===- Shared memory ----------------------------------------------------------------------------------------------===//

std::optional<SharedForm> nvptx::sharedForm(ArrayRef<int64_t> shape, int contiguous, int elementBytes) {
  if (shape.size() != 2 || !llvm::isPowerOf2_64(shape[0]) || !llvm::isPowerOf2_64(shape[1]))
    return std::nullopt;
  SharedForm form;
  form.contiguous = contiguous;
  form.swizzle = int(std::min<int64_t>(128, shape[contiguous] * elementBytes));
  if (form.swizzle < (elementBytes == 1 ? 16 : 32))
    return std::nullopt;
  form.inner = form.swizzle / elementBytes;
  form.lines = shape[1 - contiguous];
  form.boxes = shape[contiguous] / form.inner;
  Bases bases;
  appendAlong(bases, contiguous, 1, form.inner);
  appendAlong(bases, 1 - contiguous, 1, form.lines);
  appendAlong(bases, contiguous, form.inner, shape[contiguous]);
  // Address bits 4, 5, … are xor'ed with bits 7, 8, …: one of them for 32 bytes, two for 64, three for 128.
  int piece = 4 - int(llvm::Log2_64(elementBytes)), row = piece + 3;
  for (int i = 0; 32 << i <= form.swizzle; ++i)
    if (row + i < int(bases.size()))
      for (int d : {0, 1})
        bases[row + i][d] ^= bases[piece + i][d];
  form.layout = LinearLayout({{"offset", bases}}, LinearLayout::axes({int32_t(shape[0]), int32_t(shape[1])}));
  return form;
}

std::optional<SharedForm> nvptx::sharedLine(int64_t elements, int elementBytes) {
  if (!llvm::isPowerOf2_64(elements) || elements * elementBytes < 16)
    return std::nullopt;
  const int64_t inner = std::min(elements, mostLines);
  SharedForm form{.contiguous = 0, .swizzle = 0, .inner = inner, .lines = 1, .boxes = elements / inner, .layout = {}};
  Bases bases;
  for (int64_t bit = 1; bit < elements; bit *= 2)
    bases.push_back({int32_t(bit)});
  form.layout = LinearLayout({{"offset", bases}}, LinearLayout::axes({int32_t(elements)}));
  return form;
}

std::optional<SharedForm> nvptx::sharedFormOf(const LinearLayout &layout, ArrayRef<int64_t> shape, int elementBytes) {
  if (shape.size() == 1)
    return sharedLine(shape[0], elementBytes);
  for (int contiguous : {1, 0})
    if (auto form = sharedForm(shape, contiguous, elementBytes); form && form->layout == layout)
      return form;
  return std::nullopt;
}

bool nvptx::isSharedLayout(const LinearLayout &layout) { return layout.hasInDim("offset"); }

bool nvptx::isShared(Type tile) {
  if (!hasLayout(tile))
    return false;
  auto encoding = cast<tile::LayoutAttr>(cast<RankedTensorType>(tile).getEncoding());
  return encoding.getSpelling().starts_with("{offset");
}

//===- Fragments --------------------------------------------------------------------------------------------------===//

// Quads of lanes hold a row of eight 32-bit places of `perWord` elements each pair of columns; rows g and g + 8.
static LinearLayout fragments(int64_t m, int64_t n, int64_t perThread, int warps, int alongM, int alongN) {
  Bases registers, lanesOf, warpsOf;
  appendAlong(registers, 1, 1, perThread);
  appendAlong(registers, 0, mmaRows / 2, mmaRows);
  appendAlong(registers, 1, 4 * perThread, n / alongN);
  appendAlong(lanesOf, 1, perThread, 4 * perThread);
  appendAlong(lanesOf, 0, 1, mmaRows / 2);
  appendAlong(warpsOf, 0, mmaRows, mmaRows * alongM);
  appendAlong(warpsOf, 1, n / alongN, n);
  warpsOf.resize(llvm::Log2_32(warps), LinearLayout::Vector(2, 0));
  appendAlong(registers, 0, mmaRows * alongM, m);
  return LinearLayout({{reg, registers}, {lane, lanesOf}, {warp, warpsOf}},
                      LinearLayout::axes({int32_t(m), int32_t(n)}));
}

LinearLayout nvptx::wgmmaLayout(int64_t m, int64_t n, int warps, int groupsAlongN) {
  return fragments(m, n, 2, warps, warps / groupsAlongN, groupsAlongN);
}

LinearLayout nvptx::fragmentLayout(int64_t m, int64_t k, int bits, int warps) {
  return fragments(m, k, 32 / bits, warps, warps, 1);
}

//===- Which instruction ------------------------------------------------------------------------------------------===//

const MmaAtom *nvptx::atomFor(Type element, bool isUnsigned, tile::DotPrecision precision) {
  std::string_view name;
  if (element.isF16())
    name = "f16";
  else if (element.isBF16())
    name = "bf16";
  else if (element.isF32() && precision == tile::DotPrecision::TF32)
    name = "tf32";
  else if (isa<Float8E4M3FNType>(element))
    name = "e4m3";
  else if (isa<Float8E5M2Type>(element))
    name = "e5m2";
  else if (element.isInteger(8))
    name = isUnsigned ? "u8" : "s8";
  for (const MmaAtom &atom : mmaAtoms)
    if (atom.operand == name)
      return &atom;
  return nullptr;
}

// That of both operands, where the instructions take these types.
static const MmaAtom *atomOf(tile::DotOp dot) {
  const MmaAtom *atom = atomFor(dot.getA().getType().getElementType(), dot.getUnsignedA(), dot.getPrecision());
  const MmaAtom *right = atomFor(dot.getB().getType().getElementType(), dot.getUnsignedB(), dot.getPrecision());
  // Both types appear in the instruction; only 8-bit ones mix.
  if (!atom || !right || atom->accumulator != right->accumulator || atom->bits != right->bits ||
      (atom != right && atom->bits != 8))
    return nullptr;
  Type sum = dot.getType().getElementType();
  return (atom->accumulator == "f32" ? sum.isF32() : sum.isInteger(32)) ? atom : nullptr;
}

static bool isSwapped(ArrayRef<int64_t> shape) { return shape[0] < wgmmaRows; }

LinearLayout nvptx::accumulatorLayout(ArrayRef<int64_t> shape, int warps, AccumulatorForm form) {
  LinearLayout layout = wgmmaLayout(shape[form.swapped], shape[!form.swapped], warps, form.groupsAlongN);
  return form.swapped ? transposedLayout(layout, {1, 0}) : layout;
}

bool nvptx::comesFromUnpack(Value value) {
  Operation *producer = value.getDefiningOp();
  if (!producer || isa<tile::UnpackOp>(producer))
    return producer;
  return (producer->hasTrait<OpTrait::Elementwise>() || isa<tile::TransposeOp, tile::LutOp>(producer)) &&
         llvm::any_of(producer->getOperands(), comesFromUnpack);
}

SmallVector<tile::DotOp> nvptx::unpackedDots(func::FuncOp func) {
  SmallVector<tile::DotOp> dots;
  func.walk([&](tile::DotOp dot) { dots.push_back(dot); });
  const bool areAlike = llvm::all_of(dots, [&](tile::DotOp dot) {
    return comesFromUnpack(dot.getA()) && dot->getBlock() == dots.front()->getBlock() &&
           dot->getOperandTypes() == dots.front()->getOperandTypes();
  });
  return areAlike ? dots : SmallVector<tile::DotOp>();
}

int nvptx::wgmmaWarps(tile::DotOp dot) {
  ArrayRef<int64_t> shape = dot.getType().getShape();
  int64_t rows = shape[isSwapped(shape)] / wgmmaRows;
  return warpsPerGroup * int(std::clamp<int64_t>(rows, 1, 2));
}

LinearLayout DotPlan::rowFragments(tile::DotOp dot, int warps) const {
  if (!form.swapped)
    return fragmentLayout(dot.getA().getType().getDimSize(0), dot.getA().getType().getDimSize(1), atom->bits, warps);
  RankedTensorType b = dot.getB().getType();
  return transposedLayout(fragmentLayout(b.getDimSize(1), b.getDimSize(0), atom->bits, warps), {1, 0});
}

std::optional<DotPlan> nvptx::planWgmma(tile::DotOp dot, const Target &target, int warps) {
  const MmaAtom *atom = atomOf(dot);
  if (!atom || target.computeCapability != atom->wgmmaCapability || warps % warpsPerGroup)
    return std::nullopt;
  ArrayRef<int64_t> shape = dot.getType().getShape();
  AccumulatorForm form{isSwapped(shape), 1};
  int64_t m = shape[form.swapped], n = shape[!form.swapped], k = dot.getA().getType().getDimSize(1),
          groups = warps / warpsPerGroup;
  if (!llvm::isPowerOf2_64(m) || !llvm::isPowerOf2_64(n) || !llvm::isPowerOf2_64(k) || m < wgmmaRows || k < atom->k)
    return std::nullopt;
  form.groupsAlongN = int(std::max<int64_t>(1, groups / (m / wgmmaRows)));
  if (n / form.groupsAlongN < 8)
    return std::nullopt;
  return DotPlan{atom, form, accumulatorLayout(shape, warps, form)};
}

static std::optional<AccumulatorForm> formOf(const LinearLayout &layout, ArrayRef<int64_t> shape, int warps,
                                             bool swapped) {
  if (shape.size() != 2 || !llvm::isPowerOf2_64(shape[0]) || !llvm::isPowerOf2_64(shape[1]) || warps % warpsPerGroup)
    return std::nullopt;
  AccumulatorForm form{swapped, 1};
  int64_t m = shape[form.swapped], n = shape[!form.swapped], groups = warps / warpsPerGroup;
  for (; form.groupsAlongN <= groups && n / form.groupsAlongN >= 8; form.groupsAlongN *= 2)
    if (groups / form.groupsAlongN * wgmmaRows <= m && layout == accumulatorLayout(shape, warps, form))
      return form;
  return std::nullopt;
}

std::optional<AccumulatorForm> nvptx::accumulatorForm(const LinearLayout &layout, ArrayRef<int64_t> shape, int warps) {
  return formOf(layout, shape, warps, isSwapped(shape));
}

//===- mma.sync ---------------------------------------------------------------------------------------------------===//

static LinearLayout fragmentsOf(ArrayRef<int64_t> shape, int warps, MmaForm form) {
  LinearLayout layout = fragments(shape[form.swapped], shape[!form.swapped], 2, warps, form.alongM, form.alongN);
  return form.swapped ? transposedLayout(layout, {1, 0}) : layout;
}

static bool fitsMma(ArrayRef<int64_t> shape, bool swapped) {
  return shape.size() == 2 && llvm::isPowerOf2_64(shape[0]) && llvm::isPowerOf2_64(shape[1]) &&
         shape[swapped] >= mmaRows && shape[!swapped] >= mmaColumns;
}

std::optional<MmaPlan> nvptx::planMma(tile::DotOp dot, const Target &target, int warps, bool stacked) {
  const MmaAtom *atom = atomOf(dot);
  ArrayRef<int64_t> shape = dot.getType().getShape();
  MmaForm form{.swapped = shape[0] < mmaRows};
  int64_t k = dot.getA().getType().getDimSize(1);
  if (!atom || target.computeCapability < atom->mmaCapability || planWgmma(dot, target, warps) ||
      !fitsMma(shape, form.swapped) || !llvm::isPowerOf2_64(k) || k < atom->k)
    return std::nullopt;
  // The columns of a warp are two instructions' if they can be: what one ldmatrix loads.
  for (int64_t m = shape[form.swapped], n = shape[!form.swapped]; form.alongM * form.alongN < warps;) {
    bool isSplitM = m > mmaRows, isSplitN = n > mmaColumns;
    if (isSplitM && (stacked || m >= n || n <= 2 * mmaColumns))
      form.alongM *= 2, m /= 2;
    else if (isSplitN)
      form.alongN *= 2, n /= 2;
    else
      break;
  }
  return MmaPlan{atom, form, fragmentsOf(shape, warps, form)};
}

LinearLayout MmaPlan::rowFragments(tile::DotOp dot, int warps) const {
  RankedTensorType type = (form.swapped ? dot.getB() : dot.getA()).getType();
  LinearLayout layout =
      fragments(type.getDimSize(form.swapped), type.getDimSize(!form.swapped), 32 / atom->bits, warps, form.alongM, 1);
  return form.swapped ? transposedLayout(layout, {1, 0}) : layout;
}

int nvptx::mmaWarps(tile::DotOp dot) {
  // 32 accumulators a thread, and 128 bytes of the operands on their way to shared memory.
  RankedTensorType a = dot.getA().getType(), b = dot.getB().getType();
  int64_t sums = dot.getType().getNumElements() / (lanes * 32);
  int64_t loads = (a.getNumElements() + b.getNumElements()) * bytesOf(a.getElementType()) / (lanes * 128);
  return int(llvm::bit_floor(uint64_t(std::clamp<int64_t>(std::max(sums, loads), 1, 8))));
}

std::optional<MmaForm> nvptx::mmaForm(const LinearLayout &layout, ArrayRef<int64_t> shape, int warps) {
  for (bool swapped : {false, true}) {
    if (!fitsMma(shape, swapped))
      continue;
    for (int alongM = 1; alongM <= warps && mmaRows * alongM <= shape[swapped]; alongM *= 2)
      for (int alongN = 1; alongM * alongN <= warps && mmaColumns * alongN <= shape[!swapped]; alongN *= 2)
        if (MmaForm form{swapped, alongM, alongN}; fragmentsOf(shape, warps, form) == layout)
          return form;
  }
  return std::nullopt;
}

//===- Stores of accumulators -------------------------------------------------------------------------------------===//

bool nvptx::isLaterPiece(tile::StoreOp store) {
  auto piece = store->getAttrOfType<IntegerAttr>(pieceAttr);
  return piece && piece.getInt() > 0;
}

std::optional<StagedStore> nvptx::stagedStore(tile::StoreOp store, Layouts &layouts, int warps) {
  Type type = store.getValue().getType(), element = tile::elementOf(type);
  unsigned bits = element.getIntOrFloatBitWidth();
  if (!hasLayout(type) || !isCopyable(store.getView(), store.getOffsets()) || (bits != 16 && bits != 32))
    return std::nullopt;
  // The copy engine writes when it comes to it: nothing else may touch the view.
  bool isTouched = llvm::any_of(store.getView().getUsers(), [&](Operation *user) {
    return user != store.getOperation() && !isa<tile::ExtentOp>(user) &&
           !(store->hasAttr(pieceAttr) && isa<tile::StoreOp>(user) && user->hasAttr(pieceAttr));
  });
  if (isTouched)
    return std::nullopt;
  ArrayRef<int64_t> shape = tile::shapeOf(type);
  std::optional<AccumulatorForm> form = formOf(layouts.of(type), shape, warps, isSwapped(shape));
  if (!form) // a transposed accumulator of many rows
    form = formOf(layouts.of(type), shape, warps, !isSwapped(shape));
  int64_t columns = 128 * 8 / bits;
  if (!form || store.getDims().back() != cast<tile::ViewType>(store.getView().getType()).getRank() - 1)
    return std::nullopt;
  StagedStore staged{*form, wgmmaRows, columns, 0};
  if (form->swapped) {            // a box is 64 of the instruction's rows wide
    constexpr int64_t fewest = 8; // of a thread's: fewer it has stored before a copy would have begun
    if (bits != 16 || shape[0] * shape[1] < fewest * lanes * warps)
      return std::nullopt;
    staged.rows = std::min(wgmmaRows, shape[0] / form->groupsAlongN);
  } else if (shape[1] / form->groupsAlongN < columns) {
    return std::nullopt;
  }
  staged.boxes = shape[0] * shape[1] / (staged.rows * staged.columns) / (warps / warpsPerGroup);
  return staged;
}

int64_t nvptx::stagedBoxBytes(const StagedStore &staged) { return llvm::alignTo(staged.rows * 128, sharedAlignment); }

int64_t nvptx::storeStagingBytes(func::FuncOp kernel) {
  Layouts layouts;
  int warps = int(kernel->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt());
  int64_t box = 0;
  kernel.walk([&](tile::StoreOp store) {
    if (std::optional<StagedStore> staged = stagedStore(store, layouts, warps))
      box = std::max(box, stagedBoxBytes(*staged));
  });
  auto consumers = kernel->getAttrOfType<IntegerAttr>(tile::consumersAttr);
  return (consumers ? consumers.getInt() : 1) * warps / warpsPerGroup * 2 * box;
}

int64_t nvptx::alignmentOf(Value view) {
  auto argument = dyn_cast<BlockArgument>(view);
  auto func = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : nullptr;
  auto align = func ? func.getArgAttrOfType<IntegerAttr>(argument.getArgNumber(), tile::alignAttr) : nullptr;
  return align ? align.getInt() : 1;
}

// The largest power of two up to `most` that is known to divide the scalar.
static int64_t knownDivisor(Value value, int64_t most) {
  if (APInt constant; matchPattern(value, m_ConstantInt(&constant)))
    return constant.isZero() ? most : std::min<int64_t>(most, int64_t{1} << std::min(62u, constant.countr_zero()));
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto loop = dyn_cast<scf::ForOp>(argument.getOwner()->getParentOp());
    return loop && value == loop.getInductionVar()
               ? std::min(knownDivisor(loop.getLowerBound(), most), knownDivisor(loop.getStep(), most))
               : 1;
  }
  Operation *op = value.getDefiningOp();
  auto of = [&](unsigned operand) { return knownDivisor(op->getOperand(operand), most); };
  if (isa<arith::MulIOp>(op))
    return std::min(most, of(0) * of(1));
  if (isa<arith::AddIOp, arith::SubIOp, arith::MinSIOp, arith::MaxSIOp>(op))
    return std::min(of(0), of(1));
  if (isa<arith::SelectOp>(op))
    return std::min(of(1), of(2));
  if (APInt by; isa<arith::DivSIOp, arith::DivUIOp>(op) && matchPattern(op->getOperand(1), m_ConstantInt(&by)) &&
                by.isPowerOf2() && by.ule(1 << 20))
    return std::max<int64_t>(1, knownDivisor(op->getOperand(0), most * by.getSExtValue()) / by.getSExtValue());
  if (isa<arith::ExtSIOp, arith::ExtUIOp, arith::TruncIOp>(op))
    return of(0);
  return 1;
}

bool nvptx::isCopyable(Value view, ValueRange offsets) {
  constexpr int64_t piece = 16;
  auto type = cast<tile::ViewType>(view.getType());
  return !type.getStrided() && type.getRank() <= 5 && !type.getElementType().isInteger(1) &&
         alignmentOf(view) % piece == 0 &&
         knownDivisor(offsets.back(), piece) * bytesOf(type.getElementType()) % piece == 0;
}

// Matrix instructions of the tensor cores: which one a dot becomes, and how its tiles are held for it. Formats are
// those of the PTX manual, "warp-level matrix instructions" (mma) and "asynchronous warpgroup-level matrix
// instructions" (wgmma).
#pragma once

#include "bitloom/lib/layout/LinearLayout.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <array>
#include <optional>
#include <string_view>

namespace bitloom::nvptx {

// One row an operand type. An instruction takes 32 bytes of a row of a along k.
struct MmaAtom {
  std::string_view operand, accumulator; // PTX's names of the types
  int bits, k;                           // of an operand; of one instruction of wgmma or mma.m16n8
  bool mnMajor;                          // wgmma also takes a or b from shared memory with m or n contiguous
  int mmaCapability, wgmmaCapability;    // the lowest compute capability with mma.sync, and the one with wgmma
};

inline constexpr std::array mmaAtoms = {
    MmaAtom{"f16", "f32", 16, 16, true, 80, 90},  MmaAtom{"bf16", "f32", 16, 16, true, 80, 90},
    MmaAtom{"tf32", "f32", 32, 8, false, 80, 90}, MmaAtom{"e4m3", "f32", 8, 32, false, 89, 90},
    MmaAtom{"e5m2", "f32", 8, 32, false, 89, 90}, MmaAtom{"s8", "s32", 8, 32, false, 80, 90},
    MmaAtom{"u8", "s32", 8, 32, false, 80, 90},
};
static_assert([] {
  for (const MmaAtom &atom : mmaAtoms)
    if (atom.bits * atom.k != 256 || (atom.mnMajor && atom.bits != 16))
      return false;
  return true;
}());

constexpr int warpsPerGroup = 4;
constexpr int64_t mmaRows = 16, mmaColumns = 8; // of mma.sync's accumulator
constexpr int64_t wgmmaRows = 64, wgmmaMostColumns = 256;

constexpr int64_t mostLines = 256;        // of a box of the copy engine
constexpr int64_t programBand = 16;       // programs along x that persistent blocks keep together
constexpr int64_t sharedAlignment = 1024; // bytes, of tiles in shared memory: the period of the widest swizzle

// A tile of rank 2 in shared memory: lines of `swizzle` bytes along the contiguous dim, in boxes of all the lines;
// within them the 16-byte pieces are permuted as the copy engine's swizzle of that many bytes does.
struct SharedForm {
  int contiguous = 1; // dim
  int swizzle = 128;  // bytes: 32, 64 or 128; 16, which permutes nothing, of what no instruction reads from there
  int64_t inner = 64; // elements of a line
  int64_t lines = 0;  // the other dim's extent
  int64_t boxes = 1;
  LinearLayout layout; // offset (elements) → (dim0, dim1)
};
// Of a tile of rank 1, in its order: one line, in boxes of up to 256 elements.
std::optional<SharedForm> sharedLine(int64_t elements, int elementBytes);
// None: an extent is no power of two, or the contiguous one is below 32 bytes, or 16 for elements of one byte.
std::optional<SharedForm> sharedForm(llvm::ArrayRef<int64_t> shape, int contiguous, int elementBytes);
std::optional<SharedForm> sharedFormOf(const LinearLayout &layout, llvm::ArrayRef<int64_t> shape, int elementBytes);
bool isShared(mlir::Type tile);            // a tensor whose layout is one of shared memory
bool isSharedLayout(const LinearLayout &); // from `offset`

// i32, on the function: blocks that a multiprocessor is to have at once; absent: as many as fit.
inline constexpr llvm::StringLiteral residentAttr = "tile.resident";
// unit, on the function: the groups of tile.consumers take the steps of a program in turn, and add up; on a
// tile.cluster_rank: the group's among them, for the block's.
inline constexpr llvm::StringLiteral stepGroupsAttr = "tile.step_groups";

// How a warpgroup's accumulator [m, n] is held: warps stack along m in groups of four, of which `groupsAlongN` side by
// side share the rows. Of 32-bit elements; a tile of operand a in registers is held likewise, see fragmentLayout.
LinearLayout wgmmaLayout(int64_t m, int64_t n, int warps, int groupsAlongN);
// Operand a [m, k] of elements of `bits` bits in registers, the warps stacked along m.
LinearLayout fragmentLayout(int64_t m, int64_t k, int bits, int warps);

// How wgmma's accumulator is cut. `swapped`: its rows are the dot's columns, so that a short m becomes the
// instruction's n: (a · b)^T = b^T · a^T.
struct AccumulatorForm {
  bool swapped = false;
  int groupsAlongN = 1;
  bool operator==(const AccumulatorForm &) const = default;
};
// The form that `layout` of an accumulator [m, n] has; none for other layouts.
std::optional<AccumulatorForm> accumulatorForm(const LinearLayout &layout, llvm::ArrayRef<int64_t> shape, int warps);

struct DotPlan {
  const MmaAtom *atom;
  AccumulatorForm form;
  LinearLayout accumulator;
  // The operand that may stay in registers: whose rows are the instruction's.
  mlir::OpOperand &rows(tile::DotOp dot) const { return form.swapped ? dot.getBMutable() : dot.getAMutable(); }
  mlir::OpOperand &columns(tile::DotOp dot) const { return form.swapped ? dot.getAMutable() : dot.getBMutable(); }
  LinearLayout rowFragments(tile::DotOp dot, int warps) const;
};
LinearLayout accumulatorLayout(llvm::ArrayRef<int64_t> shape, int warps, AccumulatorForm form);
// How the tensor cores compute a dot with wgmma; none where they cannot.
std::optional<DotPlan> planWgmma(tile::DotOp dot, const Target &target, int warps);
// Whether it is made of unpacked values, element by element.
bool comesFromUnpack(mlir::Value value);
// The dots of a function all of whose dots have unpacked values as `a`, the same types, and one block: the parts of a
// step. Empty otherwise.
llvm::SmallVector<tile::DotOp> unpackedDots(mlir::func::FuncOp func);
// The warps that suit a dot: a group for each 64 rows, up to two.
int wgmmaWarps(tile::DotOp dot);
const MmaAtom *atomFor(mlir::Type element, bool isUnsigned, tile::DotPrecision precision);

// How mma.sync's accumulator is spread over the warps: alongM times alongN of them have a part each, n contiguous and
// 16 rows of m in turn; the others hold replicas. `swapped` as in AccumulatorForm.
struct MmaForm {
  bool swapped = false;
  int alongM = 1, alongN = 1;
  bool operator==(const MmaForm &) const = default;
};
// The form that `layout` of an accumulator [m, n] has; none for other layouts.
std::optional<MmaForm> mmaForm(const LinearLayout &layout, llvm::ArrayRef<int64_t> shape, int warps);

struct MmaPlan {
  const MmaAtom *atom;
  MmaForm form;
  LinearLayout accumulator;
  mlir::OpOperand &rows(tile::DotOp dot) const { return form.swapped ? dot.getBMutable() : dot.getAMutable(); }
  mlir::OpOperand &columns(tile::DotOp dot) const { return form.swapped ? dot.getAMutable() : dot.getBMutable(); }
  LinearLayout rowFragments(tile::DotOp dot, int warps) const; // needs form.alongN = 1
};
// How the tensor cores compute a dot with mma.sync; none where they cannot, or where wgmma is there for it. `stacked`:
// the warps go along m first, so that a row's elements are in one warp, else so that each has much of both.
std::optional<MmaPlan> planMma(tile::DotOp dot, const Target &target, int warps, bool stacked = false);
int mmaWarps(tile::DotOp dot); // that suit it

// A store of accumulators that goes through shared memory by boxes, from which the copy engine writes: up to 64 rows of
// `columns` columns (128 bytes), two buffers a warpgroup.
struct StagedStore {
  AccumulatorForm form;
  int64_t rows, columns;
  int64_t boxes; // of a warpgroup
};
int64_t stagedBoxBytes(const StagedStore &staged); // of one buffer
// On stores that were one before cutStores (Rewrites.h), numbered: they share nothing, and the buffers go on in turn.
inline constexpr llvm::StringLiteral pieceAttr = "tile.piece";
bool isLaterPiece(tile::StoreOp store);
std::optional<StagedStore> stagedStore(tile::StoreOp store, Layouts &layouts, int warps);
int64_t storeStagingBytes(mlir::func::FuncOp kernel); // of its warps, 0 when no store is staged

// That of a view's rows, in bytes; 1 where nothing is known.
int64_t alignmentOf(mlir::Value view);
// Whether the copy engine can read or write boxes of the view (an argument of the kernel) that start at the offsets: it
// moves pieces of 16 bytes, from rows that lie multiples of that apart and from columns likewise. Any other start of a
// box is an illegal instruction (seen on an H200; Triton's interpreter checks the same).
bool isCopyable(mlir::Value view, mlir::ValueRange offsets);

} // namespace bitloom::nvptx

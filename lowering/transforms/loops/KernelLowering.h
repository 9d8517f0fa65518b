// The lowering of one kernel. Each group of members is one file of this folder.
#pragma once

#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/transforms/contract/Atoms.h"
#include "bitloom/lowering/transforms/contract/Fields.h"
#include "bitloom/lowering/transforms/loops/Emitter.h"
#include "bitloom/lowering/transforms/loops/Fusion.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SmallBitVector.h"

#include <string>

namespace bitloom::loops {

using namespace tile; // the operations
using llvm::ArrayRef;
using llvm::SmallVector;

// Why a kernel cannot be lowered; thrown, and reported on the operation.
struct Unsupported {
  Operation *op;
  std::string what;
};

class KernelLowering : Emitter {
public:
  KernelLowering(mlir::func::FuncOp kernel, const Target &target);
  // Writes the llvm.func before the kernel, which stays. Throws Unsupported.
  void run();

private:
  struct View {
    Value pointer;
    SmallVector<Value> extents, strides; // i64
  };
  // The part of an access that does not depend on the vectorised coordinate.
  struct Access {
    Value pointer;  // of the element at vectorised coordinate 0
    Value inBounds; // i1 over the other dimensions
    Value stride;   // of the vectorised dimension; none when it is 1
    Bounds bounds;  // of the vectorised coordinate; none for a scalar
  };
  // A range of the innermost loop that is run twice: without masks where all is in bounds, and with them for the rest.
  struct Split {
    Value iv;          // the loop's; none when it is unrolled
    int outside;       // the depth that surrounds it
    bool mayStream;    // whether it heeds StoreHints::stream
    bool fast = false; // now writing the part without masks
    struct Guard {
      Value lo, end;
      bool relative;       // the places are iv + first … iv + last, otherwise first … last
      int64_t first, last; // last is one past the end
    };
    SmallVector<Guard> guards{};
    // What must hold besides, i1: of many rows, it may be known outside of the loop that moves along them.
    llvm::SetVector<Value> insides{};
  };
  // Of the store that a loop ends in, as far as they are known outside of it.
  struct StoreHints {
    bool clips = false;     // nothing but the store wants the chunks
    Value end;              // masked chunks from here on have no effect
    Value stream;           // i1: whether to write past the caches; none: not
    bool streaming = false; // now writing that part
  };
  using Values = SmallVector<Value>;
  using Compute = llvm::function_ref<Values(const Place &)>;
  using Commit = llvm::function_ref<void(const Place &, ValueRange)>;
  using Fixed = SmallVector<std::optional<Coord>>; // coordinates that are not looped over

  //===- KernelLowering.cpp: the function, and operations one after another ------------------------------------===//

  void unpackArguments();
  void lowerBlock(Block &block); // but its terminator
  void lowerOp(Operation *op);
  void lowerScalar(Operation *op);
  Value scalar(Value original);
  void bind(Value original, Value scalar) { scopes.back()->scalars[original] = scalar; }
  const View &view(Value original, Operation *op);
  Buffer allocate(ArrayRef<int64_t> shape, Type element);
  void placeBuffers(mlir::scf::ForOp programs); // on the stack, and on the heap what is too much for it
  mlir::LLVM::LLVMFuncOp runtimeFunction(llvm::StringRef name, ArrayRef<Type> parameters, Type result = {});
  Value cString(llvm::StringRef text);
  Value globalOf(mlir::DenseElementsAttr data, Type element);
  void lowerAssert(AssertOp op);
  void lowerPrint(PrintOp op);

  //===- Control.cpp: regions that the kernel has --------------------------------------------------------------===//

  void lowerFor(mlir::scf::ForOp op);
  static bool accumulatesOnly(DotOp dot, Value tile);
  static DotOp productAddedTo(Value carried, Value next);
  void lowerIf(mlir::scf::IfOp op);
  void lowerWhile(mlir::scf::WhileOp op);
  // The body of a region, then its values: tiles into buffers, scalars returned. `arguments`, when given, are the
  // block's, whose tiles live in those same buffers.
  Values lowerRegion(Block &block, ValueRange values, ArrayRef<Buffer> into, ValueRange arguments);
  void carry(ValueRange values, ArrayRef<Buffer> into, ValueRange arguments);
  SmallVector<Buffer> buffersFor(mlir::TypeRange types); // one a tile; empty ones for scalars

  //===- Evaluate.cpp: one chunk of a tile ---------------------------------------------------------------------===//

  Value evaluate(Value tile, Place place);
  Values compute(Operation *op, const Place &place);
  Value evaluateBroadcast(BroadcastOp op, Place place);
  Value evaluateJoin(JoinOp op, const Place &place);
  Value evaluateSplit(SplitOp op, Place place, int64_t half);
  Value evaluateReshape(ReshapeOp op, const Place &place);
  // Elements [start, start + width) of the row-major order.
  Value evaluateLinear(Value tile, Coord start, int64_t width);
  Value evaluateConstant(mlir::arith::ConstantOp op, const Place &place);
  Coord linearIndex(ArrayRef<int64_t> shape, const Place &place); // of the first lane, in row-major order
  Place normal(ArrayRef<int64_t> shape, Place place);
  static Key keyOf(Value tile, const Place &place);

  //===- Kept.cpp: tiles in memory -----------------------------------------------------------------------------===//

  const Buffer *bufferOf(Value tile);
  bool isIn(Value tile, const Buffer &buffer);
  const Buffer &materialise(Value tile); // before the present statement's loops
  Value read(const Buffer &buffer, const Place &place);
  void write(const Buffer &buffer, const Place &place, Value value);
  void fill(const Buffer &buffer, Value tile); // a nest of its own
  bool mayKeepHere(Value tile, const Place &place);
  void keepHere(Value tile, const Place &place, Value value);
  // For a value that is known: it may have been written outside of this block, what it was computed from with it.
  void keepOperandsHere(Value tile, const Place &place, Value known);
  bool keepsSomething(Value tile); // among the inline values under it

  //===- Nest.cpp: loops over an index space -------------------------------------------------------------------===//

  // Visits each element of `shape` once; `compute` of up to `unroll` chunks comes before their `commit`.
  void nest(ArrayRef<int64_t> shape, int64_t width, int64_t unroll, Compute compute, Commit commit, Fixed fixed = {},
            StoreHints *hints = nullptr);
  // Around nests that together visit each element of `shape`: what they keep is complete at the end.
  void beginNest(ArrayRef<int64_t> shape);
  void endNest();
  // A loop over [begin, end), a multiple of `width`. `body` takes the starts of its chunks, `unroll` of them without
  // masks and one with, and what is carried. It may set `hints`, for what it has stored.
  using SplitBody = llvm::function_ref<Values(ArrayRef<Coord>, ValueRange)>;
  Values split(int64_t begin, int64_t end, int64_t width, int64_t unroll, ValueRange inits, SplitBody body,
               StoreHints *hints = nullptr);
  // As split, for a body that visits everything by constant coordinates.
  Values splitUnrolled(ArrayRef<Type> types, llvm::function_ref<Values()> body, StoreHints *hints = nullptr);
  // The end of the part of [begin, end) without masks; a multiple of `step` past begin.
  Value fastEnd(const Split &split, int64_t begin, int64_t end, int64_t width, int64_t step);
  Value allInBounds(const Split &split, int64_t begin);
  Value allOf(ArrayRef<Value> conditions); // i1
  // With a `limit`, none of more than one step that begin from there on.
  void loop(int64_t begin, int64_t end, int64_t step, llvm::function_ref<void(Coord)> body, Value limit = {});
  int64_t lanesFor(ValueRange tiles, int64_t extent);
  static int vectorDim(ArrayRef<int64_t> shape, const Fixed &fixed = {});

  //===- Access.cpp: views -------------------------------------------------------------------------------------===//

  Access access(Operation *op, Value viewValue, ValueRange offsets, ArrayRef<int32_t> dims, ArrayRef<int64_t> shape,
                const Place &place);
  int bitsOf(Value original);
  // Whether the present split is decided by its bounds, too.
  bool isGuarded(const Access &access);
  // None when all lanes are known to be in bounds.
  Value maskOf(const Access &access, const Place &place, int64_t extent);
  Value underMask(Value vector); // as masked loads and stores take it
  Value evaluateLoad(LoadOp op, const Place &place);
  void prefetchNext(LoadOp op, Value pointer, const Place &place);
  void prefetchNext(LoadOp op, const Place &place);
  std::optional<Value> inNextRound(Value original, mlir::scf::ForOp loop);
  Value evaluateGather(GatherOp op, const Place &place);
  void lowerStore(StoreOp op);
  void lowerScatter(ScatterOp op);
  void lowerAtomic(AtomicOp op);
  Value atomicHalf(mlir::LLVM::AtomicBinOp kind, Value pointer, Value value);
  void storeAt(StoreOp op, const Place &place, Value value, StoreHints *hints);
  void storeAll(ArrayRef<StoreOp> stores, const Place &place, ValueRange values, StoreHints &hints);
  // Whether, as i1, the chunks from `first` on are best written past the caches. None when it is known that they are
  // not.
  Value shouldStream(StoreOp op, Value first, int64_t width);
  // Pointers and in-bounds mask of a gather's or scatter's elements.
  std::pair<Value, Value> elementsAt(Operation *op, Value viewValue, ValueRange indices, Value mask,
                                     const Place &place);
  Value readElements(Value pointers, Value mask, Value other, Type element, int64_t lanes);
  Value readScalar(Value pointer, Value inBounds, Value other, Type element);

  //===- Reduce.cpp --------------------------------------------------------------------------------------------===//

  // Reductions over one domain, done together. A *partial* is one value a source of each.
  struct Reduction {
    SmallVector<ReduceOp, 2> ops;
    SmallVector<int64_t> shape;
    int axis;
    SmallVector<Value> sources, results;
    SmallVector<Buffer> buffers; // of the results; empty when they are scalars
    // What multiplies the bytes whose products are summed; each of its lanes sums a block.
    std::optional<Atom> atom{};
  };
  void lowerReduce(ReduceOp op);
  Reduction reducedTogether(ReduceOp op);
  Values combine(mlir::Region &region, ValueRange left, ValueRange right);
  Values combineAll(const Reduction &reduction, ValueRange left, ValueRange right);
  // Adds what is at `place`; an empty partial becomes it.
  Values accumulate(const Reduction &reduction, Place place, ValueRange partial);
  std::optional<Atom> atomOf(const Reduction &reduction);
  Value addProducts(const Reduction &reduction, const Place &place, Value partial);
  Values neutral(const Reduction &reduction, int64_t lanes); // empty when some reduction has no known one
  // In chunks along dimension `vec`: the axis itself, or the one behind it, of one chunk.
  void reduceInRegisters(const Reduction &reduction, int vec);
  void reduceRows(const Reduction &reduction, const Place &first, int rowDim, int64_t rows, int vec, int64_t width);
  void reduceInMemory(const Reduction &reduction);
  // One partial for each of the 2^k rows: the lanes of each are combined, and row r's value goes to lane r.
  Values horizontal(const Reduction &reduction, SmallVector<Values> rows);
  Value readNow(const Buffer &buffer, const Place &place); // not hoisted: the loop changes it

  //===- Scan.cpp ----------------------------------------------------------------------------------------------===//

  void lowerScan(ScanOp op);
  Values scanChunk(ScanOp op, const Place &place, ValueRange carried, ArrayRef<Buffer> results);
  void scanInner(ScanOp op, ArrayRef<Buffer> results);
  void scanOuter(ScanOp op, ArrayRef<Buffer> results);

  //===- Dot.cpp -----------------------------------------------------------------------------------------------===//

  void lowerDot(DotOp op);
  Buffer operandAs(Value tile, Type element, bool isUnsigned);
  // A tile of two dimensions that is wanted soon: `across` times `lines` lines of a cache, `stride` elements apart.
  struct Ahead {
    Value pointer{}, now{}; // where it is, and the present one; none: not known, or too little to ask for
    Type element{};
    int64_t across = 0, lines = 0;
    Value stride{};
    bool columnsAlong = true; // the operand's columns lie along the lines
  };
  // Columns of the right operand, from that one on, and those after them.
  struct Panel {
    Buffer buffer;
    Coord column;
    Ahead ahead;
  };
  void fillPanel(const Buffer &panel, Value tile, Coord column, int64_t width, bool isUnsigned);
  bool fillTransposed(const Buffer &buffer, Value tile, Coord column, bool isUnsigned);
  Value convert(Value value, Type element, bool isUnsigned);
  Ahead aheadOf(DotOp op, Value tile);
  Ahead panelAhead(const Ahead &tile, Coord column, int64_t width);
  std::array<Value, 2> wantedOf(DotOp op);
  void prefetch(const Ahead &ahead, Value number, int64_t count);
  // Rows [row, row + rows) by columns [column, column + chunks * width) of the product, in registers.
  void dotBlock(DotOp op, const Buffer &left, const Ahead &ahead, const Panel &right, const Buffer &result, Coord row,
                int64_t rows, Coord column, int64_t width, int64_t chunks);

  //===- LengthDot.cpp: in vectors of any length -----------------------------------------------------------------===//

  bool multipliesByLength(DotOp op);
  // `right`: the right operand, where it is in memory as it is multiplied; `ends`: the rows and columns that are
  // wanted.
  void multiplyByLength(DotOp op, const Buffer &left, const std::optional<Buffer> &right, const Buffer &result,
                        std::array<Value, 2> ends);
  void dotBlockByLength(DotOp op, const Buffer &left, const Panel &right, const Buffer &result, Coord row,
                        Coord column);

  // The products of two tiles of vectors of an atom's operands, register by register, by rows and then columns.
  Buffer matrixSumsByLength(const Atom &atom, const Buffer &left, Coord leftTile, const Buffer &right, Coord rightTile,
                            Type element);

  //===- MatrixDot.cpp -----------------------------------------------------------------------------------------===//

  bool lowerMatrixDot(DotOp op); // false: no instruction multiplies such matrices
  // Vectors of the atom's left operand, as [rows / together, depth / block, together · block], and of its right one,
  // where depth comes first, of columns.
  Buffer matricesOfRows(Value tile, const Atom &atom, int64_t together);
  Buffer matricesOfColumns(Value tile, const Atom &atom, int64_t together);
  Values perfectShuffles(Values vectors); // a power of two of them
  // `down` by `across` numbers of the result in registers at a time.
  void multiplyMatrices(DotOp op, const Atom &atom, const Buffer &result, int64_t down, int64_t across, bool byLength);

  //===- Contract.cpp: products with packed weights ------------------------------------------------------------===//

  // A loop that only adds up products of tiles, all of one shape.
  struct Contraction {
    SmallVector<DotOp> dots;
    SmallVector<Operation *> scalars; // that its body computes
    SmallVector<LoadOp> loads;        // of tiles that it reads
    Atom atom;
    TileShape tile;
    int64_t panel = 0;                      // columns of whole units; a tile's may be a part of one
    int64_t atOnce = 1;                     // iterations
    std::optional<SegmentShape> segments{}; // in vectors of any length, where that can be
    bool inSegments = false;                // and so it is now
    StoreOp store;                          // of the results, done with them; or none
    SmallVector<LoadOp> storeLoads;         // that are read for it
  };
  struct Carried { // the fragments of a tile, one tile after the other
    Values values{};
    int64_t fragments, lanes;       // of a tile; of a fragment
    std::optional<Buffer> memory{}; // where they are instead, between iterations
    Value at{};                     // its address, not known to be that of the iteration before
  };
  struct RegisterTile {
    Coord row, column;
    int64_t rows, columns;
  };
  // A register's worth of a tile of two dimensions: `rows` rows of lanes / rows columns, from (row, column) on.
  struct Fragment {
    Coord row, column;
    int64_t rows, lanes, number;
  };
  struct FragmentSum {
    Value value;
    int scale; // it is 2^scale too large
  };
  struct FragmentValues { // by tile and the fragment's number
    llvm::DenseMap<std::pair<Value, int64_t>, Value> known;
    llvm::DenseMap<std::pair<Value, int64_t>, FragmentSum> sums; // of dots
  };
  // Adds to `loads` what `tile` reads; false where it depends on what the loop carries or on its products in another
  // way than element by element.
  static bool readsInOrder(Value tile, mlir::scf::ForOp loop, bool elementwise, llvm::SetVector<LoadOp> &loads);
  // The packed weight that is the dot's right operand: w in dot(a, transpose(unpack(w))).
  static UnpackOp weightOf(DotOp dot);
  std::optional<Contraction> contractionOf(mlir::scf::ForOp op);
  void findStore(mlir::scf::ForOp op, Contraction &contraction);
  std::string describe(DotOp dot, const Contraction &contraction);
  bool lowerContraction(mlir::scf::ForOp op); // false: it is none
  // Whether all that the loads read is in bounds, as i1: in the iteration at `iv` and those before it, as far as it can
  // be told; outside of a loop when there is none. And so for what of a store's view lies at these places of its tile.
  Value allInside(ArrayRef<LoadOp> loads, mlir::scf::ForOp loop, Value iv);
  Value allInside(StoreOp store, const RegisterTile &tile);
  std::optional<Value> scalarAt(Value original, mlir::scf::ForOp loop, Value iv);
  void contractTile(mlir::scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                    ArrayRef<Buffer> results);
  void moveCarried(Carried &carried, bool toMemory);
  void contractRange(mlir::scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                     ArrayRef<Fragment> fragments, Value from, Value to, Value step, Carried &carried, int64_t times,
                     bool inside);
  void contractTiles(mlir::scf::ForOp op, const Contraction &contraction, ArrayRef<Buffer> results);
  void contractIteration(mlir::scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                         ArrayRef<Fragment> fragments, Carried &carried);
  Values opaque(ValueRange values);
  void hideOffsets(ValueRange offsets, Operation *loop); // but those that the loop's body computes

  //===- PackedDot.cpp -----------------------------------------------------------------------------------------===//

  // The sums of a dot's products for a tile.
  struct ProductSums {
    Atom atom;
    FieldPlan plan;
    int64_t across, firstValue; // the tile's vectors of values, and the place of the first one in a unit
    int64_t perBlock;           // operands
    bool byLanes;               // those of the left operand are to be added up over the lanes
    int64_t segments = 1;       // of a unit, in vectors of any length
    Values sums, ofLeft;        // by [row block][operand], and by row block; none: not yet read from memory
    std::optional<Buffer>
        memory{}; // of i32, by [row block][operand of a segment][segment][lane], then of the left operand
    std::map<std::pair<int64_t, int>, Value> corrections{}; // by row block and factor
  };
  // `together`: none is used before all are complete.
  ProductSums productsOf(DotOp dot, const Contraction &contraction, const RegisterTile &tile, bool together);
  // For the rows of the atom from `row` on and its columns from `column` on, the part-th of a vector that is shared.
  Value leftOperand(DotOp dot, const Atom &atom, Coord row, Coord column, int64_t part);
  Value multiply(const Atom &atom, Value left, Value right, Value sum);
  Value sumOfLeft(const Atom &atom, Value left, Value sum);
  Atom atomOf(DotOp dot);
  FieldPlan planOf(DotOp dot);
  // The operands that a unit becomes; none for those that are not wanted.
  Values takeApart(const FieldPlan &plan, const llvm::SmallBitVector &wanted, llvm::function_ref<Value(int)> byteAt);
  // Bytes shifted left (right when negative) over those of `into`, whose other bits stay.
  Value insertBits(Value into, Value from, int shift);
  Value callIntrinsic(llvm::StringRef name, Type result, ValueRange operands); // a pure one

  //===- ProductSums.cpp ---------------------------------------------------------------------------------------===//

  void formSums(DotOp dot, ProductSums &products, ArrayRef<Fragment> fragments, FragmentValues &values);
  Value added(Value a, Value b);
  Value joined(const Atom &atom, Value sum);
  Value correctionOf(ProductSums &products, int64_t block, int factor);

  //===- SegmentDot.cpp: products in vectors of any length -----------------------------------------------------===//

  std::optional<SegmentShape> segmentsOf(const Contraction &contraction);
  // Code for vectors of `fewest` segments of 16 bytes or more, and for shorter ones: the processor decides.
  void forEitherLength(llvm::function_ref<void()> longer, llvm::function_ref<void()> asNeon, int64_t fewest = 2);
  // In vectors of any length where they are longer than NEON's.
  void contractByLength(mlir::scf::ForOp op, const Contraction &contraction, ArrayRef<Buffer> results);
  ProductSums productsInSegments(DotOp dot, const Contraction &contraction, const RegisterTile &tile);
  Value pointerTo(Value bytes, const Place &place);
  Value inEachSegment(Value vector);
  Value inRegister(Value constant);
  // Read from memory where they are there.
  Value sumAt(ProductSums &products, int64_t number);
  Value ofLeft(ProductSums &products, int64_t block);

  //===- Fragments.cpp -----------------------------------------------------------------------------------------===//

  Value evaluateFragment(Value tile, const Fragment &fragment, FragmentValues &values);
  Value gatherFragment(Value tile, const Fragment &fragment);
  Value scaled(const FragmentSum &sum, Type element);
  Value halvesOf(Value first, Value second, int64_t half);
  template <class Visit>
  void forRuns(ArrayRef<Fragment> fragments, int64_t tileRows, llvm::function_ref<Value(size_t)> valueOf, Visit visit);
  bool isPair(ArrayRef<Fragment> fragments, size_t first);
  // Pairs of fragments with two rows as fragments of one row each, all tiles' values likewise.
  void splitRows(SmallVector<Fragment> &fragments, Values &values);
  void storeFragments(const Contraction &contraction, mlir::scf::ForOp loop, const RegisterTile &tile,
                      ArrayRef<Fragment> fragments, ArrayRef<Value> values);
  // With `adds`, which adds two numbers, to what is there.
  void writeFragments(const Buffer &buffer, ArrayRef<Fragment> fragments, ArrayRef<Value> values,
                      Operation *adds = nullptr);

  //===- Packed.cpp --------------------------------------------------------------------------------------------===//

  // As i8, or as i32 when that is what becomes of it. With a position, the value begins at that bit, and anything may
  // be below and above.
  Value evaluateUnpack(UnpackOp op, const Place &place, Type element, std::optional<int64_t> position = {});
  // Lanes of one or two of the target's vectors of f32, picked by the low bits of i32 indices.
  Value pickLanes(Value table, Value indices);
  bool picksLanes(int64_t tableExtent, int64_t lanes);
  // An i8 tile as a function of a code of `bits` bits, the unpacked planes beside each other.
  struct Fields {
    SmallVector<std::pair<UnpackOp, int>> planes; // and where in the code they begin, from the lowest bit on
    int bits = 0;
    SmallVector<int64_t> values; // as signed numbers, of each code
    bool isPlain() const;        // the codes themselves
    bool isSignExtension() const;
  };
  std::optional<Fields> fieldsOf(Value tile);
  // The codes from bit `lift` on, as i32; anything may be below and above.
  Value evaluateFields(const Fields &fields, const Place &place, int64_t lift);
  Value selectBits(Value mask, Value a, Value b); // a's where the mask is 1; i32
  Value evaluatePack(PackOp op, const Place &place);
  Value evaluateLut(LutOp op, const Place &place);
  const Buffer &lutTable(Value table); // padded to a power of two
  // A cast from i8 to 32 bits or more, of values whose range is known: the arithmetic before it is done in i32. None
  // when `cast` is no such thing.
  Value evaluateWidened(Operation *cast, const Place &place);
  Value evaluateWide(Value tile, const Place &place);
  std::optional<std::pair<int64_t, int64_t>> rangeOf(Value tile);
  // The image of a coordinate: bit k goes to basis[k], a power of two or 0.
  Coord mapBits(ArrayRef<int64_t> basis, const Coord &coord);

  mlir::func::FuncOp kernel;
  const Target &target;
  Fusion fusion;
  mlir::LLVM::LLVMFuncOp function;
  llvm::DenseMap<Value, View> views;
  Value arguments, grid; // the function's
  Value programIds[3];   // of the program being run
  Value programCounts[3];
  SmallVector<std::pair<Value, int64_t>> allocations;            // placeholder and bytes
  Value spare;                                                   // 8 bytes of zeros that are always valid to read
  int statement = 0;                                             // the depth at which the present statement began
  Operation *statementOp = nullptr;                              // in the kernel
  llvm::DenseMap<Operation *, Operation *> readFirst, readAgain; // the first two statements that read a load's tile
  Operation *asking = nullptr;                                   // the last one that asks for rows ahead
  Block *statementBlock = nullptr;                               // the block that holds it, in the kernel
  SmallVector<int64_t> nestShape;                                // of the nest being written
  std::optional<Place> nestPlace;                                // the chunk it visits
  int nestLevel = 0;
  llvm::DenseSet<Value> filling;         // being materialised
  llvm::DenseMap<Value, Buffer> keeping; // kept by that nest, complete when it ends
  Split *currentSplit = nullptr;
  llvm::SmallPtrSet<Operation *, 8> inside;        // accesses all of whose elements are known to be in bounds here
  bool streams = false;                            // some store does
  llvm::DenseMap<Operation *, Buffer> inPlace;     // dots that may write to their accumulator's memory
  llvm::DenseMap<Operation *, Operation *> adding; // of those, what adds the product to what is there
  llvm::SmallPtrSet<Operation *, 4> done;          // sinks lowered together with one before
  llvm::DenseMap<Operation *, SmallVector<Buffer>> carriers; // of loops being written, by their ends: a tile's each
  int names = 0;
};

} // namespace bitloom::loops

// The tile dialect: its types, attributes and operations. Includes much of MLIR; only lowering/ and dsl/*.cpp use it.
#pragma once

#include "bitloom/lib/packing/Packing.h"

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "lowering/dialect/TileDialect.h.inc"
#include "lowering/dialect/TileEnums.h.inc"
#define GET_TYPEDEF_CLASSES
#include "lowering/dialect/TileTypes.h.inc"
#define GET_ATTRDEF_CLASSES
#include "lowering/dialect/TileAttributes.h.inc"
#define GET_OP_CLASSES
#include "lowering/dialect/TileOps.h.inc"

namespace bitloom::tile {

// The attributes on a kernel's func.func and on its arguments.
inline constexpr llvm::StringLiteral kernelAttr = "tile.kernel";      // unit, on the function
inline constexpr llvm::StringLiteral numWarpsAttr = "tile.num_warps"; // i32, on the function: a hint for GPU targets
inline constexpr llvm::StringLiteral stagesAttr = "tile.stages"; // i32, on the function: slots of its rings, a hint
inline constexpr llvm::StringLiteral warpSpecializeAttr =
    "tile.warp_specialize"; // bool, on the function: whether warps may be given roles; a hint, true when absent
inline constexpr llvm::StringLiteral splitAttr =
    "tile.split"; // i32, on the function: blocks that may share the iterations of a loop that only accumulates; a hint
inline constexpr llvm::StringLiteral streamKAttr =
    "tile.stream_k"; // unit, on the function: blocks may share the steps of such loops of all programs evenly; a hint
inline constexpr llvm::StringLiteral workspaceAttr =
    "tile.workspace"; // i32, on an llvm.func: bytes a block of the memory whose address follows the grid's extents
inline constexpr llvm::StringLiteral clusterAttr =
    "tile.cluster"; // i32, on the function: blocks that run a program together; absent: 1
inline constexpr llvm::StringLiteral consumersAttr =
    "tile.consumers"; // i32, on the function: groups of tile.num_warps warps that take programs in turn; absent: 1
inline constexpr llvm::StringLiteral sharedBytesAttr =
    "tile.shared_bytes"; // i32, on an llvm.func: dynamic shared memory a block
inline constexpr llvm::StringLiteral registerCostsAttr =
    "tile.register_costs"; // dictionaries, on an llvm.func: what tiles take of a thread's registers where that is most
inline constexpr llvm::StringLiteral sharedCostsAttr =
    "tile.shared_costs"; // dictionaries, on an llvm.func: what lines take of its shared memory
inline constexpr llvm::StringLiteral ringStagesAttr = "tile.ring_stages"; // i32, on an llvm.func: slots of its rings
inline constexpr llvm::StringLiteral persistentAttr =
    "tile.persistent"; // unit, on an llvm.func: blocks go through the programs of the grid, whose extents follow the
                       // words
inline constexpr llvm::StringLiteral tensorMapsAttr =
    "tile.tensor_maps"; // dictionaries, on an llvm.func: the requests (lib/runtime/TensorMap.h) of its last parameters
inline constexpr llvm::StringLiteral waysAttr =
    "tile.ways"; // i32, on a load that the copy engine does: as how many matrices it reads the view
inline constexpr llvm::StringLiteral nameAttr = "tile.name";   // string, on an argument
inline constexpr llvm::StringLiteral alignAttr = "tile.align"; // i32, on a view: pointer and outer strides are
                                                               // multiples of this many bytes

// A tile as shape and element type, whether it is a tensor or a scalar (shape of rank 0).
llvm::ArrayRef<int64_t> shapeOf(mlir::Type tile);
mlir::Type elementOf(mlir::Type tile);
// The type of a tile; a scalar for an empty shape.
mlir::Type tileOf(llvm::ArrayRef<int64_t> shape, mlir::Type element);

} // namespace bitloom::tile

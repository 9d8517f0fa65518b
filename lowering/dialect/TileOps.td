// The operations of the tile dialect. Each record is the op's whole documentation; its example is run as a test.
#ifndef BITLOOM_TILE_OPS
#define BITLOOM_TILE_OPS

include "lowering/dialect/TileDialect.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Tile_Op<string mnemonic, list<Trait> traits = []> : Op<Tile_Dialect, mnemonic, traits>;

def Tile_Scalar : AnyTypeOf<[AnySignlessInteger, AnyFloat], "scalar">;
def Tile_Tensor : StaticShapeTensorOf<[AnySignlessInteger, AnyFloat]>;
def Tile_Tile : AnyTypeOf<[Tile_Scalar, Tile_Tensor], "tile (scalar or tensor)">;
def Tile_IntTile : AnyTypeOf<[AnySignlessInteger, StaticShapeTensorOf<[AnySignlessInteger]>], "tile of integers">;
def Tile_BoolTile : AnyTypeOf<[I1, StaticShapeTensorOf<[I1]>], "tile of i1">;

//===- The grid and the views ---------------------------------------------------------------------------------------===//

def Tile_ProgramIdOp : Tile_Op<"program_id", [Pure]> {
  let summary = "this program's coordinate along an axis (0, 1 or 2) of the grid";
  let description = [{
    ```mlir
    %pid = tile.program_id 0
    ```
  }];
  let arguments = (ins ConfinedAttr<I32Attr, [IntMinValue<0>, IntMaxValue<2>]>:$axis);
  let results = (outs I64:$result);
  let assemblyFormat = "$axis attr-dict";
}

def Tile_NumProgramsOp : Tile_Op<"num_programs", [Pure]> {
  let summary = "the grid's extent along an axis (0, 1 or 2)";
  let description = [{
    ```mlir
    %n = tile.num_programs 0
    ```
  }];
  let arguments = (ins ConfinedAttr<I32Attr, [IntMinValue<0>, IntMaxValue<2>]>:$axis);
  let results = (outs I64:$result);
  let assemblyFormat = "$axis attr-dict";
}

def Tile_ExtentOp : Tile_Op<"extent", [Pure]> {
  let summary = "a view's extent along a dimension, in elements";
  let description = [{
    ```mlir
    %cols = tile.extent %matrix, 1 : !tile.view<?x?xf32>
    ```
  }];
  let arguments = (ins Tile_ViewType:$view, I32Attr:$dim);
  let results = (outs I64:$result);
  let assemblyFormat = "$view `,` $dim attr-dict `:` type($view)";
  let hasVerifier = 1;
}

def Tile_LoadOp : Tile_Op<"load", [AttrSizedOperandSegments, MemoryEffects<[MemRead]>]> {
  let summary = "read a rectangular tile of a view";
  let description = [{
    Reads the element at coordinate `offsets[d] + i[k]` for the view's dimension `d = dims[k]`, and at `offsets[d]` for
    a dimension not in `dims`. `dims` ascends and has one entry a dimension of the result; with none, the result is a
    scalar. An element out of bounds yields `other` (zero when absent).

    ```mlir
    %tile = tile.load %matrix[%i, %j] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x64xf32>
    %row = tile.load %matrix[%i, %j] dims [1] else %x : !tile.view<?x?xf32> -> tensor<64xf32>
    %one = tile.load %matrix[%i, %j] dims [] : !tile.view<?x?xf32> -> f32
    ```
  }];
  let arguments = (ins Tile_ViewType:$view, Variadic<I64>:$offsets, DenseI32ArrayAttr:$dims, Optional<Tile_Scalar>:$other);
  let results = (outs Tile_Tile:$result);
  let assemblyFormat = [{
    $view `[` $offsets `]` `dims` $dims (`else` $other^)? attr-dict `:` type($view) `->` type($result) custom<OtherType>(ref($other), ref(type($result)), type($other))
  }];
  let hasVerifier = 1;
}

def Tile_StoreOp : Tile_Op<"store", [MemoryEffects<[MemWrite]>]> {
  let summary = "write a rectangular tile of a view";
  let description = [{
    Writes each element of `value` at the coordinate that `tile.load` would read it from; an element out of bounds is
    not written.

    ```mlir
    tile.store %a, %matrix[%i, %j] dims [0, 1] : tensor<16x64xf32>, !tile.view<?x?xf32>
    ```
  }];
  let arguments = (ins Tile_Tile:$value, Tile_ViewType:$view, Variadic<I64>:$offsets, DenseI32ArrayAttr:$dims);
  let assemblyFormat = "$value `,` $view `[` $offsets `]` `dims` $dims attr-dict `:` type($value) `,` type($view)";
  let hasVerifier = 1;
}

def Tile_GatherOp : Tile_Op<"gather", [AttrSizedOperandSegments, MemoryEffects<[MemRead]>]> {
  let summary = "read a view at coordinates computed element by element";
  let description = [{
    Element `e` of the result is the view's element at `(indices[0][e], indices[1][e], …)`; a scalar index stands for
    the same coordinate everywhere. Indices are signed. Out of bounds, or where `mask` is false, the result is `other`
    (zero when absent).

    ```mlir
    %g = tile.gather %vector[%idx] : !tile.view<?xf32>, tensor<64xi32> -> tensor<64xf32>
    %m = tile.gather %matrix[%i, %idx] mask %mask else %x : !tile.view<?x?xf32>, i64, tensor<64xi32> -> tensor<64xf32>
    ```
  }];
  let arguments = (ins Tile_ViewType:$view, Variadic<Tile_IntTile>:$indices, Optional<Tile_BoolTile>:$mask, Optional<Tile_Scalar>:$other);
  let results = (outs Tile_Tile:$result);
  let assemblyFormat = [{
    $view `[` $indices `]` (`mask` $mask^)? (`else` $other^)? attr-dict `:` type($view) `,` type($indices) `->` type($result)
    custom<MaskType>(ref($mask), ref(type($result)), type($mask)) custom<OtherType>(ref($other), ref(type($result)), type($other))
  }];
  let hasVerifier = 1;
}

def Tile_ScatterOp : Tile_Op<"scatter", [AttrSizedOperandSegments, MemoryEffects<[MemWrite]>]> {
  let summary = "write a view at coordinates computed element by element";
  let description = [{
    Element `e` of `value` goes where `tile.gather` would read it; out of bounds, or where `mask` is false, nothing is
    written. When two elements have the same coordinate, one of them is written.

    ```mlir
    tile.scatter %v, %vector[%idx] mask %mask : tensor<64xf32>, !tile.view<?xf32>, tensor<64xi32>
    ```
  }];
  let arguments = (ins Tile_Tile:$value, Tile_ViewType:$view, Variadic<Tile_IntTile>:$indices, Optional<Tile_BoolTile>:$mask);
  let assemblyFormat = [{
    $value `,` $view `[` $indices `]` (`mask` $mask^)? attr-dict `:` type($value) `,` type($view) `,` type($indices)
    custom<MaskType>(ref($mask), ref(type($value)), type($mask))
  }];
  let hasVerifier = 1;
}

def Tile_AtomicOp : Tile_Op<"atomic", [AttrSizedOperandSegments, MemoryEffects<[MemRead, MemWrite]>]> {
  let summary = "read, combine and write elements of a view, each atomically";
  let description = [{
    As `tile.scatter`, but the element in memory becomes its combination with `value`; the result is what was there
    before, and zero where nothing was written. Memory order is relaxed, the scope is the whole grid.

    ```mlir
    %old = tile.atomic add %v, %vector[%idx] : tensor<64xf32>, !tile.view<?xf32>, tensor<64xi32>
    ```
  }];
  let arguments = (ins Tile_Atomic:$kind, Tile_Tile:$value, Tile_ViewType:$view, Variadic<Tile_IntTile>:$indices, Optional<Tile_BoolTile>:$mask);
  let results = (outs Tile_Tile:$result);
  let assemblyFormat = [{
    $kind $value `,` $view `[` $indices `]` (`mask` $mask^)? attr-dict `:` type($value) `,` type($view) `,` type($indices)
    custom<MaskType>(ref($mask), ref(type($value)), type($mask)) custom<SameType>(ref(type($value)), type($result))
  }];
  let hasVerifier = 1;
}

//===- Shapes -------------------------------------------------------------------------------------------------------===//

def Tile_IotaOp : Tile_Op<"iota", [Pure]> {
  let summary = "the integers 0, 1, 2, … in a tile of rank 1";
  let description = [{
    ```mlir
    %lanes = tile.iota : tensor<64xi32>
    ```
  }];
  let results = (outs 1DTensorOf<[AnySignlessInteger]>:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
}

def Tile_ReshapeOp : Tile_Op<"reshape", [Pure]> {
  let summary = "the same elements in row-major order, in another shape";
  let description = [{
    ```mlir
    %column = tile.reshape %v : tensor<64xf32> -> tensor<64x1xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Tile_TransposeOp : Tile_Op<"transpose", [Pure]> {
  let summary = "permute the dimensions";
  let description = [{
    Dimension `k` of the result is dimension `permutation[k]` of the source.

    ```mlir
    %t = tile.transpose %a [1, 0] : tensor<16x64xf32> -> tensor<64x16xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source, DenseI32ArrayAttr:$permutation);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source $permutation attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Tile_BroadcastOp : Tile_Op<"broadcast", [Pure]> {
  let summary = "repeat along the dimensions of extent 1";
  let description = [{
    Source and result have the same rank, and each extent of the source is 1 or the result's.

    ```mlir
    %b = tile.broadcast %column : tensor<64x1xf32> -> tensor<64x16xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Tile_JoinOp : Tile_Op<"join", [Pure, AllTypesMatch<["lhs", "rhs"]>]> {
  let summary = "two tiles of one shape side by side in a new last dimension of extent 2";
  let description = [{
    ```mlir
    %pairs = tile.join %v, %v : tensor<64xf32> -> tensor<64x2xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$lhs, Tile_Tensor:$rhs);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$lhs `,` $rhs attr-dict `:` type($lhs) `->` type($result)";
  let hasVerifier = 1;
}

def Tile_SplitOp : Tile_Op<"split", [Pure, AllTypesMatch<["lhs", "rhs"]>]> {
  let summary = "the two halves of a last dimension of extent 2: the inverse of join";
  let description = [{
    ```mlir
    %even, %odd = tile.split %pairs : tensor<64x2xf32> -> tensor<64xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$lhs, Tile_Tensor:$rhs);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($lhs)";
  let hasVerifier = 1;
}

def Tile_SliceOp : Tile_Op<"slice", [Pure]> {
  let summary = "a rectangle of a tile";
  let description = [{
    Element `i` of the result is element `offsets + i` of the source.

    ```mlir
    %s = tile.slice %a [0, 32] : tensor<16x64xf32> -> tensor<16x32xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source, DenseI64ArrayAttr:$offsets);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source $offsets attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
  let hasCanonicalizeMethod = 1;
}

//===- Combining elements -------------------------------------------------------------------------------------------===//

def Tile_ReduceOp : Tile_Op<"reduce", [SingleBlockImplicitTerminator<"YieldOp">, RecursiveMemoryEffects]> {
  let summary = "combine the elements along a dimension";
  let description = [{
    The region combines two partial results, each a tuple of one scalar an operand: its arguments are first the left
    ones, then the right ones. It must be associative; the order of combination is not specified, and is the same for
    every run of the same machine code. Of zeros of both signs, either may be the largest or the smallest. The results
    lose dimension `axis`; of a source of rank 1 they are scalars.

    ```mlir
    %sum = tile.reduce %a axis 1 : tensor<16x64xf32> -> tensor<16xf32> {
    ^bb0(%l: f32, %r: f32):
      %s = arith.addf %l, %r : f32
      tile.yield %s : f32
    }
    ```
  }];
  let arguments = (ins Variadic<Tile_Tensor>:$sources, I32Attr:$axis);
  let results = (outs Variadic<Tile_Tile>:$results);
  let regions = (region SizedRegion<1>:$combiner);
  let assemblyFormat = "$sources `axis` $axis attr-dict `:` type($sources) `->` type($results) $combiner";
  let hasVerifier = 1;
}

def Tile_ScanOp : Tile_Op<"scan", [SingleBlockImplicitTerminator<"YieldOp">, RecursiveMemoryEffects]> {
  let summary = "running combination along a dimension, inclusive";
  let description = [{
    Element `i` along `axis` is the combination of elements `0 … i`, or of `i … n-1` with `reverse`. The region is that
    of `tile.reduce`.

    ```mlir
    %running = tile.scan %v axis 0 : tensor<64xf32> {
    ^bb0(%l: f32, %r: f32):
      %s = arith.addf %l, %r : f32
      tile.yield %s : f32
    }
    ```
  }];
  let arguments = (ins Variadic<Tile_Tensor>:$sources, I32Attr:$axis, UnitAttr:$reverse);
  let results = (outs Variadic<Tile_Tensor>:$results);
  let regions = (region SizedRegion<1>:$combiner);
  let assemblyFormat = [{
    $sources `axis` $axis (`reverse` $reverse^)? attr-dict `:` type($sources) custom<SameTypes>(ref(type($sources)), type($results)) $combiner
  }];
  let hasVerifier = 1;
}

def Tile_YieldOp : Tile_Op<"yield", [Pure, ReturnLike, Terminator,
                                     ParentOneOf<["ReduceOp", "ScanOp", "FillOp", "SpecializeOp"]>]> {
  let summary = "the values that a region ends with";
  let description = [{
    Ends the regions of `tile.reduce`, `tile.scan`, `tile.fill` and `tile.specialize`; see there.
  }];
  let arguments = (ins Variadic<Tile_Tile>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
  let builders = [OpBuilder<(ins), [{ build($_builder, $_state, ::mlir::ValueRange()); }]>];
}

def Tile_DotOp : Tile_Op<"dot", [Pure, AllTypesMatch<["acc", "result"]>]> {
  let summary = "matrix product plus accumulator";
  let description = [{
    `result[m, n] = acc[m, n] + Σ_k a[m, k] · b[k, n]`, the products and sums formed in the accumulator's type. Integer
    operands are signed unless `unsignedA` or `unsignedB` says otherwise. `tf32` lets a target round f32 operands to 10 bits of mantissa.
    Where the target computes products while the program goes on, `inFlight` is how many of this kernel's may be under
    way when the operation ends, itself included; such a result may only be another dot's accumulator until a
    `tile.dot_wait`.

    ```mlir
    %d = tile.dot %a, %b, %acc : tensor<16x64xf32>, tensor<64x16xf32>, tensor<16x16xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$a, Tile_Tensor:$b, Tile_Tensor:$acc,
                       DefaultValuedAttr<Tile_DotPrecision, "DotPrecision::Ieee">:$precision, UnitAttr:$unsignedA, UnitAttr:$unsignedB,
                       DefaultValuedAttr<I32Attr, "0">:$inFlight);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$a `,` $b `,` $acc attr-dict `:` type($a) `,` type($b) `,` type($acc)";
  let hasVerifier = 1;
}

//===- Packed values ------------------------------------------------------------------------------------------------===//

def Tile_UnpackOp : Tile_Op<"unpack", [Pure]> {
  let summary = "the 1- to 8-bit values in a tile of bytes, one in each i8";
  let description = [{
    The last dimension holds whole blocks of the packing. A `signed` value is a two's complement field and is extended
    by its sign, any other by zeros.

    ```mlir
    %w = tile.unpack %bytes signed <"bits=4,order=planar,block=128"> : tensor<16x64xi8> -> tensor<16x128xi8>
    ```
  }];
  let arguments = (ins StaticShapeTensorOf<[I8]>:$bytes, UnitAttr:$isSigned, Tile_PackingAttr:$packing);
  let results = (outs StaticShapeTensorOf<[I8]>:$result);
  let assemblyFormat = "$bytes (`signed` $isSigned^)? $packing attr-dict `:` type($bytes) `->` type($result)";
  let hasVerifier = 1;
}

def Tile_PackOp : Tile_Op<"pack", [Pure]> {
  let summary = "the low bits of each i8, packed into bytes: the inverse of unpack";
  let description = [{
    Bits of a value above the packing's width are dropped.

    ```mlir
    %p = tile.pack %values <"bits=4,order=low,block=8"> : tensor<16x128xi8> -> tensor<16x64xi8>
    ```
  }];
  let arguments = (ins StaticShapeTensorOf<[I8]>:$values, Tile_PackingAttr:$packing);
  let results = (outs StaticShapeTensorOf<[I8]>:$result);
  let assemblyFormat = "$values $packing attr-dict `:` type($values) `->` type($result)";
  let hasVerifier = 1;
}

def Tile_LutOp : Tile_Op<"lut", [Pure]> {
  let summary = "look each element up in a small table";
  let description = [{
    `result[e] = table[indices[e]]`; the table has 1 to 256 elements. Indices are unsigned and taken modulo the table's
    extent rounded up to a power of two; what lies past the extent reads zero.

    ```mlir
    %nf = tile.lut %table, %values : tensor<16xf32>, tensor<16x128xi8> -> tensor<16x128xf32>
    ```
  }];
  let arguments = (ins 1DTensorOf<[AnySignlessInteger, AnyFloat]>:$table, StaticShapeTensorOf<[AnySignlessInteger]>:$indices);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$table `,` $indices attr-dict `:` type($table) `,` type($indices) `->` type($result)";
  let hasVerifier = 1;
}

//===- For people ---------------------------------------------------------------------------------------------------===//

def Tile_PrintOp : Tile_Op<"print", [MemoryEffects<[MemWrite]>]> {
  let summary = "print a tile from every program";
  let description = [{
    ```mlir
    tile.print "acc", %a : tensor<16x64xf32>
    ```
  }];
  let arguments = (ins StrAttr:$label, Tile_Tile:$value, UnitAttr:$isUnsigned);
  let assemblyFormat = "$label `,` $value (`unsigned` $isUnsigned^)? attr-dict `:` type($value)";
}

def Tile_AssertOp : Tile_Op<"assert", [MemoryEffects<[MemWrite]>]> {
  let summary = "stop the whole launch where an element is false";
  let description = [{
    The launch fails with `message` and the line of the source.

    ```mlir
    tile.assert %mask, "index out of range" : tensor<64xi1>
    ```
  }];
  let arguments = (ins Tile_BoolTile:$condition, StrAttr:$message);
  let assemblyFormat = "$condition `,` $message attr-dict `:` type($condition)";
}

//===- After layout assignment --------------------------------------------------------------------------------------===//

def Tile_ConvertLayoutOp : Tile_Op<"convert_layout", [Pure]> {
  let summary = "the same tile, held by other registers, lanes and warps";
  let description = [{
    Only the encoding of the type changes.
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Tile_DotWaitOp : Tile_Op<"dot_wait", [AttrSizedOperandSegments, AllTypesMatch<["source", "result"]>]> {
  let summary = "the accumulator once the dots under way are done";
  let description = [{
    See `inFlight` of `tile.dot`: all of them but the `inFlight` that started last. An operand that such a dot reads
    where it is, rather than in shared memory, has to be named here so that it stays until then. The wait begins once
    the tiles `after` are computed.

    ```mlir
    %sum = tile.dot_wait %acc : tensor<16x16xf32>
    %product = tile.dot_wait %acc reading %a after %v : tensor<16x16xf32>, tensor<16x64xf32>, after tensor<64xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source, Optional<Tile_Tensor>:$operand, Variadic<Tile_Tensor>:$after,
                       DefaultValuedAttr<I32Attr, "0">:$inFlight);
  let results = (outs Tile_Tensor:$result);
  let builders = [OpBuilder<(ins "::mlir::Value":$source), [{
    build($_builder, $_state, source.getType(), source, ::mlir::Value(), ::mlir::ValueRange());
  }]>];
  let assemblyFormat = "$source (`reading` $operand^)? (`after` $after^)? attr-dict `:` type($source) (`,` type($operand)^)? (`,` `after` type($after)^)?";
}

def Tile_AwaitGroupOp : Tile_Op<"await_group"> {
  let summary = "wait until the warps before these let them on";
  let description = [{
    Where several groups of warps share a program, and each comes by as often as the others: they go on one after the
    other, each from here to its `tile.admit_group`.

    ```mlir
    tile.await_group
    ```
  }];
  let assemblyFormat = "attr-dict";
}

def Tile_AdmitGroupOp : Tile_Op<"admit_group"> {
  let summary = "let the next group of warps go on";
  let description = [{
    See `tile.await_group`.

    ```mlir
    tile.admit_group
    ```
  }];
  let assemblyFormat = "attr-dict";
}

def Tile_ClusterRankOp : Tile_Op<"cluster_rank", [Pure]> {
  let summary = "which of the blocks that run a program together this one is";
  let description = [{
    From 0 up to the function's `tile.cluster` - 1.

    ```mlir
    %rank = tile.cluster_rank
    ```
  }];
  let results = (outs I64:$result);
  let assemblyFormat = "attr-dict";
}

def Tile_ClusterSumOp : Tile_Op<"cluster_sum", [AllTypesMatch<["source", "result"]>]> {
  let summary = "the sum of a tile over the blocks that run a program together, in the first of them";
  let description = [{
    Added in the order of their ranks. In the other blocks the result is not to be used.

    ```mlir
    %sum = tile.cluster_sum %acc : tensor<16x16xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source attr-dict `:` type($source)";
}

def Tile_RingOp : Tile_Op<"ring"> {
  let summary = "a ring of slots in shared memory, by which one group of warps hands tiles to the others";
  let description = [{
    Each of its `stages` slots holds a tile of every type of the ring. The tiles' layouts are those of shared memory.

    ```mlir
    %slots = tile.ring stages 4 : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
    ```
  }];
  let arguments = (ins ConfinedAttr<I32Attr, [IntPositive]>:$stages);
  let results = (outs Tile_RingType:$ring);
  let assemblyFormat = "`stages` $stages attr-dict `:` type($ring)";
}

def Tile_FillOp : Tile_Op<"fill", [SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "fill the next slot of a ring, once it is free";
  let description = [{
    Begins the loads in the region, whose results it yields, a tile for each type of the ring; there is nothing else in
    it. The slot is at the front of the ring when the copies are done.

    ```mlir
    tile.fill %ring {
      %left = tile.load %matrix[%i, %j] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x64xf32>
      %right = tile.load %matrix[%j, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<64x16xf32>
      tile.yield %left, %right : tensor<16x64xf32>, tensor<64x16xf32>
    } : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
    ```
  }];
  let arguments = (ins Tile_RingType:$ring);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$ring $body attr-dict `:` type($ring)";
  let hasVerifier = 1;
}

def Tile_FrontOp : Tile_Op<"front"> {
  let summary = "the tiles of a ring's next slot, once they are there";
  let description = [{
    They stay until `tile.pop`.

    ```mlir
    %left, %right = tile.front %ring : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>> -> tensor<16x64xf32>, tensor<64x16xf32>
    ```
  }];
  let arguments = (ins Tile_RingType:$ring);
  let results = (outs Variadic<Tile_Tensor>:$tiles);
  let assemblyFormat = "$ring attr-dict `:` type($ring) `->` type($tiles)";
  let hasVerifier = 1;
}

def Tile_PopOp : Tile_Op<"pop"> {
  let summary = "free the oldest slot of a ring that was at the front";
  let description = [{
    When `condition` holds, or always without one.

    ```mlir
    tile.pop %ring : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
    tile.pop %ring if %p : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
    ```
  }];
  let arguments = (ins Tile_RingType:$ring, Optional<I1>:$condition);
  let assemblyFormat = "$ring (`if` $condition^)? attr-dict `:` type($ring)";
}

def Tile_TakeTurnOp : Tile_Op<"take_turn"> {
  let summary = "wait until the other consumers are done with their slots of a ring";
  let description = [{
    Where several groups of consumers take programs in turn: those before this one's have each had `slots` slots at the
    front, which this group passes over.

    ```mlir
    tile.take_turn %ring, %i : <tensor<16x64xf32>, tensor<64x16xf32>>
    ```
  }];
  let arguments = (ins Tile_RingType:$ring, I64:$slots);
  let assemblyFormat = "$ring `,` $slots attr-dict `:` type($ring)";
}

def Tile_PassTurnOp : Tile_Op<"pass_turn"> {
  let summary = "let the next group of consumers have the ring's slots";
  let description = [{
    See `tile.take_turn`.

    ```mlir
    tile.pass_turn
    ```
  }];
  let assemblyFormat = "attr-dict";
}

def Tile_SpecializeOp : Tile_Op<"specialize"> {
  let summary = "one program's work, shared among groups of warps";
  let description = [{
    The producer's warps run the first region, which fills rings and writes nothing, and the others the second one, at
    the same time. Each group goes through all the programs of a block by itself, so the producer may be ahead by a
    program. With `steps`, which every program's loop has, blocks share the steps of the grid rather than its programs:
    see `tile.share`.

    ```mlir
    tile.specialize producer {
      tile.fill %ring {
        %l = tile.load %matrix[%i, %j] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x64xf32>
        %r = tile.load %matrix[%j, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<64x16xf32>
        tile.yield %l, %r : tensor<16x64xf32>, tensor<64x16xf32>
      } : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
      tile.yield
    } consumer {
      %left, %right = tile.front %ring : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>> -> tensor<16x64xf32>, tensor<64x16xf32>
      %sum = tile.dot %left, %right, %acc : tensor<16x64xf32>, tensor<64x16xf32>, tensor<16x16xf32>
      tile.pop %ring : !tile.ring<tensor<16x64xf32>, tensor<64x16xf32>>
      tile.store %sum, %matrix[%i, %i] dims [0, 1] : tensor<16x16xf32>, !tile.view<?x?xf32>
      tile.yield
    }
    ```
  }];
  let arguments = (ins Optional<I64>:$steps);
  let regions = (region SizedRegion<1>:$producer, SizedRegion<1>:$consumer);
  let assemblyFormat = "(`steps` $steps^)? `producer` $producer `consumer` $consumer attr-dict";
  let hasVerifier = 1;
}

def Tile_ShareOp : Tile_Op<"share"> {
  let summary = "the steps of a program that this block does";
  let description = [{
    Inside a `tile.specialize` with `steps`: those from `first` to below `end`. Each block has an even share of the steps
    of some programs, one after the other, and then whole programs. `before` is how many steps the part had that the
    block did before this one; of its first part, any number.

    ```mlir
    %first, %end, %before = tile.share
    ```
  }];
  let results = (outs I64:$first, I64:$end, I64:$before);
  let assemblyFormat = "attr-dict";
}

def Tile_ShareSumOp : Tile_Op<"share_sum", [AllTypesMatch<["source", "result"]>]> {
  let summary = "the sum of a tile over the blocks that have a share of a program, in the one with its first step";
  let description = [{
    Added in the order of their steps. In the other blocks, see `tile.share`, the result is not to be used.

    ```mlir
    %sum = tile.share_sum %acc : tensor<16x16xf32>
    ```
  }];
  let arguments = (ins Tile_Tensor:$source);
  let results = (outs Tile_Tensor:$result);
  let assemblyFormat = "$source attr-dict `:` type($source)";
}

#endif

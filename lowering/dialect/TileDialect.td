// The tile dialect itself, its types and its attributes. Operations are in TileOps.td.
#ifndef BITLOOM_TILE_DIALECT
#define BITLOOM_TILE_DIALECT

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/DialectBase.td"
include "mlir/IR/EnumAttr.td"

def Tile_Dialect : Dialect {
  let name = "tile";
  let cppNamespace = "::bitloom::tile";
  let summary = "block programs over views of memory";
  let description = [{
    A kernel is a `func.func` with the attribute `tile.kernel`. It describes what one program of the grid does. Its
    parameters are views of memory and scalars. Tiles are ranked tensors of static shape; a tile of rank 0 is a plain
    scalar. Arithmetic is upstream `arith` and `math` on tensors, control flow is `scf`. This dialect adds what they
    lack: views with implicit bounds, reductions with any combiner, packed values of 1 to 8 bits.

    Integers carry no sign in their type; the operations do. Offsets and extents are `i64`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"]; // of its rewrites
  let hasConstantMaterializer = 1;
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
}

class Tile_Type<string name, string typeMnemonic, list<Trait> traits = []> : TypeDef<Tile_Dialect, name, traits> {
  let mnemonic = typeMnemonic;
}

def Tile_ViewType : Tile_Type<"View", "view"> {
  let summary = "a strided window on memory, with extents known at run time";
  let description = [{
    A pointer with `rank` extents and strides, in elements. Coordinates outside the extents are out of bounds: a load
    yields its `else` value there and a store does nothing. Unless the type says `strided`, the last dimension has
    stride 1. Two views of one call may overlap only when they are the same view.

    ```mlir
    !tile.view<?x?xf32>
    !tile.view<?xi8, strided>
    ```
  }];
  let parameters = (ins "int64_t":$rank, "::mlir::Type":$elementType, "bool":$strided);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Tile_RingType : Tile_Type<"Ring", "ring"> {
  let summary = "slots in shared memory that tiles pass through in order";
  let description = [{
    The types of the tiles in a slot; see `tile.ring`.

    ```mlir
    !tile.ring<tensor<64x64xbf16>, tensor<64x64xbf16>>
    ```
  }];
  let parameters = (ins ArrayRefParameter<"::mlir::Type">:$tiles);
  let assemblyFormat = "`<` $tiles `>`";
  let genVerifyDecl = 1;
}

def Tile_PackingAttr : AttrDef<Tile_Dialect, "Packing"> {
  let mnemonic = "packing";
  let summary = "where each bit of a packed value sits in memory";
  let description = [{
    Names a value of `bitloom::Packing` (lib/packing): `bits` 1 to 8, the order of the fields (`low`,
    `high`, `planar`, `fragments` or `columns`), and the number of values in a block.

    ```mlir
    #tile.packing<"bits=4,order=planar,block=128">
    ```
  }];
  let parameters = (ins StringRefParameter<"bits=…,order=…,block=…">:$spelling);
  let assemblyFormat = "`<` $spelling `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t bits();
    // Bytes that `values` packed values take.
    int64_t bytesFor(int64_t values);
  }];
}

def Tile_LayoutAttr : AttrDef<Tile_Dialect, "Layout"> {
  let mnemonic = "layout";
  let summary = "which register, lane and warp, or which place of shared memory, holds which element of a tile";
  let description = [{
    The encoding of a tensor after layout assignment: a linear layout over GF(2) (lib/layout) in its one-line form, from
    `register`, `lane` and `warp`, or from `offset` (in elements) for a tile in shared memory, to the dimensions `dim0`,
    `dim1`, … of the tile padded to powers of two.

    ```mlir
    #tile.layout<"{register=[[1],[2]], lane=[[4],[8],[16],[32],[64]], warp=[[128]]} -> [256]">
    #tile.layout<"{offset=[[0,1],[0,2],[1,0],[2,0]]} -> [4,4]">
    ```
  }];
  let parameters = (ins StringRefParameter<"a linear layout">:$spelling);
  let assemblyFormat = "`<` $spelling `>`";
  let genVerifyDecl = 1;
}

class Tile_I32Enum<string name, string summary, list<I32EnumAttrCase> cases> : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::bitloom::tile";
}

def Tile_Atomic : Tile_I32Enum<"Atomic", "a read-modify-write operation", [
  I32EnumAttrCase<"Add", 0, "add">, I32EnumAttrCase<"Max", 1, "max">, I32EnumAttrCase<"Min", 2, "min">,
  I32EnumAttrCase<"MaxU", 3, "maxu">, I32EnumAttrCase<"MinU", 4, "minu">, I32EnumAttrCase<"And", 5, "and">,
  I32EnumAttrCase<"Or", 6, "or">, I32EnumAttrCase<"Xor", 7, "xor">, I32EnumAttrCase<"Exchange", 8, "exchange">]>;

def Tile_DotPrecision : Tile_I32Enum<"DotPrecision", "how the products of a dot are formed", [
  I32EnumAttrCase<"Ieee", 0, "ieee">, I32EnumAttrCase<"TF32", 1, "tf32">]>;

#endif

// Every complaint of a verifier.
// RUN: bitloom-opt %s -split-input-file -verify-diagnostics

// expected-error@+1 {{expected every extent of a view to be '?', got 4}}
func.func private @view(!tile.view<4x?xf32>)

// -----

// expected-error@+1 {{expected integer or float elements, got 'index'}}
func.func private @view(!tile.view<?xindex>)

// -----

// expected-error@+1 {{expected a view of rank 1 or more, got rank 0}}
func.func private @view(!tile.view<f32>)

// -----

// expected-error@+1 {{expected 1 to 8 bits, got 9}}
func.func private @packing() attributes {packing = #tile.packing<"bits=9,order=low,block=8">}

// -----

// expected-error@+1 {{expected '{' at column 1 of a layout, got 'nonsense'}}
func.func private @layout() attributes {layout = #tile.layout<"nonsense">}

// -----

func.func @program_id() {
  // expected-error@+1 {{whose minimum value is 0 whose maximum value is 2}}
  %0 = tile.program_id 3
  return
}

// -----

func.func @extent(%m: !tile.view<?x?xf32>) {
  // expected-error@+1 {{dimension: expected 0 to 1, got 2}}
  %0 = tile.extent %m, 2 : !tile.view<?x?xf32>
  return
}

// -----

func.func @extent(%m: !tile.view<?x?xf32>) {
  // expected-error@+1 {{dimension: expected 0 to 1, got -1}}
  %0 = tile.extent %m, -1 : !tile.view<?x?xf32>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{offsets: expected 2, got 1}}
  %0 = tile.load %m[%i] dims [0] : !tile.view<?x?xf32> -> tensor<3xf32>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{dims: expected 1, got 2}}
  %0 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<3xf32>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{dims: expected ascending dimensions of the view, got 1, 0}}
  %0 = tile.load %m[%i, %i] dims [1, 0] : !tile.view<?x?xf32> -> tensor<3x3xf32>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{dims: expected ascending dimensions of the view, got 2}}
  %0 = tile.load %m[%i, %i] dims [2] : !tile.view<?x?xf32> -> tensor<3xf32>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{element type: expected 'f32', got 'f16'}}
  %0 = tile.load %m[%i, %i] dims [1] : !tile.view<?x?xf32> -> tensor<3xf16>
  return
}

// -----

func.func @load(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{else: expected 'f32', got 'i64'}}
  %0 = "tile.load"(%m, %i, %i, %i) <{dims = array<i32: 1>, operandSegmentSizes = array<i32: 1, 2, 1>}> : (!tile.view<?x?xf32>, i64, i64, i64) -> tensor<3xf32>
  return
}

// -----

func.func @store(%m: !tile.view<?x?xf32>, %i: i64, %a: tensor<3xf32>) {
  // expected-error@+1 {{offsets: expected 2, got 3}}
  tile.store %a, %m[%i, %i, %i] dims [0] : tensor<3xf32>, !tile.view<?x?xf32>
  return
}

// -----

func.func @gather(%m: !tile.view<?x?xf32>, %i: i64) {
  // expected-error@+1 {{indices: expected 2, got 1}}
  %0 = tile.gather %m[%i] : !tile.view<?x?xf32>, i64 -> f32
  return
}

// -----

func.func @gather(%v: !tile.view<?xf32>, %i: tensor<4xi32>) {
  // expected-error@+1 {{index: expected a scalar or the shape of 'tensor<3xf32>', got 'tensor<4xi32>'}}
  %0 = tile.gather %v[%i] : !tile.view<?xf32>, tensor<4xi32> -> tensor<3xf32>
  return
}

// -----

func.func @gather(%v: !tile.view<?xf32>, %i: i64) {
  // expected-error@+1 {{else: expected 'f32', got 'i64'}}
  %0 = "tile.gather"(%v, %i, %i) <{operandSegmentSizes = array<i32: 1, 1, 0, 1>}> : (!tile.view<?xf32>, i64, i64) -> tensor<3xf32>
  return
}

// -----

func.func @scatter(%v: !tile.view<?xf32>, %i: i64, %a: tensor<3xf32>, %mask: tensor<4xi1>) {
  // expected-error@+1 {{mask: expected the shape of 'tensor<3xf32>', got 'tensor<4xi1>'}}
  "tile.scatter"(%a, %v, %i, %mask) <{operandSegmentSizes = array<i32: 1, 1, 1, 1>}> : (tensor<3xf32>, !tile.view<?xf32>, i64, tensor<4xi1>) -> ()
  return
}

// -----

func.func @scatter(%v: !tile.view<?xf32>, %i: i64, %a: tensor<3xi32>) {
  // expected-error@+1 {{element type: expected 'f32', got 'i32'}}
  tile.scatter %a, %v[%i] : tensor<3xi32>, !tile.view<?xf32>, i64
  return
}

// -----

func.func @atomic(%v: !tile.view<?xf32>, %i: i64, %a: tensor<3xf32>) {
  // expected-error@+1 {{kind: expected add, max, min or exchange of floats, got xor}}
  %0 = tile.atomic xor %a, %v[%i] : tensor<3xf32>, !tile.view<?xf32>, i64
  return
}

// -----

func.func @atomic(%v: !tile.view<?xf32>, %i: i64, %a: tensor<3xf32>) {
  // expected-error@+1 {{result: expected 'tensor<3xf32>', got 'f32'}}
  %0 = "tile.atomic"(%a, %v, %i) <{kind = 0 : i32, operandSegmentSizes = array<i32: 1, 1, 1, 0>}> : (tensor<3xf32>, !tile.view<?xf32>, i64) -> f32
  return
}

// -----

func.func @reshape(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{elements: expected 15, got 16}}
  %0 = tile.reshape %a : tensor<3x5xf32> -> tensor<16xf32>
  return
}

// -----

func.func @reshape(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{element type: expected 'f32', got 'i32'}}
  %0 = tile.reshape %a : tensor<3x5xf32> -> tensor<15xi32>
  return
}

// -----

func.func @transpose(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{permutation: expected a permutation of 2 dimensions, got 0, 0}}
  %0 = tile.transpose %a [0, 0] : tensor<3x5xf32> -> tensor<3x3xf32>
  return
}

// -----

func.func @transpose(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{extent of dimension 0: expected 5, got 3}}
  %0 = tile.transpose %a [1, 0] : tensor<3x5xf32> -> tensor<3x5xf32>
  return
}

// -----

func.func @broadcast(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{rank: expected 2, got 3}}
  %0 = tile.broadcast %a : tensor<3x5xf32> -> tensor<2x3x5xf32>
  return
}

// -----

func.func @broadcast(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{source's extent of dimension 0: expected 1 or 6, got 3}}
  %0 = tile.broadcast %a : tensor<3x5xf32> -> tensor<6x5xf32>
  return
}

// -----

func.func @join(%a: tensor<3xf32>) {
  // expected-error@+1 {{expected 'tensor<3x2xf32>', got 'tensor<2x3xf32>'}}
  %0 = tile.join %a, %a : tensor<3xf32> -> tensor<2x3xf32>
  return
}

// -----

func.func @split(%a: tensor<4xf32>) {
  // expected-error@+1 {{expected 'tensor<4x2xf32>', got 'tensor<4xf32>'}}
  %0, %1 = tile.split %a : tensor<4xf32> -> tensor<4xf32>
  return
}

// -----

func.func @slice(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{rank: expected 2, got 1}}
  %0 = tile.slice %a [0, 0] : tensor<3x5xf32> -> tensor<5xf32>
  return
}

// -----

func.func @slice(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{offsets: expected 2, got 1}}
  %0 = tile.slice %a [0] : tensor<3x5xf32> -> tensor<3x5xf32>
  return
}

// -----

func.func @slice(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{dimension 1: expected a slice within extent 5, got 3 + 3}}
  %0 = tile.slice %a [0, 3] : tensor<3x5xf32> -> tensor<3x3xf32>
  return
}

// -----

func.func @reduce(%a: tensor<3xf32>, %b: tensor<4xf32>) {
  // expected-error@+1 {{expected sources of one shape, got 'tensor<3xf32>' and 'tensor<4xf32>'}}
  %0:2 = tile.reduce %a, %b axis 0 : tensor<3xf32>, tensor<4xf32> -> f32, f32 {
  ^bb0(%0: f32, %1: f32, %2: f32, %3: f32):
    tile.yield %0, %1 : f32, f32
  }
  return
}

// -----

func.func @reduce(%a: tensor<3xf32>) {
  // expected-error@+1 {{axis: expected 0 to 0, got 1}}
  %0 = tile.reduce %a axis 1 : tensor<3xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    tile.yield %l : f32
  }
  return
}

// -----

func.func @reduce(%a: tensor<3xf32>) {
  // expected-error@+1 {{region: expected arguments ('f32', 'f32'), got ('f32')}}
  %0 = tile.reduce %a axis 0 : tensor<3xf32> -> f32 {
  ^bb0(%l: f32):
    tile.yield %l : f32
  }
  return
}

// -----

func.func @reduce(%a: tensor<3xf32>, %i: i32) {
  // expected-error@+1 {{region: expected to yield ('f32'), got ('i32')}}
  %0 = tile.reduce %a axis 0 : tensor<3xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    tile.yield %i : i32
  }
  return
}

// -----

func.func @reduce(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{result: expected 'tensor<3xf32>', got 'tensor<5xf32>'}}
  %0 = tile.reduce %a axis 1 : tensor<3x5xf32> -> tensor<5xf32> {
  ^bb0(%l: f32, %r: f32):
    tile.yield %l : f32
  }
  return
}

// -----

func.func @reduce(%a: tensor<3xf32>) {
  // expected-error@+1 {{results: expected 1, got 2}}
  %0:2 = tile.reduce %a axis 0 : tensor<3xf32> -> f32, f32 {
  ^bb0(%l: f32, %r: f32):
    tile.yield %l : f32
  }
  return
}

// -----

func.func @reduce() {
  // expected-error@+1 {{expected one source or more, got none}}
  "tile.reduce"() <{axis = 0 : i32}> ({
  ^bb0:
    tile.yield
  }) : () -> ()
  return
}

// -----

func.func @scan(%a: tensor<3xf32>) {
  // expected-error@+1 {{expected results of the sources' types, got 'tensor<4xf32>'}}
  %0 = "tile.scan"(%a) <{axis = 0 : i32}> ({
  ^bb0(%l: f32, %r: f32):
    tile.yield %l : f32
  }) : (tensor<3xf32>) -> tensor<4xf32>
  return
}

// -----

func.func @scan(%a: tensor<3x5xf32>) {
  // expected-error@+1 {{axis: expected 0 to 1, got -1}}
  %0 = tile.scan %a axis -1 : tensor<3x5xf32> {
  ^bb0(%l: f32, %r: f32):
    tile.yield %l : f32
  }
  return
}

// -----

func.func @dot(%a: tensor<3xf32>) {
  // expected-error@+1 {{expected operands of rank 2}}
  %0 = tile.dot %a, %a, %a : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
  return
}

// -----

func.func @dot(%a: tensor<3x5xf32>, %b: tensor<4x7xf32>, %acc: tensor<3x7xf32>) {
  // expected-error@+1 {{inner extent of b: expected 5, got 4}}
  %0 = tile.dot %a, %b, %acc : tensor<3x5xf32>, tensor<4x7xf32>, tensor<3x7xf32>
  return
}

// -----

func.func @dot(%a: tensor<3x5xf32>, %b: tensor<5x7xf32>, %acc: tensor<4x7xf32>) {
  // expected-error@+1 {{rows of the accumulator: expected 3, got 4}}
  %0 = tile.dot %a, %b, %acc : tensor<3x5xf32>, tensor<5x7xf32>, tensor<4x7xf32>
  return
}

// -----

func.func @dot(%a: tensor<3x5xf32>, %b: tensor<5x7xf32>, %acc: tensor<3x6xf32>) {
  // expected-error@+1 {{columns of the accumulator: expected 7, got 6}}
  %0 = tile.dot %a, %b, %acc : tensor<3x5xf32>, tensor<5x7xf32>, tensor<3x6xf32>
  return
}

// -----

func.func @dot(%a: tensor<3x5xi8>, %b: tensor<5x7xi8>, %acc: tensor<3x7xf32>) {
  // expected-error@+1 {{expected operands all of integers or all of floats, got 'i8', 'i8' and 'f32'}}
  %0 = tile.dot %a, %b, %acc : tensor<3x5xi8>, tensor<5x7xi8>, tensor<3x7xf32>
  return
}

// -----

func.func @unpack(%bytes: tensor<3x4xi8>) {
  // expected-error@+1 {{expected equal shapes but for the last dimension, got 'tensor<3x4xi8>' and 'tensor<4x8xi8>'}}
  %0 = tile.unpack %bytes <"bits=4,order=low,block=8"> : tensor<3x4xi8> -> tensor<4x8xi8>
  return
}

// -----

func.func @unpack(%bytes: tensor<3x4xi8>) {
  // expected-error@+1 {{values: expected a multiple of the block 16, got 8}}
  %0 = tile.unpack %bytes <"bits=4,order=low,block=16"> : tensor<3x4xi8> -> tensor<3x8xi8>
  return
}

// -----

func.func @unpack(%bytes: tensor<3x4xi8>) {
  // expected-error@+1 {{bytes for 16 values: expected 8, got 4}}
  %0 = tile.unpack %bytes <"bits=4,order=low,block=16"> : tensor<3x4xi8> -> tensor<3x16xi8>
  return
}

// -----

func.func @pack(%values: tensor<8xi8>) {
  // expected-error@+1 {{bytes for 8 values: expected 3, got 4}}
  %0 = tile.pack %values <"bits=3,order=low,block=8"> : tensor<8xi8> -> tensor<4xi8>
  return
}

// -----

func.func @lut(%table: tensor<257xf32>, %i: tensor<3xi8>) {
  // expected-error@+1 {{table: expected 1 to 256 elements, got 257}}
  %0 = tile.lut %table, %i : tensor<257xf32>, tensor<3xi8> -> tensor<3xf32>
  return
}

// -----

func.func @lut(%table: tensor<16xf32>, %i: tensor<3xi8>) {
  // expected-error@+1 {{result: expected the shape of 'tensor<3xi8>', got 'tensor<4xf32>'}}
  %0 = tile.lut %table, %i : tensor<16xf32>, tensor<3xi8> -> tensor<4xf32>
  return
}

// -----

func.func @lut(%table: tensor<16xf32>, %i: tensor<3xi8>) {
  // expected-error@+1 {{element type: expected 'f32', got 'f16'}}
  %0 = tile.lut %table, %i : tensor<16xf32>, tensor<3xi8> -> tensor<3xf16>
  return
}

// -----

func.func @convert_layout(%a: tensor<3xf32>) {
  // expected-error@+1 {{shape: expected 3, got 4}}
  %0 = tile.convert_layout %a : tensor<3xf32> -> tensor<4xf32>
  return
}

// -----

// expected-error@+1 {{expected a ring of tensors of static shape, got 'f32'}}
func.func private @ring(!tile.ring<tensor<4xf32>, f32>)

// -----

func.func @fill(%m: !tile.view<?x?xf32>, %i: i64, %r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{region: expected to yield ('tensor<3x5xf32>'), got ('tensor<5x3xf32>')}}
  tile.fill %r {
    %0 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<5x3xf32>
    tile.yield %0 : tensor<5x3xf32>
  } : !tile.ring<tensor<3x5xf32>>
  return
}

// -----

func.func @fill(%m: !tile.view<?x?xf32>, %i: i64, %r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{region: expected loads alone, got arith.negf}}
  tile.fill %r {
    %0 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<3x5xf32>
    %1 = arith.negf %0 : tensor<3x5xf32>
    tile.yield %1 : tensor<3x5xf32>
  } : !tile.ring<tensor<3x5xf32>>
  return
}

// -----

func.func @fill(%a: tensor<3x5xf32>, %r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{region: expected to yield what it loads, got a value from outside}}
  tile.fill %r {
    tile.yield %a : tensor<3x5xf32>
  } : !tile.ring<tensor<3x5xf32>>
  return
}

// -----

func.func @front(%r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{expected results ('tensor<3x5xf32>'), got ('tensor<3x5xf32>', 'tensor<3x5xf32>')}}
  %0:2 = tile.front %r : !tile.ring<tensor<3x5xf32>> -> tensor<3x5xf32>, tensor<3x5xf32>
  return
}

// -----

func.func @specialize(%r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{producer: expected no tile.pop}}
  tile.specialize producer {
    tile.pop %r : !tile.ring<tensor<3x5xf32>> // expected-note {{here}}
    tile.yield
  } consumer {
    tile.yield
  }
  return
}

// -----

func.func @specialize(%m: !tile.view<?x?xf32>, %i: i64, %p: i1, %r: !tile.ring<tensor<3x5xf32>>) {
  // expected-error@+1 {{consumer: expected no tile.fill}}
  tile.specialize producer {
    tile.yield
  } consumer {
    scf.if %p {
      // expected-note@+1 {{here}}
      tile.fill %r {
        %0 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<3x5xf32>
        tile.yield %0 : tensor<3x5xf32>
      } : !tile.ring<tensor<3x5xf32>>
    }
    tile.yield
  }
  return
}

// -----

func.func @specialize(%x: f32) {
  // expected-error@+1 {{producer: expected to end with a tile.yield of nothing, got tile.yield}}
  tile.specialize producer {
    tile.yield %x : f32
  } consumer {
    tile.yield
  }
  return
}

// -----

func.func @ring() {
  // expected-error@+1 {{whose value is positive}}
  %0 = tile.ring stages 0 : !tile.ring<tensor<3x5xf32>>
  return
}

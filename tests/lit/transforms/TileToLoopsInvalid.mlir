// RUN: bitloom-opt %s --tile-to-loops --split-input-file --verify-diagnostics

func.func @planes(%x: !tile.view<?xi8>, %out: !tile.view<?xi8>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %bytes = tile.load %x[%zero] dims [0] : !tile.view<?xi8> -> tensor<24xi8>
  // expected-error@below {{tile-to-loops cannot lower a packing of several planes or with a sign; expected tile-decompose-packing to have run}}
  %v = tile.unpack %bytes <"bits=3,order=low,block=64"> : tensor<24xi8> -> tensor<64xi8>
  tile.store %v, %out[%zero] dims [0] : tensor<64xi8>, !tile.view<?xi8>
  return
}

// -----

func.func @region(%x: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
  %s = tile.reduce %a axis 0 : tensor<64xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %c = arith.cmpf ogt, %l, %r : f32
    // expected-error@below {{tile-to-loops cannot lower this operation in the region of a reduction or scan}}
    %v = scf.if %c -> f32 {
      scf.yield %l : f32
    } else {
      scf.yield %r : f32
    }
    tile.yield %v : f32
  }
  tile.store %s, %out[%zero] dims [] : f32, !tile.view<?xf32>
  return
}

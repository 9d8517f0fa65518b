// What stands in a producer's way. Layout assignment leaves such loads to the threads, so the layouts are given here.
// RUN: bitloom-opt %s -split-input-file -verify-diagnostics -tile-specialize-warps

#shared = #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0]]} -> [64,64]">
#sums = #tile.layout<"{register=[[0,1],[8,0],[0,8],[0,16],[0,32]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[[16,0],[32,0]]} -> [64,64]">

func.func @while(%a: !tile.view<?x?xbf16>, %acc: tensor<64x64xf32, #sums>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  // expected-error@+1 {{expected a for or an if around loads for the tensor cores, got scf.while}}
  %end = scf.while (%at = %i) : (i64) -> i64 {
    %more = arith.cmpi slt, %at, %i : i64
    scf.condition(%more) %at : i64
  } do {
  ^bb0(%at: i64):
    %x = tile.load %a[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16, #shared>
    %d = tile.dot %x, %x, %acc : tensor<64x64xbf16, #shared>, tensor<64x64xbf16, #shared>, tensor<64x64xf32, #sums>
    scf.yield %i : i64
  }
  return
}

// -----

#shared = #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0]]} -> [64,64]">
#sums = #tile.layout<"{register=[[0,1],[8,0],[0,8],[0,16],[0,32]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[[16,0],[32,0]]} -> [64,64]">

func.func @written(%a: !tile.view<?x?xbf16>, %n: !tile.view<?xi64>, %acc: tensor<64x64xf32, #sums>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  // expected-error@+1 {{expected the offsets of loads for the tensor cores to depend on nothing that is written, got tile.atomic}}
  %at = tile.atomic add %i, %n[%i] : i64, !tile.view<?xi64>, i64
  %x = tile.load %a[%i, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16, #shared>
  %d = tile.dot %x, %x, %acc : tensor<64x64xbf16, #shared>, tensor<64x64xbf16, #shared>, tensor<64x64xf32, #sums>
  return
}

// -----

#shared = #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0],[64,0],[128,0],[256,0],[512,0],[1024,0]]} -> [2048,64]">
#small = #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0]]} -> [64,64]">
#sums = #tile.layout<"{register=[[0,1],[8,0]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[[16,0],[32,0]]} -> [64,8]">

func.func @tooLarge(%a: !tile.view<?x?xbf16>, %z: tensor<2048x64xf32, #sums>, %i: i64, %k: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  scf.for %at = %i to %k step %i : i64 {
    // expected-error-re@+1 {{shared memory: expected tiles of at most 231424 bytes a step on sm_90a, got 270336 ({{.*}}:43: 262144 for the tile [2048, 64] of bf16, {{.*}}:44: 8192 for the tile [64, 64] of bf16); use smaller blocks}}
    %x = tile.load %a[%i, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<2048x64xbf16, #shared>
    %y = tile.load %a[%at, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16, #small>
    %d = tile.dot %x, %y, %z : tensor<2048x64xbf16, #shared>, tensor<64x64xbf16, #small>, tensor<2048x64xf32, #sums>
  }
  return
}

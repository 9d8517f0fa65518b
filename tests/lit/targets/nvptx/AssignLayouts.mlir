// RUN: bitloom-opt %s -split-input-file -verify-diagnostics -mlir-print-local-scope -tile-assign-layouts | FileCheck %s

// 16 bytes a thread, then the lanes, the warps and the remaining registers; the elementwise chain over two types and the
// weight share one layout, so nothing converts.
// CHECK-LABEL: func.func @row
// CHECK-SAME: tile.num_warps = 8 : i32
func.func @row(%x: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %w: !tile.view<?xbf16> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  // CHECK{LITERAL}: tensor<8192xbf16, #tile.layout<"{register=[[1],[2],[4],[2048],[4096]], lane=[[8],[16],[32],[64],[128]], warp=[[256],[512],[1024]]} -> [8192]">>
  // CHECK-NOT: convert_layout
  // CHECK: return
  %a = tile.load %x[%i, %i] dims [1] : !tile.view<?x?xbf16> -> tensor<8192xbf16>
  %v = arith.extf %a : tensor<8192xbf16> to tensor<8192xf32>
  %b = tile.load %w[%i] dims [0] : !tile.view<?xbf16> -> tensor<8192xbf16>
  %g = arith.extf %b : tensor<8192xbf16> to tensor<8192xf32>
  %p = arith.mulf %v, %g : tensor<8192xf32>
  %o = arith.truncf %p : tensor<8192xf32> to tensor<8192xbf16>
  tile.store %o, %x[%i, %i] dims [1] : tensor<8192xbf16>, !tile.view<?x?xbf16>
  return
}

// -----

// An access of unknown alignment moves elements one at a time, so neighbours go to neighbouring lanes.
// CHECK-LABEL: func.func @unaligned
// CHECK{LITERAL}: tensor<1024xf32, #tile.layout<"{register=[[128],[256],[512]], lane=[[1],[2],[4],[8],[16]], warp=[[32],[64]]} -> [1024]">>
func.func @unaligned(%x: !tile.view<?xf32>, %i: i64) attributes {tile.kernel} {
  %a = tile.load %x[%i] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>
  tile.store %a, %x[%i] dims [0] : tensor<1024xf32>, !tile.view<?xf32>
  return
}

// -----

// What is broadcast to the large tile, or reduced from it, is held in slices of its layout: the vector is loaded where
// its users want it and the per-row values never move.
// CHECK-LABEL: func.func @slices
func.func @slices(%x: !tile.view<?x?xf32> {tile.align = 16 : i32}, %w: !tile.view<?xf32> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  // CHECK{LITERAL}: tensor<17x64xf32, #tile.layout<"{register=[[0,1],[0,2],[8,0],[16,0]], lane=[[0,4],[0,8],[0,16],[0,32],[1,0]], warp=[[2,0],[4,0]]} -> [32,64]">>
  // CHECK{LITERAL}: tensor<17xf32, #tile.layout<"{register=[[8],[16]], lane=[[0],[0],[0],[0],[1]], warp=[[2],[4]]} -> [32]">>
  // CHECK{LITERAL}: tensor<64xf32, #tile.layout<"{register=[[1],[2]], lane=[[4],[8],[16],[32],[0]], warp=[[0],[0]]} -> [64]">>
  // CHECK-NOT: convert_layout
  // CHECK: return
  %a = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<17x64xf32>
  %s = tile.reduce %a axis 1 : tensor<17x64xf32> -> tensor<17xf32> {
  ^bb0(%l: f32, %r: f32):
    %m = arith.maximumf %l, %r : f32
    tile.yield %m : f32
  }
  %c = tile.reshape %s : tensor<17xf32> -> tensor<17x1xf32>
  %cb = tile.broadcast %c : tensor<17x1xf32> -> tensor<17x64xf32>
  %v = tile.load %w[%i] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
  %vr = tile.reshape %v : tensor<64xf32> -> tensor<1x64xf32>
  %vb = tile.broadcast %vr : tensor<1x64xf32> -> tensor<17x64xf32>
  %d = arith.subf %a, %cb : tensor<17x64xf32>
  %p = arith.mulf %d, %vb : tensor<17x64xf32>
  tile.store %p, %x[%i, %i] dims [0, 1] : tensor<17x64xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Every thread loads the bytes of its values: with the planar order a byte serves two of the thread's registers' lanes.
// CHECK-LABEL: func.func @unpack
// CHECK{LITERAL}: tensor<8x64xi8, #tile.layout<"{register=[[0,1],[0,2],[4,0]], lane=[[0,4],[0,8],[0,16],[0,32],[0,0]], warp=[[1,0],[2,0]]} -> [8,64]">>
// CHECK{LITERAL}: tensor<8x128xi8, #tile.layout<"{register=[[0,1],[0,2],[4,0]], lane=[[0,4],[0,8],[0,16],[0,32],[0,64]], warp=[[1,0],[2,0]]} -> [8,128]">>
func.func @unpack(%x: !tile.view<?x?xi8>, %o: !tile.view<?x?xf32> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %b = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<8x64xi8>
  %w = tile.unpack %b <"bits=4,order=planar,block=128"> : tensor<8x64xi8> -> tensor<8x128xi8>
  %f = arith.uitofp %w : tensor<8x128xi8> to tensor<8x128xf32>
  tile.store %f, %o[%i, %i] dims [0, 1] : tensor<8x128xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Where one tile is wanted in two layouts, it is converted once and constants are repeated instead.
// CHECK-LABEL: func.func @conflict
// CHECK-COUNT-1: tile.convert_layout
// CHECK-NOT: tile.convert_layout
// CHECK: return
func.func @conflict(%x: !tile.view<?x?xf32>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  %a = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<32x32xf32>
  %one = arith.constant dense<1.0> : tensor<32x32xf32>
  %t = tile.transpose %a [1, 0] : tensor<32x32xf32> -> tensor<32x32xf32>
  %s = arith.addf %a, %t : tensor<32x32xf32>
  %u = arith.addf %s, %one : tensor<32x32xf32>
  tile.store %u, %x[%i, %i] dims [0, 1] : tensor<32x32xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Values that a loop carries keep one layout all the way round.
// CHECK-LABEL: func.func @loop
// CHECK{LITERAL}: -> (tensor<4096xf32, #tile.layout<"{register=[[1],[2],[512],[1024],[2048]], lane=[[4],[8],[16],[32],[64]], warp=[[128],[256]]} -> [4096]">>)
// CHECK-NOT: convert_layout
// CHECK: return
func.func @loop(%x: !tile.view<?xf32> {tile.align = 16 : i32}, %n: i64) attributes {tile.kernel} {
  %z = arith.constant dense<0.0> : tensor<4096xf32>
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 4096 : i64
  %r = scf.for %k = %c0 to %n step %c1 iter_args(%acc = %z) -> (tensor<4096xf32>) : i64 {
    %a = tile.load %x[%k] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
    %s = arith.addf %acc, %a : tensor<4096xf32>
    scf.yield %s : tensor<4096xf32>
  }
  tile.store %r, %x[%c0] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  return
}

// Anchors: what the copy engine can bring lies in shared memory, in lines of 128 bytes whose pieces of 16 are swizzled;
// the accumulator in fragments.
// CHECK-LABEL: func.func @dot
// CHECK-SAME: tile.num_warps = 8 : i32
func.func @dot(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %first = arith.constant 0 : i64
  %acc = arith.constant dense<0.0> : tensor<128x128xf32>
  // CHECK: tile.load
  // CHECK-SAME{LITERAL}: tensor<128x64xbf16, #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0],[64,0]]} -> [128,64]">>
  // CHECK: tile.load
  // CHECK-SAME{LITERAL}: tensor<64x128xbf16, #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0],[0,64]]} -> [64,128]">>
  // CHECK-NOT: convert_layout
  // CHECK: tile.dot
  // CHECK-SAME{LITERAL}: tensor<128x128xf32, #tile.layout<"{register=[[0,1],[8,0],[0,8],[0,16],[0,32],[0,64]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[[16,0],[32,0],[64,0]]} -> [128,128]">>
  // CHECK-NOT: convert_layout
  // CHECK: return
  %x = tile.load %a[%i, %first] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<128x64xbf16>
  %y = tile.load %b[%i, %first] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x128xbf16>
  %d = tile.dot %x, %y, %acc : tensor<128x64xbf16>, tensor<64x128xbf16>, tensor<128x128xf32>
  return
}

// -----

// A block of few rows is computed transposed: the columns are the instruction's rows.
// CHECK-LABEL: func.func @short
// CHECK-SAME: tile.num_warps = 4 : i32
// CHECK: tile.dot
// CHECK-SAME{LITERAL}: tensor<16x64xf32, #tile.layout<"{register=[[1,0],[0,8],[8,0]], lane=[[2,0],[4,0],[0,1],[0,2],[0,4]], warp=[[0,16],[0,32]]} -> [16,64]">>
func.func @short(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %acc = arith.constant dense<0.0> : tensor<16x64xf32>
  %x = tile.load %a[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<16x64xbf16>
  %y = tile.load %b[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %d = tile.dot %x, %y, %acc : tensor<16x64xbf16>, tensor<64x64xbf16>, tensor<16x64xf32>
  return
}

// -----

// Transposes of a tile in shared memory move nothing. A computed a stays in registers: 16-bit fragments are held as the
// accumulators that they were rounded from.
// CHECK-LABEL: func.func @chain
func.func @chain(%k: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %first = arith.constant 0 : i64
  %q = arith.constant dense<1.0> : tensor<64x64xbf16>
  %none = arith.constant dense<0.0> : tensor<64x64xf32>
  // CHECK: %[[K:.*]] = tile.load %arg0
  // CHECK-SAME{LITERAL}: tensor<64x64xbf16, #tile.layout<"{offset=[[0,1],[0,2],[0,4],[0,8],[0,16],[0,32],[1,8],[2,16],[4,32],[8,0],[16,0],[32,0]]} -> [64,64]">>
  // CHECK: %[[T:.*]] = tile.transpose %[[K]] [1, 0]
  // CHECK-SAME{LITERAL}: -> tensor<64x64xbf16, #tile.layout<"{offset=[[1,0],[2,0],[4,0],[8,0],[16,0],[32,0],[8,1],[16,2],[32,4],[0,8],[0,16],[0,32]]} -> [64,64]">>
  // CHECK: %[[S:.*]] = tile.dot %{{.*}}, %[[T]]
  // CHECK: %[[P:.*]] = arith.truncf %[[S]]
  // CHECK-NEXT: tile.dot %[[P]], %[[K]]
  %x = tile.load %k[%i, %first] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %t = tile.transpose %x [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
  %s = tile.dot %q, %t, %none : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
  %p = arith.truncf %s : tensor<64x64xf32> to tensor<64x64xbf16>
  %d = tile.dot %p, %x, %none : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
  return
}

// -----

// Threads load what the copy engine may not or cannot: rows that start anywhere, what threads use as well, what the
// kernel writes, and 8-bit operands that do not lie along k. They put it in shared memory, along k.
// CHECK-LABEL: func.func @byThreads
// CHECK-COUNT-4: tile.convert_layout {{.*}} -> {{.*}}{offset=
// CHECK: return
func.func @byThreads(%a: !tile.view<?x?xbf16>, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %w: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %n: !tile.view<?x?xi8> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %acc = arith.constant dense<0.0> : tensor<64x64xf32>
  %sums = arith.constant dense<0> : tensor<64x64xi32>
  %x = tile.load %a[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %y = tile.load %b[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
  tile.store %y, %w[%i, %i] dims [0, 1] : tensor<64x64xbf16>, !tile.view<?x?xbf16>
  %v = tile.load %w[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %z = tile.load %b[%i, %i] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %e = tile.dot %v, %z, %d : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
  %l = tile.load %n[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<64x64xi8>
  %r = tile.load %n[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<64x64xi8>
  %s = tile.dot %l, %r, %sums : tensor<64x64xi8>, tensor<64x64xi8>, tensor<64x64xi32>
  return
}

// -----

// No tensor core computes in full f32.
// CHECK-LABEL: func.func @full
// CHECK-NOT: {offset=
// CHECK: return
func.func @full(%a: !tile.view<?x?xf32> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %acc = arith.constant dense<0.0> : tensor<64x64xf32>
  %x = tile.load %a[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<64x64xf32>
  %y = tile.load %a[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<64x64xf32>
  %d = tile.dot %x, %y, %acc : tensor<64x64xf32>, tensor<64x64xf32>, tensor<64x64xf32>
  return
}

// -----

// expected-error @+1 {{tile.num_warps: expected a power of two from 1 to 32, got 3}}
func.func @warps(%x: !tile.view<?xf32>) attributes {tile.kernel, tile.num_warps = 3 : i32} {
  return
}

// -----

func.func @columns(%x: !tile.view<?x?xi8>, %i: i64) attributes {tile.kernel} {
  %b = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<1x64xi8>
  // expected-error-re @+1 {{expected a packing in the order low, high, planar or fragments on sm_{{.*}}, got bits=4,order=columns,block=4,rows=32,lanes=4,bias=none: the order columns is that of CPUs}}
  %v = tile.unpack %b <"bits=4,order=columns,block=4,rows=32,lanes=4,bias=none"> : tensor<1x64xi8> -> tensor<32x4xi8>
  return
}

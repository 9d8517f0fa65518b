// RUN: bitloom-opt %s -split-input-file -verify-diagnostics -tile-assign-layouts -tile-to-nvvm -canonicalize -cse | FileCheck %s

// Parameters are 64-bit words; aligned runs move 16 bytes an instruction, where no edge cuts them, else one element.
// CHECK-LABEL: llvm.func @add(
// CHECK-SAME: %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64)
// CHECK-SAME: nvvm.kernel, nvvm.reqntid = array<i32: 128>, tile.num_warps = 4 : i32
// CHECK-SAME: tile.register_costs = [{amount = 8 : i64, what = "the tile [1024] of f32", where = #{{.*}}}]
// CHECK-SAME: tile.shared_bytes = 0 : i32, tile.shared_costs = []
// CHECK: scf.if
// CHECK-COUNT-2: ld.global.v4.b32 {$0, $1, $2, $3}, [$4 + {{0|2048}}];
// CHECK: else
// CHECK-COUNT-8: ld.global.b32
// CHECK: arith.addf {{.*}} : f32
// CHECK-COUNT-2: st.global.v4.b32
// CHECK-NOT: tile.
// CHECK: llvm.return
func.func @add(%x: !tile.view<?xf32> {tile.align = 16 : i32}, %o: !tile.view<?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  %pid = tile.program_id 0
  %block = arith.constant 1024 : i64
  %at = arith.muli %pid, %block : i64
  %a = tile.load %x[%at] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>
  %s = arith.addf %a, %a : tensor<1024xf32>
  tile.store %s, %o[%at] dims [0] : tensor<1024xf32>, !tile.view<?xf32>
  return
}

// -----

// Registers, five butterflies, then four warps' partial sums through shared memory, which is used once: one barrier.
// The load of the weight does not wait for the reduction.
// CHECK: llvm.mlir.global external @bitloom_shared() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<0 x i8>
// CHECK-LABEL: llvm.func @reduce
// CHECK-SAME: tile.shared_bytes = 16 : i32
// CHECK-COUNT-4: ld.global.b32
// CHECK: arith.addf
// CHECK: nvvm.shfl.sync bfly
// CHECK-NOT: ld.global
// CHECK-COUNT-4: nvvm.shfl.sync bfly
// CHECK-NOT: nvvm.shfl
// CHECK: llvm.store {{.*}} : i32, !llvm.ptr<3>
// CHECK-COUNT-1: nvvm.barrier0
// CHECK-COUNT-4: llvm.load {{.*}} : !llvm.ptr<3> -> i32
// CHECK-NOT: nvvm.barrier
// CHECK: llvm.return
func.func @reduce(%x: !tile.view<?xf32>, %w: !tile.view<?xf32>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  %a = tile.load %x[%i] dims [0] : !tile.view<?xf32> -> tensor<256xf32>
  %sum = tile.reduce %a axis 0 : tensor<256xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.addf %l, %r : f32
    tile.yield %s : f32
  }
  %b = tile.load %w[%i] dims [0] : !tile.view<?xf32> -> tensor<256xf32>
  %all = tensor.splat %sum : tensor<256xf32>
  %p = arith.mulf %b, %all : tensor<256xf32>
  tile.store %p, %x[%i] dims [0] : tensor<256xf32>, !tile.view<?xf32>
  return
}

// -----

// Padding is masked by validity, not by a neutral element: 17 of 32 lanes hold one.
// CHECK-LABEL: llvm.func @ragged
// CHECK-DAG: %[[EXTENT:.*]] = arith.constant 17 : i32
// CHECK: %[[VALID:.*]] = arith.cmpi slt, %{{.*}}, %[[EXTENT]]
// CHECK: nvvm.shfl.sync bfly
// CHECK: arith.select
func.func @ragged(%x: !tile.view<?xf32>, %o: !tile.view<?xf32>, %i: i64) attributes {tile.kernel, tile.num_warps = 1 : i32} {
  %a = tile.load %x[%i] dims [0] : !tile.view<?xf32> -> tensor<17xf32>
  %m = tile.reduce %a axis 0 : tensor<17xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.maximumf %l, %r : f32
    tile.yield %s : f32
  }
  tile.store %m, %o[%i] dims [] : f32, !tile.view<?xf32>
  return
}

// -----

// In a loop a reduction has two places in shared memory by turns, 16 bytes each, and one barrier.
// CHECK-LABEL: llvm.func @loop
// CHECK: scf.for
// CHECK: %[[TURN:.*]] = llvm.load %[[WORD:.*]] : !llvm.ptr -> i32
// CHECK: %[[NEXT:.*]] = arith.xori %[[TURN]], %c16_i32
// CHECK: llvm.store %[[NEXT]], %[[WORD]]
// CHECK-NOT: nvvm.barrier0
// CHECK: llvm.store {{.*}} !llvm.ptr<3>
// CHECK: nvvm.barrier0
// CHECK: llvm.load {{.*}} !llvm.ptr<3>
// CHECK-NOT: nvvm.barrier0
func.func @loop(%x: !tile.view<?xf32>, %o: !tile.view<?xf32>, %n: i64) attributes {tile.kernel, tile.num_warps = 2 : i32} {
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 64 : i64
  scf.for %k = %c0 to %n step %c1 : i64 {
    %a = tile.load %x[%k] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
    %m = tile.reduce %a axis 0 : tensor<64xf32> -> f32 {
    ^bb0(%l: f32, %r: f32):
      %s = arith.addf %l, %r : f32
      tile.yield %s : f32
    }
    tile.store %m, %o[%k] dims [] : f32, !tile.view<?xf32>
  }
  return
}

// -----

// A transposition of a tile that one warp holds in one register each is a shuffle or goes through shared memory; the
// same layout under another shape is no instruction at all.
// CHECK-LABEL: llvm.func @rename
// CHECK-NOT: nvvm.shfl
// CHECK-NOT: ptr<3>
// CHECK: llvm.return
func.func @rename(%x: !tile.view<?x?xf32>, %o: !tile.view<?xf32>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  %a = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x32xf32>
  %r = tile.reshape %a : tensor<16x32xf32> -> tensor<512xf32>
  tile.store %r, %o[%i] dims [0] : tensor<512xf32>, !tile.view<?xf32>
  return
}

// -----

// One thread an element updates memory; the others learn what it got.
// CHECK-LABEL: llvm.func @atomic
// CHECK: scf.if
// CHECK: llvm.atomicrmw add {{.*}} syncscope("device") monotonic
// CHECK: nvvm.barrier0
func.func @atomic(%x: !tile.view<?xi32>, %o: !tile.view<?xi32>, %i: i64) attributes {tile.kernel, tile.num_warps = 2 : i32} {
  %one = arith.constant 1 : i32
  %old = tile.atomic add %one, %x[%i] : i32, !tile.view<?xi32>, i64
  tile.store %old, %o[%i] dims [] : i32, !tile.view<?xi32>
  return
}

// -----

// e^x by the hardware's 2^x and what rounding x·log2(e) left out.
// CHECK-LABEL: llvm.func @exp
// CHECK: ex2.approx.ftz.f32
// CHECK: llvm.intr.fma
// CHECK-NOT: math.
// CHECK: llvm.return
func.func @exp(%x: !tile.view<?xbf16>, %i: i64) attributes {tile.kernel, tile.num_warps = 1 : i32} {
  %a = tile.load %x[%i] dims [0] : !tile.view<?xbf16> -> tensor<32xbf16>
  %e = math.exp %a : tensor<32xbf16>
  %l = math.log1p %e : tensor<32xbf16>
  tile.store %l, %x[%i] dims [0] : tensor<32xbf16>, !tile.view<?xbf16>
  return
}

// -----

// Four bits of each byte, by a shift and a mask, in the thread that loaded it.
// CHECK-LABEL: llvm.func @unpack
// CHECK-DAG: %[[MASK:.*]] = arith.constant 15 : i8
// CHECK: %[[HIGH:.*]] = arith.shrui %{{.*}} : i8
// CHECK: arith.andi %[[HIGH]], %[[MASK]] : i8
// CHECK-NOT: ptr<3>
// CHECK: llvm.return
func.func @unpack(%x: !tile.view<?xi8>, %o: !tile.view<?xi8>, %i: i64) attributes {tile.kernel, tile.num_warps = 1 : i32} {
  %b = tile.load %x[%i] dims [0] : !tile.view<?xi8> -> tensor<64xi8>
  %w = tile.unpack %b <"bits=4,order=planar,block=128"> : tensor<64xi8> -> tensor<128xi8>
  tile.store %w, %o[%i] dims [0] : tensor<128xi8>, !tile.view<?xi8>
  return
}

// -----

func.func @f64(%x: !tile.view<?xf64>, %i: i64) attributes {tile.kernel} {
  %a = tile.load %x[%i] dims [0] : !tile.view<?xf64> -> tensor<32xf64>
  // expected-error @+1 {{of f64 is not supported on NVIDIA targets}}
  %e = math.exp %a : tensor<32xf64>
  tile.store %e, %x[%i] dims [0] : tensor<32xf64>, !tile.view<?xf64>
  return
}

// -----

func.func @shared(%x: !tile.view<?x?xf32>, %i: i64) attributes {tile.kernel, tile.num_warps = 4 : i32} {
  %a = tile.load %x[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<256x256xf32>
  %c = arith.constant dense<0.0> : tensor<256x256xf32>
  // expected-error-re @+1 {{shared memory: expected at most 232448 bytes a block on sm_90a, got 524288 or more ({{.*}}: 524288 for what threads exchange here); use smaller blocks}}
  %d = tile.dot %a, %a, %c : tensor<256x256xf32>, tensor<256x256xf32>, tensor<256x256xf32>
  tile.store %d, %x[%i, %i] dims [0, 1] : tensor<256x256xf32>, !tile.view<?x?xf32>
  return
}

// RUN: bitloom-opt %s --tile-to-loops=target=x86-64-v4 --canonicalize --cse --split-input-file | FileCheck %s

// Two loads, one addition and one store to a chunk, four chunks at a time while all are in bounds; then with masks.
// CHECK-LABEL: llvm.func @add(%arg0: !llvm.ptr {llvm.noalias, llvm.readonly}, %arg1: !llvm.ptr {llvm.noalias, llvm.readonly}, %arg2: i64, %arg3: i64) attributes {tile.kernel}
// CHECK: scf.for {{.*}} = %arg2 to %arg3
// CHECK: scf.for {{.*}} = %c0_i64 to [[STREAMED:%[0-9]+]] step %c64_i64
// CHECK-COUNT-8: llvm.load {{.*}} -> vector<16xf32>
// CHECK-COUNT-4: llvm.store {{.*}}nontemporal} : vector<16xf32>
// CHECK: scf.for {{.*}} = [[STREAMED]] to [[MIDDLE:%[0-9]+]] step %c64_i64
// CHECK-COUNT-8: llvm.load {{.*}} -> vector<16xf32>
// CHECK-COUNT-4: llvm.store {{.*}} : vector<16xf32>
// CHECK: scf.for {{.*}} = [[MIDDLE]] to {{.*}} step %c16_i64
// CHECK-COUNT-2: llvm.intr.masked.load
// CHECK: llvm.intr.masked.store
// CHECK-NOT: llvm.intr.masked
func.func @add(%x: !tile.view<?xf32>, %y: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %block = arith.constant 1024 : i64
  %pid = tile.program_id 0
  %o = arith.muli %pid, %block : i64
  %a = tile.load %x[%o] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>
  %b = tile.load %y[%o] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>
  %s = arith.addf %a, %b : tensor<1024xf32>
  tile.store %s, %out[%o] dims [0] : tensor<1024xf32>, !tile.view<?xf32>
  return
}

// -----

// The exponential is computed once, in the loop of the sum, and read again by that of the quotient. While it is, the next
// program's row is fetched.
// CHECK-LABEL: llvm.func @softmax
// CHECK: [[KEPT:%.*]] = llvm.alloca {{.*}} x !llvm.array<16384 x i8>
// CHECK-NOT: prefetch
// CHECK: arith.maximumf {{.*}} fastmath<nsz>
// CHECK: llvm.intr.prefetch
// CHECK-COUNT-5: math.exp
// CHECK-NOT: math.exp
// CHECK: arith.divf
// CHECK-NOT: math.exp
func.func @softmax(%x: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %low = arith.constant 0xFF800000 : f32
  %row = tile.program_id 0
  %a = tile.load %x[%row, %zero] dims [1] else %low : !tile.view<?x?xf32> -> tensor<4096xf32>
  %max = tile.reduce %a axis 0 : tensor<4096xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %m = arith.maximumf %l, %r : f32
    tile.yield %m : f32
  }
  %top = tensor.splat %max : tensor<4096xf32>
  %d = arith.subf %a, %top : tensor<4096xf32>
  %e = math.exp %d : tensor<4096xf32>
  %sum = tile.reduce %e axis 0 : tensor<4096xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.addf %l, %r : f32
    tile.yield %s : f32
  }
  %total = tensor.splat %sum : tensor<4096xf32>
  %y = arith.divf %e, %total : tensor<4096xf32>
  tile.store %y, %out[%row, %zero] dims [1] : tensor<4096xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Two reductions of one tile are one loop.
// CHECK-LABEL: llvm.func @moments
// CHECK: scf.for {{.*}} = %arg2 to %arg3
// CHECK: scf.for {{.*}} step %c64_i64 iter_args
// CHECK: arith.addf
// CHECK: math.fma
// CHECK: scf.for {{.*}} step %c16_i64 iter_args
// CHECK-NOT: scf.for
func.func @moments(%x: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
  %sum = tile.reduce %a axis 0 : tensor<4096xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.addf %l, %r : f32
    tile.yield %s : f32
  }
  %aa = arith.mulf %a, %a : tensor<4096xf32>
  %squares = tile.reduce %aa axis 0 : tensor<4096xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.addf %l, %r : f32
    tile.yield %s : f32
  }
  tile.store %sum, %out[%zero] dims [] : f32, !tile.view<?xf32>
  tile.store %squares, %out[%one] dims [] : f32, !tile.view<?xf32>
  return
}

// -----

// Each output may be the input again: what a later store needs of it is read before.
// CHECK-LABEL: llvm.func @swap
// CHECK: llvm.intr.masked.load
// CHECK: llvm.intr.masked.load
// CHECK: llvm.intr.masked.store
// CHECK: llvm.intr.masked.store
func.func @swap(%x: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %half = arith.constant 16 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<16xf32>
  %b = tile.load %x[%half] dims [0] : !tile.view<?xf32> -> tensor<16xf32>
  tile.store %b, %out[%zero] dims [0] : tensor<16xf32>, !tile.view<?xf32>
  tile.store %a, %out[%half] dims [0] : tensor<16xf32>, !tile.view<?xf32>
  return
}

// -----

// Two stores that follow each other are one loop, with one exponential for both: two chunks at a time, and one chunk
// with masks. Nothing is kept for the second, though each output may be either input.
// CHECK-LABEL: llvm.func @gradients
// CHECK-NOT: llvm.alloca
// CHECK-COUNT-5: math.exp
// CHECK-NOT: math.exp
func.func @gradients(%x: !tile.view<?xf32>, %y: !tile.view<?xf32>, %dx: !tile.view<?xf32>, %dy: !tile.view<?xf32>)
    attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
  %b = tile.load %y[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
  %e = math.exp %a : tensor<4096xf32>
  %s = arith.mulf %e, %b : tensor<4096xf32>
  %t = arith.addf %e, %b : tensor<4096xf32>
  tile.store %s, %dx[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  tile.store %t, %dy[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  return
}

// -----

// What a loop carries is computed with the store before its end, and each row is read where it is, though the store may
// write over it: the only memory is that of the sum. The row is asked for in the second loop over it.
// CHECK-LABEL: llvm.func @carried
// CHECK: llvm.alloca
// CHECK-NOT: llvm.alloca
// CHECK: math.fma
// CHECK: llvm.intr.prefetch
// CHECK: llvm.store {{.*}}nontemporal} : vector<16xf32>
// CHECK: llvm.store {{.*}} {alignment = 4 : i64} : vector<16xf32>
func.func @carried(%x: !tile.view<?x?xf32>, %y: !tile.view<?x?xf32>, %sums: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %none = arith.constant dense<0.0> : tensor<4096xf32>
  %rows = tile.extent %x, 0 : !tile.view<?x?xf32>
  %sum = scf.for %i = %zero to %rows step %one iter_args(%s = %none) -> (tensor<4096xf32>) : i64 {
    %v = tile.load %x[%i, %zero] dims [1] : !tile.view<?x?xf32> -> tensor<4096xf32>
    %vv = arith.mulf %v, %v : tensor<4096xf32>
    %square = tile.reduce %vv axis 0 : tensor<4096xf32> -> f32 {
    ^bb0(%a: f32, %b: f32):
      %c = arith.addf %a, %b : f32
      tile.yield %c : f32
    }
    %factor = tensor.splat %square : tensor<4096xf32>
    %w = arith.mulf %v, %factor : tensor<4096xf32>
    tile.store %w, %y[%i, %zero] dims [1] : tensor<4096xf32>, !tile.view<?x?xf32>
    %next = arith.addf %s, %v : tensor<4096xf32>
    scf.yield %next : tensor<4096xf32>
  }
  tile.store %sum, %sums[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  return
}

// -----

// A tensor of 32 MiB or more whose rows begin at a vector's alignment is written past the caches, unless it is read too.
// CHECK-LABEL: llvm.func @copy
// CHECK: arith.constant 33554432 : i64
// CHECK: llvm.store {{.*}} {alignment = 64 : i64, nontemporal} : vector<16xf32>
// CHECK: llvm.store {{.*}} {alignment = 4 : i64} : vector<16xf32>
// CHECK: llvm.fence seq_cst
// CHECK-LABEL: llvm.func @copy_bf16
// CHECK: [[WORDS:%.*]] = llvm.bitcast %{{.*}} : vector<32xbf16> to vector<16xf32>
// CHECK: [[FENCED:%.*]] = llvm.call_intrinsic "llvm.arithmetic.fence"([[WORDS]])
// CHECK: llvm.store [[FENCED]], {{.*}} {alignment = 64 : i64, nontemporal} : vector<16xf32>
// CHECK-LABEL: llvm.func @in_place
// CHECK-NOT: nontemporal
func.func @copy(%x: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
  tile.store %a, %out[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  return
}
func.func @copy_bf16(%x: !tile.view<?xbf16>, %out: !tile.view<?xbf16>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xbf16> -> tensor<4096xbf16>
  tile.store %a, %out[%zero] dims [0] : tensor<4096xbf16>, !tile.view<?xbf16>
  return
}
func.func @in_place(%x: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
  %b = arith.addf %a, %a : tensor<4096xf32>
  tile.store %b, %x[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
  return
}

// -----

// Fields of 4 bits become floats by one permutation of the 16 floats that they may be; both halves of a byte share its
// extension, and eight rows the load of x.
// CHECK-LABEL: llvm.func @packed
// CHECK: arith.constant dense<[0.000000e+00, 1.000000e+00, 2.000000e+00, {{.*}}, -2.000000e+00, -1.000000e+00]> : vector<16xf32>
// CHECK-COUNT-32: arith.extui %{{.*}} : vector<16xi8> to vector<16xi32>
// CHECK-NOT: arith.extui %{{.*}} : vector<16xi8>
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.permvar.sf.512"
func.func @packed(%w: !tile.view<?x?xi8>, %x: !tile.view<?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %bytes = tile.load %w[%zero, %zero] dims [0, 1] : !tile.view<?x?xi8> -> tensor<8x64xi8>
  %fields = tile.unpack %bytes <"bits=4,order=planar,block=128"> : tensor<8x64xi8> -> tensor<8x128xi8>
  %eight = arith.constant dense<8> : tensor<8x128xi8>
  %flipped = arith.xori %fields, %eight : tensor<8x128xi8>
  %signed = arith.subi %flipped, %eight : tensor<8x128xi8>
  %f = arith.sitofp %signed : tensor<8x128xi8> to tensor<8x128xf32>
  %v = tile.load %x[%zero] dims [0] : !tile.view<?xf32> -> tensor<128xf32>
  %row = tile.reshape %v : tensor<128xf32> -> tensor<1x128xf32>
  %rows = tile.broadcast %row : tensor<1x128xf32> -> tensor<8x128xf32>
  %p = arith.mulf %f, %rows : tensor<8x128xf32>
  %s = tile.reduce %p axis 1 : tensor<8x128xf32> -> tensor<8xf32> {
  ^bb0(%l: f32, %r: f32):
    %sum = arith.addf %l, %r : f32
    tile.yield %sum : f32
  }
  tile.store %s, %out[%zero] dims [0] : tensor<8xf32>, !tile.view<?xf32>
  return
}

// RUN: bitloom-opt %s -split-input-file -tile-expand-math=target=x86-64-v4 | FileCheck %s
// RUN: bitloom-opt %s -split-input-file -tile-expand-math=target=x86-64 | FileCheck %s --check-prefix=BASE

// A method of ours: no function is left. Without the instruction there is no fused operation either.
// CHECK-LABEL: llvm.func @exp
// CHECK-NOT: math.exp
// CHECK: math.fma
// CHECK-NOT: arith.bitcast
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.mask.scalef.ps.512"
// CHECK: llvm.return
// BASE-LABEL: llvm.func @exp
// BASE-NOT: math.fma
// BASE: llvm.return
llvm.func @exp(%x: vector<16xf32>) -> vector<16xf32> {
  %y = math.exp %x : vector<16xf32>
  llvm.return %y : vector<16xf32>
}

// -----

// A vector that the scaling instruction does not have the length of is scaled by two factors, made of bits.
// CHECK-LABEL: llvm.func @exp_of_eight
// CHECK-NOT: call_intrinsic
// CHECK-COUNT-2: arith.bitcast {{.*}} : vector<8xi32> to vector<8xf32>
// CHECK: llvm.return
llvm.func @exp_of_eight(%x: vector<8xf32>) -> vector<8xf32> {
  %y = math.exp %x : vector<8xf32>
  llvm.return %y : vector<8xf32>
}

// -----

// Narrow types by way of f32.
// CHECK-LABEL: llvm.func @narrow
// CHECK: %[[WIDE:.*]] = arith.extf %{{.*}} : vector<4xbf16> to vector<4xf32>
// CHECK: %[[Y:.*]] = arith.truncf %{{.*}} : vector<4xf32> to vector<4xbf16>
// CHECK: llvm.return %[[Y]]
llvm.func @narrow(%x: vector<4xbf16>) -> vector<4xbf16> {
  %y = math.tanh %x : vector<4xbf16>
  llvm.return %y : vector<4xbf16>
}

// -----

// Large angles are libm's, an element at a time.
// CHECK-DAG: func.func private @sinf(f32) -> f32
// CHECK-LABEL: llvm.func @sin
// CHECK: %[[LARGE:.*]] = arith.cmpf uge
// CHECK: %[[ANY:.*]] = vector.reduction <or>, %[[LARGE]] : vector<2xi1> into i1
// CHECK: scf.if %[[ANY]]
// CHECK-COUNT-2: call @sinf
// CHECK: } else {
// CHECK-NOT: call @sinf
// CHECK: llvm.return
llvm.func @sin(%x: vector<2xf32>) -> vector<2xf32> {
  %y = math.sin %x : vector<2xf32>
  llvm.return %y : vector<2xf32>
}

// -----

// CHECK-DAG: func.func private @exp(f64) -> f64
// CHECK-LABEL: llvm.func @wide
// CHECK-COUNT-2: call @exp(
llvm.func @wide(%x: vector<2xf64>) -> vector<2xf64> {
  %y = math.exp %x : vector<2xf64>
  llvm.return %y : vector<2xf64>
}

// -----

// What processors have stays.
// CHECK-LABEL: llvm.func @native
// CHECK: math.sqrt
// CHECK: math.floor
llvm.func @native(%x: vector<16xf32>) -> vector<16xf32> {
  %y = math.sqrt %x : vector<16xf32>
  %z = math.floor %y : vector<16xf32>
  llvm.return %z : vector<16xf32>
}

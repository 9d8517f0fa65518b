// Products of tiles in vectors of any length, where they are longer than NEON's.
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64+i8mm+sve2 --canonicalize --cse --split-input-file | FileCheck %s
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64+i8mm --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=NEON

// Columns behind the panel's end are neither read nor written; the instruction picks one of four numbers of a row.
// CHECK-LABEL: llvm.func @by_element
// CHECK: %[[LENGTH:.*]] = "llvm.intr.vscale"
// CHECK: %[[LONGER:.*]] = arith.cmpi uge, %[[LENGTH]]
// CHECK: scf.if %[[LONGER]]
// CHECK: llvm.intr.get.active.lane.mask{{.*}}vector<[4]xi1>
// CHECK: scf.for
// CHECK: llvm.intr.masked.load{{.*}}vector<[4]xf32>
// CHECK: call_intrinsic "llvm.aarch64.sve.ld1rq.nxv4f32"
// CHECK: call_intrinsic "llvm.aarch64.sve.fmla.lane.nxv4f32"
// CHECK: llvm.intr.masked.store{{.*}}vector<[4]xf32>
// CHECK: } else {
// CHECK: math.fma
// NEON-LABEL: llvm.func @by_element
// NEON-NOT: sve
func.func @by_element(%x: !tile.view<?x?xf32>, %w: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %none = arith.constant dense<0.0> : tensor<8x32xf32>
  %a = tile.load %x[%zero, %zero] dims [0, 1] : <?x?xf32> -> tensor<8x16xf32>
  %b = tile.load %w[%zero, %zero] dims [0, 1] : <?x?xf32> -> tensor<16x32xf32>
  %c = tile.dot %a, %b, %none : tensor<8x16xf32>, tensor<16x32xf32>, tensor<8x32xf32>
  tile.store %c, %out[%zero, %zero] dims [0, 1] : tensor<8x32xf32>, <?x?xf32>
  return
}

// -----

// Too few rows for a block of eight.
// CHECK-LABEL: llvm.func @few_rows
// CHECK-NOT: vscale
// CHECK: math.fma
func.func @few_rows(%x: !tile.view<?x?xf32>, %w: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %none = arith.constant dense<0.0> : tensor<4x32xf32>
  %a = tile.load %x[%zero, %zero] dims [0, 1] : <?x?xf32> -> tensor<4x16xf32>
  %b = tile.load %w[%zero, %zero] dims [0, 1] : <?x?xf32> -> tensor<16x32xf32>
  %c = tile.dot %a, %b, %none : tensor<4x16xf32>, tensor<16x32xf32>, tensor<4x32xf32>
  tile.store %c, %out[%zero, %zero] dims [0, 1] : tensor<4x32xf32>, <?x?xf32>
  return
}

// -----

// CHECK-LABEL: llvm.func @matrices
// CHECK: scf.if
// CHECK: llvm.intr.masked.load{{.*}}vector<[16]xi8>
// CHECK: call_intrinsic "llvm.aarch64.sve.ld1rq.nxv16i8"
// CHECK: call_intrinsic "llvm.aarch64.sve.usmmla.nxv4i32"
// CHECK: llvm.intr.masked.store{{.*}}vector<[4]xi32>
// CHECK: } else {
// CHECK: call_intrinsic "llvm.aarch64.neon.usmmla.v4i32.v16i8"
// NEON-LABEL: llvm.func @matrices
// NEON-NOT: sve
func.func @matrices(%x: !tile.view<?x?xi8>, %w: !tile.view<?x?xi8>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %none = arith.constant dense<0> : tensor<16x16xi32>
  %a = tile.load %x[%zero, %zero] dims [0, 1] : <?x?xi8> -> tensor<16x32xi8>
  %b = tile.load %w[%zero, %zero] dims [0, 1] : <?x?xi8> -> tensor<32x16xi8>
  %c = tile.dot %a, %b, %none {unsignedA} : tensor<16x32xi8>, tensor<32x16xi8>, tensor<16x16xi32>
  tile.store %c, %out[%zero, %zero] dims [0, 1] : tensor<16x16xi32>, <?x?xi32>
  return
}

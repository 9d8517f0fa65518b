// Products with a packed weight in vectors of any length, where they are longer than NEON's.
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64+i8mm+sve2 --canonicalize --cse --split-input-file | FileCheck %s
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64+i8mm --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=NEON

// CHECK-LABEL: llvm.func @sdot
// CHECK: %[[TWO:.*]] = arith.constant 2 : i64
// CHECK: %[[LENGTH:.*]] = "llvm.intr.vscale"
// CHECK: %[[LONGER:.*]] = arith.cmpi uge, %[[LENGTH]], %[[TWO]]
// CHECK: scf.if %[[LONGER]]
// What is behind the panel's end is not read, and the left operand is the same in each segment.
// CHECK: llvm.intr.get.active.lane.mask{{.*}}vector<[16]xi1>
// CHECK: llvm.intr.masked.load{{.*}}vector<[16]xi8>
// CHECK: call_intrinsic "llvm.aarch64.sve.dupq.lane.nxv16i8"
// CHECK: call_intrinsic "llvm.aarch64.sve.sdot.lane.nxv4i32"
// CHECK: llvm.intr.masked.store{{.*}}vector<[4]xi32>
// CHECK: } else {
// CHECK: call_intrinsic "llvm.aarch64.neon.sdot.v4i32.v16i8"
// NEON-LABEL: llvm.func @sdot
// NEON-NOT: sve
func.func @sdot(%x: !tile.view<?x?xi8>, %w: !tile.view<?x?xi8>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %groups = tile.extent %w, 1 : <?x?xi8>
  %none = arith.constant dense<0> : tensor<1x64xi32>
  %sum = scf.for %g = %zero to %groups step %one iter_args(%acc = %none) -> (tensor<1x64xi32>) : i64 {
    %a = tile.load %x[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x16xi8>
    %bytes = tile.load %w[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x512xi8>
    %values = tile.unpack %bytes signed <"bits=4,order=columns,block=4,rows=64,lanes=4,bias=low"> : tensor<1x512xi8> -> tensor<64x16xi8>
    %b = tile.transpose %values [1, 0] : tensor<64x16xi8> -> tensor<16x64xi8>
    %next = tile.dot %a, %b, %acc : tensor<1x16xi8>, tensor<16x64xi8>, tensor<1x64xi32>
    scf.yield %next : tensor<1x64xi32>
  }
  tile.store %sum, %out[%zero, %zero] dims [0, 1] : tensor<1x64xi32>, <?x?xi32>
  return
}

// -----

// CHECK-LABEL: llvm.func @smmla
// CHECK: call_intrinsic "llvm.aarch64.sve.smmla.nxv4i32"
// CHECK: } else {
// CHECK: call_intrinsic "llvm.aarch64.neon.smmla.v4i32.v16i8"
func.func @smmla(%x: !tile.view<?x?xi8>, %w: !tile.view<?x?xi8>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %groups = tile.extent %w, 1 : <?x?xi8>
  %none = arith.constant dense<0> : tensor<4x16xi32>
  %sum = scf.for %g = %zero to %groups step %one iter_args(%acc = %none) -> (tensor<4x16xi32>) : i64 {
    %a = tile.load %x[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<4x16xi8>
    %bytes = tile.load %w[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x128xi8>
    %values = tile.unpack %bytes signed <"bits=4,order=columns,block=8,rows=16,lanes=2"> : tensor<1x128xi8> -> tensor<16x16xi8>
    %b = tile.transpose %values [1, 0] : tensor<16x16xi8> -> tensor<16x16xi8>
    %next = tile.dot %a, %b, %acc : tensor<4x16xi8>, tensor<16x16xi8>, tensor<4x16xi32>
    scf.yield %next : tensor<4x16xi32>
  }
  tile.store %sum, %out[%zero, %zero] dims [0, 1] : tensor<4x16xi32>, <?x?xi32>
  return
}

// -----

// Of a unit of three bytes neighbours lie three vectors apart: they are gathered, byte by byte.
// CHECK-LABEL: llvm.func @several_bytes
// CHECK-DAG: %[[HALF:.*]] = arith.constant dense<8> : vector<[2]xi64>
// CHECK-DAG: %[[APART:.*]] = arith.constant dense<24> : vector<[2]xi64>
// CHECK-DAG: %[[SECOND:.*]] = arith.constant 16 : i64
// CHECK-DAG: %[[THIRD:.*]] = arith.constant 32 : i64
// CHECK: llvm.intr.stepvector
// CHECK: arith.muli %{{.*}}, %[[HALF]]
// CHECK: arith.muli %{{.*}}, %[[APART]]
// CHECK: llvm.intr.get.active.lane.mask{{.*}}vector<[2]xi1>
// CHECK: scf.for
// CHECK: call_intrinsic "llvm.aarch64.sve.ld1.gather.scalar.offset.nxv2i64.nxv2i64"
// CHECK: call_intrinsic "llvm.aarch64.sve.ld1.gather.scalar.offset.nxv2i64.nxv2i64"({{.*}}, %[[SECOND]])
// CHECK: call_intrinsic "llvm.aarch64.sve.ld1.gather.scalar.offset.nxv2i64.nxv2i64"({{.*}}, %[[THIRD]])
// CHECK: call_intrinsic "llvm.aarch64.sve.sdot.lane.nxv4i32"
// CHECK: } else {
// CHECK: call_intrinsic "llvm.aarch64.neon.sdot.v4i32.v16i8"
func.func @several_bytes(%x: !tile.view<?x?xi8>, %w: !tile.view<?x?xi8>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %groups = tile.extent %w, 1 : <?x?xi8>
  %none = arith.constant dense<0> : tensor<1x64xi32>
  %sum = scf.for %g = %zero to %groups step %one iter_args(%acc = %none) -> (tensor<1x64xi32>) : i64 {
    %a = tile.load %x[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x16xi8>
    %bytes = tile.load %w[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x384xi8>
    %values = tile.unpack %bytes signed <"bits=3,order=columns,block=4,rows=64,lanes=4,bias=low"> : tensor<1x384xi8> -> tensor<64x16xi8>
    %b = tile.transpose %values [1, 0] : tensor<64x16xi8> -> tensor<16x64xi8>
    %next = tile.dot %a, %b, %acc : tensor<1x16xi8>, tensor<16x64xi8>, tensor<1x64xi32>
    scf.yield %next : tensor<1x64xi32>
  }
  tile.store %sum, %out[%zero, %zero] dims [0, 1] : tensor<1x64xi32>, <?x?xi32>
  return
}

// -----

// Three bytes of which each is multiplied under one mask and whole: read where they lie.
// CHECK-LABEL: llvm.func @alike_in_every_byte
// CHECK-NOT: gather
// CHECK: llvm.intr.masked.load{{.*}}vector<[16]xi8>
// CHECK: call_intrinsic "llvm.aarch64.sve.sdot.lane.nxv4i32"
// CHECK-NOT: gather
// CHECK: } else {
func.func @alike_in_every_byte(%x: !tile.view<?x?xi8>, %w: !tile.view<?x?xi8>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %groups = tile.extent %w, 1 : <?x?xi8>
  %none = arith.constant dense<0> : tensor<1x64xi32>
  %sum = scf.for %g = %zero to %groups step %one iter_args(%acc = %none) -> (tensor<1x64xi32>) : i64 {
    %a = tile.load %x[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x16xi8>
    %bytes = tile.load %w[%zero, %g] dims [0, 1] : <?x?xi8> -> tensor<1x768xi8>
    %values = tile.unpack %bytes signed <"bits=6,order=columns,block=4,rows=64,lanes=4,bias=low"> : tensor<1x768xi8> -> tensor<64x16xi8>
    %b = tile.transpose %values [1, 0] : tensor<64x16xi8> -> tensor<16x64xi8>
    %next = tile.dot %a, %b, %acc : tensor<1x16xi8>, tensor<16x64xi8>, tensor<1x64xi32>
    scf.yield %next : tensor<1x64xi32>
  }
  tile.store %sum, %out[%zero, %zero] dims [0, 1] : tensor<1x64xi32>, <?x?xi32>
  return
}

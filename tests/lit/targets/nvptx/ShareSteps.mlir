// RUN: bitloom-opt %s -split-input-file -tile-assign-layouts -canonicalize -cse -tile-specialize-warps -tile-share-steps | FileCheck %s

// Both roles' loops cover the block's part of the program, and what frees the slots follows their bounds. Groups in
// turn pass over the part before. The block with the first step goes on with the sum.
// CHECK-LABEL: func.func @accumulates
func.func @accumulates(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel, tile.consumers = 2 : i32, tile.stream_k} {
  // CHECK-NEXT: tile.ring
  // CHECK-DAG: %[[FROM:.*]] = arith.constant 0 : i64
  // CHECK-DAG: %[[K:.*]] = tile.extent %arg0, 1
  // CHECK-DAG: %[[STEP:.*]] = arith.constant 64 : i64
  // CHECK: %[[RANGE:.*]] = arith.subi %[[K]], %[[FROM]]
  // CHECK: %[[NONE:.*]] = arith.maxsi %[[RANGE]], %{{.*}}
  // CHECK: %[[STEPS:.*]] = arith.ceildivsi %[[NONE]], %[[STEP]]
  // CHECK-NEXT: tile.specialize steps %[[STEPS]] producer {
  // CHECK: %[[FIRST:.*]], %[[END:.*]], %{{.*}} = tile.share
  // CHECK: %[[BEGIN:.*]] = arith.muli %[[FIRST]], %[[S:.*]] : i64
  // CHECK-NEXT: %[[LOW:.*]] = arith.addi %{{.*}}, %[[BEGIN]]
  // CHECK-NEXT: %[[LAST:.*]] = arith.muli %[[END]], %[[S]]
  // CHECK-NEXT: %[[HIGH:.*]] = arith.addi %{{.*}}, %[[LAST]]
  // CHECK-NEXT: %[[MOST:.*]] = arith.minsi %[[HIGH]], %{{.*}}
  // CHECK-NEXT: scf.for %{{.*}} = %[[LOW]] to %[[MOST]] step %[[S]]
  // CHECK: } consumer {
  // CHECK: %[[FIRST:.*]], %[[END:.*]], %[[BEFORE:.*]] = tile.share
  // CHECK-NEXT: tile.take_turn %{{.*}}, %[[BEFORE]]
  // CHECK: %[[LOW:.*]] = arith.addi
  // CHECK: %[[MOST:.*]] = arith.minsi
  // CHECK-NEXT: %[[SUM:.*]] = scf.for %[[AT:.*]] = %[[LOW]] to %[[MOST]]
  // CHECK: arith.cmpi ne, %[[AT]], %[[LOW]]
  // CHECK: tile.pass_turn
  // CHECK-NEXT: %[[DONE:.*]] = tile.dot_wait %[[SUM]]
  // CHECK-NEXT: arith.cmpi slt, %[[LOW]], %[[MOST]]
  // CHECK-NEXT: tile.pop
  // CHECK-NEXT: %[[TOTAL:.*]] = tile.share_sum %[[DONE]]
  // CHECK: %[[IS:.*]] = arith.cmpi eq, %[[FIRST]], %{{.*}}
  // CHECK-NEXT: scf.if %[[IS]] {
  // CHECK-NEXT: tile.store %[[TOTAL]]
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: tile.yield
  %i = tile.program_id 0
  %s = arith.constant 64 : i64
  %rows = arith.muli %i, %s : i64
  %zero = arith.constant 0 : i64
  %k = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<64x32xf32>
  %sum = scf.for %at = %zero to %k step %s iter_args(%acc = %none) -> tensor<64x32xf32> : i64 {
    %x = tile.load %a[%rows, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x32xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x32xbf16>, tensor<64x32xf32>
    scf.yield %d : tensor<64x32xf32>
  }
  tile.store %sum, %c[%rows, %zero] dims [0, 1] : tensor<64x32xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Programs of different lengths: as they were.
// CHECK-LABEL: func.func @differs
// CHECK-NOT: steps
// CHECK-NOT: tile.share
func.func @differs(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel, tile.stream_k} {
  %i = tile.program_id 0
  %s = arith.constant 64 : i64
  %rows = arith.muli %i, %s : i64
  %zero = arith.constant 0 : i64
  %none = arith.constant dense<0.0> : tensor<64x32xf32>
  %sum = scf.for %at = %zero to %rows step %s iter_args(%acc = %none) -> tensor<64x32xf32> : i64 {
    %x = tile.load %a[%rows, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x32xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x32xbf16>, tensor<64x32xf32>
    scf.yield %d : tensor<64x32xf32>
  }
  tile.store %sum, %c[%rows, %zero] dims [0, 1] : tensor<64x32xf32>, !tile.view<?x?xf32>
  return
}

// RUN: bitloom-opt %s -split-input-file -canonicalize | FileCheck %s

// A slice of a load is a smaller load, of dimensions 0 and 2 of the view here.
// CHECK-LABEL: func.func @slice_of_load
// CHECK-SAME: %[[VIEW:.*]]: !tile.view<?x?x?xf32>, %[[I:.*]]: i64, %[[X:.*]]: f32
func.func @slice_of_load(%view: !tile.view<?x?x?xf32>, %i: i64, %x: f32) -> tensor<3x5xf32> {
  // CHECK: %[[C12:.*]] = arith.constant 12 : i64
  // CHECK: %[[AT:.*]] = arith.addi %[[I]], %[[C12]] : i64
  // CHECK: %[[TILE:.*]] = tile.load %[[VIEW]][%[[I]], %[[I]], %[[AT]]] dims [0, 2] else %[[X]] : <?x?x?xf32> -> tensor<3x5xf32>
  // CHECK-NEXT: return %[[TILE]]
  %a = tile.load %view[%i, %i, %i] dims [0, 2] else %x : !tile.view<?x?x?xf32> -> tensor<3x17xf32>
  %s = tile.slice %a [0, 12] : tensor<3x17xf32> -> tensor<3x5xf32>
  return %s : tensor<3x5xf32>
}

// -----

// Not past a write.
// CHECK-LABEL: func.func @slice_after_store
func.func @slice_after_store(%view: !tile.view<?xf32>, %i: i64, %x: f32) -> tensor<3xf32> {
  // CHECK: tile.load
  // CHECK: tile.store
  // CHECK: tile.slice
  %a = tile.load %view[%i] dims [0] : !tile.view<?xf32> -> tensor<17xf32>
  tile.store %x, %view[%i] dims [] : f32, !tile.view<?xf32>
  %s = tile.slice %a [0] : tensor<17xf32> -> tensor<3xf32>
  return %s : tensor<3xf32>
}

// -----

// Past another read it moves.
// CHECK-LABEL: func.func @slice_after_load
func.func @slice_after_load(%view: !tile.view<?xf32>, %i: i64) -> (tensor<3xf32>, f32) {
  // CHECK: tile.load %{{.*}} dims [] : <?xf32> -> f32
  // CHECK: tile.load %{{.*}} dims [0] : <?xf32> -> tensor<3xf32>
  // CHECK-NOT: tile.slice
  %a = tile.load %view[%i] dims [0] : !tile.view<?xf32> -> tensor<17xf32>
  %b = tile.load %view[%i] dims [] : !tile.view<?xf32> -> f32
  %s = tile.slice %a [0] : tensor<17xf32> -> tensor<3xf32>
  return %s, %b : tensor<3xf32>, f32
}

// -----

// CHECK-LABEL: func.func @reshape
// CHECK-SAME: %[[V:.*]]: tensor<6xf32>
func.func @reshape(%v: tensor<6xf32>) -> (tensor<6xf32>, tensor<3x2xf32>, tensor<2x3xf32>) {
  // CHECK-DAG: %[[ONE:.*]] = arith.constant dense<1.000000e+00> : tensor<2x3xf32>
  // CHECK-DAG: %[[R:.*]] = tile.reshape %[[V]] : tensor<6xf32> -> tensor<3x2xf32>
  // CHECK: return %[[V]], %[[R]], %[[ONE]]
  %a = tile.reshape %v : tensor<6xf32> -> tensor<6xf32>
  %b = tile.reshape %v : tensor<6xf32> -> tensor<1x6xf32>
  %c = tile.reshape %b : tensor<1x6xf32> -> tensor<3x2xf32>
  %ones = arith.constant dense<1.0> : tensor<6xf32>
  %d = tile.reshape %ones : tensor<6xf32> -> tensor<2x3xf32>
  return %a, %c, %d : tensor<6xf32>, tensor<3x2xf32>, tensor<2x3xf32>
}

// -----

// CHECK-LABEL: func.func @transpose
// CHECK-SAME: %[[A:.*]]: tensor<2x3xf32>
func.func @transpose(%a: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<3x2xi32>) {
  // CHECK: %[[SEVEN:.*]] = arith.constant dense<7> : tensor<3x2xi32>
  // CHECK: return %[[A]], %[[SEVEN]]
  %t = tile.transpose %a [0, 1] : tensor<2x3xf32> -> tensor<2x3xf32>
  %sevens = arith.constant dense<7> : tensor<2x3xi32>
  %u = tile.transpose %sevens [1, 0] : tensor<2x3xi32> -> tensor<3x2xi32>
  return %t, %u : tensor<2x3xf32>, tensor<3x2xi32>
}

// -----

// CHECK-LABEL: func.func @broadcast
// CHECK-SAME: %[[A:.*]]: tensor<2x3xf32>
func.func @broadcast(%a: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<17x3xi32>) {
  // CHECK: %[[SEVEN:.*]] = arith.constant dense<7> : tensor<17x3xi32>
  // CHECK: return %[[A]], %[[SEVEN]]
  %b = tile.broadcast %a : tensor<2x3xf32> -> tensor<2x3xf32>
  %sevens = arith.constant dense<7> : tensor<1x3xi32>
  %c = tile.broadcast %sevens : tensor<1x3xi32> -> tensor<17x3xi32>
  return %b, %c : tensor<2x3xf32>, tensor<17x3xi32>
}

// -----

// CHECK-LABEL: func.func @convert_layout
// CHECK-SAME: %[[A:.*]]: tensor<2xf32>
func.func @convert_layout(%a: tensor<2xf32>) -> tensor<2xf32> {
  // CHECK: return %[[A]]
  %b = tile.convert_layout %a : tensor<2xf32> -> tensor<2xf32>
  return %b : tensor<2xf32>
}

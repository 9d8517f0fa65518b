// RUN: bitloom-opt %s -split-input-file -tile-decompose-packing -canonicalize | FileCheck %s

// One block: each plane is loaded from where it lies.
// CHECK-LABEL: func.func @signed3
func.func @signed3(%view: !tile.view<?x?xi8>, %i: i64) -> tensor<5x128xi8> {
  // CHECK-DAG: %[[C32:.*]] = arith.constant 32 : i64
  // CHECK-DAG: %[[TWO:.*]] = arith.constant dense<2> : tensor<5x128xi8>
  // CHECK-DAG: %[[SIGN:.*]] = arith.constant dense<4> : tensor<5x128xi8>
  // CHECK: %[[LOW:.*]] = tile.load %{{.*}}[%{{.*}}, %[[I:.*]]] dims [0, 1] : {{.*}} -> tensor<5x32xi8>
  // CHECK: %[[LOW_FIELDS:.*]] = tile.unpack %[[LOW]] <"bits=2,order=planar,block=128">
  // CHECK: %[[AT:.*]] = arith.addi %{{.*}}, %[[C32]] : i64
  // CHECK: %[[HIGH:.*]] = tile.load %{{.*}}[%{{.*}}, %[[AT]]] dims [0, 1] : {{.*}} -> tensor<5x16xi8>
  // CHECK: %[[HIGH_FIELDS:.*]] = tile.unpack %[[HIGH]] <"bits=1,order=planar,block=128">
  // CHECK: %[[SHIFTED:.*]] = arith.shli %[[HIGH_FIELDS]], %[[TWO]]
  // CHECK: %[[VALUE:.*]] = arith.ori %[[LOW_FIELDS]], %[[SHIFTED]]
  // CHECK: %[[FLIPPED:.*]] = arith.xori %[[VALUE]], %[[SIGN]]
  // CHECK: %[[RESULT:.*]] = arith.subi %[[FLIPPED]], %[[SIGN]]
  // CHECK: return %[[RESULT]]
  %bytes = tile.load %view[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<5x48xi8>
  %w = tile.unpack %bytes signed <"bits=3,order=planar,block=128"> : tensor<5x48xi8> -> tensor<5x128xi8>
  return %w : tensor<5x128xi8>
}

// -----

// Several blocks: the planes interleave, so they are sliced out of the blocks.
// CHECK-LABEL: func.func @unsigned6
// CHECK-SAME: %[[BYTES:.*]]: tensor<18xi8>
func.func @unsigned6(%bytes: tensor<18xi8>) -> tensor<24xi8> {
  // CHECK: %[[BLOCKS:.*]] = tile.reshape %[[BYTES]] : tensor<18xi8> -> tensor<3x6xi8>
  // CHECK: tile.slice %[[BLOCKS]] [0, 0] : tensor<3x6xi8> -> tensor<3x4xi8>
  // CHECK: tile.reshape %{{.*}} : tensor<3x4xi8> -> tensor<12xi8>
  // CHECK: tile.unpack %{{.*}} <"bits=4,order=high,block=8">
  // CHECK: tile.slice %{{.*}} [0, 4] : tensor<3x6xi8> -> tensor<3x2xi8>
  // CHECK: tile.unpack %{{.*}} <"bits=2,order=high,block=8">
  // CHECK-NOT: arith.subi
  // CHECK: return
  %w = tile.unpack %bytes <"bits=6,order=high,block=8"> : tensor<18xi8> -> tensor<24xi8>
  return %w : tensor<24xi8>
}

// -----

// A power of two stays as it is, but for its sign; eight bits have no sign to extend.
// CHECK-LABEL: func.func @powers
func.func @powers(%bytes: tensor<8xi8>) -> (tensor<16xi8>, tensor<16xi8>, tensor<8xi8>, tensor<8xi8>) {
  // CHECK: %[[A:.*]] = tile.unpack %{{.*}} <"bits=4,order=low,block=8">
  // CHECK: %[[B:.*]] = tile.unpack %{{.*}} <"bits=4,order=low,block=8">
  // CHECK: %[[X:.*]] = arith.xori %[[B]]
  // CHECK: %[[S:.*]] = arith.subi %[[X]]
  // CHECK: %[[C:.*]] = tile.unpack %{{.*}} <"bits=8,order=low,block=8">
  // CHECK: %[[D:.*]] = tile.pack %{{.*}} <"bits=8,order=low,block=8">
  // CHECK: return %[[A]], %[[S]], %[[C]], %[[D]]
  %a = tile.unpack %bytes <"bits=4,order=low,block=8"> : tensor<8xi8> -> tensor<16xi8>
  %b = tile.unpack %bytes signed <"bits=4,order=low,block=8"> : tensor<8xi8> -> tensor<16xi8>
  %c = tile.unpack %bytes signed <"bits=8,order=low,block=8"> : tensor<8xi8> -> tensor<8xi8>
  %d = tile.pack %c <"bits=8,order=low,block=8"> : tensor<8xi8> -> tensor<8xi8>
  return %a, %b, %c, %d : tensor<16xi8>, tensor<16xi8>, tensor<8xi8>, tensor<8xi8>
}

// -----

// Five bits are five units of block/8 bytes: joined as eight, the last three sliced off.
// CHECK-LABEL: func.func @pack5
func.func @pack5(%values: tensor<32xi8>) -> tensor<20xi8> {
  // CHECK: tile.pack %{{.*}} <"bits=4,order=planar,block=16"> : tensor<32xi8> -> tensor<16xi8>
  // CHECK: arith.shrui
  // CHECK: tile.pack %{{.*}} <"bits=1,order=planar,block=16"> : tensor<32xi8> -> tensor<4xi8>
  // CHECK-COUNT-7: tile.join
  // CHECK-NOT: tile.join
  // CHECK: tile.transpose %{{.*}} [0, 2, 1] : tensor<2x2x8xi8> -> tensor<2x8x2xi8>
  // CHECK: tile.slice %{{.*}} [0, 0] : tensor<2x16xi8> -> tensor<2x10xi8>
  // CHECK: tile.reshape %{{.*}} : tensor<2x10xi8> -> tensor<20xi8>
  %p = tile.pack %values <"bits=5,order=planar,block=16"> : tensor<32xi8> -> tensor<20xi8>
  return %p : tensor<20xi8>
}

// -----

// A block of several rows: a plane has all of them, and each becomes one of the tile.
// CHECK-LABEL: func.func @rows3
func.func @rows3(%view: !tile.view<?x?xi8>, %i: i64) -> tensor<8x128xi8> {
  // CHECK: %[[LOW:.*]] = tile.load %{{.*}} dims [0, 1] : {{.*}} -> tensor<2x128xi8>
  // CHECK: %[[LOW_ROWS:.*]] = tile.reshape %[[LOW]] : tensor<2x128xi8> -> tensor<8x32xi8>
  // CHECK: tile.unpack %[[LOW_ROWS]] <"bits=2,order=fragments,block=128"> : tensor<8x32xi8> -> tensor<8x128xi8>
  // CHECK: %[[HIGH:.*]] = tile.load %{{.*}} dims [0, 1] : {{.*}} -> tensor<2x64xi8>
  // CHECK: %[[HIGH_ROWS:.*]] = tile.reshape %[[HIGH]] : tensor<2x64xi8> -> tensor<8x16xi8>
  // CHECK: tile.unpack %[[HIGH_ROWS]] <"bits=1,order=fragments2,block=128"> : tensor<8x16xi8> -> tensor<8x128xi8>
  %bytes = tile.load %view[%i, %i] dims [0, 1] : !tile.view<?x?xi8> -> tensor<2x192xi8>
  %w = tile.unpack %bytes <"bits=3,order=fragments,block=128,rows=4"> : tensor<2x192xi8> -> tensor<8x128xi8>
  return %w : tensor<8x128xi8>
}

// Of one row they are all there is: nothing to do.
// CHECK-LABEL: func.func @row4
func.func @row4(%bytes: tensor<8x64xi8>) -> tensor<8x128xi8> {
  // CHECK-NEXT: tile.unpack %{{.*}} <"bits=4,order=fragments,block=128">
  %w = tile.unpack %bytes <"bits=4,order=fragments,block=128"> : tensor<8x64xi8> -> tensor<8x128xi8>
  return %w : tensor<8x128xi8>
}

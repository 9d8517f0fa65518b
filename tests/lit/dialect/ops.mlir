// Every op survives printing and parsing.
// RUN: bitloom-opt %s | bitloom-opt -mlir-print-local-scope | FileCheck %s

// CHECK-LABEL: func.func @grid
func.func @grid(%m: !tile.view<?x?xf32>, %s: !tile.view<?xi8, strided>) attributes {tile.kernel} {
  // CHECK: tile.program_id 2
  %p = tile.program_id 2
  // CHECK: tile.num_programs 1
  %n = tile.num_programs 1
  // CHECK: tile.extent %{{.*}}, 1 : <?x?xf32>
  %e = tile.extent %m, 1 : !tile.view<?x?xf32>
  // CHECK: tile.extent %{{.*}}, 0 : <?xi8, strided>
  %f = tile.extent %s, 0 : !tile.view<?xi8, strided>
  return
}

// CHECK-LABEL: func.func @views
func.func @views(%m: !tile.view<?x?xf32>, %v: !tile.view<?xf32>, %i: i64, %x: f32, %idx: tensor<17xi32>, %mask: tensor<17xi1>) {
  // CHECK: tile.load %{{.*}}[%{{.*}}, %{{.*}}] dims [0, 1] : <?x?xf32> -> tensor<3x17xf32>
  %a = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<3x17xf32>
  // CHECK: dims [1] else %{{.*}} : <?x?xf32> -> tensor<17xf32>
  %b = tile.load %m[%i, %i] dims [1] else %x : !tile.view<?x?xf32> -> tensor<17xf32>
  // CHECK: dims [] : <?x?xf32> -> f32
  %c = tile.load %m[%i, %i] dims [] : !tile.view<?x?xf32> -> f32
  // CHECK: tile.store %{{.*}}, %{{.*}}[%{{.*}}, %{{.*}}] dims [0, 1] : tensor<3x17xf32>, <?x?xf32>
  tile.store %a, %m[%i, %i] dims [0, 1] : tensor<3x17xf32>, !tile.view<?x?xf32>
  // CHECK: tile.store %{{.*}} dims [] : f32, <?xf32>
  tile.store %c, %v[%i] dims [] : f32, !tile.view<?xf32>
  // CHECK: tile.gather %{{.*}}[%{{.*}}] : <?xf32>, tensor<17xi32> -> tensor<17xf32>
  %g = tile.gather %v[%idx] : !tile.view<?xf32>, tensor<17xi32> -> tensor<17xf32>
  // CHECK: tile.gather %{{.*}}[%{{.*}}, %{{.*}}] mask %{{.*}} else %{{.*}} : <?x?xf32>, i64, tensor<17xi32> -> tensor<17xf32>
  %h = tile.gather %m[%i, %idx] mask %mask else %x : !tile.view<?x?xf32>, i64, tensor<17xi32> -> tensor<17xf32>
  // CHECK: tile.gather %{{.*}}[%{{.*}}] else %{{.*}} : <?xf32>, i64 -> f32
  %k = tile.gather %v[%i] else %x : !tile.view<?xf32>, i64 -> f32
  // CHECK: tile.scatter %{{.*}}, %{{.*}}[%{{.*}}] : tensor<17xf32>, <?xf32>, tensor<17xi32>
  tile.scatter %g, %v[%idx] : tensor<17xf32>, !tile.view<?xf32>, tensor<17xi32>
  // CHECK: tile.scatter %{{.*}}, %{{.*}}[%{{.*}}] mask %{{.*}} :
  tile.scatter %g, %v[%idx] mask %mask : tensor<17xf32>, !tile.view<?xf32>, tensor<17xi32>
  // CHECK: tile.atomic exchange %{{.*}}, %{{.*}}[%{{.*}}] mask %{{.*}} : tensor<17xf32>, <?xf32>, tensor<17xi32>
  %o = tile.atomic exchange %g, %v[%idx] mask %mask : tensor<17xf32>, !tile.view<?xf32>, tensor<17xi32>
  // CHECK: tile.atomic maxu %{{.*}} : i64, <?xi64>, i64
  %w = tile.extent %m, 0 : !tile.view<?x?xf32>
  %u = builtin.unrealized_conversion_cast %v : !tile.view<?xf32> to !tile.view<?xi64>
  %q = tile.atomic maxu %w, %u[%i] : i64, !tile.view<?xi64>, i64
  return
}

// CHECK-LABEL: func.func @shapes
func.func @shapes(%a: tensor<3x17xf32>, %v: tensor<17xf32>) {
  // CHECK: tile.iota : tensor<17xi8>
  %i = tile.iota : tensor<17xi8>
  // CHECK: tile.reshape %{{.*}} : tensor<17xf32> -> tensor<17x1xf32>
  %r = tile.reshape %v : tensor<17xf32> -> tensor<17x1xf32>
  // CHECK: tile.transpose %{{.*}} [1, 0] : tensor<3x17xf32> -> tensor<17x3xf32>
  %t = tile.transpose %a [1, 0] : tensor<3x17xf32> -> tensor<17x3xf32>
  // CHECK: tile.broadcast %{{.*}} : tensor<17x1xf32> -> tensor<17x3xf32>
  %b = tile.broadcast %r : tensor<17x1xf32> -> tensor<17x3xf32>
  // CHECK: tile.join %{{.*}}, %{{.*}} : tensor<17x3xf32> -> tensor<17x3x2xf32>
  %j = tile.join %t, %b : tensor<17x3xf32> -> tensor<17x3x2xf32>
  // CHECK: tile.split %{{.*}} : tensor<17x3x2xf32> -> tensor<17x3xf32>
  %k, %l = tile.split %j : tensor<17x3x2xf32> -> tensor<17x3xf32>
  // CHECK: tile.slice %{{.*}} [1, 10] : tensor<3x17xf32> -> tensor<2x7xf32>
  %s = tile.slice %a [1, 10] : tensor<3x17xf32> -> tensor<2x7xf32>
  return
}

// CHECK-LABEL: func.func @combine
func.func @combine(%a: tensor<3x17xf32>, %n: tensor<3x17xi32>, %v: tensor<17xf32>, %b: tensor<17x5xf32>, %acc: tensor<3x5xf32>) {
  // CHECK: tile.reduce %{{.*}}, %{{.*}} axis 1 : tensor<3x17xf32>, tensor<3x17xi32> -> tensor<3xf32>, tensor<3xi32> {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %{{.*}}: i32, %{{.*}}: f32, %{{.*}}: i32):
  %m:2 = tile.reduce %a, %n axis 1 : tensor<3x17xf32>, tensor<3x17xi32> -> tensor<3xf32>, tensor<3xi32> {
  ^bb0(%lv: f32, %li: i32, %rv: f32, %ri: i32):
    %first = arith.cmpf oge, %lv, %rv : f32
    %value = arith.select %first, %lv, %rv : f32
    %index = arith.select %first, %li, %ri : i32
    // CHECK: tile.yield %{{.*}}, %{{.*}} : f32, i32
    tile.yield %value, %index : f32, i32
  }
  // CHECK: tile.reduce %{{.*}} axis 0 : tensor<17xf32> -> f32
  %s = tile.reduce %v axis 0 : tensor<17xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %sum = arith.addf %l, %r : f32
    tile.yield %sum : f32
  }
  // CHECK: tile.scan %{{.*}} axis 1 reverse : tensor<3x17xf32> {
  %c = tile.scan %a axis 1 reverse : tensor<3x17xf32> {
  ^bb0(%l: f32, %r: f32):
    %sum = arith.addf %l, %r : f32
    tile.yield %sum : f32
  }
  // CHECK: tile.dot %{{.*}}, %{{.*}}, %{{.*}} : tensor<3x17xf32>, tensor<17x5xf32>, tensor<3x5xf32>
  %d = tile.dot %a, %b, %acc : tensor<3x17xf32>, tensor<17x5xf32>, tensor<3x5xf32>
  // CHECK: tile.dot %{{.*}} {precision = 1 : i32, unsignedA, unsignedB}
  %e = tile.dot %a, %b, %acc {precision = 1 : i32, unsignedA, unsignedB} : tensor<3x17xf32>, tensor<17x5xf32>, tensor<3x5xf32>
  return
}

// CHECK-LABEL: func.func @packed
func.func @packed(%bytes: tensor<3x7xi8>, %table: tensor<16xf16>) {
  // CHECK: tile.unpack %{{.*}} signed <"bits=7,order=high,block=8"> : tensor<3x7xi8> -> tensor<3x8xi8>
  %w = tile.unpack %bytes signed <"bits=7,order=high,block=8"> : tensor<3x7xi8> -> tensor<3x8xi8>
  // CHECK: tile.unpack %{{.*}} <"bits=7,order=low,block=8"> :
  %u = tile.unpack %bytes <"bits=7,order=low,block=8"> : tensor<3x7xi8> -> tensor<3x8xi8>
  // CHECK: tile.pack %{{.*}} <"bits=1,order=planar,block=8"> : tensor<3x8xi8> -> tensor<3x1xi8>
  %p = tile.pack %w <"bits=1,order=planar,block=8"> : tensor<3x8xi8> -> tensor<3x1xi8>
  // CHECK: tile.lut %{{.*}}, %{{.*}} : tensor<16xf16>, tensor<3x8xi8> -> tensor<3x8xf16>
  %l = tile.lut %table, %w : tensor<16xf16>, tensor<3x8xi8> -> tensor<3x8xf16>
  return
}

// CHECK-LABEL: func.func @people
func.func @people(%a: tensor<3x17xf32>, %n: i8, %mask: tensor<17xi1>) {
  // CHECK: tile.print "a", %{{.*}} : tensor<3x17xf32>
  tile.print "a", %a : tensor<3x17xf32>
  // CHECK: tile.print "n", %{{.*}} unsigned : i8
  tile.print "n", %n unsigned : i8
  // CHECK: tile.assert %{{.*}}, "index out of range" : tensor<17xi1>
  tile.assert %mask, "index out of range" : tensor<17xi1>
  return
}

#held = #tile.layout<"{register=[[1]], lane=[[2],[4],[8],[16],[32]]} -> [64]">

// CHECK-LABEL: func.func @layouts
func.func @layouts(%v: tensor<64xf32, #held>, %idx: tensor<64xi32, #held>, %mask: tensor<64xi1, #held>, %view: !tile.view<?xf32>) {
  // CHECK: tile.convert_layout
  %c = tile.convert_layout %v : tensor<64xf32, #held> -> tensor<64xf32, #tile.layout<"{register=[[32]], lane=[[1],[2],[4],[8],[16]]} -> [64]">>
  // CHECK: tile.gather %{{.*}}[%{{.*}}] mask %{{.*}} : <?xf32>, tensor<64xi32, #tile.layout<{{.*}}>> -> tensor<64xf32, #tile.layout<{{.*}}>>
  %g = tile.gather %view[%idx] mask %mask : !tile.view<?xf32>, tensor<64xi32, #held> -> tensor<64xf32, #held>
  return
}

// CHECK-LABEL: func.func @roles
func.func @roles(%m: !tile.view<?x?xf32>, %i: i64, %p: i1, %acc: tensor<3x3xf32>) {
  // CHECK: %[[RING:.*]] = tile.ring stages 2 : <tensor<3x5xf32>, tensor<5x3xf32>>
  %ring = tile.ring stages 2 : !tile.ring<tensor<3x5xf32>, tensor<5x3xf32>>
  // CHECK: tile.specialize producer {
  tile.specialize producer {
    // CHECK-NEXT: tile.fill %[[RING]] {
    tile.fill %ring {
      %0 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<3x5xf32>
      %1 = tile.load %m[%i, %i] dims [0, 1] : !tile.view<?x?xf32> -> tensor<5x3xf32>
      // CHECK: tile.yield %{{.*}}, %{{.*}} : tensor<3x5xf32>, tensor<5x3xf32>
      tile.yield %0, %1 : tensor<3x5xf32>, tensor<5x3xf32>
      // CHECK-NEXT: } : <tensor<3x5xf32>, tensor<5x3xf32>>
    } : !tile.ring<tensor<3x5xf32>, tensor<5x3xf32>>
    // CHECK-NEXT: tile.yield
    tile.yield
    // CHECK-NEXT: } consumer {
  } consumer {
    // CHECK-NEXT: %[[A:.*]]:2 = tile.front %[[RING]] : <tensor<3x5xf32>, tensor<5x3xf32>> -> tensor<3x5xf32>, tensor<5x3xf32>
    %a, %b = tile.front %ring : !tile.ring<tensor<3x5xf32>, tensor<5x3xf32>> -> tensor<3x5xf32>, tensor<5x3xf32>
    // CHECK-NEXT: tile.dot %[[A]]#0, %[[A]]#1, %{{.*}} {inFlight = 1 : i32}
    %d = tile.dot %a, %b, %acc {inFlight = 1 : i32} : tensor<3x5xf32>, tensor<5x3xf32>, tensor<3x3xf32>
    // CHECK-NEXT: tile.dot_wait %{{.*}} : tensor<3x3xf32>
    %w = tile.dot_wait %d : tensor<3x3xf32>
    // CHECK-NEXT: tile.cluster_rank
    %rank = tile.cluster_rank
    // CHECK-NEXT: tile.cluster_sum %{{.*}} : tensor<3x3xf32>
    %s = tile.cluster_sum %w : tensor<3x3xf32>
    // CHECK-NEXT: tile.pop %[[RING]] : <
    tile.pop %ring : !tile.ring<tensor<3x5xf32>, tensor<5x3xf32>>
    // CHECK-NEXT: tile.pop %[[RING]] if %{{.*}} : <
    tile.pop %ring if %p : !tile.ring<tensor<3x5xf32>, tensor<5x3xf32>>
    tile.yield
  }
  return
}

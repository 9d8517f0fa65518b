// RUN: bitloom-opt %s -split-input-file -tile-assign-layouts -canonicalize -cse -tile-specialize-warps -tile-pipeline-dots | FileCheck %s

// The first iteration's scores come before the loop, the last one's product after it; in between both dots are under
// way while the scores' groups take turns. Slots are freed by the wait for the dot that reads them. Without an
// iteration nothing happens.
// CHECK-LABEL: func.func @chained
func.func @chained(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %d: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  // CHECK: %[[ONCE:.*]] = tile.ring stages 2 : <tensor<128x64xbf16
  // CHECK: %[[B:.*]] = tile.ring stages
  // CHECK: %[[C:.*]] = tile.ring stages
  // CHECK: } consumer {
  // CHECK-DAG: %[[ZERO:.*]] = arith.constant dense<0.0{{.*}}> : tensor<128x64xf32
  // CHECK: %[[X:.*]] = tile.front %[[ONCE]]
  // CHECK: %[[RUNS:.*]] = arith.cmpi slt, %[[FROM:.*]], %[[TO:.*]] : i64
  // CHECK: scf.if %[[RUNS]]
  // CHECK-NEXT: tile.front %[[B]]
  // CHECK-NEXT: tile.transpose
  // CHECK-NEXT: %[[S0:.*]] = tile.dot %[[X]], %{{[^ ]*}}, %{{[^ ]*}} :
  // CHECK-NEXT: tile.pop %[[B]] :
  // CHECK: %[[NEXT:.*]] = arith.addi %[[FROM]], %{{.*}} : i64
  // CHECK-NEXT: %[[R:.*]]:2 = scf.for %{{.*}} = %[[NEXT]] to %[[TO]] {{.*}}iter_args(%[[SUM:.*]] = %{{.*}}, %[[P:.*]] = %{{.*}}) -> (tensor<128x64xf32, {{.*}}>, tensor<128x64xbf16
  // CHECK-NEXT: tile.front %[[B]]
  // CHECK-NEXT: %[[Y:.*]] = tile.transpose
  // CHECK-NEXT: %[[W:.*]] = tile.front %[[C]]
  // CHECK-NEXT: tile.await_group
  // CHECK-NEXT: %[[S:.*]] = tile.dot %[[X]], %[[Y]], %{{.*}} {inFlight = 1 : i32}
  // CHECK-NEXT: %[[M:.*]] = tile.dot %[[P]], %[[W]], %[[SUM]] {inFlight = 2 : i32}
  // CHECK-NEXT: tile.admit_group
  // CHECK-NEXT: %[[S1:.*]] = tile.dot_wait %[[S]] {inFlight = 1 : i32}
  // CHECK-NEXT: tile.pop %[[B]] :
  // CHECK-NEXT: %[[F:.*]] = arith.maximumf %[[S1]]
  // CHECK-NEXT: %[[M1:.*]] = tile.dot_wait %[[M]] reading %[[P]] :
  // CHECK-NEXT: tile.pop %[[C]] :
  // CHECK-DAG: %[[P1:.*]] = arith.truncf %[[F]]
  // CHECK-DAG: %[[G:.*]] = arith.mulf %[[M1]]
  // CHECK: scf.yield %[[G]], %[[P1]]
  // CHECK-NEXT: }
  // CHECK-NEXT: %[[W:.*]] = tile.front %[[C]]
  // CHECK-NEXT: %[[LAST:.*]] = tile.dot %[[R]]#1, %[[W]], %[[R]]#0 :
  // CHECK-NEXT: tile.pop %[[C]] :
  // CHECK-NEXT: scf.yield %[[LAST]]
  // CHECK-NEXT: } else {
  // CHECK-NEXT: scf.yield %[[ZERO]]
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.pop %[[ONCE]] :
  %s = arith.constant 64 : i64
  %zero = arith.constant 0 : i64
  %keys = tile.extent %b, 0 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<128x64xf32>
  %half = arith.constant dense<0.5> : tensor<128x64xf32>
  %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<128x64xbf16>
  %r = scf.for %at = %zero to %keys step %s iter_args(%sum = %none) -> tensor<128x64xf32> : i64 {
    %yt = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.transpose %yt [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
    %p = tile.dot %x, %y, %none : tensor<128x64xbf16>, tensor<64x64xbf16>, tensor<128x64xf32>
    %f = arith.maximumf %p, %none : tensor<128x64xf32>
    %n = arith.truncf %f : tensor<128x64xf32> to tensor<128x64xbf16>
    %w = tile.load %c[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %g = arith.mulf %sum, %half : tensor<128x64xf32>
    %m = tile.dot %n, %w, %g : tensor<128x64xbf16>, tensor<64x64xbf16>, tensor<128x64xf32>
    scf.yield %m : tensor<128x64xf32>
  }
  tile.store %r, %d[%zero, %zero] dims [0, 1] : tensor<128x64xf32>, !tile.view<?x?xf32>
  return
}

// -----

// What the loop computes besides, of few registers, comes before the wait for the second dot. A loop that looks at its
// sum stays as it is.
// CHECK-LABEL: func.func @totals
func.func @totals(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %d: !tile.view<?x?xf32> {tile.align = 16 : i32}, %e: !tile.view<?xf32>) attributes {tile.kernel} {
  // CHECK: consumer {
  // CHECK: scf.for
  // CHECK-NOT: tile.await_group
  // CHECK: tile.dot_wait %{{.*}} {inFlight = 1 : i32}
  // CHECK: %[[T:.*]] = tile.reduce
  // CHECK: tile.dot_wait %{{[^ ]*}} reading %{{[^ ]*}} after %[[T]] :
  // CHECK: scf.for
  // CHECK-NOT: inFlight
  // CHECK: tile.yield
  %s = arith.constant 64 : i64
  %zero = arith.constant 0 : i64
  %keys = tile.extent %b, 0 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<64x64xf32>
  %zeros = arith.constant dense<0.0> : tensor<64xf32>
  %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %r:2 = scf.for %at = %zero to %keys step %s iter_args(%sum = %none, %most = %zeros) -> (tensor<64x64xf32>, tensor<64xf32>) : i64 {
    %yt = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.transpose %yt [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
    %p = tile.dot %x, %y, %none : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    %t = tile.reduce %p axis 1 : tensor<64x64xf32> -> tensor<64xf32> {
    ^bb0(%l: f32, %h: f32):
      %q = arith.maximumf %l, %h : f32
      tile.yield %q : f32
    }
    %n = arith.truncf %p : tensor<64x64xf32> to tensor<64x64xbf16>
    %w = tile.load %c[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %m = tile.dot %n, %w, %sum : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    scf.yield %m, %t : tensor<64x64xf32>, tensor<64xf32>
  }
  %r2 = scf.for %at = %zero to %keys step %s iter_args(%sum = %r#0) -> tensor<64x64xf32> : i64 {
    %yt = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.transpose %yt [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
    %p = tile.dot %x, %y, %none : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    %n = arith.truncf %p : tensor<64x64xf32> to tensor<64x64xbf16>
    %w = tile.load %c[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %m = tile.dot %n, %w, %sum : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    %seen = arith.maximumf %m, %none : tensor<64x64xf32>
    scf.yield %seen : tensor<64x64xf32>
  }
  tile.store %r2, %d[%zero, %zero] dims [0, 1] : tensor<64x64xf32>, !tile.view<?x?xf32>
  tile.store %r#1, %e[%zero] dims [0] : tensor<64xf32>, !tile.view<?xf32>
  return
}

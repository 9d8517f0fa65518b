// RUN: bitloom-opt %s -split-input-file -tile-assign-layouts -canonicalize -cse -tile-specialize-warps | FileCheck %s

// The producer holds the loads and what their offsets and loops need; the consumer the rest, which is nothing of the
// loads. Its dot waits for the one before alone, so a slot is freed an iteration later, and the last one after the loop.
// CHECK-LABEL: func.func @accumulates
func.func @accumulates(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  // CHECK-NEXT: %[[RING:.*]] = tile.ring stages 8 : <tensor<64x64xbf16, {{.*}}>, tensor<64x32xbf16, {{.*}}>>
  // CHECK-NEXT: tile.specialize producer {
  // CHECK-NOT: arith.constant dense
  // CHECK: %[[K:.*]] = tile.extent %arg0, 1
  // CHECK-NEXT: scf.for %[[AT:.*]] = %{{.*}} to %[[K]] step %{{.*}} : i64 {
  // CHECK-NEXT: tile.fill %[[RING]] {
  // CHECK-NEXT: %[[X:.*]] = tile.load %arg0[%{{.*}}, %[[AT]]]
  // CHECK-NEXT: %[[Y:.*]] = tile.load %arg1[%[[AT]], %{{.*}}]
  // CHECK-NEXT: tile.yield %[[X]], %[[Y]]
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: tile.yield
  // CHECK-NEXT: } consumer {
  // CHECK-NOT: tile.load
  // CHECK: %[[SUM:.*]] = scf.for %[[AT:.*]] = %[[FIRST:.*]] to %[[K:.*]] step %{{.*}} iter_args(%[[ACC:.*]] =
  // CHECK-NEXT: %[[T:.*]]:2 = tile.front %[[RING]]
  // CHECK-NEXT: %[[DOT:.*]] = tile.dot %[[T]]#0, %[[T]]#1, %[[ACC]] {inFlight = 1 : i32}
  // CHECK-NEXT: %[[LATER:.*]] = arith.cmpi ne, %[[AT]], %[[FIRST]]
  // CHECK-NEXT: tile.pop %[[RING]] if %[[LATER]]
  // CHECK-NEXT: scf.yield %[[DOT]]
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: %[[DONE:.*]] = tile.dot_wait %[[SUM]]
  // CHECK-NEXT: %[[RAN:.*]] = arith.cmpi slt, %[[FIRST]], %[[K]]
  // CHECK-NEXT: tile.pop %[[RING]] if %[[RAN]]
  // CHECK-NEXT: tile.store %[[DONE]]
  // CHECK-NEXT: tile.yield
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: return
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

// As in attention: what is loaded once has a ring of its own, freed after the loop that reads it, with a second slot for
// the next program where shared memory has room. A dot whose sum is looked at in the loop waits for itself, and frees its
// slot at once.
// CHECK-LABEL: func.func @looksAtItsSums
func.func @looksAtItsSums(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel, tile.stages = 3 : i32} {
  // CHECK-DAG: %[[ONE:.*]] = tile.ring stages 2 : <tensor<128x64xbf16
  // CHECK-DAG: %[[RING:.*]] = tile.ring stages 3 : <tensor<64x64xbf16
  // CHECK: producer {
  // CHECK: tile.fill %[[ONE]]
  // CHECK: scf.for
  // CHECK: tile.fill %[[RING]]
  // CHECK: consumer {
  // CHECK: %[[X:.*]] = tile.front %[[ONE]]
  // CHECK: scf.for
  // CHECK-NEXT: %[[Y:.*]] = tile.front %[[RING]]
  // CHECK-NEXT: tile.dot %[[X]], %[[Y]], %{{[^ ]*}} :
  // CHECK-NEXT: tile.pop %[[RING]] :
  // CHECK-NEXT: arith.maximumf
  // CHECK-NEXT: scf.yield
  // CHECK-NEXT: {{^ *}}}
  // CHECK-NEXT: tile.pop %[[ONE]] :
  // CHECK-NOT: tile.dot_wait
  // CHECK: tile.store
  %s = arith.constant 64 : i64
  %zero = arith.constant 0 : i64
  %k = tile.extent %b, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<128x64xf32>
  %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<128x64xbf16>
  %most = scf.for %at = %zero to %k step %s iter_args(%old = %none) -> tensor<128x64xf32> : i64 {
    %y = tile.load %b[%zero, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %none : tensor<128x64xbf16>, tensor<64x64xbf16>, tensor<128x64xf32>
    %m = arith.maximumf %d, %old : tensor<128x64xf32>
    scf.yield %m : tensor<128x64xf32>
  }
  tile.store %most, %c[%zero, %zero] dims [0, 1] : tensor<128x64xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Loops of the same tiles share a ring, and an offset that memory holds is loaded by the producer alone.
// CHECK-LABEL: func.func @loops
func.func @loops(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %pages: !tile.view<?xi64>, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  // CHECK-NEXT: %[[RING:.*]] = tile.ring
  // CHECK-NEXT: tile.specialize producer {
  // CHECK: scf.for %[[AT:.*]] =
  // CHECK-NEXT: %[[PAGE:.*]] = tile.load %arg2[%[[AT]]] dims []
  // CHECK-NEXT: tile.fill %[[RING]] {
  // CHECK-NEXT: tile.load %arg0[%[[PAGE]], %{{.*}}]
  // CHECK: scf.for
  // CHECK-NEXT: tile.fill %[[RING]] {
  // CHECK: } consumer {
  // CHECK: scf.for
  // CHECK: tile.front %[[RING]]
  // CHECK: scf.for
  // CHECK: tile.front %[[RING]]
  %s = arith.constant 64 : i64
  %zero = arith.constant 0 : i64
  %k = tile.extent %pages, 0 : !tile.view<?xi64>
  %none = arith.constant dense<0.0> : tensor<64x64xf32>
  %first = scf.for %at = %zero to %k step %s iter_args(%acc = %none) -> tensor<64x64xf32> : i64 {
    %page = tile.load %pages[%at] dims [] : !tile.view<?xi64> -> i64
    %x = tile.load %a[%page, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %b[%page, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    scf.yield %d : tensor<64x64xf32>
  }
  %second = scf.for %at = %zero to %k step %s iter_args(%acc = %first) -> tensor<64x64xf32> : i64 {
    %x = tile.load %b[%zero, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %a[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    scf.yield %d : tensor<64x64xf32>
  }
  tile.store %second, %c[%zero, %zero] dims [0, 1] : tensor<64x64xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Shared by two blocks: each takes every second step, the first adds up and stores.
// CHECK-LABEL: func.func @splits
// CHECK-SAME: tile.cluster = 2 : i32
func.func @splits(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel, tile.split = 2 : i32} {
  // CHECK: consumer {
  // CHECK: %[[RANK:.*]] = tile.cluster_rank
  // CHECK: %[[AHEAD:.*]] = arith.muli %[[RANK]]
  // CHECK: %[[FIRST:.*]] = arith.addi %{{.*}}, %[[AHEAD]]
  // CHECK: scf.for %{{.*}} = %[[FIRST]] to
  // CHECK: %[[PART:.*]] = tile.dot_wait
  // CHECK: tile.pop
  // CHECK-NEXT: %[[SUM:.*]] = tile.cluster_sum %[[PART]]
  // CHECK: %[[ISFIRST:.*]] = arith.cmpi eq, %[[RANK]]
  // CHECK-NEXT: scf.if %[[ISFIRST]] {
  // CHECK-NEXT: tile.store %[[SUM]]
  %s = arith.constant 64 : i64
  %zero = arith.constant 0 : i64
  %k = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<64x64xf32>
  %sum = scf.for %at = %zero to %k step %s iter_args(%acc = %none) -> tensor<64x64xf32> : i64 {
    %x = tile.load %a[%zero, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %b[%at, %zero] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
    scf.yield %d : tensor<64x64xf32>
  }
  tile.store %sum, %c[%zero, %zero] dims [0, 1] : tensor<64x64xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Two blocks, whose programs are one above the other, load b's tile together. The last program may not exist.
// CHECK-LABEL: func.func @multicasts
// CHECK-SAME: tile.cluster = 2 : i32, tile.cluster_axis = 0 : i32
func.func @multicasts(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel, tile.multicast = 2 : i32} {
  // CHECK: tile.fill
  // CHECK-NEXT: tile.load %arg0[%{{.*}}] dims [0, 1] :
  // CHECK-NEXT: tile.load %arg1[%{{.*}}] dims [0, 1] {tile.in_parts}
  // CHECK: consumer {
  // CHECK: tile.dot_wait
  // CHECK: tile.pop
  // CHECK-NEXT: %[[ID:.*]] = tile.program_id 0
  // CHECK-NEXT: %[[COUNT:.*]] = tile.num_programs 0
  // CHECK-NEXT: %[[EXISTS:.*]] = arith.cmpi slt, %[[ID]], %[[COUNT]]
  // CHECK-NEXT: scf.if %[[EXISTS]] {
  // CHECK-NEXT: tile.store
  %i = tile.program_id 0
  %j = tile.program_id 1
  %s = arith.constant 64 : i64
  %wide = arith.constant 128 : i64
  %zero = arith.constant 0 : i64
  %row = arith.muli %i, %s : i64
  %column = arith.muli %j, %wide : i64
  %k = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<64x128xf32>
  %sum = scf.for %at = %zero to %k step %s iter_args(%acc = %none) -> tensor<64x128xf32> : i64 {
    %x = tile.load %a[%row, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.load %b[%at, %column] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x128xbf16>
    %d = tile.dot %x, %y, %acc : tensor<64x64xbf16>, tensor<64x128xbf16>, tensor<64x128xf32>
    scf.yield %d : tensor<64x128xf32>
  }
  tile.store %sum, %c[%row, %column] dims [0, 1] : tensor<64x128xf32>, !tile.view<?x?xf32>
  return
}

// -----

// Nothing for the tensor cores: nothing changes.
// CHECK-LABEL: func.func @elementwise
// CHECK-NOT: tile.specialize
// CHECK: return
func.func @elementwise(%a: !tile.view<?xf32> {tile.align = 16 : i32}, %i: i64) attributes {tile.kernel} {
  %x = tile.load %a[%i] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
  %y = arith.negf %x : tensor<64xf32>
  tile.store %y, %a[%i] dims [0] : tensor<64xf32>, !tile.view<?xf32>
  return
}

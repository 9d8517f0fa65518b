// RUN: bitloom-opt %s -tile-expand-floats | FileCheck %s
// RUN: bitloom-opt %s -tile-expand-floats=target=x86-64-v4+avx512bf16 | FileCheck %s --check-prefix=NATIVE

// NATIVE-LABEL: llvm.func @sum
// NATIVE: arith.addf {{.*}} : vector<8xf32>
// NATIVE-NEXT: arith.truncf {{.*}} : vector<8xf32> to vector<8xbf16>
// CHECK-LABEL: llvm.func @sum
// CHECK: %[[A:.*]] = arith.bitcast %{{.*}} : vector<8xi32> to vector<8xf32>
// CHECK: %[[B:.*]] = arith.bitcast %{{.*}} : vector<8xi32> to vector<8xf32>
// CHECK: %[[SUM:.*]] = arith.addf %[[A]], %[[B]] : vector<8xf32>
// CHECK: %[[NAN:.*]] = arith.cmpf uno, %[[SUM]], %[[SUM]]
// CHECK: arith.select %[[NAN]]
// CHECK: %[[Y:.*]] = arith.bitcast %{{.*}} : vector<8xi16> to vector<8xbf16>
// CHECK: llvm.return %[[Y]]
llvm.func @sum(%a: vector<8xbf16>, %b: vector<8xbf16>) -> vector<8xbf16> {
  %y = arith.addf %a, %b : vector<8xbf16>
  llvm.return %y : vector<8xbf16>
}

// What only moves values, and other types, stay.
// CHECK-LABEL: llvm.func @kept
// CHECK: arith.select %{{.*}} : vector<8xi1>, vector<8xbf16>
// CHECK: arith.mulf %{{.*}} : f16
llvm.func @kept(%c: vector<8xi1>, %a: vector<8xbf16>, %b: vector<8xbf16>, %p: !llvm.ptr, %h: f16) -> vector<8xbf16> {
  %y = arith.select %c, %a, %b : vector<8xi1>, vector<8xbf16>
  %square = arith.mulf %h, %h : f16
  llvm.store %square, %p : f16, !llvm.ptr
  llvm.return %y : vector<8xbf16>
}

// 8-bit floats are i8 in the end, whatever the processor has.
// CHECK-LABEL: llvm.func @float8
// CHECK-NOT: f8E
// CHECK: arith.trunci %{{.*}} : vector<8xi32> to vector<8xi8>
// CHECK: arith.select %{{.*}} : vector<8xi1>, vector<8xi8>
// CHECK-NOT: f8E
// CHECK: llvm.return %{{.*}} : vector<8xi8>
// NATIVE-LABEL: llvm.func @float8
// NATIVE-NOT: f8E
llvm.func @float8(%c: vector<8xi1>, %a: vector<8xf32>) -> vector<8xi8> {
  %half = arith.constant dense<0.5> : vector<8xf8E5M2>
  %x = arith.truncf %a : vector<8xf32> to vector<8xf8E5M2>
  %y = arith.select %c, %x, %half : vector<8xi1>, vector<8xf8E5M2>
  %bits = arith.bitcast %y : vector<8xf8E5M2> to vector<8xi8>
  llvm.return %bits : vector<8xi8>
}

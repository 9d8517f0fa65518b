// RUN: bitloom-opt %s -tile-erase-bfloat | FileCheck %s

// CHECK-LABEL: llvm.func @f
// CHECK-SAME: %[[P:.*]]: !llvm.ptr, %[[X:.*]]: vector<8xi16>) -> vector<8xi16>
// CHECK: llvm.mlir.constant(16256 : i16) : i16
// CHECK: llvm.mlir.constant(dense<16256> : vector<8xi16>) : vector<8xi16>
// CHECK: llvm.getelementptr %[[P]][3] : (!llvm.ptr) -> !llvm.ptr, i16
// CHECK-NOT: llvm.bitcast
// CHECK: llvm.return %[[X]] : vector<8xi16>
llvm.func @f(%p: !llvm.ptr, %x: vector<8xbf16>) -> vector<8xbf16> {
  %one = llvm.mlir.constant(1.0 : bf16) : bf16
  %ones = llvm.mlir.constant(dense<1.0> : vector<8xbf16>) : vector<8xbf16>
  %at = llvm.getelementptr %p[3] : (!llvm.ptr) -> !llvm.ptr, bf16
  llvm.store %one, %at : bf16, !llvm.ptr
  llvm.store %ones, %p : vector<8xbf16>, !llvm.ptr
  %bits = llvm.bitcast %x : vector<8xbf16> to vector<8xi16>
  %back = llvm.bitcast %bits : vector<8xi16> to vector<8xbf16>
  llvm.return %back : vector<8xbf16>
}

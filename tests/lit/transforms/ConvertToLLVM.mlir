// RUN: bitloom-opt %s -tile-to-llvm | FileCheck %s

// CHECK: llvm.func @exp(f64) -> f64
func.func private @exp(f64) -> f64

// CHECK-LABEL: llvm.func @f
// CHECK: llvm.sdiv
// CHECK: llvm.intr.fma
// CHECK: llvm.call @exp
// CHECK: llvm.cond_br
// CHECK-NOT: {{arith|math|cf|func|index|ub}}.
llvm.func @f(%i: i64, %j: i64, %x: f64, %c: i1, %p: !llvm.ptr) {
  %q = arith.floordivsi %i, %j : i64
  %y = math.fma %x, %x, %x : f64
  %z = func.call @exp(%y) : (f64) -> f64
  cf.cond_br %c, ^store(%q : i64), ^end
^store(%value: i64):
  llvm.store %value, %p : i64, !llvm.ptr
  llvm.store %z, %p : f64, !llvm.ptr
  cf.br ^end
^end:
  llvm.return
}

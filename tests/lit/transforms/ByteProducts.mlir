// Sums of products of bytes, by the instruction for bytes as they are.
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64+i8mm --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=ARM
// RUN: bitloom-opt %s --tile-to-loops=target=x86-64-v4+avx512vnni --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=X86
// RUN: bitloom-opt %s --tile-to-loops=target=aarch64 --canonicalize --cse --split-input-file | FileCheck %s --check-prefix=NONE

// ARM: llvm.call_intrinsic "llvm.aarch64.neon.sdot.v4i32.v16i8"
// Signed numbers are read as unsigned ones, and what that adds is subtracted.
// X86: arith.xori
// X86: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
// X86: arith.subi
// NONE-NOT: call_intrinsic "llvm.aarch64.neon
func.func @signed(%x: !tile.view<?xi8>, %y: !tile.view<?xi8>, %out: !tile.view<?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %b = tile.load %y[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %wa = arith.extsi %a : tensor<256xi8> to tensor<256xi32>
  %wb = arith.extsi %b : tensor<256xi8> to tensor<256xi32>
  %p = arith.muli %wa, %wb : tensor<256xi32>
  %s = tile.reduce %p axis 0 : tensor<256xi32> -> i32 {
  ^bb0(%l: i32, %r: i32):
    %v = arith.addi %l, %r : i32
    tile.yield %v : i32
  }
  tile.store %s, %out[%zero] dims [] : i32, !tile.view<?xi32>
  return
}

// -----

// ARM: llvm.call_intrinsic "llvm.aarch64.neon.udot.v4i32.v16i8"
// X86-LABEL: @unsigned
// X86-NOT: vpdpbusd
func.func @unsigned(%x: !tile.view<?xi8>, %y: !tile.view<?xi8>, %out: !tile.view<?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %b = tile.load %y[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %wa = arith.extui %a : tensor<256xi8> to tensor<256xi32>
  %wb = arith.extui %b : tensor<256xi8> to tensor<256xi32>
  %p = arith.muli %wa, %wb : tensor<256xi32>
  %s = tile.reduce %p axis 0 : tensor<256xi32> -> i32 {
  ^bb0(%l: i32, %r: i32):
    %v = arith.addi %l, %r : i32
    tile.yield %v : i32
  }
  tile.store %s, %out[%zero] dims [] : i32, !tile.view<?xi32>
  return
}

// -----

// ARM: llvm.call_intrinsic "llvm.aarch64.neon.usdot.v4i32.v16i8"
// X86: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
func.func @mixed(%x: !tile.view<?xi8>, %y: !tile.view<?xi8>, %out: !tile.view<?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %b = tile.load %y[%zero] dims [0] : !tile.view<?xi8> -> tensor<256xi8>
  %wa = arith.extui %a : tensor<256xi8> to tensor<256xi32>
  %wb = arith.extsi %b : tensor<256xi8> to tensor<256xi32>
  %p = arith.muli %wa, %wb : tensor<256xi32>
  %s = tile.reduce %p axis 0 : tensor<256xi32> -> i32 {
  ^bb0(%l: i32, %r: i32):
    %v = arith.addi %l, %r : i32
    tile.yield %v : i32
  }
  tile.store %s, %out[%zero] dims [] : i32, !tile.view<?xi32>
  return
}

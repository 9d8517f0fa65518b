// Kernels as text, in the form that tile-to-loops gives them, for tests of what comes after it.
#pragma once

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lowering/Executable.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

inline constexpr int64_t raggedSizes[] = {1, 3, 17, 199, 4097};

// out[i] = f(x[i]) over blocks of 16 elements: words are x, n, its stride, out, n, its stride.
inline std::string elementwise(const std::string &body, const std::string &type = "f32") {
  std::string vector = "vector<16x" + type + ">";
  return R"(
llvm.func @bitloom_rt_assert(!llvm.ptr)
llvm.mlir.global internal constant @message("map.cpp:7: negative\00")
llvm.func @map(%args: !llvm.ptr, %grid: !llvm.ptr, %begin: i64, %end: i64) attributes {tile.kernel} {
  %px = llvm.load %args : !llvm.ptr -> !llvm.ptr
  %np = llvm.getelementptr %args[1] : (!llvm.ptr) -> !llvm.ptr, i64
  %n = llvm.load %np : !llvm.ptr -> i64
  %po = llvm.getelementptr %args[3] : (!llvm.ptr) -> !llvm.ptr, i64
  %out = llvm.load %po : !llvm.ptr -> !llvm.ptr
  %c1 = arith.constant 1 : i64
  %c16 = arith.constant 16 : i64
  %lanes = arith.constant dense<[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]> : vector<16xi64>
  %zero = arith.constant dense<0.0> : )" +
         vector + R"(
  scf.for %id = %begin to %end step %c1 : i64 {
    %start = arith.muli %id, %c16 : i64
    %left = arith.subi %n, %start : i64
    %lefts = vector.broadcast %left : i64 to vector<16xi64>
    %mask = arith.cmpi slt, %lanes, %lefts : vector<16xi64>
    %from = llvm.getelementptr %px[%start] : (!llvm.ptr, i64) -> !llvm.ptr, )" +
         type + R"(
    %to = llvm.getelementptr %out[%start] : (!llvm.ptr, i64) -> !llvm.ptr, )" +
         type + R"(
    %x = llvm.intr.masked.load %from, %mask, %zero {alignment = 1 : i32} : (!llvm.ptr, vector<16xi1>, )" +
         vector + ") -> " + vector + "\n" + body + R"(
    llvm.intr.masked.store %y, %to, %mask {alignment = 1 : i32} : )" +
         vector + R"(, vector<16xi1> into !llvm.ptr
  }
  llvm.return
}
)";
}

inline testing::AssertionResult contains(std::string_view text, std::string_view piece) {
  if (text.find(piece) != text.npos)
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected '" << piece << "' in:\n" << text;
}

template <class T> std::vector<T> run(Executable &kernel, const std::vector<T> &x) {
  std::vector<T> out(x.size() + 1, T(-99.0f));
  LaunchArguments arguments;
  arguments.addView(TensorRef(const_cast<T *>(x.data()), dtypeOf<T>, {int64_t(x.size())}));
  arguments.addView(TensorRef(out.data(), dtypeOf<T>, {int64_t(x.size())}));
  kernel.launch(arguments.words(), {(int64_t(x.size()) + 15) / 16, 1, 1});
  EXPECT_EQ(float(out.back()), float(T(-99.0f))) << "wrote past the end";
  out.pop_back();
  return out;
}

inline std::shared_ptr<Executable> compiled(const std::string &text) {
  return Executable::load(compile(Program::parse(text), hostTarget()), hostTarget());
}

} // namespace bitloom

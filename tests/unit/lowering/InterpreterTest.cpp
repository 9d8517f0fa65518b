// Views, shapes, control flow and messages of the interpreter. Elementwise operations: InterpreterArithmeticTest.
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include <numeric>

namespace bitloom {
namespace {

constexpr int64_t raggedSizes[] = {1, 3, 17, 199};

template <class T> std::vector<T> counting(int64_t count) {
  std::vector<T> values(count);
  std::iota(values.begin(), values.end(), T(1));
  return values;
}

//===- Views ------------------------------------------------------------------------------------------------------===//

// Blocks of 16 × 32 over any matrix: what lies outside is not written, and reads as the else value.
TEST(Interpreter, CopiesRaggedMatrices) {
  for (int64_t rows : raggedSizes)
    for (int64_t columns : raggedSizes) {
      int64_t stride = columns + 5;
      std::vector<f32> x = counting<f32>(rows * stride), out(rows * columns + 1, -1);
      interpretText(R"(
func.func @copy(%x: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %p = tile.program_id 0
  %q = tile.program_id 1
  %c16 = arith.constant 16 : i64
  %c32 = arith.constant 32 : i64
  %i = arith.muli %p, %c16 : i64
  %j = arith.muli %q, %c32 : i64
  %a = tile.load %x[%i, %j] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x32xf32>
  %b = arith.addf %a, %a : tensor<16x32xf32>
  tile.store %b, %out[%i, %j] dims [0, 1] : tensor<16x32xf32>, !tile.view<?x?xf32>
  return
})",
                    {matrix(x, rows, columns, stride), matrix(out, rows, columns)},
                    {(rows + 15) / 16, (columns + 31) / 32, 1});
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          ASSERT_EQ(out[i * columns + j], 2 * x[i * stride + j]) << i << ", " << j;
      ASSERT_EQ(out.back(), -1);
    }
}

TEST(Interpreter, LoadsYieldElseOutOfBounds) {
  std::vector<f32> x = counting<f32>(6), tile(20, 0), row(5, 0), one(1, 0);
  std::string kernel = R"(
func.func @k(%x: !tile.view<?x?xf32>, %i: i64, %j: i64, %other: f32, %tile: !tile.view<?x?xf32>,
             %row: !tile.view<?xf32>, %one: !tile.view<?xf32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%i, %j] dims [0, 1] else %other : !tile.view<?x?xf32> -> tensor<4x5xf32>
  tile.store %a, %tile[%zero, %zero] dims [0, 1] : tensor<4x5xf32>, !tile.view<?x?xf32>
  %b = tile.load %x[%i, %j] dims [1] else %other : !tile.view<?x?xf32> -> tensor<5xf32>
  tile.store %b, %row[%zero] dims [0] : tensor<5xf32>, !tile.view<?xf32>
  %c = tile.load %x[%i, %j] dims [] else %other : !tile.view<?x?xf32> -> f32
  tile.store %c, %one[%zero] dims [] : f32, !tile.view<?xf32>
  return
})";
  constexpr int64_t far = int64_t{1} << 62;
  for (int64_t i : {int64_t{-3}, int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{2}, far, -far, INT64_MAX, INT64_MIN})
    for (int64_t j : {int64_t{-4}, int64_t{0}, int64_t{2}, int64_t{3}, far, INT64_MAX, INT64_MIN}) {
      interpretText(kernel, {matrix(x, 2, 3), i, j, -7.0f, matrix(tile, 4, 5), row, one});
      auto expected = [&](int64_t k, int64_t l) {
        __int128 r = __int128(i) + k, c = __int128(j) + l;
        return r >= 0 && r < 2 && c >= 0 && c < 3 ? x[int64_t(r * 3 + c)] : -7.0f;
      };
      for (int64_t k = 0; k < 4; ++k)
        for (int64_t l = 0; l < 5; ++l)
          ASSERT_EQ(tile[k * 5 + l], expected(k, l)) << i << " + " << k << ", " << j << " + " << l;
      for (int64_t l = 0; l < 5; ++l)
        ASSERT_EQ(row[l], expected(0, l));
      ASSERT_EQ(one[0], expected(0, 0));
    }
}

// Every type in memory, its values as lib reads them.
template <Element T> void throughMemory() {
  std::vector<T> x = some<T>(17);
  std::vector<T> out =
      mapped<T>("%r = tile.reshape %a : tensor<Nx" + irType<T>() + "> -> tensor<Nx" + irType<T>() + ">", x);
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(readAsDouble(dtypeOf<T>, &out[i]), readAsDouble(dtypeOf<T>, &x[i])) << nameOf(dtypeOf<T>);
}
TEST(Interpreter, ReadsAndWritesEveryType) {
  throughMemory<i8>();
  throughMemory<u8>();
  throughMemory<i16>();
  throughMemory<u16>();
  throughMemory<i32>();
  throughMemory<u32>();
  throughMemory<i64>();
  throughMemory<u64>();
  throughMemory<f16>();
  throughMemory<bf16>();
  throughMemory<f32>();
  throughMemory<f64>();
}

TEST(Interpreter, StridedViewsTransposeAndReverse) {
  std::vector<i16> x = counting<i16>(3 * 5), out(15);
  std::string kernel = R"(
func.func @k(%x: !tile.view<?x?xi16, strided>, %out: !tile.view<?x?xi16>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero, %zero] dims [0, 1] : !tile.view<?x?xi16, strided> -> tensor<5x3xi16>
  tile.store %a, %out[%zero, %zero] dims [0, 1] : tensor<5x3xi16>, !tile.view<?x?xi16>
  return
})";
  interpretText(kernel, {TensorRef(x.data(), DType::i16, {5, 3}, {1, 5}), matrix(out, 5, 3)});
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 3; ++j)
      EXPECT_EQ(out[i * 3 + j], x[j * 5 + i]);
  interpretText(kernel, {TensorRef(&x[14], DType::i16, {5, 3}, {-3, -1}), matrix(out, 5, 3)});
  for (int i = 0; i < 15; ++i)
    EXPECT_EQ(out[i], x[14 - i]);
}

TEST(Interpreter, LoadsSomeDimensionsOfAView) {
  std::vector<i32> x = counting<i32>(3 * 4 * 5), out(3 * 5);
  interpretText(R"(
func.func @k(%x: !tile.view<?x?x?xi32>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %two = arith.constant 2 : i64
  %a = tile.load %x[%zero, %two, %zero] dims [0, 2] : !tile.view<?x?x?xi32> -> tensor<3x5xi32>
  tile.store %a, %out[%zero, %zero] dims [0, 1] : tensor<3x5xi32>, !tile.view<?x?xi32>
  return
})",
                {TensorRef(x.data(), DType::i32, {3, 4, 5}), matrix(out, 3, 5)});
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 5; ++j)
      EXPECT_EQ(out[i * 5 + j], x[i * 20 + 2 * 5 + j]);
}

TEST(Interpreter, GathersAndScatters) {
  std::vector<f32> x = counting<f32>(3 * 4), gathered(6), scattered(12, 0), one(1);
  std::vector<i8> rows = {0, 2, -1, 1, 3, 2}, mask = {1, 1, 1, 0, 1, 1};
  interpretText(R"(
func.func @k(%x: !tile.view<?x?xf32>, %rows: !tile.view<?xi8>, %mask: !tile.view<?xi8>, %column: i64,
             %gathered: !tile.view<?xf32>, %scattered: !tile.view<?x?xf32>, %one: !tile.view<?xf32>)
             attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %other = arith.constant -1.0 : f32
  %r = tile.load %rows[%zero] dims [0] : !tile.view<?xi8> -> tensor<6xi8>
  %m = tile.load %mask[%zero] dims [0] : !tile.view<?xi8> -> tensor<6xi8>
  %b = arith.trunci %m : tensor<6xi8> to tensor<6xi1>
  %g = tile.gather %x[%r, %column] mask %b else %other : !tile.view<?x?xf32>, tensor<6xi8>, i64 -> tensor<6xf32>
  tile.store %g, %gathered[%zero] dims [0] : tensor<6xf32>, !tile.view<?xf32>
  tile.scatter %g, %scattered[%r, %column] mask %b : tensor<6xf32>, !tile.view<?x?xf32>, tensor<6xi8>, i64
  %s = tile.gather %x[%column, %column] : !tile.view<?x?xf32>, i64, i64 -> f32
  tile.store %s, %one[%zero] dims [] : f32, !tile.view<?xf32>
  return
})",
                {matrix(x, 3, 4), rows, mask, i64(1), gathered, matrix(scattered, 3, 4), one});
  EXPECT_EQ(gathered, (std::vector<f32>{2, 10, -1, -1, -1, 10}));
  EXPECT_EQ(scattered, (std::vector<f32>{0, 2, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0}));
  EXPECT_EQ(one[0], 6);
}

// Adds, combines or exchanges at indices 0, 1, 0 and 2 of a view of two elements: the last is out of bounds.
template <Element T> struct AtomicResult {
  std::vector<T> memory, old;
};
template <Element T> AtomicResult<T> atomically(const std::string &kind, T start, T by) {
  AtomicResult<T> result{{start, start}, std::vector<T>(4, T(-5))};
  std::vector<i32> indices = {0, 1, 0, 2};
  std::string text = R"(
func.func @k(%memory: !tile.view<?xTYPE>, %indices: !tile.view<?xi32>, %by: TYPE, %old: !tile.view<?xTYPE>)
             attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %i = tile.load %indices[%zero] dims [0] : !tile.view<?xi32> -> tensor<4xi32>
  %v = tensor.splat %by : tensor<4xTYPE>
  %o = tile.atomic KIND %v, %memory[%i] : tensor<4xTYPE>, !tile.view<?xTYPE>, tensor<4xi32>
  tile.store %o, %old[%zero] dims [0] : tensor<4xTYPE>, !tile.view<?xTYPE>
  return
})";
  interpretText(replaced(replaced(text, "KIND", kind), "TYPE", irType<T>()), {result.memory, indices, by, result.old});
  return result;
}

TEST(Interpreter, Atomics) {
  auto ints = [](const std::string &kind, i32 start, i32 by) {
    AtomicResult<i32> result = atomically(kind, start, by);
    EXPECT_EQ(result.old[0], start) << kind;
    EXPECT_EQ(result.old[1], start) << kind;
    EXPECT_EQ(result.old[2], result.memory[1]) << kind << ": the second at index 0 sees the first";
    EXPECT_EQ(result.old[3], 0) << kind << ": out of bounds";
    return result.memory;
  };
  using V = std::vector<i32>;
  EXPECT_EQ(ints("add", 5, -7), (V{-9, -2}));
  EXPECT_EQ(ints("max", 5, -7), (V{5, 5}));
  EXPECT_EQ(ints("min", 5, -7), (V{-7, -7}));
  EXPECT_EQ(ints("maxu", 5, -7), (V{-7, -7}));
  EXPECT_EQ(ints("minu", 5, -7), (V{5, 5}));
  EXPECT_EQ(ints("and", 0b1100, 0b1010), (V{0b1000, 0b1000}));
  EXPECT_EQ(ints("or", 0b1100, 0b1010), (V{0b1110, 0b1110}));
  EXPECT_EQ(ints("xor", 0b1100, 0b1010), (V{0b1100, 0b0110}));
  EXPECT_EQ(ints("exchange", 5, -7), (V{-7, -7}));
  // Each addition rounds to f16, where 2048 + 1 is a tie.
  AtomicResult<f16> halves = atomically("add", f16(2048), f16(1));
  EXPECT_EQ(float(halves.memory[0]), 2048);
  EXPECT_EQ(atomically("min", 1.5f, -2.0f).memory, (std::vector<f32>{-2, -2}));
}

TEST(Interpreter, AtomicsOfManyProgramsAddUp) {
  std::vector<i64> total(1);
  interpretText(R"(
func.func @k(%total: !tile.view<?xi64>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %p = tile.program_id 0
  %o = tile.atomic add %p, %total[%zero] : i64, !tile.view<?xi64>, i64
  return
})",
                {total}, {4097, 1, 1});
  EXPECT_EQ(total[0], 4097 * 4096 / 2);
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

TEST(Interpreter, Shapes) {
  std::vector<i32> x = counting<i32>(3 * 5), transposed(15), sliced(4), pairs(30), odd(15), repeated(10), lanes(5);
  interpretText(
      R"(
func.func @k(%x: !tile.view<?x?xi32>, %transposed: !tile.view<?x?xi32>, %sliced: !tile.view<?x?xi32>,
             %pairs: !tile.view<?xi32>, %odd: !tile.view<?xi32>, %repeated: !tile.view<?x?xi32>,
             %lanes: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z, %z] dims [0, 1] : !tile.view<?x?xi32> -> tensor<3x5xi32>
  %t = tile.transpose %a [1, 0] : tensor<3x5xi32> -> tensor<5x3xi32>
  tile.store %t, %transposed[%z, %z] dims [0, 1] : tensor<5x3xi32>, !tile.view<?x?xi32>
  %s = tile.slice %a [1, 2] : tensor<3x5xi32> -> tensor<2x2xi32>
  tile.store %s, %sliced[%z, %z] dims [0, 1] : tensor<2x2xi32>, !tile.view<?x?xi32>
  %n = arith.constant dense<-1> : tensor<3x5xi32>
  %j = tile.join %a, %n : tensor<3x5xi32> -> tensor<3x5x2xi32>
  %f = tile.reshape %j : tensor<3x5x2xi32> -> tensor<30xi32>
  tile.store %f, %pairs[%z] dims [0] : tensor<30xi32>, !tile.view<?xi32>
  %l, %r = tile.split %j : tensor<3x5x2xi32> -> tensor<3x5xi32>
  %sum = arith.subi %l, %r : tensor<3x5xi32>
  %g = tile.reshape %sum : tensor<3x5xi32> -> tensor<15xi32>
  tile.store %g, %odd[%z] dims [0] : tensor<15xi32>, !tile.view<?xi32>
  %i = tile.iota : tensor<5xi32>
  tile.store %i, %lanes[%z] dims [0] : tensor<5xi32>, !tile.view<?xi32>
  %row = tile.reshape %i : tensor<5xi32> -> tensor<1x5xi32>
  %b = tile.broadcast %row : tensor<1x5xi32> -> tensor<2x5xi32>
  tile.store %b, %repeated[%z, %z] dims [0, 1] : tensor<2x5xi32>, !tile.view<?x?xi32>
  return
})",
      {matrix(x, 3, 5), matrix(transposed, 5, 3), matrix(sliced, 2, 2), pairs, odd, matrix(repeated, 2, 5), lanes});
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 5; ++j) {
      EXPECT_EQ(transposed[j * 3 + i], x[i * 5 + j]);
      EXPECT_EQ(pairs[2 * (i * 5 + j)], x[i * 5 + j]);
      EXPECT_EQ(pairs[2 * (i * 5 + j) + 1], -1);
      EXPECT_EQ(odd[i * 5 + j], x[i * 5 + j] + 1);
    }
  EXPECT_EQ(sliced, (std::vector<i32>{8, 9, 13, 14}));
  EXPECT_EQ(lanes, (std::vector<i32>{0, 1, 2, 3, 4}));
  EXPECT_EQ(repeated, (std::vector<i32>{0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
}

TEST(Interpreter, TransposesThreeDimensions) {
  std::vector<i32> x = counting<i32>(2 * 3 * 4), out(24);
  interpretText(R"(
func.func @k(%x: !tile.view<?xi32>, %out: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xi32> -> tensor<24xi32>
  %b = tile.reshape %a : tensor<24xi32> -> tensor<2x3x4xi32>
  %t = tile.transpose %b [2, 0, 1] : tensor<2x3x4xi32> -> tensor<4x2x3xi32>
  %c = tile.reshape %t : tensor<4x2x3xi32> -> tensor<24xi32>
  tile.store %c, %out[%z] dims [0] : tensor<24xi32>, !tile.view<?xi32>
  return
})",
                {x, out});
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k)
        EXPECT_EQ(out[(k * 2 + i) * 3 + j], x[(i * 3 + j) * 4 + k]);
}

TEST(Interpreter, GridAndExtents) {
  std::vector<i64> out(2 * 3 * 2 * 4, -1);
  interpretText(R"(
func.func @k(%out: !tile.view<?x?xi64>) attributes {tile.kernel} {
  %x = tile.program_id 0
  %y = tile.program_id 1
  %z = tile.program_id 2
  %nx = tile.num_programs 0
  %ny = tile.num_programs 1
  %rows = tile.extent %out, 0 : !tile.view<?x?xi64>
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 1 : i64
  %c2 = arith.constant 2 : i64
  %c3 = arith.constant 3 : i64
  %zy = arith.muli %z, %ny : i64
  %zy1 = arith.addi %zy, %y : i64
  %zyx = arith.muli %zy1, %nx : i64
  %id = arith.addi %zyx, %x : i64
  tile.store %x, %out[%id, %c0] dims [] : i64, !tile.view<?x?xi64>
  tile.store %y, %out[%id, %c1] dims [] : i64, !tile.view<?x?xi64>
  tile.store %z, %out[%id, %c2] dims [] : i64, !tile.view<?x?xi64>
  tile.store %rows, %out[%id, %c3] dims [] : i64, !tile.view<?x?xi64>
  return
})",
                {matrix(out, 12, 4)}, {2, 3, 2});
  for (int64_t id = 0; id < 12; ++id) {
    EXPECT_EQ(out[id * 4], id % 2);
    EXPECT_EQ(out[id * 4 + 1], id / 2 % 3);
    EXPECT_EQ(out[id * 4 + 2], id / 6);
    EXPECT_EQ(out[id * 4 + 3], 12);
  }
}

// Cells are used again after a value's last use, but those of constants are filled once for all programs.
TEST(Interpreter, ConstantsOutliveAProgram) {
  std::vector<i32> out(5 * 4);
  interpretText(R"(
func.func @k(%out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %p = tile.program_id 0
  %i = tile.iota : tensor<4xi32>
  %c = arith.constant dense<[10, 20, 30, 40]> : tensor<4xi32>
  %a = arith.addi %i, %c : tensor<4xi32>
  %b = arith.muli %a, %a : tensor<4xi32>
  %d = arith.subi %b, %a : tensor<4xi32>
  %e = arith.addi %d, %d : tensor<4xi32>
  tile.store %e, %out[%p, %z] dims [1] : tensor<4xi32>, !tile.view<?x?xi32>
  return
})",
                {matrix(out, 5, 4)}, {5, 1, 1});
  for (int p = 0; p < 5; ++p)
    for (int i = 0; i < 4; ++i) {
      i32 a = i + 10 * (i + 1);
      EXPECT_EQ(out[p * 4 + i], 2 * (a * a - a));
    }
}

//===- Control flow -----------------------------------------------------------------------------------------------===//

// Fibonacci numbers: each carried value becomes another.
TEST(Interpreter, LoopsCarryValuesAllAtOnce) {
  std::vector<i32> out(3);
  interpretText(R"(
func.func @k(%n: i64, %out: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %a = arith.constant dense<[0, 2, 1]> : tensor<3xi32>
  %b = arith.constant dense<[1, 1, 3]> : tensor<3xi32>
  %r:2 = scf.for %i = %z to %n step %one iter_args(%x = %a, %y = %b) -> (tensor<3xi32>, tensor<3xi32>) : i64 {
    %s = arith.addi %x, %y : tensor<3xi32>
    scf.yield %y, %s : tensor<3xi32>, tensor<3xi32>
  }
  tile.store %r#0, %out[%z] dims [0] : tensor<3xi32>, !tile.view<?xi32>
  return
})",
                {i64(10), out});
  std::vector<i32> expected = {0, 2, 1}, next = {1, 1, 3};
  for (int i = 0; i < 10; ++i)
    for (int k = 0; k < 3; ++k)
      expected[k] = std::exchange(next[k], expected[k] + next[k]);
  EXPECT_EQ(out, expected);
}

TEST(Interpreter, NestedLoopsOverTiles) {
  for (int64_t n : raggedSizes) {
    std::vector<f32> x = some<f32>(n * n), out(1);
    interpretText(R"(
func.func @k(%x: !tile.view<?x?xf32>, %out: !tile.view<?xf32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %c16 = arith.constant 16 : i64
  %rows = tile.extent %x, 0 : !tile.view<?x?xf32>
  %zero = arith.constant dense<0.0> : tensor<16x16xf64>
  %acc = scf.for %i = %z to %rows step %c16 iter_args(%outer = %zero) -> (tensor<16x16xf64>) : i64 {
    %inner = scf.for %j = %z to %rows step %c16 iter_args(%sum = %outer) -> (tensor<16x16xf64>) : i64 {
      %t = tile.load %x[%i, %j] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x16xf32>
      %w = arith.extf %t : tensor<16x16xf32> to tensor<16x16xf64>
      %more = arith.addf %sum, %w : tensor<16x16xf64>
      scf.yield %more : tensor<16x16xf64>
    }
    scf.yield %inner : tensor<16x16xf64>
  }
  %flat = tile.reshape %acc : tensor<16x16xf64> -> tensor<256xf64>
  %total = tile.reduce %flat axis 0 : tensor<256xf64> -> f64 {
  ^bb0(%l: f64, %r: f64):
    %s = arith.addf %l, %r : f64
    tile.yield %s : f64
  }
  %short = arith.truncf %total : f64 to f32
  tile.store %short, %out[%z] dims [] : f32, !tile.view<?xf32>
  return
})",
                  {matrix(x, n, n), out});
    EXPECT_NEAR(out[0], std::accumulate(x.begin(), x.end(), 0.0), 1e-4) << n;
  }
}

// Collatz: the steps until 1, with a while and an if.
TEST(Interpreter, WhileAndIf) {
  auto steps = [](i64 n) {
    std::vector<i64> out(1);
    interpretText(R"(
func.func @k(%n: i64, %out: !tile.view<?xi64>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %two = arith.constant 2 : i64
  %three = arith.constant 3 : i64
  %r:2 = scf.while (%x = %n, %count = %z) : (i64, i64) -> (i64, i64) {
    %more = arith.cmpi ne, %x, %one : i64
    scf.condition(%more) %count, %x : i64, i64
  } do {
  ^bb0(%count: i64, %x: i64):
    %next = arith.addi %count, %one : i64
    %bit = arith.andi %x, %one : i64
    %odd = arith.cmpi eq, %bit, %one : i64
    %y = scf.if %odd -> (i64) {
      %a = arith.muli %x, %three : i64
      %b = arith.addi %a, %one : i64
      scf.yield %b : i64
    } else {
      %h = arith.divsi %x, %two : i64
      scf.yield %h : i64
    }
    scf.yield %y, %next : i64, i64
  }
  tile.store %r#0, %out[%z] dims [] : i64, !tile.view<?xi64>
  return
})",
                  {n, out});
    return out[0];
  };
  EXPECT_EQ(steps(1), 0);
  EXPECT_EQ(steps(6), 8);
  EXPECT_EQ(steps(27), 111);
}

TEST(Interpreter, LoopsThatDoNotRunKeepTheirInitialValues) {
  std::vector<i64> out(2, -1);
  interpretText(R"(
func.func @k(%from: i64, %to: i64, %out: !tile.view<?xi64>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %r = scf.for %i = %from to %to step %one iter_args(%x = %from) -> (i64) : i64 {
    scf.yield %i : i64
  }
  tile.store %r, %out[%z] dims [] : i64, !tile.view<?xi64>
  %never = arith.cmpi sgt, %from, %r : i64
  scf.if %never {
    tile.store %r, %out[%one] dims [] : i64, !tile.view<?xi64>
  }
  return
})",
                {i64(5), i64(-3), out});
  EXPECT_EQ(out, (std::vector<i64>{5, -1}));
}

//===- Messages ---------------------------------------------------------------------------------------------------===//

constexpr const char *asserting = R"(
func.func @k(%x: !tile.view<?xi32>, %limit: i32) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xi32> -> tensor<3xi32>
  %l = tensor.splat %limit : tensor<3xi32>
  %c = arith.cmpi slt, %a, %l : tensor<3xi32>
  tile.assert %c, "index out of range" : tensor<3xi1> loc("user.cpp":42:7)
  tile.store %l, %x[%z] dims [0] : tensor<3xi32>, !tile.view<?xi32>
  return
})";

TEST(Interpreter, AssertionsNameTheUsersLine) {
  std::vector<i32> x = {1, 2, 3};
  EXPECT_EQ(errorOf([&] { interpretText(asserting, {x, i32(3)}); }), "user.cpp:42: error: index out of range");
  EXPECT_EQ(x[0], 1) << "the program went on";
  EXPECT_EQ(errorOf([&] { interpretText(asserting, {x, i32(4)}); }), "no error");
}

TEST(Interpreter, PrintsInTheOrderOfTheGrid) {
  std::vector<f16> x = {f16(0.1f), f16(-2.0f), f16(65504.0f), f16(INFINITY)};
  testing::internal::CaptureStdout();
  interpretText(R"(
func.func @k(%x: !tile.view<?xf16>, %n: i8) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xf16> -> tensor<4xf16>
  %b = tile.reshape %a : tensor<4xf16> -> tensor<2x2xf16>
  tile.print "b", %b : tensor<2x2xf16>
  tile.print "n", %n : i8
  tile.print "u", %n unsigned : i8
  return
})",
                {x, i8(-1)}, {1, 2, 1});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "(0, 0, 0) b = [[0.099975586, -2], [65504, inf]]\n"
                                                    "(0, 0, 0) n = -1\n"
                                                    "(0, 0, 0) u = 255\n"
                                                    "(0, 1, 0) b = [[0.099975586, -2], [65504, inf]]\n"
                                                    "(0, 1, 0) n = -1\n"
                                                    "(0, 1, 0) u = 255\n");
}

TEST(Interpreter, RejectsWhatIsNoTileIR) {
  auto error = [](const std::string &text, std::initializer_list<Argument> arguments = {}) {
    return errorOf([&] { interpretText(text, arguments); });
  };
  EXPECT_EQ(error("func.func @k(%m: i32) attributes {tile.kernel} {\n"
                  "  %v = vector.broadcast %m : i32 to vector<4xi32>\n  return\n}",
                  {i32(1)}),
            "kernel.mlir:2: error: expected an operation of tile IR, got vector.broadcast");
  EXPECT_EQ(error("func.func @k() {\n  return\n}"), "expected a function with the attribute tile.kernel, got none");
  EXPECT_EQ(error("func.func @k(%x: !tile.view<?xi32>) attributes {tile.kernel} {\n  return\n}"),
            "expected 3 words of kernel arguments, got 0");
  EXPECT_EQ(error("func.func @k(%x: !tile.view<?xi1>) attributes {tile.kernel} {\n  %z = arith.constant 0 : i64\n"
                  "  %a = tile.load %x[%z] dims [] : !tile.view<?xi1> -> i1\n  return\n}"),
            "kernel.mlir:3: error: expected elements of 8, 16, 32 or 64 bits in memory, got i1");
  EXPECT_EQ(errorOf([] { interpretText("func.func @k() attributes {tile.kernel} {\n  return\n}", {}, {1, -1, 1}); }),
            "expected a grid with extents of 0 or more, got -1");
}

} // namespace
} // namespace bitloom

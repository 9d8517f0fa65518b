// Reductions, scans, matrix products and packed values of the interpreter.
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include "bitloom/lib/packing/Packing.h"

#include <cmath>
#include <numeric>

namespace bitloom {
namespace {

constexpr int64_t raggedSizes[] = {1, 3, 17, 199};

const std::string sumRegion = R"( {
  ^bb0(%l: TYPE, %r: TYPE):
    %s = arith.addf %l, %r : TYPE
    tile.yield %s : TYPE
  })";

std::string spelled(std::string text, int64_t rows, int64_t columns, const std::string &type = "f32") {
  text = replaced(text, "ROWSxCOLS", std::to_string(rows) + "x" + std::to_string(columns));
  text = replaced(replaced(text, "<ROWS", "<" + std::to_string(rows)), "<COLS", "<" + std::to_string(columns));
  return replaced(text, "TYPE", type);
}

// Along each axis of any matrix: the sum in f64, rounded once.
TEST(InterpreterCombining, SumsAlongEachAxis) {
  for (int64_t rows : raggedSizes)
    for (int64_t columns : raggedSizes) {
      std::vector<f16> x = some<f16>(rows * columns), down(columns), across(rows);
      interpretText(spelled(R"(
func.func @k(%x: !tile.view<?x?xTYPE>, %down: !tile.view<?xTYPE>, %across: !tile.view<?xTYPE>)
             attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z, %z] dims [0, 1] : !tile.view<?x?xTYPE> -> tensor<ROWSxCOLSxTYPE>
  %d = tile.reduce %a axis 0 : tensor<ROWSxCOLSxTYPE> -> tensor<COLSxTYPE> )" +
                                sumRegion + R"(
  tile.store %d, %down[%z] dims [0] : tensor<COLSxTYPE>, !tile.view<?xTYPE>
  %c = tile.reduce %a axis 1 : tensor<ROWSxCOLSxTYPE> -> tensor<ROWSxTYPE> )" +
                                sumRegion + R"(
  tile.store %c, %across[%z] dims [0] : tensor<ROWSxTYPE>, !tile.view<?xTYPE>
  return
})",
                            rows, columns, "f16"),
                    {matrix(x, rows, columns), down, across});
      // Sums of f16 are exact in f64 here, whatever their order.
      for (int64_t j = 0; j < columns; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < rows; ++i)
          sum += float(x[i * columns + j]);
        ASSERT_EQ(float(down[j]), float(f16(float(sum)))) << rows << " x " << columns;
      }
      for (int64_t i = 0; i < rows; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < columns; ++j)
          sum += float(x[i * columns + j]);
        ASSERT_EQ(float(across[i]), float(f16(float(sum)))) << rows << " x " << columns;
      }
    }
}

// The middle axis of three, with more lanes than run at once.
TEST(InterpreterCombining, ReducesTheMiddleAxis) {
  constexpr int64_t outer = 3, extent = 17, inner = 1031;
  std::vector<i32> x(outer * extent * inner), out(outer * inner);
  std::iota(x.begin(), x.end(), -7);
  interpretText(R"(
func.func @k(%x: !tile.view<?x?x?xi32>, %out: !tile.view<?x?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z, %z, %z] dims [0, 1, 2] : !tile.view<?x?x?xi32> -> tensor<3x17x1031xi32>
  %s = tile.reduce %a axis 1 : tensor<3x17x1031xi32> -> tensor<3x1031xi32> {
  ^bb0(%l: i32, %r: i32):
    %sum = arith.addi %l, %r : i32
    tile.yield %sum : i32
  }
  tile.store %s, %out[%z, %z] dims [0, 1] : tensor<3x1031xi32>, !tile.view<?x?xi32>
  return
})",
                {TensorRef(x.data(), DType::i32, {outer, extent, inner}), matrix(out, outer, inner)});
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i) {
      i32 sum = 0;
      for (int64_t k = 0; k < extent; ++k)
        sum += x[(o * extent + k) * inner + i];
      ASSERT_EQ(out[o * inner + i], sum);
    }
}

// The first of the largest: the order of the combination's arguments matters.
TEST(InterpreterCombining, ArgMaxTakesTheFirst) {
  for (int64_t n : raggedSizes) {
    std::vector<f32> x(n), value(1);
    for (int64_t i = 0; i < n; ++i)
      x[i] = f32(i * 7 % 5);
    std::vector<i32> index(1);
    interpretText(spelled(R"(
func.func @k(%x: !tile.view<?xf32>, %value: !tile.view<?xf32>, %index: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xf32> -> tensor<COLSxf32>
  %i = tile.iota : tensor<COLSxi32>
  %m:2 = tile.reduce %a, %i axis 0 : tensor<COLSxf32>, tensor<COLSxi32> -> f32, i32 {
  ^bb0(%lv: f32, %li: i32, %rv: f32, %ri: i32):
    %first = arith.cmpf oge, %lv, %rv : f32
    %v = arith.select %first, %lv, %rv : f32
    %k = arith.select %first, %li, %ri : i32
    tile.yield %v, %k : f32, i32
  }
  tile.store %m#0, %value[%z] dims [] : f32, !tile.view<?xf32>
  tile.store %m#1, %index[%z] dims [] : i32, !tile.view<?xi32>
  return
})",
                          1, n),
                  {x, value, index});
    auto largest = std::max_element(x.begin(), x.end());
    EXPECT_EQ(value[0], *largest) << n;
    EXPECT_EQ(index[0], largest - x.begin()) << n;
  }
}

// Mean and variance in one pass (Chan et al.): a tuple of three, and a constant from outside the region.
TEST(InterpreterCombining, Welford) {
  for (int64_t n : raggedSizes) {
    std::vector<f32> x = some<f32>(n), mean(1), squares(1);
    for (f32 &value : x)
      value += 1000;
    interpretText(spelled(R"(
func.func @k(%x: !tile.view<?xf32>, %mean: !tile.view<?xf32>, %squares: !tile.view<?xf32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %least = arith.constant 1.0 : f32
  %a = tile.load %x[%z] dims [0] : !tile.view<?xf32> -> tensor<COLSxf32>
  %none = arith.constant dense<0.0> : tensor<COLSxf32>
  %ones = arith.constant dense<1.0> : tensor<COLSxf32>
  %r:3 = tile.reduce %a, %none, %ones axis 0 : tensor<COLSxf32>, tensor<COLSxf32>, tensor<COLSxf32> -> f32, f32, f32 {
  ^bb0(%lm: f32, %ls: f32, %ln: f32, %rm: f32, %rs: f32, %rn: f32):
    %n = arith.addf %ln, %rn : f32
    %divisor = arith.maximumf %n, %least : f32
    %delta = arith.subf %rm, %lm : f32
    %share = arith.divf %rn, %divisor : f32
    %step = arith.mulf %delta, %share : f32
    %m = arith.addf %lm, %step : f32
    %d2 = arith.mulf %delta, %delta : f32
    %weight = arith.mulf %ln, %share : f32
    %between = arith.mulf %d2, %weight : f32
    %within = arith.addf %ls, %rs : f32
    %s = arith.addf %within, %between : f32
    tile.yield %m, %s, %n : f32, f32, f32
  }
  tile.store %r#0, %mean[%z] dims [] : f32, !tile.view<?xf32>
  tile.store %r#1, %squares[%z] dims [] : f32, !tile.view<?xf32>
  return
})",
                          1, n),
                  {x, mean, squares});
    double average = std::accumulate(x.begin(), x.end(), 0.0) / double(n), sum = 0;
    for (f32 value : x)
      sum += (value - average) * (value - average);
    EXPECT_FLOAT_EQ(mean[0], f32(average)) << n;
    EXPECT_FLOAT_EQ(squares[0], f32(sum)) << n;
  }
}

// A region with control flow runs one pair at a time.
TEST(InterpreterCombining, RegionsWithControlFlow) {
  std::vector<i32> x = {3, -5, 4, 9, -11}, out(1);
  interpretText(R"(
func.func @k(%x: !tile.view<?xi32>, %out: !tile.view<?xi32>, %bias: i32) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xi32> -> tensor<5xi32>
  %m = tile.reduce %a axis 0 : tensor<5xi32> -> i32 {
  ^bb0(%l: i32, %r: i32):
    %la = math.absi %l : i32
    %ra = math.absi %r : i32
    %c = arith.cmpi sgt, %la, %ra : i32
    %v = scf.if %c -> (i32) {
      scf.yield %l : i32
    } else {
      scf.yield %r : i32
    }
    tile.yield %v : i32
  }
  %b = arith.addi %m, %bias : i32
  tile.store %b, %out[%z] dims [] : i32, !tile.view<?xi32>
  return
})",
                {x, out, i32(100)});
  EXPECT_EQ(out[0], 89);
}

// Along both axes, forwards and in reverse. Strings of digits: a combination that is associative, not commutative.
TEST(InterpreterCombining, ScansKeepTheOrder) {
  auto scan = [](const std::vector<i64> &x, int64_t rows, int64_t columns, const std::string &how) {
    std::vector<i64> length(x.size(), 10), value(x.size());
    interpretText(replaced(spelled(R"(
func.func @k(%x: !tile.view<?x?xi64>, %base: !tile.view<?x?xi64>, %out: !tile.view<?x?xi64>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z, %z] dims [0, 1] : !tile.view<?x?xi64> -> tensor<ROWSxCOLSxi64>
  %b = tile.load %base[%z, %z] dims [0, 1] : !tile.view<?x?xi64> -> tensor<ROWSxCOLSxi64>
  %s:2 = tile.scan %a, %b axis HOW : tensor<ROWSxCOLSxi64>, tensor<ROWSxCOLSxi64> {
  ^bb0(%lv: i64, %lb: i64, %rv: i64, %rb: i64):
    %shifted = arith.muli %lv, %rb : i64
    %v = arith.addi %shifted, %rv : i64
    %b2 = arith.muli %lb, %rb : i64
    tile.yield %v, %b2 : i64, i64
  }
  tile.store %s#0, %out[%z, %z] dims [0, 1] : tensor<ROWSxCOLSxi64>, !tile.view<?x?xi64>
  return
})",
                                   rows, columns),
                           "HOW", how),
                  {matrix(x, rows, columns), matrix(length, rows, columns), matrix(value, rows, columns)});
    return value;
  };
  std::vector<i64> x = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(scan(x, 2, 3, "1"), (std::vector<i64>{1, 12, 123, 4, 45, 456}));
  EXPECT_EQ(scan(x, 2, 3, "1 reverse"), (std::vector<i64>{123, 23, 3, 456, 56, 6}));
  EXPECT_EQ(scan(x, 2, 3, "0"), (std::vector<i64>{1, 2, 3, 14, 25, 36}));
  EXPECT_EQ(scan(x, 2, 3, "0 reverse"), (std::vector<i64>{14, 25, 36, 4, 5, 6}));
}

TEST(InterpreterCombining, ScansOfFloatsRoundEachElementOnce) {
  for (int64_t n : raggedSizes) {
    std::vector<f32> x = some<f32>(n);
    auto running = mapped<f32>("%r = tile.scan %a axis 0 : tensor<Nxf32> " + replaced(sumRegion, "TYPE", "f32"), x);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += x[i];
      ASSERT_EQ(running[i], f32(sum)) << i;
    }
  }
}

//===- Matrix products --------------------------------------------------------------------------------------------===//

template <Element T, Element Acc>
std::vector<Acc> product(const std::vector<T> &a, const std::vector<T> &b, const std::vector<Acc> &acc, int64_t m,
                         int64_t k, int64_t n, const std::string &attributes = "") {
  std::vector<Acc> out(m * n);
  auto tile = [](int64_t rows, int64_t columns, const std::string &type) {
    return "tensor<" + std::to_string(rows) + "x" + std::to_string(columns) + "x" + type + ">";
  };
  std::string text = R"(
func.func @k(%a: !tile.view<?x?xIN>, %b: !tile.view<?x?xIN>, %c: !tile.view<?x?xACC>, %out: !tile.view<?x?xACC>)
             attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %x = tile.load %a[%z, %z] dims [0, 1] : !tile.view<?x?xIN> -> LEFT
  %y = tile.load %b[%z, %z] dims [0, 1] : !tile.view<?x?xIN> -> RIGHT
  %w = tile.load %c[%z, %z] dims [0, 1] : !tile.view<?x?xACC> -> RESULT
  %d = tile.dot %x, %y, %w HOW : LEFT, RIGHT, RESULT
  tile.store %d, %out[%z, %z] dims [0, 1] : RESULT, !tile.view<?x?xACC>
  return
})";
  text = replaced(replaced(text, "xIN", "x" + irType<T>()), "xACC", "x" + irType<Acc>());
  text = replaced(replaced(text, "LEFT", tile(m, k, irType<T>())), "RIGHT", tile(k, n, irType<T>()));
  text = replaced(replaced(text, "RESULT", tile(m, n, irType<Acc>())), "HOW", attributes);
  interpretText(text, {matrix(a, m, k), matrix(b, k, n), matrix(acc, m, n), matrix(out, m, n)});
  return out;
}

TEST(InterpreterCombining, DotsOfFloatsRoundOnce) {
  for (int64_t m : {1, 3, 17})
    for (int64_t k : {1, 17, 199})
      for (int64_t n : {1, 3, 17}) {
        std::vector<bf16> a = some<bf16>(m * k, 1), b = some<bf16>(k * n, 2);
        std::vector<f32> acc = some<f32>(m * n, 3), out = product(a, b, acc, m, k, n);
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) {
            double sum = acc[i * n + j]; // exact: few bits and few powers of two apart
            for (int64_t l = 0; l < k; ++l)
              sum += double(float(a[i * k + l])) * float(b[l * n + j]);
            ASSERT_EQ(out[i * n + j], f32(sum));
          }
      }
}

TEST(InterpreterCombining, DotsOfIntegersWrapAndKnowTheirSigns) {
  std::vector<i8> a = {-1, 2, 127}, b = {-128, -1, 3};
  std::vector<i32> acc = {1000};
  auto dot = [&](const std::string &attributes) { return product(a, b, acc, 1, 3, 1, attributes)[0]; };
  EXPECT_EQ(dot(""), 1000 + 128 - 2 + 381);
  EXPECT_EQ(dot("{unsignedA}"), 1000 + 255 * -128 - 2 + 381);
  EXPECT_EQ(dot("{unsignedB}"), 1000 - 128 + 2 * 255 + 381);
  EXPECT_EQ(dot("{unsignedA, unsignedB}"), 1000 + 255 * 128 + 2 * 255 + 381);
  EXPECT_EQ(product(a, b, std::vector<i8>{100}, 1, 3, 1)[0], i8(100 + 128 - 2 + 381));
}

//===- Packed values ----------------------------------------------------------------------------------------------===//

// Every width, order and sign, in one block and in many, against lib's reference.
TEST(InterpreterCombining, PacksAndUnpacks) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Packing::Order order : {Packing::Order::LowFirst, Packing::Order::HighFirst, Packing::Order::Planar})
      for (int block : {8, 64})
        for (int64_t blocks : {1, 3}) {
          Packing packing{bits, order, block};
          int64_t rows = 3, columns = block * blocks, bytesPerRow = packing.bytesPerRow(columns);
          std::vector<u8> bytes(rows * bytesPerRow), values(rows * columns), packed(bytes.size());
          std::vector<i8> signedValues(values.size());
          for (size_t i = 0; i < bytes.size(); ++i)
            bytes[i] = u8(i * 167 + 13);
          std::string text = R"(
func.func @k(%bytes: !tile.view<?x?xi8>, %u: !tile.view<?x?xi8>, %s: !tile.view<?x?xi8>, %p: !tile.view<?x?xi8>)
             attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %b = tile.load %bytes[%z, %z] dims [0, 1] : !tile.view<?x?xi8> -> BYTES
  %x = tile.unpack %b PACKING : BYTES -> VALUES
  tile.store %x, %u[%z, %z] dims [0, 1] : VALUES, !tile.view<?x?xi8>
  %y = tile.unpack %b signed PACKING : BYTES -> VALUES
  tile.store %y, %s[%z, %z] dims [0, 1] : VALUES, !tile.view<?x?xi8>
  %q = tile.pack %y PACKING : VALUES -> BYTES
  tile.store %q, %p[%z, %z] dims [0, 1] : BYTES, !tile.view<?x?xi8>
  return
})";
          text = replaced(text, "PACKING", "<\"" + packing.toString() + "\">");
          text = replaced(text, "BYTES", "tensor<3x" + std::to_string(bytesPerRow) + "xi8>");
          text = replaced(text, "VALUES", "tensor<3x" + std::to_string(columns) + "xi8>");
          interpretText(text, {matrix(bytes, rows, bytesPerRow), matrix(values, rows, columns),
                               matrix(signedValues, rows, columns), matrix(packed, rows, bytesPerRow)});
          std::vector<u8> expected(values.size());
          std::vector<i8> expectedSigned(values.size());
          unpack(packing, bytes, std::span(expected));
          unpack(packing, bytes, std::span(expectedSigned));
          ASSERT_EQ(values, expected) << packing.toString();
          ASSERT_EQ(signedValues, expectedSigned) << packing.toString();
          ASSERT_EQ(packed, bytes) << packing.toString() << ": the bits above the sign are dropped";
        }
}

TEST(InterpreterCombining, TablesWrapAtAPowerOfTwo) {
  std::vector<u8> indices = {0, 4, 5, 7, 8, 13, 255};
  EXPECT_EQ(mapped<f32>("%t = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0]> : tensor<5xf32>\n"
                        "%r = tile.lut %t, %a : tensor<5xf32>, tensor<Nxi8> -> tensor<Nxf32>",
                        indices),
            (std::vector<f32>{1, 5, 0, 0, 1, 0, 0}));
}

} // namespace
} // namespace bitloom

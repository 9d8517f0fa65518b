// What the code for NVIDIA targets computes, against the interpreter: its PTX runs in an emulator, which also finds
// races on shared memory. Needs no GPU.
#include "bitloom/tests/unit/lowering/Emulated.h"

using namespace bitloom;

namespace {

std::string zeros(size_t rank) {
  std::string text;
  for (size_t d = 0; d < rank; ++d)
    text += d ? ", %z" : "%z";
  return "[" + text + "]";
}
std::string all(size_t rank) {
  std::string text;
  for (size_t d = 0; d < rank; ++d)
    text += (d ? ", " : "") + std::to_string(d);
  return "[" + text + "]";
}

// A kernel that loads tiles %a, %b, … of the whole of its inputs, and stores %r, %s, … to its outputs.
struct Kernel {
  std::string parameters, loads, stores;
  std::vector<Argument> arguments;
  char nextInput = 'a', nextOutput = 'r';

  template <Element T> Kernel &in(const Data<T> &data) {
    std::string name(1, nextInput++), type = irType<T>();
    size_t rank = data.shape.size();
    parameters += "%v" + name + ": " + viewType(rank, type) + " {tile.align = 16 : i32}, ";
    loads += "%" + name + " = tile.load %v" + name + zeros(rank) + " dims " + all(rank) + " : " + viewType(rank, type) +
             " -> " + tileType(data.shape, type) + "\n";
    arguments.push_back(data);
    return *this;
  }
  template <Element T> Kernel &out(const Data<T> &data, bool isScalar = false) {
    std::string name(1, nextOutput++), type = irType<T>();
    size_t rank = data.shape.size();
    parameters += "%v" + name + ": " + viewType(rank, type) + ", ";
    stores += "tile.store %" + name + ", %v" + name + zeros(rank) + " dims " + (isScalar ? "[]" : all(rank)) + " : " +
              (isScalar ? type : tileType(data.shape, type)) + ", " + viewType(rank, type) + "\n";
    arguments.push_back(data);
    return *this;
  }
  void run(const std::string &ops, double tolerance = 1e-5) const {
    agrees("func.func @k(" + parameters.substr(0, parameters.size() - 2) +
               ") attributes {tile.kernel} {\n%z = arith.constant 0 : i64\n" + loads + ops + "\n" + stores +
               "return\n}",
           arguments, {.tolerance = tolerance});
  }
};

Shape without(Shape shape, int axis) {
  shape.erase(shape.begin() + axis);
  return shape;
}

} // namespace

//===- Memory -----------------------------------------------------------------------------------------------------===//

// Blocks that the edge cuts anywhere, with and without the alignment that vector accesses need.
TEST(Nvptx, CopiesRaggedVectors) {
  for (int64_t n : {1, 3, 17, 199, 4096, 4097})
    for (std::string align : {"", " {tile.align = 16 : i32}"}) {
      Data<bf16> x({n}), out({n}, 2);
      agrees("func.func @k(%x: !tile.view<?xbf16>" + align + ", %o: !tile.view<?xbf16>" + align +
                 R"() attributes {tile.kernel} {
  %p = tile.program_id 0
  %c = arith.constant 1024 : i64
  %at = arith.muli %p, %c : i64
  %a = tile.load %x[%at] dims [0] : !tile.view<?xbf16> -> tensor<1024xbf16>
  tile.store %a, %o[%at] dims [0] : tensor<1024xbf16>, !tile.view<?xbf16>
  return
})",
             {x, out}, {.grid = {(n + 1023) / 1024, 1, 1}});
    }
}

// Rows that start anywhere, to rows that start at 16 bytes: by aligned pieces of 16 bytes, none of which reaches beyond
// the tensor, and shifts.
TEST(Nvptx, CopiesRowsThatStartAnywhereInPieces) {
  auto copies = []<Element T>(T, int64_t rows, int64_t n, int64_t start, int64_t stride, int64_t at) {
    SCOPED_TRACE(irType<T>() + ": " + std::to_string(rows) + " rows of " + std::to_string(n) + ", " +
                 std::to_string(stride) + " apart, from " + std::to_string(at));
    const int64_t each = 16 / int64_t(sizeof(T)), pitch = (n + each - 1) / each * each;
    std::vector<T> memory = some<T>(size_t(64 + rows * std::abs(stride) + n), 1);
    struct alignas(16) Piece {
      char bytes[16] = {};
    };
    std::vector<Piece> copy(size_t(rows * pitch / each));
    TensorRef x(memory.data() + start + (stride < 0 ? -stride * (rows - 1) : 0), dtypeOf<T>, {rows, n}, {stride, 1});
    TensorRef out(copy.data(), dtypeOf<T>, {rows, n}, {pitch, 1});
    const std::string type = irType<T>(), tile = "tensor<4x256x" + type + ">", view = "!tile.view<?x?x" + type + ">";
    auto kernel = agrees("func.func @k(%x: " + view + ", %o: " + view +
                             " {tile.align = 16 : i32}, %at: i64, %other: " + type + R"() attributes {tile.kernel} {
  %p = tile.program_id 0
  %q = tile.program_id 1
  %four = arith.constant 4 : i64
  %across = arith.constant 256 : i64
  %row = arith.muli %p, %four : i64
  %column = arith.muli %q, %across : i64
  %from = arith.addi %column, %at : i64
  %a = tile.load %x[%row, %from] dims [0, 1] else %other : )" +
                             view + " -> " + tile + "\ntile.store %a, %o[%row, %column] dims [0, 1] : " + tile + ", " +
                             view + "\nreturn\n}",
                         {x, out, at, T(3)}, {.grid = {(rows + 3) / 4, (n + 255) / 256, 1}});
    EXPECT_NE(kernel->ptx.find("ld.global.v4.b32"), std::string::npos);
  };
  for (int64_t n : {1, 3, 17, 199, 513})
    for (int64_t start : {0, 1, 3})
      copies(bf16(), 5, n, start, n, 0);
  for (int64_t at : {-9, -1, 1, 8, 40})
    copies(bf16(), 3, 300, 1, 307, at);
  copies(bf16(), 5, 300, 1, -301, 0);
  for (int64_t start : {0, 1, 2, 7, 15})
    copies(u8(), 3, 523, start, 523, 0);
  copies(f32(), 3, 261, 1, 261, 1);
}

// Tiles that stick out on every side; what is out of bounds is the else value, and is not written.
TEST(Nvptx, ClipsOnEverySide) {
  for (int64_t at : {-16, -3, 0, 5, 8, 40}) {
    Data<f32> x({20, 36}), inside({16, 32}, 2), shifted({20, 36}, 3);
    agrees(R"(
func.func @k(%x: !tile.view<?x?xf32> {tile.align = 16 : i32}, %o: !tile.view<?x?xf32>, %s: !tile.view<?x?xf32> {tile.align = 16 : i32},
             %at: i64, %other: f32) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%at, %at] dims [0, 1] else %other : !tile.view<?x?xf32> -> tensor<16x32xf32>
  tile.store %a, %o[%z, %z] dims [0, 1] : tensor<16x32xf32>, !tile.view<?x?xf32>
  tile.store %a, %s[%at, %at] dims [0, 1] : tensor<16x32xf32>, !tile.view<?x?xf32>
  return
})",
           {x, inside, shifted, at, 9.0f});
  }
}

TEST(Nvptx, GathersScattersAndUpdates) {
  Data<f32> x({50}), out({199}, 2), reversed({199}, 3);
  Data<int32_t> index({199}, 4), count({40}, 5), old({199}, 6);
  for (int32_t &i : index.values)
    i = i % 61 - 5; // some are out of bounds
  agrees(R"(
func.func @k(%x: !tile.view<?xf32>, %i: !tile.view<?xi32>, %o: !tile.view<?xf32>, %r: !tile.view<?xf32>, %n: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %at = tile.load %i[%z] dims [0] : !tile.view<?xi32> -> tensor<199xi32>
  %three = arith.constant dense<3> : tensor<199xi32>
  %mask = arith.cmpi sgt, %at, %three : tensor<199xi32>
  %e = arith.constant 5.0 : f32
  %g = tile.gather %x[%at] mask %mask else %e : !tile.view<?xf32>, tensor<199xi32> -> tensor<199xf32>
  tile.store %g, %o[%z] dims [0] : tensor<199xf32>, !tile.view<?xf32>
  %iota = tile.iota : tensor<199xi32>
  %last = arith.constant dense<198> : tensor<199xi32>
  %back = arith.subi %last, %iota : tensor<199xi32>
  tile.scatter %g, %r[%back] mask %mask : tensor<199xf32>, !tile.view<?xf32>, tensor<199xi32>
  %ignored = tile.atomic add %at, %n[%at] mask %mask : tensor<199xi32>, !tile.view<?xi32>, tensor<199xi32>
  return
})",
         {x, index, out, reversed, count}, {.grid = {2, 1, 1}});
  // Distinct places, so that what each thread gets back is known.
  agrees(R"(
func.func @k(%n: !tile.view<?xi32>, %o: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %iota = tile.iota : tensor<199xi32>
  %was = tile.atomic max %iota, %n[%iota] : tensor<199xi32>, !tile.view<?xi32>, tensor<199xi32>
  %seven = arith.constant 7 : i32
  %first = tile.atomic exchange %seven, %n[%z] : i32, !tile.view<?xi32>, i64
  %firsts = tensor.splat %first : tensor<199xi32>
  %sum = arith.addi %was, %firsts : tensor<199xi32>
  tile.store %sum, %o[%z] dims [0] : tensor<199xi32>, !tile.view<?xi32>
  return
})",
         {count, old});
}

//===- Reductions and scans ---------------------------------------------------------------------------------------===//

// What every thread reads and one of them writes: all read first, in a loop too.
TEST(Nvptx, GathersBeforeItWrites) {
  const std::string text = R"(
func.func @k(%x: !tile.view<?xf32> {tile.align = 16 : i32}, %place: i64) attributes {tile.kernel, tile.cluster = BLOCKS : i32} {
  %z = arith.constant 0 : i64
  %step = arith.constant 1024 : i64
  %all = tile.extent %x, 0 : !tile.view<?xf32>
  %g = tile.gather %x[%place] : !tile.view<?xf32>, i64 -> f32
  %gs = tensor.splat %g : tensor<1024xf32>
  scf.for %at = %z to %all step %step : i64 {
    %t = tile.load %x[%at] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>
    %s = arith.addf %t, %gs : tensor<1024xf32>
    tile.store %s, %x[%at] dims [0] : tensor<1024xf32>, !tile.view<?xf32>
  }
  return
})";
  for (int64_t place : {0, 1, 517, 1998})
    for (const char *blocks : {"1", "2"})
      agrees(replaced(text, "BLOCKS", blocks), {Data<float>({1999}), place}, {.warps = {1, 4, 8}});
}

TEST(Nvptx, Reduces) {
  for (auto &[shape, axis] : std::vector<std::pair<Shape, int>>{{{1}, 0},
                                                                {{3}, 0},
                                                                {{199}, 0},
                                                                {{17, 199}, 0},
                                                                {{17, 199}, 1},
                                                                {{3, 5, 33}, 1},
                                                                {{1, 4097}, 1},
                                                                {{64, 64}, 0}}) {
    Shape rest = without(shape, axis);
    Data<f32> x(shape), out(rest.empty() ? Shape{1} : rest, 2);
    Kernel()
        .in(x)
        .out(out, rest.empty())
        .run("%r = tile.reduce %a axis " + std::to_string(axis) + " : " + tileType(shape, "f32") + " -> " +
                 tileType(rest, "f32") + R"( {
  ^bb0(%l: f32, %m: f32):
    %s = arith.addf %l, %m : f32
    tile.yield %s : f32
  })",
             1e-4);
  }
}

// Two operands, and a combiner whose operands may not change places unless all threads do it alike.
TEST(Nvptx, ReducesPairs) {
  for (auto &[shape, axis] : std::vector<std::pair<Shape, int>>{{{17, 199}, 1}, {{130, 9}, 0}, {{1, 1000}, 1}}) {
    Data<f32> x(shape), largest(without(shape, axis), 2);
    Data<int32_t> tag(shape, 3), tagOfLargest(without(shape, axis), 4);
    for (size_t i = 0; i < tag.values.size(); ++i)
      tag.values[i] = int32_t(i);
    std::string f = tileType(shape, "f32"), i = tileType(shape, "i32");
    Kernel()
        .in(x)
        .in(tag)
        .out(largest)
        .out(tagOfLargest)
        .run("%r, %s = tile.reduce %a, %b axis " + std::to_string(axis) + " : " + f + ", " + i + " -> " +
             tileType(without(shape, axis), "f32") + ", " + tileType(without(shape, axis), "i32") + R"( {
  ^bb0(%x: f32, %i: i32, %y: f32, %j: i32):
    %gt = arith.cmpf ogt, %y, %x : f32
    %eq = arith.cmpf oeq, %y, %x : f32
    %lt = arith.cmpi slt, %j, %i : i32
    %tie = arith.andi %eq, %lt : i1
    %p = arith.ori %gt, %tie : i1
    %v = arith.select %p, %y, %x : f32
    %k = arith.select %p, %j, %i : i32
    tile.yield %v, %k : f32, i32
  })");
  }
}

// Composition of affine maps: associative, not commutative, so the order shows.
TEST(Nvptx, ScansInOrder) {
  for (auto &[shape, axis] : std::vector<std::pair<Shape, int>>{
           {{1}, 0}, {{199}, 0}, {{9, 40}, 0}, {{9, 40}, 1}, {{3, 5, 33}, 1}, {{4097}, 0}})
    for (std::string direction : {"", " reverse"}) {
      Data<int32_t> scale(shape), shift(shape, 2), scales(shape, 3), shifts(shape, 4);
      std::string type = tileType(shape, "i32");
      Kernel().in(scale).in(shift).out(scales).out(shifts).run(
          "%r, %s = tile.scan %a, %b axis " + std::to_string(axis) + direction + " : " + type + ", " + type + R"( {
  ^bb0(%a1: i32, %b1: i32, %a2: i32, %b2: i32):
    %a3 = arith.muli %a1, %a2 : i32
    %b3 = arith.muli %b1, %a2 : i32
    %b4 = arith.addi %b3, %b2 : i32
    tile.yield %a3, %b4 : i32, i32
  })");
    }
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

TEST(Nvptx, Transposes) {
  for (auto &[shape, order, result] : std::vector<std::tuple<Shape, std::string, Shape>>{
           {{17, 33}, "[1, 0]", {33, 17}}, {{64, 64}, "[1, 0]", {64, 64}}, {{3, 5, 33}, "[2, 0, 1]", {33, 3, 5}}}) {
    Data<f32> x(shape), out(result, 2);
    Kernel().in(x).out(out).run("%r = tile.transpose %a " + order + " : " + tileType(shape, "f32") + " -> " +
                                tileType(result, "f32"));
  }
}

// Padding may sit in the middle of the order of one shape and not of the other.
TEST(Nvptx, Reshapes) {
  for (auto &[shape, result] : std::vector<std::pair<Shape, Shape>>{
           {{12, 7}, {4, 21}}, {{4, 6}, {24}}, {{3, 128}, {3, 64, 2}}, {{5, 3, 16}, {15, 16}}, {{64}, {1, 64, 1}}}) {
    Data<f32> x(shape), out(result, 2);
    Kernel().in(x).out(out).run("%r = tile.reshape %a : " + tileType(shape, "f32") + " -> " + tileType(result, "f32"));
  }
}

TEST(Nvptx, JoinsAndSplits) {
  for (Shape shape : {Shape{33}, Shape{5, 17}, Shape{64}}) {
    Shape pairs = shape;
    pairs.push_back(2);
    Data<f32> x(shape), y(shape, 2), joined(pairs, 3), left(shape, 4), right(shape, 5), given(pairs, 6);
    std::string half = tileType(shape, "f32"), pair = tileType(pairs, "f32");
    Kernel().in(x).in(y).out(joined).out(left).out(right).run("%r = tile.join %a, %b : " + half + " -> " + pair +
                                                              "\n%n = arith.negf %r : " + pair +
                                                              "\n%s, %t = tile.split %n : " + pair + " -> " + half);
    Kernel().in(given).out(left).out(right).run("%r, %s = tile.split %a : " + pair + " -> " + half);
  }
}

TEST(Nvptx, Slices) {
  for (auto &[shape, at, result] : std::vector<std::tuple<Shape, std::string, Shape>>{{{64, 64}, "[0, 32]", {64, 32}},
                                                                                      {{64, 64}, "[32, 0]", {32, 64}},
                                                                                      {{17, 33}, "[3, 5]", {10, 20}},
                                                                                      {{100}, "[7]", {50}}}) {
    Data<f32> x(shape), out(result, 2);
    std::string type = tileType(shape, "f32"); // the negation keeps the slice from becoming a smaller load
    Kernel().in(x).out(out).run("%n = arith.negf %a : " + type + "\n%r = tile.slice %n " + at + " : " + type + " -> " +
                                tileType(result, "f32"));
  }
}

//===- Values -----------------------------------------------------------------------------------------------------===//

TEST(Nvptx, MultipliesMatrices) {
  auto run = [](auto operand, auto result, int64_t m, int64_t k, int64_t n) {
    using In = decltype(operand);
    using Out = decltype(result);
    Data<In> a({m, k}), b({k, n}, 2);
    Data<Out> c({m, n}, 3), out({m, n}, 4);
    std::string acc = tileType({m, n}, irType<Out>());
    Kernel().in(a).in(b).in(c).out(out).run("%r = tile.dot %a, %b, %c : " + tileType({m, k}, irType<In>()) + ", " +
                                                tileType({k, n}, irType<In>()) + ", " + acc,
                                            1e-3);
  };
  run(f32(), f32(), 17, 33, 9);
  run(f32(), f32(), 1, 1, 1);
  run(bf16(), f32(), 32, 64, 32);
  run(f16(), f32(), 16, 16, 64);
  run(int8_t(), int32_t(), 8, 20, 40);
}

TEST(Nvptx, PacksAndUnpacksEveryWidth) {
  for (int bits = 1; bits <= 8; ++bits)
    for (auto &[order, block, columns] :
         {std::tuple("low", 8, 24), std::tuple("high", 8, 24), std::tuple("planar", 128, 256)}) {
      Data<int8_t> bytes({3, columns * bits / 8}), values({3, columns}, 2), extended({3, columns}, 3),
          again({3, columns * bits / 8}, 4);
      std::string packing =
          "<\"bits=" + std::to_string(bits) + ",order=" + order + ",block=" + std::to_string(block) + "\"> : ";
      std::string packed = tileType(bytes.shape, "i8"), unpacked = tileType(values.shape, "i8");
      Kernel().in(bytes).out(values).out(extended).out(again).run(
          "%r = tile.unpack %a " + packing + packed + " -> " + unpacked + "\n%s = tile.unpack %a signed " + packing +
          packed + " -> " + unpacked + "\n%t = tile.pack %s " + packing + unpacked + " -> " + packed);
    }
}

TEST(Nvptx, LooksUp) {
  for (int64_t entries : {1, 5, 16, 256}) {
    Data<f32> table({entries}), out({7, 33}, 2);
    Data<int8_t> index({7, 33}, 3);
    Kernel().in(table).in(index).out(out).run("%r = tile.lut %a, %b : " + tileType({entries}, "f32") +
                                              ", tensor<7x33xi8> -> tensor<7x33xf32>");
  }
}

TEST(Nvptx, ComputesFunctions) {
  Data<f32> x({997}), out({997}, 2);
  for (size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = (float(i) - 498) * 0.01f;
  for (std::string name : {"exp", "exp2", "expm1", "tanh", "erf", "sin", "cos", "tan", "floor", "ceil", "round",
                           "roundeven", "trunc", "absf", "atan", "sinh"})
    Kernel().in(x).out(out).run("%r = math." + name + " %a : tensor<997xf32>", 1e-5);
  for (float &value : x.values)
    value = value * value * 1000;
  for (std::string name : {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin", "cos"})
    Kernel().in(x).out(out).run("%r = math." + name + " %a : tensor<997xf32>", 2e-5);
  x.values = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 88.7f, 89.0f, -87.3f, -104.0f, 3e38f, -3e38f, 1e-40f};
  x.shape = {int64_t(x.values.size())};
  Data<f32> edges(x.shape, 2);
  Kernel().in(x).out(edges).run("%r = math.exp %a : " + tileType(x.shape, "f32"));
}

// Many quotients of one divisor are computed without dividing: the same bits, whatever the divisor.
TEST(Nvptx, DividesByOneNumber) {
  Data<f32> x({999}), out({999}, 2);
  x.values[0] = INFINITY, x.values[1] = NAN, x.values[2] = 0.0f, x.values[3] = 3e38f, x.values[4] = 1e-40f;
  for (float divisor : {3.0f, -0.7f, 0.0f, INFINITY, NAN, 1e-40f, 1e-38f, 3e38f})
    agrees(R"(
func.func @k(%x: !tile.view<?xf32>, %o: !tile.view<?xf32>, %d: f32) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xf32> -> tensor<999xf32>
  %s = tensor.splat %d : tensor<999xf32>
  %q = arith.divf %a, %s : tensor<999xf32>
  tile.store %q, %o[%z] dims [0] : tensor<999xf32>, !tile.view<?xf32>
  return
})",
           {x, out, divisor}, {.tolerance = 0});
}

// Tests of an index against an edge are made in 32 bits, and hold for edges of 64.
TEST(Nvptx, MasksByAnyEdge) {
  Data<int32_t> below({99}), from({99}, 2);
  constexpr int64_t far = int64_t{1} << 62;
  for (int64_t start : {int64_t{0}, int64_t{-5}, int64_t{100}, far, -far, INT64_MIN})
    for (int64_t limit : {int64_t{0}, int64_t{50}, int64_t{99}, int64_t{-4}, far, -far, INT64_MAX})
      agrees(R"(
func.func @k(%b: !tile.view<?xi32>, %f: !tile.view<?xi32>, %start: i64, %limit: i64) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %iota = tile.iota : tensor<99xi64>
  %starts = tensor.splat %start : tensor<99xi64>
  %index = arith.addi %iota, %starts : tensor<99xi64>
  %limits = tensor.splat %limit : tensor<99xi64>
  %p = arith.cmpi slt, %index, %limits : tensor<99xi64>
  %q = arith.cmpi sge, %index, %limits : tensor<99xi64>
  %r = arith.extui %p : tensor<99xi1> to tensor<99xi32>
  %s = arith.extui %q : tensor<99xi1> to tensor<99xi32>
  tile.store %r, %b[%z] dims [0] : tensor<99xi32>, !tile.view<?xi32>
  tile.store %s, %f[%z] dims [0] : tensor<99xi32>, !tile.view<?xi32>
  return
})",
             {below, from, start, limit});
}

// Indices along either dim that are compared with a number of the device's, or with a tile's own.
TEST(Nvptx, ComparesIndices) {
  Data<int32_t> rows({9, 100}), cols({9, 100}, 2), own({9, 100}, 3);
  std::vector<int32_t> numbers{3, 98, 0, 7, -2, 99, 100, 5, 64};
  for (int32_t number : {0, 8, 77, -1, 12345})
    agrees(R"(
func.func @k(%r: !tile.view<?x?xi32>, %c: !tile.view<?x?xi32>, %w: !tile.view<?x?xi32>, %n: !tile.view<?xi32>,
             %number: i32) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %none = arith.constant dense<0> : tensor<9x100xi32>
  %some = arith.constant dense<5> : tensor<9x100xi32>
  %i = tile.iota : tensor<9xi32>
  %is = tile.reshape %i : tensor<9xi32> -> tensor<9x1xi32>
  %ib = tile.broadcast %is : tensor<9x1xi32> -> tensor<9x100xi32>
  %j = tile.iota : tensor<100xi32>
  %js = tile.reshape %j : tensor<100xi32> -> tensor<1x100xi32>
  %jb = tile.broadcast %js : tensor<1x100xi32> -> tensor<9x100xi32>
  %all = tensor.splat %number : tensor<9x100xi32>
  %p = arith.cmpi eq, %ib, %all : tensor<9x100xi32>
  %q = arith.cmpi ne, %jb, %all : tensor<9x100xi32>
  %m = tile.load %n[%z] dims [0] : !tile.view<?xi32> -> tensor<9xi32>
  %ms = tile.reshape %m : tensor<9xi32> -> tensor<9x1xi32>
  %mb = tile.broadcast %ms : tensor<9x1xi32> -> tensor<9x100xi32>
  %o = arith.cmpi eq, %jb, %mb : tensor<9x100xi32>
  %a = arith.select %p, %some, %none : tensor<9x100xi1>, tensor<9x100xi32>
  %b = arith.select %q, %some, %none : tensor<9x100xi1>, tensor<9x100xi32>
  %d = arith.select %o, %some, %none : tensor<9x100xi1>, tensor<9x100xi32>
  tile.store %a, %r[%z, %z] dims [0, 1] : tensor<9x100xi32>, !tile.view<?x?xi32>
  tile.store %b, %c[%z, %z] dims [0, 1] : tensor<9x100xi32>, !tile.view<?x?xi32>
  tile.store %d, %w[%z, %z] dims [0, 1] : tensor<9x100xi32>, !tile.view<?x?xi32>
  return
})",
           {rows, cols, own, numbers, number}, {.warps = {1, 4}});
}

//===- Control flow -----------------------------------------------------------------------------------------------===//

// Shared memory is used anew in each turn of a loop: the emulator reports a missing barrier.
TEST(Nvptx, LoopsOverTiles) {
  for (int64_t n : {1, 64, 300}) {
    Data<f32> x({n}), out({64}, 2);
    agrees(R"(
func.func @k(%x: !tile.view<?xf32>, %o: !tile.view<?xf32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %n = tile.extent %x, 0 : !tile.view<?xf32>
  %c = arith.constant 64 : i64
  %none = arith.constant dense<0.0> : tensor<64xf32>
  %r = scf.for %k = %z to %n step %c iter_args(%acc = %none) -> (tensor<64xf32>) : i64 {
    %v = tile.load %x[%k] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
    %m = tile.reduce %v axis 0 : tensor<64xf32> -> f32 {
    ^bb0(%l: f32, %r: f32):
      %s = arith.maximumf %l, %r : f32
      tile.yield %s : f32
    }
    %b = tensor.splat %m : tensor<64xf32>
    %s = arith.addf %acc, %b : tensor<64xf32>
    %one = arith.constant 8.0 : f32
    %p = arith.cmpf ogt, %m, %one : f32
    %q = scf.if %p -> (tensor<64xf32>) {
      %u = arith.addf %s, %v : tensor<64xf32>
      scf.yield %u : tensor<64xf32>
    } else {
      %u = arith.subf %s, %v : tensor<64xf32>
      scf.yield %u : tensor<64xf32>
    }
    scf.yield %q : tensor<64xf32>
  }
  %limit = arith.constant 1000.0 : f32
  %w = scf.while (%a = %r) : (tensor<64xf32>) -> tensor<64xf32> {
    %m = tile.reduce %a axis 0 : tensor<64xf32> -> f32 {
    ^bb0(%l: f32, %r2: f32):
      %s = arith.maximumf %l, %r2 : f32
      tile.yield %s : f32
    }
    %p = arith.cmpf olt, %m, %limit : f32
    scf.condition(%p) %a : tensor<64xf32>
  } do {
  ^bb0(%a: tensor<64xf32>):
    %one = arith.constant dense<100.0> : tensor<64xf32>
    %d = arith.addf %a, %one : tensor<64xf32>
    scf.yield %d : tensor<64xf32>
  }
  tile.store %w, %o[%z] dims [0] : tensor<64xf32>, !tile.view<?xf32>
  return
})",
           {x, out});
  }
}

TEST(Nvptx, StopsAtAFailedAssertion) {
  const char *text = R"(
func.func @k(%x: !tile.view<?xi32>) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z] dims [0] : !tile.view<?xi32> -> tensor<17xi32>
  %none = arith.constant dense<0> : tensor<17xi32>
  %p = arith.cmpi sge, %a, %none : tensor<17xi32>
  tile.assert %p, "negative" : tensor<17xi1>
  return
})";
  PtxEmulator emulator(emit(Program::parse(text), parseTarget("sm_90a"), Stage::Assembly));
  std::vector<int32_t> x(17, 1);
  LaunchArguments words;
  words.addView(TensorRef(x.data(), DType::i32, {17}));
  emulator.allow(x.data(), x.size() * 4);
  emulator.launch(words.words(), {1, 1, 1}, 0);
  x[16] = -1;
  EXPECT_THROW(emulator.launch(words.words(), {1, 1, 1}, 0), PtxError);
}

// A race is what the emulator is there to find, so it had better find one.
TEST(PtxEmulator, FindsRaces) {
  for (bool hasBarrier : {true, false}) {
    PtxEmulator emulator(std::string(R"(
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry race(
	.param .u64 race_param_0
)
.reqntid 64
{
	.reg .b32 %r<4>;
	.reg .b64 %rd<6>;
	ld.param.b64 %rd1, [race_param_0];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd2, %r1, 4;
	mov.b64 %rd3, memory;
	add.s64 %rd4, %rd3, %rd2;
	st.shared.b32 [%rd4], %r1;
	)") + (hasBarrier ? "bar.sync 0;" : "") +
                         R"(
	xor.b32 %r2, %r1, 1;
	mul.wide.u32 %rd2, %r2, 4;
	add.s64 %rd4, %rd3, %rd2;
	ld.shared.b32 %r3, [%rd4];
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd5, %rd1, %rd2;
	st.global.b32 [%rd5], %r3;
	ret;
})");
    std::vector<int32_t> out(64);
    emulator.allow(out.data(), 256);
    std::vector<int64_t> words{int64_t(out.data())};
    if (!hasBarrier) {
      EXPECT_THROW(emulator.launch(words, {1, 1, 1}, 256), PtxError);
      continue;
    }
    emulator.launch(words, {1, 1, 1}, 256);
    for (int i = 0; i < 64; ++i)
      EXPECT_EQ(out[i], i ^ 1);
    EXPECT_THROW(emulator.launch(words, {1, 1, 1}, 128), PtxError); // too little shared memory
  }
}

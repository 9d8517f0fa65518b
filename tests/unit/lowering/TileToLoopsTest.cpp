#include "bitloom/tests/unit/lowering/Agreement.h"

using namespace bitloom;

namespace {

const int64_t ragged[] = {1, 3, 17, 199, 4097};

//===- Elementwise ------------------------------------------------------------------------------------------------===//

TEST(TileToLoops, AddsOverTheGrid) {
  for (int64_t n : ragged)
    for (int64_t block : {16, 64, 1024, 100}) {
      Arrays arrays = {{DType::f32, {n}}, {DType::f32, {n}}, {DType::f32, {n}}};
      std::string text = replaced(kernel(arrays, R"(
        %block = arith.constant BLOCK : i64
        %pid = tile.program_id 0
        %o = arith.muli %pid, %block : i64
        %x = tile.load %a[%o] dims [0] : !tile.view<?xf32> -> tensor<BLOCKxf32>
        %y = tile.load %b[%o] dims [0] : !tile.view<?xf32> -> tensor<BLOCKxf32>
        %s = arith.addf %x, %y : tensor<BLOCKxf32>
        tile.store %s, %c[%o] dims [0] : tensor<BLOCKxf32>, !tile.view<?xf32>)"),
                                  "BLOCK", std::to_string(block));
      agree(text, arrays, {(n + block - 1) / block, 1, 1}, 0);
    }
}

TEST(TileToLoops, FindsItsProgramInThreeDimensions) {
  Arrays arrays = {{DType::i64, {5, 3, 4}}};
  agree(kernel(arrays, R"(
    %x = tile.program_id 0
    %y = tile.program_id 1
    %z = tile.program_id 2
    %n = tile.num_programs 1
    %1 = arith.muli %z, %n : i64
    %2 = arith.addi %1, %y : i64
    %3 = tile.num_programs 0
    %4 = arith.muli %2, %3 : i64
    %5 = arith.addi %4, %x : i64
    tile.store %5, %a[%z, %y, %x] dims [] : i64, !tile.view<?x?x?xi64>)"),
        arrays, {4, 3, 5});
}

TEST(TileToLoops, ReadsNothingOutOfBounds) {
  for (int64_t shift : {-5, 0, 9})
    for (int64_t rows : {1, 3, 17})
      for (int64_t columns : {1, 15, 64, 70}) {
        Arrays arrays = {{DType::f32, {rows, columns}}, {DType::f32, {16, 80}}};
        agree(replaced(kernel(arrays, R"(
          %shift = arith.constant SHIFT : i64
          %seven = arith.constant 7.0 : f32
          %x = tile.load %a[%shift, %shift] dims [0, 1] else %seven : !tile.view<?x?xf32> -> tensor<16x80xf32>
          tile.store %x, %b[%zero, %zero] dims [0, 1] : tensor<16x80xf32>, !tile.view<?x?xf32>)"),
                       "SHIFT", std::to_string(shift)),
              arrays, {1, 1, 1}, 0);
        Arrays back = {{DType::f32, {16, 80}}, {DType::f32, {rows, columns}}};
        agree(replaced(kernel(back, R"(
          %shift = arith.constant SHIFT : i64
          %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x80xf32>
          tile.store %x, %b[%shift, %shift] dims [0, 1] : tensor<16x80xf32>, !tile.view<?x?xf32>)"),
                       "SHIFT", std::to_string(shift)),
              back, {1, 1, 1}, 0);
      }
}

TEST(TileToLoops, HandlesEveryElementType) {
  for (DType dtype : {DType::i8, DType::i16, DType::i32, DType::i64, DType::f16, DType::bf16, DType::f32, DType::f64})
    for (int64_t n : {1, 17, 199}) {
      Arrays arrays = {{dtype, {n}}, {dtype, {n}}};
      agree(replaced(kernel(arrays, R"(
        %x = tile.load %a[%zero] dims [0] : !tile.view<?xT> -> tensor<256xT>
        tile.store %x, %b[%zero] dims [0] : tensor<256xT>, !tile.view<?xT>)"),
                     "T>", irOf(dtype) + ">"),
            arrays, {1, 1, 1}, 0);
    }
}

TEST(TileToLoops, ReadsAndWritesStridedViews) {
  Arrays arrays = {{DType::f32, {19, 33}, {1, 19}}, {DType::f32, {19, 33}, {70, 2}}, {DType::f32, {33}}};
  agree(kernel(arrays, R"(
    %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf32, strided> -> tensor<16x64xf32>
    tile.store %x, %b[%zero, %zero] dims [0, 1] : tensor<16x64xf32>, !tile.view<?x?xf32, strided>
    %three = arith.constant 3 : i64
    %column = tile.load %b[%zero, %three] dims [0] : !tile.view<?x?xf32, strided> -> tensor<32xf32>
    tile.store %column, %c[%zero] dims [0] : tensor<32xf32>, !tile.view<?xf32>)"),
        arrays, {1, 1, 1}, 0);
}

TEST(TileToLoops, DividesIntegersWithoutTrapping) {
  Arrays arrays = {{DType::i32, {37}}, {DType::i32, {37}, 3}, {DType::i32, {37}}};
  agree(kernel(arrays, R"(
    %x = tile.load %a[%zero] dims [0] : !tile.view<?xi32> -> tensor<64xi32>
    %y = tile.load %b[%zero] dims [0] : !tile.view<?xi32> -> tensor<64xi32>
    %one = arith.constant dense<1> : tensor<64xi32>
    %z = arith.addi %y, %one : tensor<64xi32>
    %m = arith.subi %z, %one : tensor<64xi32>
    %n = arith.cmpi eq, %m, %y : tensor<64xi32>
    %d = arith.select %n, %z, %y : tensor<64xi1>, tensor<64xi32>
    %q = arith.divsi %x, %d : tensor<64xi32>
    tile.store %q, %c[%zero] dims [0] : tensor<64xi32>, !tile.view<?xi32>)"),
        arrays);
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

TEST(TileToLoops, MovesElements) {
  struct Case {
    std::string source, result, ops;
  };
  const Case cases[] = {
      {"16x64", "64x16", "%r = tile.transpose %x [1, 0] : tensor<16x64xf32> -> tensor<64x16xf32>"},
      {"4x6x32", "32x4x6", "%r = tile.transpose %x [2, 0, 1] : tensor<4x6x32xf32> -> tensor<32x4x6xf32>"},
      {"4x6x32", "6x4x32", "%r = tile.transpose %x [1, 0, 2] : tensor<4x6x32xf32> -> tensor<6x4x32xf32>"},
      {"16x64", "1024", "%r = tile.reshape %x : tensor<16x64xf32> -> tensor<1024xf32>"},
      {"1024", "4x2x128", "%r = tile.reshape %x : tensor<1024xf32> -> tensor<4x2x128xf32>"},
      {"12x10", "15x8", "%r = tile.reshape %x : tensor<12x10xf32> -> tensor<15x8xf32>"},
      {"30x4", "8x15", "%r = tile.reshape %x : tensor<30x4xf32> -> tensor<8x15xf32>"},
      {"128x2", "256", "%r = tile.reshape %x : tensor<128x2xf32> -> tensor<256xf32>"},
      {"64x1", "64x48", "%r = tile.broadcast %x : tensor<64x1xf32> -> tensor<64x48xf32>"},
      {"1x48", "64x48", "%r = tile.broadcast %x : tensor<1x48xf32> -> tensor<64x48xf32>"},
      {"4x1x40", "4x3x40", "%r = tile.broadcast %x : tensor<4x1x40xf32> -> tensor<4x3x40xf32>"},
      {"64", "64x2",
       "%y = arith.addf %x, %x : tensor<64xf32>\n%r = tile.join %x, %y : tensor<64xf32> -> tensor<64x2xf32>"},
      {"64", "128",
       "%y = arith.addf %x, %x : tensor<64xf32>\n%j = tile.join %x, %y : tensor<64xf32> -> tensor<64x2xf32>\n"
       "%r = tile.reshape %j : tensor<64x2xf32> -> tensor<128xf32>"},
      {"3x64", "6x64",
       "%y = arith.addf %x, %x : tensor<3x64xf32>\n%j = tile.join %x, %y : tensor<3x64xf32> -> tensor<3x64x2xf32>\n"
       "%t = tile.transpose %j [2, 0, 1] : tensor<3x64x2xf32> -> tensor<2x3x64xf32>\n"
       "%r = tile.reshape %t : tensor<2x3x64xf32> -> tensor<6x64xf32>"},
      {"64x2", "64",
       "%p, %q = tile.split %x : tensor<64x2xf32> -> tensor<64xf32>\n%r = arith.subf %p, %q : tensor<64xf32>"},
      {"8x128", "8x64",
       "%s = tile.reshape %x : tensor<8x128xf32> -> tensor<8x64x2xf32>\n"
       "%p, %q = tile.split %s : tensor<8x64x2xf32> -> tensor<8x64xf32>\n%r = arith.subf %p, %q : tensor<8x64xf32>"},
      {"16x64", "16x32", "%r = tile.slice %x [0, 32] : tensor<16x64xf32> -> tensor<16x32xf32>"},
      {"16x64", "5x23", "%r = tile.slice %x [3, 7] : tensor<16x64xf32> -> tensor<5x23xf32>"},
      {"64", "64",
       "%i = tile.iota : tensor<64xi32>\n%f = arith.sitofp %i : tensor<64xi32> to tensor<64xf32>\n"
       "%r = arith.addf %x, %f : tensor<64xf32>"},
      {"6", "6",
       "%k = arith.constant dense<[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]> : tensor<6xf32>\n%r = arith.addf %x, %k : "
       "tensor<6xf32>"},
  };
  for (const Case &c : cases) {
    auto dimsOf = [](const std::string &text, std::string &dims, std::string &offsets, std::string &view) {
      std::vector<int64_t> extents;
      size_t at = 0;
      while (at < text.size()) {
        size_t next = std::min(text.find('x', at), text.size());
        dims += (extents.empty() ? "" : ", ") + std::to_string(extents.size());
        offsets += extents.empty() ? "%zero" : ", %zero";
        view += "?x";
        extents.push_back(std::stoll(text.substr(at, next - at)));
        at = next + 1;
      }
      return Dims(std::span<const int64_t>(extents));
    };
    std::string fromDims, fromOffsets, fromView, toDims, toOffsets, toView;
    Dims from = dimsOf(c.source, fromDims, fromOffsets, fromView), to = dimsOf(c.result, toDims, toOffsets, toView);
    Arrays arrays = {{DType::f32, from}, {DType::f32, to}};
    std::string load = "%x = tile.load %a[" + fromOffsets + "] dims [" + fromDims + "] : !tile.view<" + fromView +
                       "f32> -> tensor<" + c.source + "xf32>\n";
    std::string store = "tile.store %r, %b[" + toOffsets + "] dims [" + toDims + "] : tensor<" + c.result +
                        "xf32>, !tile.view<" + toView + "f32>";
    agree(kernel(arrays, load + c.ops + "\n" + store), arrays, {1, 1, 1}, 0);
    // The same from a tile that is in memory, not a view.
    std::string scan = load + "%scanned = tile.scan %x axis 0 : tensor<" + c.source +
                       "xf32> {\n^bb0(%l: f32, %o: f32):\n"
                       "%m = arith.maximumf %l, %o : f32\ntile.yield %m : f32\n}\n";
    agree(kernel(arrays, scan + replaced(c.ops, "%x", "%scanned") + "\n" + store), arrays, {1, 1, 1}, 0);
  }
}

//===- Reductions and scans ---------------------------------------------------------------------------------------===//

TEST(TileToLoops, ReducesARow) {
  for (int64_t n : ragged)
    for (int64_t block : {1, 3, 16, 100, 199, 256, 8192}) {
      Arrays arrays = {{DType::f32, {n}}, {DType::f32, {2}}};
      agree(replaced(kernel(arrays, R"(
        %one = arith.constant 1 : i64
        %inf = arith.constant 0xFF800000 : f32
        %x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<BLOCKxf32>
        %y = tile.load %a[%zero] dims [0] else %inf : !tile.view<?xf32> -> tensor<BLOCKxf32>
        %xx = arith.mulf %x, %x : tensor<BLOCKxf32>
        %sum = tile.reduce %xx axis 0 : tensor<BLOCKxf32> -> f32 )" +
                                        sum + R"(
        %max = tile.reduce %y axis 0 : tensor<BLOCKxf32> -> f32 )" +
                                        largest + R"(
        tile.store %sum, %b[%zero] dims [] : f32, !tile.view<?xf32>
        tile.store %max, %b[%one] dims [] : f32, !tile.view<?xf32>)"),
                     "BLOCK", std::to_string(block)),
            arrays);
    }
}

TEST(TileToLoops, ReducesAlongEveryAxis) {
  for (std::string shape : {"16x64", "3x17", "1x40", "40x1", "24x100", "2x1000", "64x16", "199x8", "9x3"})
    for (int axis : {0, 1}) {
      size_t x = shape.find('x');
      int64_t rows = std::stoll(shape), columns = std::stoll(shape.substr(x + 1));
      Arrays arrays = {{DType::f32, {rows, columns - columns / 3}}, {DType::f32, {axis ? rows : columns}}};
      std::string length = std::to_string(axis ? rows : columns);
      agree(replaced(replaced(replaced(kernel(arrays, R"(
        %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<SHAPExf32>
        %s = tile.reduce %x axis AXIS : tensor<SHAPExf32> -> tensor<LENGTHxf32> )" +
                                                          sum + R"(
        tile.store %s, %b[%zero] dims [0] : tensor<LENGTHxf32>, !tile.view<?xf32>)"),
                                       "SHAPE", shape),
                              "AXIS", std::to_string(axis)),
                     "LENGTH", length),
            arrays);
    }
}

TEST(TileToLoops, ReducesTheMiddleOfThree) {
  struct Case {
    int64_t a, b, c;
    int64_t rows; // of the view, where it ends early
  };
  for (Case c : {Case{5, 7, 40, 5}, Case{5, 7, 40, 3}, Case{9, 8, 16, 9}, Case{9, 8, 16, 6}, Case{3, 33, 4, 2}})
    for (int axis : {0, 1, 2}) {
      std::string shape = std::to_string(c.a) + "x" + std::to_string(c.b) + "x" + std::to_string(c.c);
      std::vector<int64_t> left = {c.a, c.b, c.c};
      left.erase(left.begin() + axis);
      Arrays arrays = {
          {DType::f32, {c.rows, c.b, c.c}}, {DType::f32, {left[0], left[1]}}, {DType::f32, {left[0], left[1]}}};
      agree(replaced(replaced(replaced(kernel(arrays, R"(
        %x = tile.load %a[%zero, %zero, %zero] dims [0, 1, 2] : !tile.view<?x?x?xf32> -> tensor<SHAPExf32>
        %s = tile.reduce %x axis AXIS : tensor<SHAPExf32> -> tensor<OUTxf32> )" +
                                                          largest + R"(
        %t = tile.reduce %x axis AXIS : tensor<SHAPExf32> -> tensor<OUTxf32> )" +
                                                          sum + R"(
        tile.store %s, %b[%zero, %zero] dims [0, 1] : tensor<OUTxf32>, !tile.view<?x?xf32>
        tile.store %t, %c[%zero, %zero] dims [0, 1] : tensor<OUTxf32>, !tile.view<?x?xf32>)"),
                                       "SHAPE", shape),
                              "AXIS", std::to_string(axis)),
                     "OUT", std::to_string(left[0]) + "x" + std::to_string(left[1])),
            arrays);
    }
}

TEST(TileToLoops, ReducesTuplesWithAnyRegion) {
  const std::string argmax = R"({
    ^bb0(%lv: f32, %li: i32, %rv: f32, %ri: i32):
      %gt = arith.cmpf ogt, %lv, %rv : f32
      %eq = arith.cmpf oeq, %lv, %rv : f32
      %lt = arith.cmpi slt, %li, %ri : i32
      %tie = arith.andi %eq, %lt : i1
      %left = arith.ori %gt, %tie : i1
      %bv = arith.select %left, %lv, %rv : f32
      %bi = arith.select %left, %li, %ri : i32
      tile.yield %bv, %bi : f32, i32
    })";
  for (int64_t n : {1, 3, 17, 199, 512}) {
    Arrays arrays = {{DType::f32, {n}}, {DType::f32, {1}}, {DType::i32, {1}}};
    agree(replaced(kernel(arrays, R"(
      %low = arith.constant -1.0e30 : f32
      %x = tile.load %a[%zero] dims [0] else %low : !tile.view<?xf32> -> tensor<512xf32>
      %i = tile.iota : tensor<512xi32>
      %v, %at = tile.reduce %x, %i axis 0 : tensor<512xf32>, tensor<512xi32> -> f32, i32 ARGMAX
      tile.store %v, %b[%zero] dims [] : f32, !tile.view<?xf32>
      tile.store %at, %c[%zero] dims [] : i32, !tile.view<?xi32>)"),
                   "ARGMAX", argmax),
          arrays, {1, 1, 1}, 0);
    Arrays rows = {{DType::f32, {6, n}}, {DType::f32, {6}}, {DType::i32, {6}}};
    agree(replaced(kernel(rows, R"(
      %low = arith.constant -1.0e30 : f32
      %x = tile.load %a[%zero, %zero] dims [0, 1] else %low : !tile.view<?x?xf32> -> tensor<6x200xf32>
      %i = tile.iota : tensor<200xi32>
      %i1 = tile.reshape %i : tensor<200xi32> -> tensor<1x200xi32>
      %i2 = tile.broadcast %i1 : tensor<1x200xi32> -> tensor<6x200xi32>
      %v, %at = tile.reduce %x, %i2 axis 1 : tensor<6x200xf32>, tensor<6x200xi32> -> tensor<6xf32>, tensor<6xi32> ARGMAX
      tile.store %v, %b[%zero] dims [0] : tensor<6xf32>, !tile.view<?xf32>
      tile.store %at, %c[%zero] dims [0] : tensor<6xi32>, !tile.view<?xi32>)"),
                   "ARGMAX", argmax),
          rows, {1, 1, 1}, 0);
  }
}

TEST(TileToLoops, Scans) {
  for (std::string shape : {"16x64", "3x17", "1x199", "24x5", "2x300"})
    for (int axis : {0, 1})
      for (std::string reverse : {"", "reverse "}) {
        size_t x = shape.find('x');
        int64_t rows = std::stoll(shape), columns = std::stoll(shape.substr(x + 1));
        Arrays arrays = {{DType::f32, {rows, columns}}, {DType::f32, {rows, columns}}};
        // Not commutative: the first nonzero number of the two, so that order shows.
        agree(replaced(replaced(replaced(kernel(arrays, R"(
          %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<SHAPExf32>
          %first = tile.scan %x axis AXIS REVERSE: tensor<SHAPExf32> {
          ^bb0(%l: f32, %r: f32):
            %two = arith.constant 0.5 : f32
            %big = arith.cmpf ogt, %r, %two : f32
            %v = arith.select %big, %r, %l : f32
            tile.yield %v : f32
          }
          %t = tile.scan %x axis AXIS REVERSE: tensor<SHAPExf32> )" +
                                                            sum + R"(
          %u = arith.addf %first, %t : tensor<SHAPExf32>
          tile.store %u, %b[%zero, %zero] dims [0, 1] : tensor<SHAPExf32>, !tile.view<?x?xf32>)"),
                                         "SHAPE", shape),
                                "AXIS", std::to_string(axis)),
                       "REVERSE", reverse),
              arrays, {1, 1, 1}, 1e-4);
      }
}

TEST(TileToLoops, ComputesSoftmaxOnce) {
  for (int64_t n : ragged)
    for (int64_t block : {4096, 64, 8}) {
      Arrays arrays = {{DType::f32, {5, n}}, {DType::f32, {5, n}}};
      agree(replaced(kernel(arrays, R"(
        %row = tile.program_id 0
        %inf = arith.constant 0xFF800000 : f32
        %x = tile.load %a[%row, %zero] dims [1] else %inf : !tile.view<?x?xf32> -> tensor<BLOCKxf32>
        %max = tile.reduce %x axis 0 : tensor<BLOCKxf32> -> f32 )" +
                                        largest + R"(
        %m = tensor.splat %max : tensor<BLOCKxf32>
        %d = arith.subf %x, %m : tensor<BLOCKxf32>
        %e = math.exp %d : tensor<BLOCKxf32>
        %sum = tile.reduce %e axis 0 : tensor<BLOCKxf32> -> f32 )" +
                                        sum + R"(
        %t = tensor.splat %sum : tensor<BLOCKxf32>
        %y = arith.divf %e, %t : tensor<BLOCKxf32>
        tile.store %y, %b[%row, %zero] dims [1] : tensor<BLOCKxf32>, !tile.view<?x?xf32>)"),
                     "BLOCK", std::to_string(block)),
            arrays, {5, 1, 1});
    }
}

} // namespace

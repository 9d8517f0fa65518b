// Products, packed values, control flow and memory accesses element by element.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Agreement.h"

using namespace bitloom;

namespace {

//===- Products ---------------------------------------------------------------------------------------------------===//

TEST(TileToLoops, MultipliesMatrices) {
  struct Case {
    int64_t m, k, n;
    DType a, acc;
  };
  const Case cases[] = {
      {1, 1, 1, DType::f32, DType::f32},   {16, 16, 16, DType::f32, DType::f32}, {17, 5, 33, DType::f32, DType::f32},
      {3, 64, 70, DType::f32, DType::f32}, {32, 8, 64, DType::bf16, DType::f32}, {9, 20, 12, DType::f16, DType::f32},
      {8, 8, 24, DType::f64, DType::f64},  {16, 32, 16, DType::i8, DType::i32},  {5, 3, 7, DType::i32, DType::i32}};
  for (const Case &c : cases)
    for (std::string flags : {"", " {unsignedA}", " {unsignedB}"}) {
      if (!flags.empty() && c.a != DType::i8)
        continue;
      Arrays arrays = {{c.a, {c.m, c.k}, 256}, {c.a, {c.k, c.n}, 256}, {c.acc, {c.m, c.n}}};
      auto type = [](int64_t rows, int64_t columns, DType dtype) {
        return "tensor<" + std::to_string(rows) + "x" + std::to_string(columns) + "x" + irOf(dtype) + ">";
      };
      std::string a = type(c.m, c.k, c.a), b = type(c.k, c.n, c.a), acc = type(c.m, c.n, c.acc),
                  view = "!tile.view<?x?x" + irOf(c.a) + ">", accView = "!tile.view<?x?x" + irOf(c.acc) + ">";
      agree(kernel(arrays, "%x = tile.load %a[%zero, %zero] dims [0, 1] : " + view + " -> " + a +
                               "\n%y = tile.load %b[%zero, %zero] dims [0, 1] : " + view + " -> " + b +
                               "\n%z = tile.load %c[%zero, %zero] dims [0, 1] : " + accView + " -> " + acc +
                               "\n%d = tile.dot %x, %y, %z" + flags + " : " + a + ", " + b + ", " + acc +
                               "\ntile.store %d, %c[%zero, %zero] dims [0, 1] : " + acc + ", " + accView),
            arrays, {1, 1, 1}, 1e-4);
    }
}

TEST(TileToLoops, AccumulatesProductsInALoop) {
  Arrays arrays = {{DType::f32, {30, 100}}, {DType::f32, {100, 40}}, {DType::f32, {30, 40}}};
  agree(kernel(arrays, R"(
    %n = tile.extent %a, 1 : !tile.view<?x?xf32>
    %step = arith.constant 16 : i64
    %none = arith.constant dense<0.0> : tensor<32x48xf32>
    %acc = scf.for %k = %zero to %n step %step iter_args(%sum = %none) -> (tensor<32x48xf32>) : i64 {
      %x = tile.load %a[%zero, %k] dims [0, 1] : !tile.view<?x?xf32> -> tensor<32x16xf32>
      %y = tile.load %b[%k, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x48xf32>
      %d = tile.dot %x, %y, %sum : tensor<32x16xf32>, tensor<16x48xf32>, tensor<32x48xf32>
      scf.yield %d : tensor<32x48xf32>
    }
    tile.store %acc, %c[%zero, %zero] dims [0, 1] : tensor<32x48xf32>, !tile.view<?x?xf32>)"),
        arrays, {1, 1, 1}, 1e-4);
}

TEST(TileToLoops, RescalesAnAccumulatorByWhatItReplaces) { // as attention does
  Arrays arrays = {{DType::f32, {8, 64}}, {DType::f32, {64, 24}}, {DType::f32, {8, 24}}};
  agree(kernel(arrays, R"(
    %n = arith.constant 64 : i64
    %step = arith.constant 16 : i64
    %none = arith.constant dense<0.0> : tensor<8x24xf32>
    %low = arith.constant dense<-1.0e30> : tensor<8xf32>
    %acc, %m, %again = scf.for %k = %zero to %n step %step iter_args(%sum = %none, %top = %low, %before = %low) -> (tensor<8x24xf32>, tensor<8xf32>, tensor<8xf32>) : i64 {
      %x = tile.load %a[%zero, %k] dims [0, 1] : !tile.view<?x?xf32> -> tensor<8x16xf32>
      %y = tile.load %b[%k, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x24xf32>
      %most = tile.reduce %x axis 1 : tensor<8x16xf32> -> tensor<8xf32> )" +
                           largest + R"(
      %next = arith.maximumf %most, %top : tensor<8xf32>
      %difference = arith.subf %top, %next : tensor<8xf32>
      %alpha = math.exp %difference : tensor<8xf32>
      %column = tile.reshape %alpha : tensor<8xf32> -> tensor<8x1xf32>
      %wide = tile.broadcast %column : tensor<8x1xf32> -> tensor<8x24xf32>
      %scaled = arith.mulf %sum, %wide : tensor<8x24xf32>
      %d = tile.dot %x, %y, %scaled : tensor<8x16xf32>, tensor<16x24xf32>, tensor<8x24xf32>
      scf.yield %d, %next, %top : tensor<8x24xf32>, tensor<8xf32>, tensor<8xf32>
    }
    %column = tile.reshape %again : tensor<8xf32> -> tensor<8x1xf32>
    %wide = tile.broadcast %column : tensor<8x1xf32> -> tensor<8x24xf32>
    %r = arith.addf %acc, %wide : tensor<8x24xf32>
    tile.store %r, %c[%zero, %zero] dims [0, 1] : tensor<8x24xf32>, !tile.view<?x?xf32>)"),
        arrays, {1, 1, 1}, 1e-4);
}

//===- Packed values ----------------------------------------------------------------------------------------------===//

TEST(TileToLoops, UnpacksAndPacksEveryWidthAndOrder) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Packing::Order order : {Packing::Order::LowFirst, Packing::Order::HighFirst, Packing::Order::Planar})
      for (int block : {8, 128}) {
        Packing packing{bits, order, block};
        int64_t columns = 128 / block >= 4 ? 4 * block : 128 * (block == 128 ? 1 : 2),
                bytes = packing.bytesPerRow(columns);
        std::string value = "tensor<3x" + std::to_string(columns), byte = "tensor<3x" + std::to_string(bytes) + "xi8>",
                    spelled = "<\"" + packing.toString() + "\">";
        std::string sign = block == 8 ? "" : "signed ";
        Arrays arrays = {{DType::u8, {3, bytes}, 256},
                         {DType::i8, {3, columns}},
                         {DType::f32, {3, columns}},
                         {DType::u8, {3, bytes}}};
        agree(kernel(arrays,
                     "%p = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xi8> -> " + byte +
                         "\n%v = tile.unpack %p " + sign + spelled + " : " + byte + " -> " + value + "xi8>" +
                         "\ntile.store %v, %b[%zero, %zero] dims [0, 1] : " + value + "xi8>, !tile.view<?x?xi8>" +
                         "\n%f = arith." + (sign.empty() ? "uitofp" : "sitofp") + " %v : " + value + "xi8> to " +
                         value + "xf32>" + "\ntile.store %f, %c[%zero, %zero] dims [0, 1] : " + value +
                         "xf32>, !tile.view<?x?xf32>" + "\n%q = tile.pack %v " + spelled + " : " + value + "xi8> -> " +
                         byte + "\ntile.store %q, %d[%zero, %zero] dims [0, 1] : " + byte + ", !tile.view<?x?xi8>"),
              arrays, {1, 1, 1}, 0);
      }
}

// Used by nothing else, so that the way from the bytes to the floats is free.
TEST(TileToLoops, TurnsUnpackedValuesIntoFloats) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Packing::Order order : {Packing::Order::LowFirst, Packing::Order::Planar})
      for (bool isSigned : {false, true})
        for (int xorBy : {0, 5}) { // after it, signed values are no longer those of their bits
          if ((order == Packing::Order::LowFirst && bits != 3 && bits != 6) || (xorBy && !isSigned))
            continue;
          Packing packing{bits, order, order == Packing::Order::Planar ? 128 : 8};
          std::string value = "tensor<3x128xi8>", floats = "tensor<3x128xf32>",
                      byte = "tensor<3x" + std::to_string(16 * bits) + "xi8>", from = isSigned ? "sitofp" : "uitofp";
          Arrays arrays = {{DType::u8, {2, 16 * bits}, 256}, {DType::f32, {3, 128}}};
          agree(kernel(arrays, "%p = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xi8> -> " + byte +
                                   "\n%v = tile.unpack %p " + (isSigned ? "signed " : "") + "<\"" + packing.toString() +
                                   "\"> : " + byte + " -> " + value + "\n%by = arith.constant dense<" +
                                   std::to_string(xorBy) + "> : " + value + "\n%u = arith.xori %v, %by : " + value +
                                   "\n%f = arith." + from + " %u : " + value + " to " + floats +
                                   "\ntile.store %f, %b[%zero, %zero] dims [0, 1] : " + floats +
                                   ", !tile.view<?x?xf32>"),
                arrays, {1, 1, 1}, 0);
        }
}

TEST(TileToLoops, MultipliesPackedWeights) {
  for (std::string order : {"planar", "low", "high"}) {
    Arrays arrays = {{DType::u8, {20, 256}, 256}, {DType::f32, {512}}, {DType::f32, {20, 4}}, {DType::f32, {20}}};
    agree(replaced(kernel(arrays, R"(
      %rows = arith.constant 16 : i64
      %pid = tile.program_id 0
      %row = arith.muli %pid, %rows : i64
      %groups = arith.constant 4 : i64
      %one = arith.constant 1 : i64
      %c64 = arith.constant 64 : i64
      %c128 = arith.constant 128 : i64
      %none = arith.constant dense<0.0> : tensor<16xf32>
      %acc = scf.for %g = %zero to %groups step %one iter_args(%sum = %none) -> (tensor<16xf32>) : i64 {
        %at = arith.muli %g, %c64 : i64
        %from = arith.muli %g, %c128 : i64
        %p = tile.load %a[%row, %at] dims [0, 1] : !tile.view<?x?xi8> -> tensor<16x64xi8>
        %v = tile.unpack %p signed <"bits=4,order=ORDER,block=128"> : tensor<16x64xi8> -> tensor<16x128xi8>
        %w = arith.sitofp %v : tensor<16x128xi8> to tensor<16x128xf32>
        %x = tile.load %b[%from] dims [0] : !tile.view<?xf32> -> tensor<128xf32>
        %x1 = tile.reshape %x : tensor<128xf32> -> tensor<1x128xf32>
        %x2 = tile.broadcast %x1 : tensor<1x128xf32> -> tensor<16x128xf32>
        %y = arith.mulf %w, %x2 : tensor<16x128xf32>
        %s = tile.reduce %y axis 1 : tensor<16x128xf32> -> tensor<16xf32> )" +
                                      sum + R"(
        %scale = tile.load %c[%row, %g] dims [0] : !tile.view<?x?xf32> -> tensor<16xf32>
        %t = arith.mulf %s, %scale : tensor<16xf32>
        %next = arith.addf %sum, %t : tensor<16xf32>
        scf.yield %next : tensor<16xf32>
      }
      tile.store %acc, %d[%row] dims [0] : tensor<16xf32>, !tile.view<?xf32>)"),
                   "ORDER", order),
          arrays, {2, 1, 1}, 1e-4);
  }
}

TEST(TileToLoops, LooksUp) {
  for (int64_t extent : {1, 5, 16, 17, 32, 256}) {
    Arrays arrays = {{DType::u8, {100}, 256}, {DType::f32, {extent}}, {DType::f32, {100}}};
    agree(replaced(kernel(arrays, R"(
      %i = tile.load %a[%zero] dims [0] : !tile.view<?xi8> -> tensor<100xi8>
      %t = tile.load %b[%zero] dims [0] : !tile.view<?xf32> -> tensor<Nxf32>
      %r = tile.lut %t, %i : tensor<Nxf32>, tensor<100xi8> -> tensor<100xf32>
      tile.store %r, %c[%zero] dims [0] : tensor<100xf32>, !tile.view<?xf32>)"),
                   "<N", "<" + std::to_string(extent)),
          arrays, {1, 1, 1}, 0);
  }
}

//===- Elements one by one ----------------------------------------------------------------------------------------===//

TEST(TileToLoops, GathersAndScatters) {
  Arrays arrays = {
      {DType::f32, {9, 50}}, {DType::i32, {100}, 70}, {DType::f32, {9, 100}}, {DType::f32, {60}}, {DType::f16, {50}}};
  agree(kernel(arrays, R"(
    %two = arith.constant 2 : i64
    %five = arith.constant 5.0 : f32
    %i = tile.load %b[%zero] dims [0] : !tile.view<?xi32> -> tensor<100xi32>
    %ten = arith.constant dense<10> : tensor<100xi32>
    %j = arith.subi %i, %ten : tensor<100xi32>
    %mask = arith.cmpi ne, %i, %ten : tensor<100xi32>
    %g = tile.gather %a[%two, %j] mask %mask else %five : !tile.view<?x?xf32>, i64, tensor<100xi32> -> tensor<100xf32>
    tile.store %g, %c[%two, %zero] dims [1] : tensor<100xf32>, !tile.view<?x?xf32>
    %n = tile.iota : tensor<100xi32>
    %k = arith.remui %n, %ten : tensor<100xi32>
    %h = tile.gather %a[%k, %i] : !tile.view<?x?xf32>, tensor<100xi32>, tensor<100xi32> -> tensor<100xf32>
    tile.store %h, %c[%zero, %zero] dims [1] : tensor<100xf32>, !tile.view<?x?xf32>
    %seven = arith.constant dense<7> : tensor<100xi32>
    %spread = arith.muli %n, %seven : tensor<100xi32>
    %half = arith.constant dense<1.5> : tensor<100xf32>
    %v = arith.addf %h, %half : tensor<100xf32>
    tile.scatter %v, %d[%spread] mask %mask : tensor<100xf32>, !tile.view<?xf32>, tensor<100xi32>
    %lane = tile.iota : tensor<64xi64>
    %halves = tile.gather %e[%lane] : !tile.view<?xf16>, tensor<64xi64> -> tensor<64xf16>
    %twice = arith.addf %halves, %halves : tensor<64xf16>
    tile.scatter %twice, %e[%lane] : tensor<64xf16>, !tile.view<?xf16>, tensor<64xi64>
    %single = tile.gather %a[%two, %two] : !tile.view<?x?xf32>, i64, i64 -> f32
    tile.scatter %single, %d[%two] : f32, !tile.view<?xf32>, i64)"),
        arrays, {1, 1, 1}, 0);
}

TEST(TileToLoops, CountsAtomically) {
  for (std::string kind : {"add", "max", "min", "maxu", "minu", "and", "or", "xor", "exchange"}) {
    Arrays arrays = {{DType::i32, {100}, 12}, {DType::i32, {10}}, {DType::i32, {100}}};
    agree(replaced(kernel(arrays, R"(
      %i = tile.load %a[%zero] dims [0] : !tile.view<?xi32> -> tensor<100xi32>
      %old = tile.atomic KIND %i, %b[%i] : tensor<100xi32>, !tile.view<?xi32>, tensor<100xi32>
      tile.store %old, %c[%zero] dims [0] : tensor<100xi32>, !tile.view<?xi32>)"),
                   "KIND", kind),
          arrays);
  }
  for (std::string kind : {"add", "max", "min", "exchange"})
    for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
      Arrays arrays = {{DType::i32, {40}, 12}, {dtype, {10}}, {dtype, {40}}};
      agree(replaced(replaced(kernel(arrays, R"(
        %i = tile.load %a[%zero] dims [0] : !tile.view<?xi32> -> tensor<40xi32>
        %v = tile.load %c[%zero] dims [0] : !tile.view<?xT> -> tensor<40xT>
        %n = tile.iota : tensor<40xi32>
        %twelve = arith.constant dense<12> : tensor<40xi32>
        %mask = arith.cmpi ne, %n, %twelve : tensor<40xi32>
        %old = tile.atomic KIND %v, %b[%i] mask %mask : tensor<40xT>, !tile.view<?xT>, tensor<40xi32>)"),
                              "KIND", kind),
                     "xT>", "x" + irOf(dtype) + ">"),
            arrays, {1, 1, 1}, 1e-5);
    }
}

//===- Order of reads and writes ----------------------------------------------------------------------------------===//

TEST(TileToLoops, ReadsBeforeItOverwrites) {
  const std::string bodies[] = {
      // Shifted: what is stored at i was at i + 1.
      R"(%x = tile.load %a[%one] dims [0] : !tile.view<?xf32> -> tensor<200xf32>
         tile.store %x, %b[%zero] dims [0] : tensor<200xf32>, !tile.view<?xf32>)",
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<200xf32>
         tile.store %x, %b[%one] dims [0] : tensor<200xf32>, !tile.view<?xf32>)",
      // Rotated halves.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %y = tile.load %a[%half] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %s = arith.subf %x, %y : tensor<96xf32>
         %t = arith.addf %x, %y : tensor<96xf32>
         tile.store %s, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %t, %b[%half] dims [0] : tensor<96xf32>, !tile.view<?xf32>)",
      // Two stores of what is costly, in place of what they read.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %y = tile.load %a[%half] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %e = math.exp %x : tensor<96xf32>
         %s = arith.mulf %e, %y : tensor<96xf32>
         %t = arith.addf %e, %y : tensor<96xf32>
         tile.store %s, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %t, %b[%half] dims [0] : tensor<96xf32>, !tile.view<?xf32>)",
      // Halves that change places.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %y = tile.load %a[%half] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         tile.store %y, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %x, %b[%half] dims [0] : tensor<96xf32>, !tile.view<?xf32>)",
      // The second store takes what the first has written; then what is loaded between them is used after both.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %s = arith.addf %x, %x : tensor<96xf32>
         tile.store %s, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         %y = tile.load %b[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %t = arith.mulf %y, %y : tensor<96xf32>
         tile.store %t, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %y, %b[%half] dims [0] : tensor<96xf32>, !tile.view<?xf32>)",
      // Stores that overlap: the second one's stay.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<96xf32>
         %s = arith.addf %x, %x : tensor<96xf32>
         %t = arith.mulf %x, %x : tensor<96xf32>
         tile.store %s, %b[%one] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %t, %b[%three] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %s, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>
         tile.store %t, %b[%zero] dims [0] : tensor<96xf32>, !tile.view<?xf32>)",
      // Loaded before a loop, used in it.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
         scf.for %i = %zero to %three step %one : i64 {
           %at = arith.muli %i, %half : i64
           tile.store %x, %b[%at] dims [0] : tensor<64xf32>, !tile.view<?xf32>
           %back = tile.load %b[%three] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
           %y = arith.addf %back, %x : tensor<64xf32>
           tile.store %y, %b[%zero] dims [0] : tensor<64xf32>, !tile.view<?xf32>
         })",
      // A sum of what is overwritten, then the old tile again.
      R"(%x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<4096xf32>
         %e = math.exp %x : tensor<4096xf32>
         tile.store %e, %b[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>
         %s = tile.reduce %e axis 0 : tensor<4096xf32> -> f32 SUM
         %t = tensor.splat %s : tensor<4096xf32>
         %q = arith.divf %e, %t : tensor<4096xf32>
         %y = arith.addf %q, %x : tensor<4096xf32>
         tile.store %y, %b[%zero] dims [0] : tensor<4096xf32>, !tile.view<?xf32>)",
      // Reversed through a gather.
      R"(%i = tile.iota : tensor<192xi64>
         %last = arith.constant dense<191> : tensor<192xi64>
         %j = arith.subi %last, %i : tensor<192xi64>
         %x = tile.gather %a[%j] : !tile.view<?xf32>, tensor<192xi64> -> tensor<192xf32>
         tile.store %x, %b[%zero] dims [0] : tensor<192xf32>, !tile.view<?xf32>)",
  };
  for (const std::string &body : bodies)
    for (bool same : {false, true}) {
      Arrays arrays = {{DType::f32, {192}}, {DType::f32, {192}}};
      agree(kernel(arrays,
                   "%one = arith.constant 1 : i64\n%three = arith.constant 3 : i64\n%half = arith.constant 96 : i64\n" +
                       replaced(body, "SUM", sum)),
            arrays, {1, 1, 1}, 1e-4, {}, same ? std::vector<int>{0, 0} : std::vector<int>{});
    }
}

// Two rows of one view are the same row, read in place, or apart; shifted along the row, they overlap.
TEST(TileToLoops, CopiesRowsOverTheirView) {
  for (const char *to : {"[%zero, %zero]", "[%two, %zero]", "[%two, %one]", "[%zero, %one]"})
    for (bool same : {false, true}) {
      Arrays arrays = {{DType::f32, {3, 100}}, {DType::f32, {3, 100}}};
      agree(kernel(arrays, replaced(R"(
        %one = arith.constant 1 : i64
        %two = arith.constant 2 : i64
        %x = tile.load %a[%zero, %zero] dims [1] : !tile.view<?x?xf32> -> tensor<128xf32>
        %y = arith.mulf %x, %x : tensor<128xf32>
        tile.store %y, %bTO dims [1] : tensor<128xf32>, !tile.view<?x?xf32>)",
                                    "TO", to)),
            arrays, {1, 1, 1}, 1e-5, {}, same ? std::vector<int>{0, 0} : std::vector<int>{});
    }
}

// What a loop carries, beside a store of the loop that may write over what both read.
TEST(TileToLoops, CarriesBesideStores) {
  const std::string bodies[] = {
      // Each row read where it is written.
      R"(%y = arith.mulf %x, %u : tensor<128xf32>
         tile.store %y, %b[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %z = arith.mulf %x, %x : tensor<128xf32>
         %w = arith.addf %u, %z : tensor<128xf32>
         scf.yield %w, %v : tensor<128xf32>, tensor<128xf32>)",
      // Read one place further on than written, and the next row.
      R"(%y = arith.addf %x, %u : tensor<128xf32>
         tile.store %y, %b[%i, %one] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %x : tensor<128xf32>
         scf.yield %w, %v : tensor<128xf32>, tensor<128xf32>)",
      R"(%next = arith.addi %i, %one : i64
         tile.store %x, %b[%next, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %x : tensor<128xf32>
         scf.yield %w, %x : tensor<128xf32>, tensor<128xf32>)",
      // Tiles that change places, and both stored.
      R"(%y = arith.addf %x, %u : tensor<128xf32>
         tile.store %y, %b[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         tile.store %v, %a[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %x : tensor<128xf32>
         scf.yield %v, %w : tensor<128xf32>, tensor<128xf32>)",
      // Stored, or carried on, in another order of elements.
      R"(%s = tile.reshape %u : tensor<128xf32> -> tensor<2x64xf32>
         %t = tile.transpose %s [1, 0] : tensor<2x64xf32> -> tensor<64x2xf32>
         %y = tile.reshape %t : tensor<64x2xf32> -> tensor<128xf32>
         tile.store %y, %b[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %x : tensor<128xf32>
         scf.yield %w, %v : tensor<128xf32>, tensor<128xf32>)",
      R"(tile.store %u, %b[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %x : tensor<128xf32>
         %s = tile.reshape %w : tensor<128xf32> -> tensor<2x64xf32>
         %t = tile.transpose %s [1, 0] : tensor<2x64xf32> -> tensor<64x2xf32>
         %y = tile.reshape %t : tensor<64x2xf32> -> tensor<128xf32>
         scf.yield %y, %u : tensor<128xf32>, tensor<128xf32>)",
      // A costly tile for both, and its sum.
      R"(%e = math.exp %x : tensor<128xf32>
         %s = tile.reduce %e axis 0 : tensor<128xf32> -> f32 SUM
         %t = tensor.splat %s : tensor<128xf32>
         %y = arith.divf %e, %t : tensor<128xf32>
         tile.store %y, %b[%i, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
         %w = arith.addf %u, %e : tensor<128xf32>
         scf.yield %w, %v : tensor<128xf32>, tensor<128xf32>)",
  };
  // The last row of b is read back in full: of a carried tile, elements that no store of the loop takes count too.
  for (const std::string &body : bodies)
    for (int64_t columns : {128, 99})
      for (bool same : {false, true}) {
        Arrays arrays = {{DType::f32, {4, columns}}, {DType::f32, {4, columns}}, {DType::f32, {2, 128}}};
        std::string text = kernel(arrays, R"(
          %one = arith.constant 1 : i64
          %three = arith.constant 3 : i64
          %first = arith.constant dense<1.0> : tensor<128xf32>
          %p, %q = scf.for %i = %zero to %three step %one iter_args(%u = %first, %v = %first) -> (tensor<128xf32>, tensor<128xf32>) : i64 {
            %x = tile.load %a[%i, %zero] dims [1] : !tile.view<?x?xf32> -> tensor<128xf32>
            )" + replaced(body, "SUM", sum) + R"(
          }
          tile.store %p, %c[%zero, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>
          tile.store %q, %c[%one, %zero] dims [1] : tensor<128xf32>, !tile.view<?x?xf32>)");
        for (const char *extent : {"128", "4096"}) {
          std::string wide = replaced(replaced(replaced(text, "<128x", "<" + std::string(extent) + "x"), "2x64x",
                                               "2x" + std::to_string(std::stoll(extent) / 2) + "x"),
                                      "64x2x", std::to_string(std::stoll(extent) / 2) + "x2x");
          agree(wide, arrays, {1, 1, 1}, 1e-4, {}, same ? std::vector<int>{0, 0, 2} : std::vector<int>{});
        }
      }
}

//===- Control flow -----------------------------------------------------------------------------------------------===//

TEST(TileToLoops, CarriesTilesThroughRegions) {
  Arrays arrays = {{DType::f32, {64}}, {DType::f32, {64}}, {DType::f32, {1}}};
  const std::string bodies[] = {
      // Two tiles change places.
      R"(%p, %q, %n = scf.for %i = %zero to %count step %one iter_args(%u = %x, %v = %y, %c0 = %zero) -> (tensor<64xf32>, tensor<64xf32>, i64) : i64 {
           %next = arith.addi %c0, %i : i64
           scf.yield %v, %u, %next : tensor<64xf32>, tensor<64xf32>, i64
         }
         %nf = arith.sitofp %n : i64 to f32
         %ns = tensor.splat %nf : tensor<64xf32>
         %r = arith.addf %p, %ns : tensor<64xf32>)",
      // Reversal by halves, read where another element is written.
      R"(%r = scf.for %i = %zero to %count step %one iter_args(%u = %x) -> (tensor<64xf32>) : i64 {
           %s = tile.reshape %u : tensor<64xf32> -> tensor<2x32xf32>
           %t = tile.transpose %s [1, 0] : tensor<2x32xf32> -> tensor<32x2xf32>
           %v = tile.reshape %t : tensor<32x2xf32> -> tensor<64xf32>
           %w = arith.addf %v, %y : tensor<64xf32>
           scf.yield %w : tensor<64xf32>
         })",
      R"(%b0 = arith.cmpi eq, %count, %flag : i64
         %r, %scalar = scf.if %b0 -> (tensor<64xf32>, f32) {
           %e = math.exp %x : tensor<64xf32>
           %s = tile.reduce %e axis 0 : tensor<64xf32> -> f32 SUM
           scf.yield %e, %s : tensor<64xf32>, f32
         } else {
           %s = arith.constant 3.0 : f32
           scf.yield %y, %s : tensor<64xf32>, f32
         }
         tile.store %scalar, %c[%zero] dims [] : f32, !tile.view<?xf32>)",
      R"(%r, %n = scf.while (%u = %x, %k = %zero) : (tensor<64xf32>, i64) -> (tensor<64xf32>, i64) {
           %more = arith.cmpi slt, %k, %count : i64
           %v = arith.addf %u, %y : tensor<64xf32>
           scf.condition(%more) %v, %k : tensor<64xf32>, i64
         } do {
         ^bb0(%u: tensor<64xf32>, %k: i64):
           %next = arith.addi %k, %one : i64
           %v = arith.mulf %u, %y : tensor<64xf32>
           scf.yield %v, %next : tensor<64xf32>, i64
         })",
      // What is costly outside is not computed in every iteration, and what is inside is.
      R"(%e = math.exp %x : tensor<64xf32>
         %r = scf.for %i = %zero to %count step %one iter_args(%u = %y) -> (tensor<64xf32>) : i64 {
           %v = arith.mulf %u, %e : tensor<64xf32>
           %s = tile.reduce %v axis 0 : tensor<64xf32> -> f32 SUM
           %t = tensor.splat %s : tensor<64xf32>
           %w = arith.divf %v, %t : tensor<64xf32>
           scf.yield %w : tensor<64xf32>
         })",
  };
  for (const std::string &body : bodies)
    for (int64_t count : {0, 1, 5})
      for (std::string extent : {"64", "2048"}) {
        std::string text = kernel(arrays, R"(
          %one = arith.constant 1 : i64
          %flag = arith.constant 5 : i64
          %x = tile.load %a[%zero] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
          %y = tile.load %b[%zero] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
          )" + replaced(body, "SUM", sum) + "\ntile.store %r, %b[%zero] dims [0] : tensor<64xf32>, !tile.view<?xf32>",
                                  ", %count: i64");
        text = replaced(replaced(replaced(text, "<64x", "<" + extent + "x"), "2x32x",
                                 "2x" + std::to_string(std::stoll(extent) / 2) + "x"),
                        "32x2x", std::to_string(std::stoll(extent) / 2) + "x2x");
        agree(text, arrays, {1, 1, 1}, 1e-4, {count});
      }
}

TEST(TileToLoops, ManyTilesGoToTheHeap) {
  Arrays arrays = {{DType::f32, {300, 400}}, {DType::f32, {300, 400}}};
  agree(kernel(arrays, R"(
    %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf32> -> tensor<256x512xf32>
    %s = tile.scan %x axis 1 : tensor<256x512xf32> )" +
                           largest + R"(
    %t = tile.scan %s axis 0 : tensor<256x512xf32> )" +
                           largest + R"(
    tile.store %t, %b[%zero, %zero] dims [0, 1] : tensor<256x512xf32>, !tile.view<?x?xf32>)"),
        arrays, {2, 1, 1}, 0);
}

//===- For people -------------------------------------------------------------------------------------------------===//

TEST(TileToLoops, StopsWhereAnAssertionFails) {
  Arrays arrays = {{DType::i32, {40}, 12}, {DType::i32, {40}}};
  std::string text = replaced(kernel(arrays, R"(
    %i = tile.load %a[%zero] dims [0] : !tile.view<?xi32> -> tensor<40xi32>
    %limit = arith.constant dense<LIMIT> : tensor<40xi32>
    %small = arith.cmpi slt, %i, %limit : tensor<40xi32>
    tile.assert %small, "too large" : tensor<40xi1>
    tile.store %i, %b[%zero] dims [0] : tensor<40xi32>, !tile.view<?xi32>)"),
                              "LIMIT", "12");
  agree(text, arrays);
  for (const Target &target : targets()) {
    Array a = arrays[0], b = arrays[1];
    a.fill(1);
    auto before = b.bytes;
    LaunchArguments words;
    words.addView(a.ref());
    words.addView(b.ref());
    auto code =
        Executable::load(compile(Program::parse(replaced(text, "<12>", "<11>"), "kernel.mlir"), target), target);
    try {
      code->launch(words.words(), {1, 1, 1});
      ADD_FAILURE() << "expected an error";
    } catch (const UserError &error) {
      EXPECT_NE(std::string(error.what()).find("kernel.mlir:7: error: too large"), std::string::npos) << error.what();
    }
    EXPECT_EQ(b.bytes, before) << "went on after the assertion";
  }
}

TEST(TileToLoops, Prints) {
  Arrays arrays = {{DType::i8, {2, 3}}};
  Array &a = arrays[0];
  for (int i = 0; i < 6; ++i)
    a.set(i, i - 2);
  std::string text = kernel(arrays, R"(
    %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xi8> -> tensor<2x3xi8>
    tile.print "signed", %x : tensor<2x3xi8>
    tile.print "unsigned", %x unsigned : tensor<2x3xi8>
    %m = arith.cmpi slt, %x, %x : tensor<2x3xi8>
    tile.print "mask", %m : tensor<2x3xi1>
    %pi = arith.constant 0.5 : f32
    tile.print "scalar", %pi : f32)");
  LaunchArguments words;
  words.addView(a.ref());
  testing::internal::CaptureStdout();
  interpret(Program::parse(text), words.words(), {1, 1, 1});
  std::string expected = testing::internal::GetCapturedStdout();
  EXPECT_NE(expected.find("-2"), std::string::npos);
  expected = replaced(expected, "(0, 0, 0) ", ""); // the program, which compiled code does not tell
  for (const Target &target : targets()) {
    auto code = Executable::load(compile(Program::parse(text), target), target);
    testing::internal::CaptureStdout();
    code->launch(words.words(), {1, 1, 1});
    std::fflush(stdout);
    EXPECT_EQ(testing::internal::GetCapturedStdout(), expected) << target.name;
  }
}

} // namespace

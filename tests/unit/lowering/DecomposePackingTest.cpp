// The pass keeps what a program computes, for every packing. Its shape: tests/lit/transforms/DecomposePacking.mlir.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

namespace bitloom {
namespace {

// Unpacks, adds one and packs again.
std::string incrementing(const Packing &packing, int64_t columns, bool isSigned) {
  std::string text = R"(
func.func @k(%bytes: !tile.view<?x?xi8>, %values: !tile.view<?x?xi8>, %packed: !tile.view<?x?xi8>)
             attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %b = tile.load %bytes[%z, %z] dims [0, 1] : !tile.view<?x?xi8> -> BYTES
  %x = tile.unpack %b SIGNED PACKING : BYTES -> VALUES
  tile.store %x, %values[%z, %z] dims [0, 1] : VALUES, !tile.view<?x?xi8>
  %one = arith.constant dense<1> : VALUES
  %y = arith.addi %x, %one : VALUES
  %q = tile.pack %y PACKING : VALUES -> BYTES
  tile.store %q, %packed[%z, %z] dims [0, 1] : BYTES, !tile.view<?x?xi8>
  return
})";
  text = replaced(replaced(text, "PACKING", "<\"" + packing.toString() + "\">"), "SIGNED", isSigned ? "signed" : "");
  text = replaced(text, "BYTES", "tensor<3x" + std::to_string(packing.bytesPerRow(columns)) + "xi8>");
  return replaced(text, "VALUES",
                  "tensor<" + std::to_string(3 * packing.rows) + "x" + std::to_string(columns) + "xi8>");
}

TEST(DecomposePacking, KeepsEveryValue) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Packing packing :
         {Packing{bits, Packing::Order::LowFirst, 64}, Packing{bits, Packing::Order::HighFirst, 64},
          Packing{bits, Packing::Order::Planar, 64}, Packing{bits, Packing::Order::Fragments, 128, 8}})
      for (int64_t blocks : {1, 3})
        for (bool isSigned : {false, true}) {
          int64_t columns = packing.block * blocks, bytesPerRow = packing.bytesPerRow(columns);
          std::vector<u8> bytes(3 * bytesPerRow);
          for (size_t i = 0; i < bytes.size(); ++i)
            bytes[i] = u8(i * 167 + 13);
          Program program = Program::parse(incrementing(packing, columns, isSigned));
          auto run = [&](const Program &kernel) {
            std::vector<u8> values(3 * packing.rows * columns), packed(bytes.size());
            LaunchArguments words;
            words.addView(matrix(bytes, 3, bytesPerRow));
            words.addView(matrix(values, 3 * packing.rows, columns));
            words.addView(matrix(packed, 3, bytesPerRow));
            interpret(kernel, words.words(), {1, 1, 1});
            return std::pair(values, packed);
          };
          auto before = run(program);
          mlir::PassManager passes(program.context());
          passes.addNestedPass<mlir::func::FuncOp>(createDecomposePacking());
          passes.addPass(mlir::createCanonicalizerPass());
          ASSERT_TRUE(succeeded(passes.run(program.module())));
          program.module().walk([&](tile::UnpackOp unpack) {
            EXPECT_FALSE(unpack.getIsSigned());
            EXPECT_EQ(Packing::parse(unpack.getPacking().getSpelling()).rows, 1);
            EXPECT_TRUE(llvm::isPowerOf2_64(unpack.getPacking().bits()));
          });
          program.module().walk([&](tile::PackOp pack) { EXPECT_TRUE(llvm::isPowerOf2_64(pack.getPacking().bits())); });
          ASSERT_EQ(run(program), before) << packing.toString();
        }
}

} // namespace
} // namespace bitloom

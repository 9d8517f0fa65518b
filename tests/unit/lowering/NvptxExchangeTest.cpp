// Tiles that change threads, in the emulator of PTX: every element arrives, nothing races, and no two threads of a warp
// meet at a bank of shared memory.
#include "bitloom/tests/unit/lowering/Emulated.h"

using namespace bitloom;

namespace {

// A kernel that adds to a tile what its transpose holds in the same place of row-major order: so one of them changes
// threads.
template <Element T> std::unique_ptr<EmulatedKernel> transposes(const Shape &shape, int warps) {
  Data<T> x(shape), out(shape, 2);
  const std::string type = irType<T>(), view = viewType(2, type), tile = tileType(shape, type),
                    turned = tileType({shape[1], shape[0]}, type);
  return agrees("func.func @k(%x: " + view + " {tile.align = 16 : i32}, %o: " + view +
                    " {tile.align = 16 : i32}) attributes {tile.kernel} {\n%z = arith.constant 0 : i64\n" +
                    "%a = tile.load %x[%z, %z] dims [0, 1] : " + view + " -> " + tile +
                    "\n%t = tile.transpose %a [1, 0] : " + tile + " -> " + turned +
                    "\n%b = tile.reshape %t : " + turned + " -> " + tile + "\n%r = arith.add" +
                    (type.find('f') == std::string::npos ? "i" : "f") + " %a, %b : " + tile +
                    "\ntile.store %r, %o[%z, %z] dims [0, 1] : " + tile + ", " + view + "\nreturn\n}",
                {x, out}, {.warps = {warps}, .countsBanks = true});
}

template <class Fn> void ofEveryWidth(Fn fn) {
  fn(int8_t());
  fn(bf16());
  fn(f32());
  fn(int64_t());
}

bool has(const EmulatedKernel &kernel, const std::string &text) { return kernel.ptx.find(text) != std::string::npos; }

} // namespace

TEST(NvptxExchange, TransposesWithoutConflicts) {
  ofEveryWidth([]<class T>(T) {
    for (const Shape &shape : {Shape{64, 64}, Shape{32, 128}, Shape{16, 8}, Shape{2, 256}})
      for (int warps : {1, 4}) {
        auto kernel = transposes<T>(shape, warps);
        EXPECT_EQ(kernel->wavefronts(), kernel->leastWavefronts()) << tileType(shape, irType<T>());
        EXPECT_TRUE(kernel->wavefronts() > 0 || has(*kernel, "shfl.sync")) << "expected an exchange";
      }
  });
}

// Extents that are no powers of two go by rows.
TEST(NvptxExchange, TransposesRaggedTiles) {
  ofEveryWidth([]<class T>(T) {
    for (const Shape &shape : {Shape{17, 33}, Shape{3, 199}, Shape{1, 17}, Shape{33, 33}})
      for (int warps : {1, 4})
        transposes<T>(shape, warps);
  });
}

TEST(NvptxExchange, TakesSlices) {
  ofEveryWidth([]<class T>(T) {
    for (const std::string at : {"[0, 0]", "[32, 16]", "[16, 48]"}) {
      Data<T> x({64, 64}), out({16, 16}, 2);
      const std::string type = irType<T>(), view = viewType(2, type), tile = tileType({64, 64}, type),
                        part = tileType({16, 16}, type);
      agrees("func.func @k(%x: " + view + " {tile.align = 16 : i32}, %o: " + view +
                 ") attributes {tile.kernel} {\n%z = arith.constant 0 : i64\n%a = tile.load %x[%z, %z] dims [0, 1] : " +
                 view + " -> " + tile + "\n%t = tile.transpose %a [1, 0] : " + tile + " -> " + tile +
                 "\n%s = tile.slice %t " + at + " : " + tile + " -> " + part +
                 "\ntile.store %s, %o[%z, %z] dims [0, 1] : " + part + ", " + view + "\nreturn\n}",
             {x, out});
    }
  });
}

// Few registers of one warp change lanes by shuffles, and shared memory is not needed. More are cheaper by way of it.
TEST(NvptxExchange, ShufflesWithinAWarp) {
  ofEveryWidth([]<class T>(T) {
    auto kernel = transposes<T>({8, 16}, 1);
    EXPECT_TRUE(has(*kernel, "shfl.sync")) << kernel->ptx;
    EXPECT_EQ(kernel->sharedBytes, 0);
  });
  EXPECT_FALSE(has(*transposes<f32>({32, 32}, 1), "shfl.sync"));
}

// A tile that was turned round is coalesced before it is stored: lanes side by side write whole sectors.
TEST(NvptxExchange, CoalescesWhatIsStored) {
  ofEveryWidth([]<class T>(T) {
    for (const Shape &shape : {Shape{64, 128}, Shape{128, 64}, Shape{49, 70}}) {
      Data<T> x(shape), out({shape[1], shape[0]}, 2);
      const std::string type = irType<T>(), view = viewType(2, type), tile = tileType(shape, type),
                        turned = tileType(out.shape, type);
      auto kernel = agrees("func.func @k(%x: " + view + " {tile.align = 16 : i32}, %o: " + view +
                               " {tile.align = 16 : i32}) attributes {tile.kernel} {\n%z = arith.constant 0 : i64\n" +
                               "%a = tile.load %x[%z, %z] dims [0, 1] : " + view + " -> " + tile +
                               "\n%t = tile.transpose %a [1, 0] : " + tile + " -> " + turned +
                               "\ntile.store %t, %o[%z, %z] dims [0, 1] : " + turned + ", " + view + "\nreturn\n}",
                           {x, out}, {.countsBanks = true});
      if (shape[0] % 64 == 0) {
        EXPECT_TRUE(has(*kernel, "st.global.v")) << kernel->ptx;
        EXPECT_EQ(kernel->wavefronts(), kernel->leastWavefronts()) << tile;
      }
    }
  });
}

// Random programs of integer tiles, exact on every target: fusion, what is kept, the order of reads and writes.
#include "bitloom/tests/unit/lowering/Agreement.h"

#include <random>

using namespace bitloom;

namespace {

using Shape = std::vector<int64_t>;

struct Generator {
  std::mt19937 random;
  std::string text;
  int names = 0;
  struct Tile {
    std::string name;
    Shape shape;
  };
  std::vector<Tile> tiles;

  int pick(int count) { return int(random() % unsigned(count)); }
  std::string fresh() { return "%t" + std::to_string(names++); }
  static std::string type(const Shape &shape) {
    std::string result = "tensor<";
    for (int64_t extent : shape)
      result += std::to_string(extent) + "x";
    return result + "i32>";
  }
  Tile define(const Shape &shape, const std::string &rest) {
    Tile tile{fresh(), shape};
    text += tile.name + " = " + rest + "\n";
    tiles.push_back(tile);
    return tile;
  }
  Shape someShape() {
    const int64_t extents[] = {1, 2, 3, 8, 17, 32, 70};
    Shape shape = {extents[pick(7)]};
    if (pick(3))
      shape.push_back(extents[pick(7)]);
    return shape;
  }
  Tile any() { return tiles[size_t(pick(int(tiles.size())))]; }
  // One of this shape, made of a constant when there is none.
  Tile like(const Shape &shape) {
    std::vector<Tile> same;
    for (const Tile &tile : tiles)
      if (tile.shape == shape)
        same.push_back(tile);
    if (!same.empty() && pick(8))
      return same[size_t(pick(int(same.size())))];
    return define(shape, "arith.constant dense<" + std::to_string(pick(9) - 4) + "> : " + type(shape));
  }

  std::string access(const Shape &shape) { // of the views, which have rank 2
    const char *offsets[] = {"%zero", "%one", "%five", "%minus"};
    std::string dims = shape.size() == 2 ? "[0, 1]" : pick(2) ? "[1]" : "[0]";
    return std::string("[") + offsets[pick(4)] + ", " + offsets[pick(4)] + "] dims " + dims;
  }
  void load() {
    Shape shape = someShape();
    define(shape,
           std::string("tile.load %") + "abc"[pick(3)] + access(shape) + " : !tile.view<?x?xi32> -> " + type(shape));
  }
  void store() {
    Tile tile = any();
    text += "tile.store " + tile.name + ", %" + "abc"[pick(3)] + access(tile.shape) + " : " + type(tile.shape) +
            ", !tile.view<?x?xi32>\n";
  }
  void elementwise() {
    Tile a = any(), b = like(a.shape);
    int op = pick(7);
    if (op == 6) // dear, and so worth keeping
      b = define(a.shape, "arith.constant dense<7> : " + type(a.shape));
    const char *ops[] = {"addi", "subi", "muli", "maxsi", "minsi", "xori", "remui"};
    define(a.shape, std::string("arith.") + ops[op] + " " + a.name + ", " + b.name + " : " + type(a.shape));
  }
  std::string combiner() {
    const char *ops[] = {"addi", "maxsi", "xori"};
    std::string left = fresh(), right = fresh(), both = fresh();
    return "{\n^bb0(" + left + ": i32, " + right + ": i32):\n" + both + " = arith." + ops[pick(3)] + " " + left + ", " +
           right + " : i32\ntile.yield " + both + " : i32\n}";
  }
  void reduce() {
    Tile tile = any();
    size_t axis = size_t(pick(int(tile.shape.size())));
    Shape shape = tile.shape;
    shape.erase(shape.begin() + ptrdiff_t(axis));
    std::string head = "tile.reduce " + tile.name + " axis " + std::to_string(axis) + " : " + type(tile.shape) + " -> ";
    if (shape.empty()) {
      std::string scalar = fresh();
      text += scalar + " = " + head + "i32 " + combiner() + "\n";
      define({8}, "tensor.splat " + scalar + " : tensor<8xi32>");
    } else {
      define(shape, head + type(shape) + " " + combiner());
    }
  }
  void scan() {
    Tile tile = any();
    define(tile.shape, "tile.scan " + tile.name + " axis " + std::to_string(pick(int(tile.shape.size()))) +
                           (pick(2) ? " reverse" : "") + " : " + type(tile.shape) + " " + combiner());
  }
  void move() {
    Tile tile = any();
    const Shape &from = tile.shape;
    switch (pick(5)) {
    case 0:
      if (from.size() == 2)
        define({from[1], from[0]},
               "tile.transpose " + tile.name + " [1, 0] : " + type(from) + " -> " + type({from[1], from[0]}));
      break;
    case 1: {
      int64_t count = from.size() == 2 ? from[0] * from[1] : from[0];
      Shape to = from.size() == 2 && pick(2) ? Shape{count} : count % 2 ? Shape{count, 1} : Shape{count / 2, 2};
      define(to, "tile.reshape " + tile.name + " : " + type(from) + " -> " + type(to));
      break;
    }
    case 2: {
      Shape row = {1, from[0]}, rows = {5, from[0]}, column = {from[0], 1}, columns = {from[0], 9};
      if (from.size() != 1)
        break;
      bool down = pick(2);
      Tile one = define(down ? row : column,
                        "tile.reshape " + tile.name + " : " + type(from) + " -> " + type(down ? row : column));
      define(down ? rows : columns,
             "tile.broadcast " + one.name + " : " + type(one.shape) + " -> " + type(down ? rows : columns));
      break;
    }
    case 3: {
      Shape to;
      std::string offsets;
      for (int64_t extent : from) {
        to.push_back(extent - extent / 3);
        offsets += (offsets.empty() ? "" : ", ") + std::to_string(pick(int(extent / 3) + 1));
      }
      define(to, "tile.slice " + tile.name + " [" + offsets + "] : " + type(from) + " -> " + type(to));
      break;
    }
    default:
      if (from.size() == 1) {
        Tile other = like(from);
        Tile pairs = define({from[0], 2}, "tile.join " + tile.name + ", " + other.name + " : " + type(from) + " -> " +
                                              type({from[0], 2}));
        define({2 * from[0]}, "tile.reshape " + pairs.name + " : " + type(pairs.shape) + " -> " + type({2 * from[0]}));
      }
    }
  }
  void dot() {
    Tile a = any();
    if (a.shape.size() != 2)
      return;
    Shape b = {a.shape[1], 17}, acc = {a.shape[0], 17};
    Tile right = like(b), sum = like(acc);
    define(acc, "tile.dot " + a.name + ", " + right.name + ", " + sum.name + " : " + type(a.shape) + ", " + type(b) +
                    ", " + type(acc));
  }
  void loop(int depth) {
    Tile a = any(), b = like(pick(2) ? a.shape : any().shape);
    size_t outside = tiles.size();
    Tile first{fresh(), a.shape}, second{fresh(), b.shape};
    std::string result = fresh(), types = type(a.shape) + ", " + type(b.shape);
    text += result + ":2 = scf.for %i" + std::to_string(names++) + " = %zero to %three step %one iter_args(" +
            first.name + " = " + a.name + ", " + second.name + " = " + b.name + ") -> (" + types + ") : i64 {\n";
    tiles.push_back(first);
    tiles.push_back(second);
    statements(4, depth + 1);
    Tile x = like(a.shape), y = like(b.shape);
    text += "scf.yield " + x.name + ", " + y.name + " : " + types + "\n}\n";
    tiles.resize(outside);
    tiles.push_back({result + "#0", a.shape});
    tiles.push_back({result + "#1", b.shape});
  }
  void branch(int depth) {
    Tile a = any();
    std::string result = fresh();
    text += result + " = scf.if %flag -> (" + type(a.shape) + ") {\n";
    for (const char *end : {"} else {\n", "}\n"}) {
      size_t outside = tiles.size();
      statements(3, depth + 1);
      Tile x = like(a.shape);
      text += "scf.yield " + x.name + " : " + type(a.shape) + "\n" + end;
      tiles.resize(outside);
    }
    tiles.push_back({result, a.shape});
  }
  void statements(int count, int depth) {
    for (int i = 0; i < count; ++i) {
      switch (int choice = pick(20)) {
      case 0:
      case 1:
      case 2:
        load();
        break;
      case 3:
      case 4:
        store();
        break;
      case 5:
      case 6:
      case 7:
      case 8:
      case 9:
        elementwise();
        break;
      case 10:
      case 11:
        reduce();
        break;
      case 12:
        scan();
        break;
      case 13:
      case 14:
      case 15:
        move();
        break;
      case 16:
        dot();
        break;
      default:
        if (depth < 2)
          choice == 17 ? branch(depth) : loop(depth);
      }
    }
  }

  std::string program(unsigned seed) {
    random.seed(seed);
    load();
    load();
    statements(14, 0);
    for (int i = 0; i < 3; ++i)
      store();
    return text;
  }
};

class RandomPrograms : public testing::TestWithParam<int> {};

TEST_P(RandomPrograms, Agree) {
  for (unsigned i = 0; i < 10; ++i) {
    unsigned seed = unsigned(GetParam()) * 10 + i;
    Generator generator;
    std::string body = generator.program(seed);
    Arrays arrays(3, Array(DType::i32, {23, 41}, 50));
    SCOPED_TRACE("seed " + std::to_string(seed));
    agree(kernel(arrays,
                 "%one = arith.constant 1 : i64\n%three = arith.constant 3 : i64\n%five = arith.constant 5 : i64\n"
                 "%minus = arith.constant -2 : i64\n%flag = arith.cmpi slt, %n, %three : i64\n" +
                     body,
                 ", %n: i64"),
          arrays, {1, 1, 1}, 0, {int64_t(seed % 5)}, seed % 3 ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 0, 1});
    if (testing::Test::HasFailure())
      return;
  }
}

INSTANTIATE_TEST_SUITE_P(TileToLoops, RandomPrograms, testing::Range(0, 8));

} // namespace

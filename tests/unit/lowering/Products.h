// Kernels that multiply matrices, and their operands.
#pragma once

#include "bitloom/tests/unit/lowering/Emulated.h"

namespace bitloom {

// Rows of any length start at multiples of 16 bytes, as tile.align promises; the gaps hold numbers too.
template <Element T> struct Aligned {
  Shape shape, strides;
  std::vector<T> values;

  explicit Aligned(Shape extents, uint64_t seed = 1) : Aligned(extents, rowStrides(extents), seed) {}
  Aligned(Shape extents, Shape strides, uint64_t seed) : shape(std::move(extents)), strides(std::move(strides)) {
    size_t count = 1;
    for (size_t d = 0; d < shape.size(); ++d)
      count += size_t(std::max<int64_t>(shape[d], 1) * this->strides[d]);
    for (size_t i = 0; i < count; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      values.push_back(T(int(seed >> 33) % 9 - (std::is_unsigned_v<T> ? 0 : 4)));
    }
  }
  operator Argument() const {
    auto dims = [](const Shape &numbers) { return Dims(std::span(numbers)); };
    return TensorRef(const_cast<T *>(values.data()), dtypeOf<T>, dims(shape), dims(strides));
  }

private:
  static Shape rowStrides(const Shape &extents) {
    const int64_t each = 16 / int64_t(sizeof(T));
    Shape strides(extents.size(), 1);
    for (size_t d = extents.size() - 1; d > 0; --d)
      strides[d - 1] = (std::max<int64_t>(extents[d], 1) * strides[d] + each - 1) / each * each;
    return strides;
  }
};

inline const std::string aligned = " {tile.align = 16 : i32}";

// A kernel with one block of c = epilogue(a · b) a program, and the loop over k that all such kernels have.
struct Product {
  std::array<int64_t, 3> block; // m, n, k
  std::string operand = "bf16", sum = "f32", result = "f32";
  bool aByColumns = false, bByColumns = false; // in memory: a is [k, m], b is [n, k]
  std::string viewAttributes = aligned, attributes = "", dotAttributes = "";
  std::string parameters = "", epilogue = ""; // more of them; how %sum becomes %out

  std::string text() const {
    auto [m, n, k] = block;
    auto tile = [&](int64_t rows, int64_t columns, const std::string &type) { return tileType({rows, columns}, type); };
    auto load = [&](const std::string &name, const std::string &view, const std::string &row, const std::string &column,
                    int64_t rows, int64_t columns, bool isByColumns) {
      std::string type = viewType(2, operand), result = tile(rows, columns, operand);
      if (!isByColumns)
        return "    %" + name + " = tile.load %" + view + "[" + row + ", " + column + "] dims [0, 1] : " + type +
               " -> " + result + "\n";
      std::string stored = tile(columns, rows, operand);
      return "    %" + name + "t = tile.load %" + view + "[" + column + ", " + row + "] dims [0, 1] : " + type +
             " -> " + stored + "\n    %" + name + " = tile.transpose %" + name + "t [1, 0] : " + stored + " -> " +
             result + "\n";
    };
    std::string accumulators = tile(m, n, sum), view = viewType(2, operand), out = epilogue.empty() ? "%sum" : "%out";
    return "func.func @product(%a: " + view + viewAttributes + ", %b: " + view + viewAttributes +
           ", %c: " + viewType(2, result) + viewAttributes + parameters + ") attributes {tile.kernel" + attributes +
           "} {\n  %i = tile.program_id 0\n  %j = tile.program_id 1\n  %sm = arith.constant " + std::to_string(m) +
           " : i64\n  %sn = arith.constant " + std::to_string(n) + " : i64\n  %sk = arith.constant " +
           std::to_string(k) +
           " : i64\n  %rows = arith.muli %i, %sm : i64\n  %columns = arith.muli %j, %sn : i64\n"
           "  %z = arith.constant 0 : i64\n  %depth = tile.extent %a, " +
           (aByColumns ? "0" : "1") + " : " + view + "\n  %none = arith.constant dense<0" +
           (sum[0] == 'f' ? ".0" : "") + "> : " + accumulators +
           "\n  %sum = scf.for %at = %z to %depth step %sk iter_args(%acc = %none) -> " + accumulators + " : i64 {\n" +
           load("x", "a", "%rows", "%at", m, k, aByColumns) + load("y", "b", "%at", "%columns", k, n, bByColumns) +
           "    %d = tile.dot %x, %y, %acc" + dotAttributes + " : " + tile(m, k, operand) + ", " + tile(k, n, operand) +
           ", " + accumulators + "\n    scf.yield %d : " + accumulators + "\n  }\n" + epilogue + "\n  tile.store " +
           out + ", %c[%rows, %columns] dims [0, 1] : " + tile(m, n, result) + ", " + viewType(2, result) +
           "\n  return\n}";
  }
  std::array<int64_t, 3> grid(int64_t rows, int64_t columns) const {
    return {(rows + block[0] - 1) / block[0], (columns + block[1] - 1) / block[1], 1};
  }
};

// The views of a product of these extents.
template <Element In, Element Out> struct Operands {
  Aligned<In> a, b;
  Aligned<Out> c;
  Operands(const Product &product, int64_t m, int64_t n, int64_t k)
      : a(product.aByColumns ? Shape{k, m} : Shape{m, k}), b(product.bByColumns ? Shape{n, k} : Shape{k, n}, 2),
        c({m, n}, 3) {}
};

// Softmax of a tile of %q's rows times the rows of %k, times %v, all of up to 64 columns: a block of 64 keys at a time.
inline std::string attention(int64_t rows) {
  return replaced(R"(
func.func @attention(%q: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %k: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %v: !tile.view<?x?xbf16> {tile.align = 16 : i32},
                     %o: !tile.view<?x?xbf16> {tile.align = 16 : i32}) attributes {tile.kernel} {
  %i = tile.program_id 0
  %s = arith.constant ROWS : i64
  %rows = arith.muli %i, %s : i64
  %z = arith.constant 0 : i64
  %step = arith.constant 64 : i64
  %keys = tile.extent %k, 0 : !tile.view<?x?xbf16>
  %x = tile.load %q[%rows, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<ROWSx64xbf16>
  %none = arith.constant dense<0.0> : tensor<ROWSx64xf32>
  %low = arith.constant dense<-1.0e30> : tensor<ROWSxf32>
  %zeros = arith.constant dense<0.0> : tensor<ROWSxf32>
  %acc:3 = scf.for %at = %z to %keys step %step iter_args(%sum = %none, %most = %low, %total = %zeros)
      -> (tensor<ROWSx64xf32>, tensor<ROWSxf32>, tensor<ROWSxf32>) : i64 {
    %yt = tile.load %k[%at, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %y = tile.transpose %yt [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %none : tensor<ROWSx64xbf16>, tensor<64x64xbf16>, tensor<ROWSx64xf32>
    %scale = arith.constant dense<0.03125> : tensor<ROWSx64xf32>
    %scaled = arith.mulf %d, %scale : tensor<ROWSx64xf32>
    %iota = tile.iota : tensor<64xi64>
    %ats = tensor.splat %at : tensor<64xi64>
    %key = arith.addi %iota, %ats : tensor<64xi64>
    %limit = tensor.splat %keys : tensor<64xi64>
    %in = arith.cmpi slt, %key, %limit : tensor<64xi64>
    %in2 = tile.reshape %in : tensor<64xi1> -> tensor<1x64xi1>
    %ins = tile.broadcast %in2 : tensor<1x64xi1> -> tensor<ROWSx64xi1>
    %never = arith.constant dense<-1.0e30> : tensor<ROWSx64xf32>
    %masked = arith.select %ins, %scaled, %never : tensor<ROWSx64xi1>, tensor<ROWSx64xf32>
    %here = tile.reduce %masked axis 1 : tensor<ROWSx64xf32> -> tensor<ROWSxf32> {
    ^bb0(%l: f32, %r: f32):
      %m = arith.maximumf %l, %r : f32
      tile.yield %m : f32
    }
    %now = arith.maximumf %most, %here : tensor<ROWSxf32>
    %column = tile.reshape %now : tensor<ROWSxf32> -> tensor<ROWSx1xf32>
    %wide = tile.broadcast %column : tensor<ROWSx1xf32> -> tensor<ROWSx64xf32>
    %below = arith.subf %masked, %wide : tensor<ROWSx64xf32>
    %p = math.exp %below : tensor<ROWSx64xf32>
    %ps = tile.reduce %p axis 1 : tensor<ROWSx64xf32> -> tensor<ROWSxf32> {
    ^bb0(%l: f32, %r: f32):
      %m = arith.addf %l, %r : f32
      tile.yield %m : f32
    }
    %fall = arith.subf %most, %now : tensor<ROWSxf32>
    %less = math.exp %fall : tensor<ROWSxf32>
    %kept = arith.mulf %total, %less : tensor<ROWSxf32>
    %more = arith.addf %kept, %ps : tensor<ROWSxf32>
    %lessColumn = tile.reshape %less : tensor<ROWSxf32> -> tensor<ROWSx1xf32>
    %lessWide = tile.broadcast %lessColumn : tensor<ROWSx1xf32> -> tensor<ROWSx64xf32>
    %rest = arith.mulf %sum, %lessWide : tensor<ROWSx64xf32>
    %p16 = arith.truncf %p : tensor<ROWSx64xf32> to tensor<ROWSx64xbf16>
    %w = tile.load %v[%at, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
    %next = tile.dot %p16, %w, %rest : tensor<ROWSx64xbf16>, tensor<64x64xbf16>, tensor<ROWSx64xf32>
    scf.yield %next, %now, %more : tensor<ROWSx64xf32>, tensor<ROWSxf32>, tensor<ROWSxf32>
  }
  %c = tile.reshape %acc#2 : tensor<ROWSxf32> -> tensor<ROWSx1xf32>
  %cs = tile.broadcast %c : tensor<ROWSx1xf32> -> tensor<ROWSx64xf32>
  %mean = arith.divf %acc#0, %cs : tensor<ROWSx64xf32>
  %out = arith.truncf %mean : tensor<ROWSx64xf32> to tensor<ROWSx64xbf16>
  tile.store %out, %o[%rows, %z] dims [0, 1] : tensor<ROWSx64xbf16>, !tile.view<?x?xbf16>
  return
})",
                  "ROWS", std::to_string(rows));
}

} // namespace bitloom

// Tile IR as text, run by the interpreter.
#pragma once

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Interpreter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace bitloom {

// A view of a vector or a tensor, or a scalar.
struct Argument {
  TensorRef tensor;
  int64_t word = 0;
  bool isScalar = false;

  Argument(const TensorRef &tensor) : tensor(tensor) {}
  template <Element T>
  Argument(const std::vector<T> &values)
      : tensor(const_cast<T *>(values.data()), dtypeOf<T>, {int64_t(values.size())}) {}
  template <Element T> Argument(T value) : isScalar(true) { std::memcpy(&word, &value, sizeof value); }
};

template <Element T>
TensorRef matrix(const std::vector<T> &values, int64_t rows, int64_t columns, int64_t rowStride = 0) {
  return TensorRef(const_cast<T *>(values.data()), dtypeOf<T>, {rows, columns}, {rowStride ? rowStride : columns, 1});
}

inline void interpretText(const std::string &text, std::initializer_list<Argument> arguments,
                          std::array<int64_t, 3> grid = {1, 1, 1}) {
  LaunchArguments words;
  for (const Argument &argument : arguments)
    if (argument.isScalar)
      words.addWord(argument.word);
    else
      words.addView(argument.tensor);
  interpret(Program::parse(text, "kernel.mlir"), words.words(), grid);
}

inline std::string replaced(std::string text, const std::string &what, const std::string &by) {
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

// The type's spelling in IR: integers have no sign there.
template <Element T> std::string irType() {
  std::string name(nameOf(dtypeOf<T>));
  if (isStorageFloat(dtypeOf<T>))
    return std::same_as<T, f8e4m3> ? "f8E4M3FN" : "f8E5M2";
  return name[0] == 'u' ? "i" + name.substr(1) : name;
}

// What `ops` make of one-dimensional tiles %a, %b, %c of the inputs: they define %r, and spell the tiles' extent N.
template <Element Out, Element In, class... More>
std::vector<Out> mapped(const std::string &ops, const std::vector<In> &first, const std::vector<More> &...more) {
  std::string n = std::to_string(first.size()), parameters, loads;
  char name = 'a';
  auto addInput = [&](const std::string &type) {
    std::string view = "!tile.view<?x" + type + ">", value(1, name++);
    parameters += "%v" + value + ": " + view + ", ";
    loads +=
        "%" + value + " = tile.load %v" + value + "[%zero] dims [0] : " + view + " -> tensor<" + n + "x" + type + ">\n";
  };
  addInput(irType<In>());
  (addInput(irType<More>()), ...);
  std::string type = irType<Out>();
  std::vector<Out> out(first.size());
  interpretText("func.func @mapped(" + parameters + "%out: !tile.view<?x" + type +
                    ">) attributes {tile.kernel} {\n%zero = arith.constant 0 : i64\n" + loads +
                    replaced(ops, "tensor<Nx", "tensor<" + n + "x") +
                    "\ntile.store %r, %out[%zero] dims [0] : tensor<" + n + "x" + type + ">, !tile.view<?x" + type +
                    ">\nreturn\n}",
                {Argument(first), Argument(more)..., Argument(out)});
  return out;
}

// The message of the UserError that fn throws.
template <class Fn> std::string errorOf(Fn fn) {
  try {
    fn();
  } catch (const UserError &error) {
    return error.what();
  }
  return "no error";
}

// Numbers of both signs, some large and some small, the same every time.
inline std::vector<double> someNumbers(size_t count, std::uint64_t seed = 1) {
  std::vector<double> numbers(count);
  for (double &number : numbers) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    double magnitude = 1 + double(seed >> 11) * 0x1p-53;
    number = std::ldexp(seed >> 10 & 1 ? -magnitude : magnitude, int(seed >> 4 & 7) - 4);
  }
  return numbers;
}
template <class T> std::vector<T> some(size_t count, std::uint64_t seed = 1) {
  std::vector<T> values;
  for (double number : someNumbers(count, seed))
    if constexpr (std::is_integral_v<T>)
      values.push_back(T(int64_t(number * 8)));
    else
      values.push_back(T(float(number)));
  return values;
}

} // namespace bitloom

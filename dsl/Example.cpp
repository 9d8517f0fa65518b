#include "bitloom/dsl/Example.h"

#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Expression.h"
#include "bitloom/lowering/Program.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

namespace bitloom {

using Kind = Parameter::Kind;

std::vector<std::string> extentNames(const KernelRow &kernel) {
  std::vector<std::string> names;
  auto isMeta = [&](std::string_view name) {
    return llvm::any_of(kernel.variants.front().parameters, [&](const Parameter &parameter) {
      return parameter.kind == Kind::Meta && parameter.name == name;
    });
  };
  for (const Parameter &parameter : kernel.variants.front().parameters)
    for (const std::string &extent : parameter.shape)
      evaluate(extent, [&](std::string_view name) -> std::optional<int64_t> {
        if (!isMeta(name) && !llvm::is_contained(names, name))
          names.emplace_back(name);
        return std::nullopt;
      });
  return names;
}

void bindWithoutMemory(Call &call, bool aligned) {
  for (const Call::Missing &view : call.missingViews()) {
    // An address that is never used: it has the alignment of an element alone, or that of all.
    auto address = aligned ? nullptr : reinterpret_cast<void *>(uintptr_t(bytesOf(view.dtype)));
    call.set(view.name, TensorRef(address, view.dtype, view.extents, view.strides));
  }
}

//===- Random elements --------------------------------------------------------------------------------------------===//

namespace {

// What inputs lie between, both included.
struct Range {
  double low, high;
  bool ascending = false;
};

// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014): the finaliser of SplitMix64 makes the
// element of each index by itself, so threads may share the work.
uint64_t mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

template <class T> T randomElement(uint64_t bits, const std::optional<Range> &range) {
  constexpr double unit = 0x1p-21;
  if constexpr (std::is_same_v<T, bool>) {
    return bits & 1;
  } else if constexpr (std::is_integral_v<T>) {
    if (range)
      return T(int64_t(range->low) + int64_t(bits % uint64_t(int64_t(range->high) - int64_t(range->low) + 1)));
    if (sizeof(T) == 1)
      return T(bits);
    return std::is_signed_v<T> ? T(int64_t(bits % 201) - 100) : T(bits % 101);
  } else {
    if (range)
      return T(float(range->low + double(bits >> 11) * 0x1p-53 * (range->high - range->low)));
    // The mean of three uniform numbers in [-1, 1).
    double sum = double(bits & 0x1fffff) + double(bits >> 21 & 0x1fffff) + double(bits >> 42 & 0x1fffff);
    return T(float(sum * unit * (2.0 / 3) - 1));
  }
}

template <class T>
void fillRandom(std::byte *data, int64_t elements, uint64_t seed, const std::optional<Range> &range) {
  constexpr int64_t grain = 1 << 14;
  parallelFor(elements, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T element = randomElement<T>(mixed(seed + uint64_t(i)), range);
      std::memcpy(data + i * int64_t(sizeof(T)), &element, sizeof(T));
    }
  });
  if (range && range->ascending)
    std::ranges::sort(std::span(reinterpret_cast<T *>(data), size_t(elements)), {}, [](T element) {
      if constexpr (std::is_integral_v<T>)
        return element;
      else
        return double(element);
    });
}

void fillRandom(DType dtype, std::byte *data, int64_t elements, uint64_t seed, const std::optional<Range> &range) {
  switch (dtype) {
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  case DType::name:                                                                                                    \
    return fillRandom<type>(data, elements, seed, range);
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
  }
}

// "target=0..cols-1; starts=0..rows ascending; scale=0.5..2": what lies between is an expression of the call's names,
// or a decimal number.
std::optional<Range> rangeOf(const Call &call, const std::string &parameter) {
  const std::string &text = call.kernel().inputs;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(';', at), text.size());
    std::string_view piece = std::string_view(text).substr(at, end - at);
    at = end + 1;
    size_t equals = piece.find('='), dots = piece.find("..");
    if (equals == piece.npos || dots == piece.npos)
      throw UserError(call.kernel().name + ": expected 'name=low..high' among the ranges of inputs, got '" +
                      std::string(piece) + "'");
    std::string_view name = piece.substr(0, equals);
    name.remove_prefix(std::min(name.find_first_not_of(' '), name.size()));
    if (name != parameter)
      continue;
    constexpr std::string_view order = " ascending";
    const bool ascending = piece.ends_with(order);
    if (ascending)
      piece.remove_suffix(order.size());
    auto number = [&](std::string_view bound) {
      double decimal = 0;
      auto [last, error] = std::from_chars(bound.data(), bound.data() + bound.size(), decimal);
      if (error == std::errc() && last == bound.data() + bound.size())
        return decimal;
      auto value = evaluate(bound, [&](std::string_view name) -> std::optional<int64_t> {
        auto found = call.names().find(std::string(name));
        return found == call.names().end() ? std::nullopt : std::optional(found->second);
      });
      if (!value)
        throw UserError(call.kernel().name + ": expected names of the call in '" + std::string(bound) + "'");
      return double(*value);
    };
    Range range{number(piece.substr(equals + 1, dots - equals - 1)), number(piece.substr(dots + 2)), ascending};
    range.high = std::max(range.low, range.high);
    return range;
  }
  return std::nullopt;
}

//===- Which outputs are inputs too -------------------------------------------------------------------------------===//

// Whether anything with an effect comes of the operation. Tracing `out(i) = v` leaves a load whose value nobody uses.
bool matters(mlir::Operation *op, llvm::SmallPtrSetImpl<mlir::Operation *> &seen) {
  if (!seen.insert(op).second)
    return false;
  if (op->getNumResults() == 0 || op->getNumRegions() > 0 || !mlir::isMemoryEffectFree(op))
    if (!mlir::isa<tile::LoadOp, tile::GatherOp>(op))
      return true;
  return llvm::any_of(op->getUsers(), [&](mlir::Operation *user) { return matters(user, seen); });
}

// By parameter: whether the traced kernel reads the view.
std::vector<bool> viewsRead(const Call &call) {
  Program program = call.trace();
  const std::vector<Parameter> &parameters = call.variant().parameters;
  std::vector<bool> read(parameters.size());
  mlir::func::FuncOp kernel = *program.module().getOps<mlir::func::FuncOp>().begin();
  unsigned next = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].kind == Kind::Meta)
      continue;
    for (mlir::Operation *user : kernel.getArgument(next).getUsers()) {
      llvm::SmallPtrSet<mlir::Operation *, 8> seen;
      if (mlir::isa<tile::AtomicOp>(user) || (mlir::isa<tile::LoadOp, tile::GatherOp>(user) && matters(user, seen)))
        read[i] = true;
    }
    ++next;
  }
  return read;
}

} // namespace

//===- Memory -----------------------------------------------------------------------------------------------------===//

constexpr size_t guardBytes = DeviceMemory::alignment; // on each side
constexpr std::byte guardPattern{0xC3};

Example::Example(Call &call, uint64_t seed, Device device) {
  const std::vector<Parameter> &parameters = call.variant().parameters;
  memory.resize(parameters.size());
  names.resize(parameters.size());
  const std::vector<Call::Missing> missing = call.missingViews();
  Call described = call;
  bindWithoutMemory(described);
  const std::vector<bool> read = viewsRead(described);
  for (const Call::Missing &view : missing) {
    size_t i = 0;
    while (parameters[i].name != view.name)
      ++i;
    TensorRef tensor(nullptr, view.dtype, view.extents, view.strides, device);
    const size_t bytes = size_t(tensor.byteSize());
    DeviceMemory image(bytes + 2 * guardBytes, {}); // on the host first
    std::memset(image.data(), int(guardPattern), guardBytes);
    std::memset(image.data() + guardBytes + bytes, int(guardPattern), guardBytes);
    if (!parameters[i].output || read[i])
      fillRandom(view.dtype, image.data() + guardBytes, tensor.elementCount(), mixed(seed) + mixed(i + 1),
                 rangeOf(call, view.name));
    else
      std::memset(image.data() + guardBytes, isFloat(view.dtype) ? 0xFF : 0xA5, bytes);
    names[i] = view.name;
    if (device.kind == Device::Kind::Cpu) {
      memory[i] = std::move(image);
    } else {
      memory[i] = DeviceMemory(image.bytes(), device);
      memory[i].write(0, image.data(), image.bytes());
    }
    tensor.data = memory[i].data() + guardBytes;
    call.set(view.name, tensor);
  }
}

std::vector<std::byte> Example::contents(size_t parameter) const {
  const DeviceMemory &own = memory.at(parameter);
  if (own.bytes() == 0)
    throw InternalError("an example asked for a parameter that is not its own");
  std::vector<std::byte> copy(own.bytes() - 2 * guardBytes);
  own.read(copy.data(), guardBytes, copy.size());
  return copy;
}

std::vector<std::string> Example::overrun() const {
  std::vector<std::string> found;
  for (size_t i = 0; i < memory.size(); ++i) {
    if (memory[i].bytes() == 0)
      continue;
    for (size_t offset : {size_t{0}, memory[i].bytes() - guardBytes}) {
      std::array<std::byte, guardBytes> guard;
      memory[i].read(guard.data(), offset, guardBytes);
      if (llvm::any_of(guard, [](std::byte byte) { return byte != guardPattern; })) {
        found.push_back(names[i]);
        break;
      }
    }
  }
  return found;
}

//===- Comparing --------------------------------------------------------------------------------------------------===//

double toleranceOf(DType dtype) {
  switch (dtype) {
  case DType::f64:
    return 1e-12;
  case DType::f32:
    return 0x1p-14; // of sums of some thousands, which may cancel
  case DType::f16:
    return 0x1p-9;
  case DType::bf16:
    return 0x1p-6;
  case DType::f8e4m3:
    return 0x1p-2;
  case DType::f8e5m2:
    return 0x1p-1;
  default:
    return 0;
  }
}

double toleranceOf(const Variant &variant, size_t output, const Target &target) {
  const double own = toleranceOf(variant.parameters[output].dtype);
  const auto factors = llvm::count_if(
      variant.parameters, [](const Parameter &each) { return each.kind == Kind::View && isStorageFloat(each.dtype); });
  // Hopper's tensor cores keep some 14 bits of such sums, next to the largest product ("DeepSeek-V3 Technical Report",
  // 2024, 3.3.2): 2^-9.6 of some thousands of products, in blocks of 256 that f32 adds up.
  const bool keepsFewBits = own > 0 && factors >= 2 && !isCpu(target.family);
  return keepsFewBits ? std::max(own, 0x1p-8) : own;
}

Comparison compare(DType dtype, const void *got, const void *expected, int64_t elements, double tolerance) {
  const auto *left = static_cast<const std::byte *>(got), *right = static_cast<const std::byte *>(expected);
  const size_t width = size_t(bytesOf(dtype));
  double sum = 0;
  int64_t finite = 0;
  for (int64_t i = 0; i < elements && isFloat(dtype); ++i)
    if (double number = readAsDouble(dtype, right + i * width); std::isfinite(number)) {
      sum += std::abs(number);
      ++finite;
    }
  const double mean = finite ? sum / double(finite) : 0;
  const double smallest = dtype == DType::f16 ? 0x1p-24 : 0; // the step between numbers too small for 11 bits
  Comparison result{.elements = elements};
  for (int64_t i = 0; i < elements; ++i) {
    if (std::memcmp(left + i * width, right + i * width, width) == 0)
      continue;
    double a = readAsDouble(dtype, left + i * width), b = readAsDouble(dtype, right + i * width);
    if (isFloat(dtype) && (a == b || (std::isnan(a) && std::isnan(b)))) // zeros of two signs, NaNs of two patterns
      continue;
    double error = std::max(std::abs(a - b) - smallest, 0.0) / (std::abs(b) + mean); // a NaN stays one
    if (!isFloat(dtype) || !std::isfinite(error))
      error = std::numeric_limits<double>::infinity();
    if (error > tolerance)
      ++result.wrong;
    if (error > result.worst) {
      result.worst = error;
      result.at = i;
      result.got = a;
      result.expected = b;
    }
  }
  return result;
}

} // namespace bitloom

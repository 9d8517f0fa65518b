#include "bitloom/tests/emulator/PtxMachine.h"

#include <bit>
#include <cmath>

namespace bitloom::ptx {

uint64_t Machine::combine(const Instruction &i, Type type, uint64_t a, uint64_t b) {
  auto pick = [&](bool isMax) -> uint64_t {
    if (type.isFloat()) {
      double x = toDouble(a, type), y = toDouble(b, type);
      if (std::isnan(x) || std::isnan(y)) {
        if (i.has("NaN"))
          return fromDouble(NAN, type);
        return std::isnan(x) ? b : a;
      }
      if (x == y)
        return std::signbit(x) == isMax ? b : a;
      return (x < y) == isMax ? b : a;
    }
    if (type.kind == 's')
      return (signExtend(a, type.bits) < signExtend(b, type.bits)) == isMax ? b : a;
    return ((a & mask(type.bits)) < (b & mask(type.bits))) == isMax ? b : a;
  };
  std::string op = i.op == "atom" || i.op == "red" || i.op == "redux" || i.op == "cp" ? "" : i.op;
  for (const char *name : {"add", "min", "max", "and", "or", "xor", "exch"})
    if (op.empty() && i.has(name))
      op = name;
  if (op == "add")
    return type.isFloat() ? fromDouble(toDouble(a, type) + toDouble(b, type), type) : a + b;
  if (op == "min")
    return pick(false);
  if (op == "max")
    return pick(true);
  if (op == "and")
    return a & b;
  if (op == "or")
    return a | b;
  if (op == "xor")
    return a ^ b;
  if (op == "exch")
    return b;
  fail("unknown operation: " + i.text);
}

// To or from two small floats in one register; operand 1 is the upper one.
void Machine::convertPair(Thread &t, const Instruction &i) {
  auto single = [](const std::string &name) { return typeNamed(name.substr(0, name.size() - 2)); };
  const std::string &toName = i.mods[i.mods.size() - 2], &fromName = i.mods.back();
  auto to = single(toName), from = i.operands.size() == 3 ? typeNamed(fromName) : single(fromName);
  if (!to || !from)
    fail("unknown conversion: " + i.text);
  uint64_t packed = 0;
  for (int half = 0; half < 2; ++half) {
    uint64_t bits = i.operands.size() == 3 ? read(t, i.operands[2 - half])
                                           : read(t, i.operands[1]) >> (half * from->bits) & mask(from->bits);
    double value = toDouble(bits & mask(from->bits), *from);
    if (i.has("relu"))
      value = std::isnan(value) ? value : std::max(value, 0.0);
    packed |= fromDouble(value, *to, i.has("rz")) << (half * to->bits);
  }
  write(t, i.operands[0], packed);
}

void Machine::convert(Thread &t, const Instruction &i) {
  for (const char *name : {"f16x2", "bf16x2", "e4m3x2", "e5m2x2"})
    if (i.mods.size() > 1 && (i.mods.back() == name || i.mods[i.mods.size() - 2] == name))
      return convertPair(t, i);
  if (i.types.size() < 2 || i.operands.size() != 2)
    fail("unknown conversion: " + i.text);
  Type to = i.types[0], from = i.types[1];
  uint64_t value = read(t, i.operands[1]), result;
  if (from.isFloat() && to.isFloat()) {
    double x = toDouble(value, from);
    if (i.has("rni"))
      x = std::nearbyint(x);
    if (i.has("rzi"))
      x = std::trunc(x);
    if (i.has("rmi"))
      x = std::floor(x);
    if (i.has("rpi"))
      x = std::ceil(x);
    if (i.has("sat"))
      x = std::isnan(x) ? 0 : std::min(std::max(x, 0.0), 1.0);
    result = fromDouble(x, to, i.has("rz"));
  } else if (from.isFloat()) {
    double x = toDouble(value, from);
    x = i.has("rni") ? std::nearbyint(x) : i.has("rmi") ? std::floor(x) : i.has("rpi") ? std::ceil(x) : std::trunc(x);
    double low = to.kind == 's' ? -std::ldexp(1.0, to.bits - 1) : 0,
           high = std::ldexp(1.0, to.kind == 's' ? to.bits - 1 : to.bits);
    if (std::isnan(x))
      result = 0;
    else if (x < low)
      result = to.kind == 's' ? uint64_t{1} << (to.bits - 1) : 0;
    else if (x >= high)
      result = to.kind == 's' ? mask(to.bits - 1) : mask(to.bits);
    else
      result = to.kind == 's' ? uint64_t(int64_t(x)) & mask(to.bits) : uint64_t(x);
  } else {
    int64_t number = from.kind == 's' ? signExtend(value, from.bits) : int64_t(value & mask(from.bits));
    if (to.isFloat()) {
      if (to.bits == 32)
        result = std::bit_cast<uint32_t>(from.kind == 's' ? float(number) : float(uint64_t(number)));
      else
        result = fromDouble(from.kind == 's' ? double(number) : double(uint64_t(number)), to);
    } else {
      result = uint64_t(number) & mask(to.bits);
      if (to.kind == 's')
        result = uint64_t(signExtend(result, to.bits)); // narrow values sit extended in their register
    }
  }
  write(t, i.operands[0], result);
}

// Two 16-bit floats in one register: the scalar instruction on each.
void Machine::halves(Thread &t, const Instruction &i) {
  Instruction one = i;
  for (std::string &mod : one.mods)
    if (mod.ends_with("x2")) {
      mod.resize(mod.size() - 2);
      one.types = {*typeNamed(mod)};
    }
  if (i.op == "setp")
    fail("unknown instruction: " + i.text);
  uint64_t result = 0;
  std::vector<uint64_t> given;
  for (const Operand &o : i.operands)
    given.push_back(read(t, o));
  for (int half = 0; half < 2; ++half) {
    for (size_t k = 1; k < i.operands.size(); ++k) {
      one.operands[k] = {};
      one.operands[k].value = given[k] >> (16 * half) & 0xffff;
    }
    arithmetic(t, one);
    result |= read(t, i.operands[0]) << (16 * half);
  }
  write(t, i.operands[0], result);
}

void Machine::move(Thread &t, const Instruction &i, Type type) {
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  const Operand &to = i.operands[0], &from = i.operands[1];
  if (to.kind == Operand::Vector) {
    int each = type.bits / int(to.parts.size());
    for (size_t k = 0; k < to.parts.size(); ++k)
      write(t, to.parts[k], in(1) >> (k * each) & mask(each));
  } else if (from.kind == Operand::Vector) {
    int each = type.bits / int(from.parts.size());
    uint64_t value = 0;
    for (size_t k = 0; k < from.parts.size(); ++k)
      value |= (read(t, from.parts[k]) & mask(each)) << (k * each);
    write(t, to, value & mask(type.bits));
  } else {
    write(t, to, type.kind == 'p' ? in(1) & 1 : in(1) & mask(type.bits));
  }
}

void Machine::compare(Thread &t, const Instruction &i, Type type) {
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  auto x = [&](size_t k) { return toDouble(in(k), type); };
  auto s = [&](size_t k) { return signExtend(in(k), type.bits); };
  auto u = [&](size_t k) { return in(k)&mask(type.bits); };
  const std::string &compare = i.mods[0];
  bool result;
  if (type.isFloat()) {
    double a = x(1), b = x(2);
    bool isUnordered = std::isnan(a) || std::isnan(b);
    if (compare == "num")
      result = !isUnordered;
    else if (compare == "nan")
      result = isUnordered;
    else {
      std::string base = compare.size() == 3 ? compare.substr(0, 2) : compare;
      bool holds = base == "eq"   ? a == b
                   : base == "ne" ? a != b
                   : base == "lt" ? a < b
                   : base == "le" ? a <= b
                   : base == "gt" ? a > b
                                  : a >= b;
      result = isUnordered ? compare.size() == 3 : holds;
    }
  } else {
    auto relation = [&](auto a, auto b) {
      if (compare == "eq")
        return a == b;
      if (compare == "ne")
        return a != b;
      if (compare == "lt" || compare == "lo")
        return a < b;
      if (compare == "le" || compare == "ls")
        return a <= b;
      if (compare == "gt" || compare == "hi")
        return a > b;
      if (compare == "ge" || compare == "hs")
        return a >= b;
      fail("unknown comparison: " + i.text);
    };
    result = type.kind == 's' ? relation(s(1), s(2)) : relation(u(1), u(2));
  }
  if (i.operands.size() > 3) {
    bool other = holds(t, i.operands[3]);
    result = i.has("and") ? result && other : i.has("or") ? result || other : result != other;
  }
  write(t, i.operands[0], result);
}

// False for an operation that is not among them.
bool Machine::floatArithmetic(Thread &t, const Instruction &i, Type type) {
  const std::string &op = i.op;
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  auto x = [&](size_t k) { return toDouble(in(k), type); };
  auto out = [&](uint64_t value) { return write(t, i.operands[0], value & mask(type.bits)), true; };
  auto outFloat = [&](double value) { return out(fromDouble(value, type)); };
  if (op == "testp") {
    const std::string &what = i.mods[0];
    if (what == "infinite")
      return write(t, i.operands[0], std::isinf(x(1))), true;
    if (what == "finite")
      return write(t, i.operands[0], std::isfinite(x(1))), true;
    if (what == "notanumber")
      return write(t, i.operands[0], std::isnan(x(1))), true;
    fail("unknown instruction: " + i.text);
  }
  if (op == "fma" || op == "mad") {
    if (type.bits == 32)
      return out(std::bit_cast<uint32_t>(std::fmaf(float(x(1)), float(x(2)), float(x(3)))));
    return outFloat(type.bits == 64 ? std::fma(x(1), x(2), x(3)) : x(1) * x(2) + x(3));
  }
  if (op == "add")
    return outFloat(x(1) + x(2));
  if (op == "sub")
    return outFloat(x(1) - x(2));
  if (op == "mul")
    return outFloat(x(1) * x(2));
  if (op == "div")
    return outFloat(x(1) / x(2));
  if (op == "neg")
    return out(in(1) ^ uint64_t{1} << (type.bits - 1));
  if (op == "abs")
    return out(in(1) & mask(type.bits - 1));
  if (op == "sqrt")
    return outFloat(std::sqrt(x(1)));
  if (op == "rsqrt")
    return outFloat(1 / std::sqrt(x(1)));
  if (op == "rcp")
    return outFloat(1 / x(1));
  if (op == "ex2")
    return outFloat(std::exp2(x(1)));
  if (op == "lg2")
    return outFloat(std::log2(x(1)));
  if (op == "copysign")
    return out((in(1) & ~mask(type.bits - 1)) | (in(2) & mask(type.bits - 1))); // the sign of a, the rest of b
  if (op == "tanh")
    return outFloat(std::tanh(x(1)));
  return false;
}

bool Machine::integerArithmetic(Thread &t, const Instruction &i, Type type) {
  const std::string &op = i.op;
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  auto s = [&](size_t k) { return signExtend(in(k), type.bits); };
  auto u = [&](size_t k) { return in(k)&mask(type.bits); };
  auto out = [&](uint64_t value) { return write(t, i.operands[0], value & mask(type.bits)), true; };
  auto wide = [&](size_t k) { return type.kind == 's' ? __int128(s(k)) : __int128(u(k)); };
  if (op == "mul" || op == "mad") {
    __int128 product = wide(1) * wide(2);
    bool isWide = i.has("wide");
    if (i.has("hi"))
      product >>= type.bits;
    if (op == "mad")
      product += isWide ? __int128(in(3)) : wide(3);
    write(t, i.operands[0], uint64_t(product) & mask(isWide ? type.bits * 2 : type.bits));
    return true;
  }
  if (op == "add")
    return out(in(1) + in(2));
  if (op == "sub")
    return out(in(1) - in(2));
  if (op == "neg")
    return out(-in(1));
  if (op == "abs")
    return out(uint64_t(std::abs(s(1))));
  if (op == "div" || op == "rem") {
    if (!u(2))
      return out(~uint64_t{0});
    if (type.kind == 's')
      return out(uint64_t(op == "div" ? s(1) / s(2) : s(1) % s(2)));
    return out(op == "div" ? u(1) / u(2) : u(1) % u(2));
  }
  if (op == "popc")
    return write(t, i.operands[0], std::popcount(u(1))), true;
  if (op == "clz")
    return write(t, i.operands[0], std::countl_zero(u(1)) - (64 - type.bits)), true;
  if (op == "brev") {
    uint64_t value = 0;
    for (int k = 0; k < type.bits; ++k)
      value |= (in(1) >> k & 1) << (type.bits - 1 - k);
    return out(value);
  }
  if (op == "bfe") {
    uint64_t at = in(2) & 0xff, length = in(3) & 0xff, value = at >= 64 ? 0 : u(1) >> at & mask(int(length));
    if (type.kind == 's' && length)
      value = uint64_t(signExtend(value, int(length)));
    return out(value);
  }
  if (op == "bfi") {
    uint64_t at = in(3) & 0xff, field = mask(int(in(4) & 0xff)) << at;
    return out((in(2) & ~field) | (in(1) << at & field));
  }
  if (op == "prmt") {
    uint64_t pool = (in(1) & 0xffffffff) | in(2) << 32, value = 0;
    for (int k = 0; k < 4; ++k) {
      uint64_t selector = in(3) >> (4 * k) & 15, byte = pool >> (8 * (selector & 7)) & 255;
      if (selector & 8)
        byte = byte & 128 ? 255 : 0;
      value |= byte << (8 * k);
    }
    return out(value);
  }
  if (op == "lop3") {
    uint64_t table = in(4), value = 0;
    for (int k = 0; k < 32; ++k)
      value |= (table >> ((in(1) >> k & 1) << 2 | (in(2) >> k & 1) << 1 | (in(3) >> k & 1)) & 1) << k;
    return out(value);
  }
  if (op == "shf") {
    uint64_t both = (in(1) & 0xffffffff) | in(2) << 32,
             by = i.has("wrap") ? in(3) & 31 : std::min<uint64_t>(in(3) & 0xffffffff, 32);
    return out(i.has("l") ? both << by >> 32 : both >> by);
  }
  return false;
}

void Machine::arithmetic(Thread &t, const Instruction &i) {
  const std::string &op = i.op;
  if (i.has("f16x2") || i.has("bf16x2"))
    return halves(t, i);
  if (i.types.empty())
    fail("unknown instruction: " + i.text);
  Type type = i.types.back();
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  auto s = [&](size_t k) { return signExtend(in(k), type.bits); };
  auto u = [&](size_t k) { return in(k)&mask(type.bits); };
  auto out = [&](uint64_t value) { write(t, i.operands[0], type.kind == 'p' ? value & 1 : value & mask(type.bits)); };
  if (op == "mov")
    return move(t, i, type);
  if (op == "setp" || op == "set")
    return compare(t, i, type);
  if (op == "selp")
    return out(in(3) & 1 ? in(1) : in(2));
  if (op == "not")
    return out(~in(1));
  if (op == "and" || op == "or" || op == "xor" || op == "min" || op == "max")
    return out(combine(i, type, in(1), in(2)));
  if (op == "shl")
    return out(u(2) >= uint64_t(type.bits) ? 0 : in(1) << (in(2) & 0xffffffff));
  if (op == "shr") {
    uint64_t by = std::min<uint64_t>(in(2) & 0xffffffff, 63);
    return out(type.kind == 's' ? uint64_t(s(1) >> by) : u(1) >> by);
  }
  if (!(type.isFloat() ? floatArithmetic(t, i, type) : integerArithmetic(t, i, type)))
    fail("unknown instruction: " + i.text);
}

} // namespace bitloom::ptx

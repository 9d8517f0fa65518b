#include "bitloom/tests/emulator/PtxEmulator.h"

#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

namespace bitloom {
namespace {

[[noreturn]] void fail(const std::string &message) { throw PtxError(message); }

//===- Types and conversions
//------------------------------------------------------------------------------------------===//

struct Type {
  char kind = 'b'; // b, u, s, f, x (bf16), p (pred)
  int bits = 32;
  bool isFloat() const { return kind == 'f' || kind == 'x'; }
};

std::optional<Type> typeNamed(const std::string &name) {
  if (name == "pred")
    return Type{'p', 1};
  if (name == "bf16")
    return Type{'x', 16};
  if (name.size() < 2 || !std::strchr("busf", name[0]) || !std::isdigit(name[1]))
    return std::nullopt;
  for (char c : name.substr(1))
    if (!std::isdigit(c))
      return std::nullopt;
  return Type{name[0], std::stoi(name.substr(1))};
}

uint64_t mask(int bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }
int64_t signExtend(uint64_t value, int bits) {
  return bits >= 64 ? int64_t(value) : int64_t(value << (64 - bits)) >> (64 - bits);
}

double toDouble(uint64_t bits, Type type) {
  if (type.kind == 'x')
    return std::bit_cast<float>(uint32_t(bits) << 16);
  if (type.bits == 16)
    return double(std::bit_cast<_Float16>(uint16_t(bits)));
  if (type.bits == 32)
    return std::bit_cast<float>(uint32_t(bits));
  return std::bit_cast<double>(bits);
}

// To the nearest even, or toward zero.
uint64_t fromDouble(double value, Type type, bool towardZero = false) {
  if (type.bits == 64)
    return std::bit_cast<uint64_t>(value);
  auto adjust = [&](auto rounded) {
    if (towardZero && std::isfinite(value) && std::fabs(double(rounded)) > std::fabs(value)) {
      auto bits = std::bit_cast<std::conditional_t<sizeof rounded == 4, uint32_t, uint16_t>>(rounded);
      rounded = std::bit_cast<decltype(rounded)>(decltype(bits)(bits - 1));
    }
    return rounded;
  };
  if (type.bits == 32)
    return std::bit_cast<uint32_t>(adjust(float(value)));
  if (type.kind == 'f')
    return std::bit_cast<uint16_t>(adjust(_Float16(value)));
  if (std::isnan(value))
    return 0x7fff;
  // bf16: round what the 45 bits below leave; a double's exponent covers bf16's, subnormals included by way of f32.
  float single = float(value);
  uint32_t bits = std::bit_cast<uint32_t>(single);
  if (std::isinf(single) || towardZero)
    return bits >> 16;
  double exact = double(single);
  uint32_t low = bits & 0xffff, rounded = bits >> 16;
  bool above = low > 0x8000 || (low == 0x8000 && (std::fabs(value) > std::fabs(exact) ||
                                                  (std::fabs(value) == std::fabs(exact) && (rounded & 1))));
  return rounded + above;
}

//===- Instructions
//---------------------------------------------------------------------------------------------------===//

struct Operand {
  enum Kind { Register, Immediate, Symbol, Vector, Special } kind = Immediate;
  int index = 0;      // of the register, or which special
  uint64_t value = 0; // the immediate, or what is added to a register or symbol in an address
  std::string name;   // of the symbol, or the label
  std::vector<Operand> parts;
};

struct Instruction {
  std::string op;                // the first word: add, ld, …
  std::vector<std::string> mods; // the others
  std::vector<Type> types;       // those of mods that are types
  int guard = -1;                // register of the predicate
  bool guardNegated = false;
  std::vector<Operand> operands;
  int target = -1; // of a branch
  std::string text;
  bool has(const char *mod) const {
    for (const auto &m : mods)
      if (m == mod)
        return true;
    return false;
  }
};

struct Thread {
  std::vector<uint64_t> registers;
  size_t at = 0;
  bool done = false;
  int id = 0;
};

struct Touch {
  int epoch = -1, writer = -1, reader = -1; // reader: -2 when there were several
};

} // namespace

struct PtxEmulator::Impl {
  std::vector<Instruction> code;
  std::unordered_map<std::string, int> registers, labels;
  std::map<std::string, int> parameters;
  std::map<std::string, std::vector<uint8_t>> globals;
  std::string shared; // the name of dynamic shared memory
  int threads = 1;
  std::string printed;
  std::map<uint64_t, uint64_t> allowed; // begin to end

  // Of the block that runs.
  std::span<const int64_t> words;
  std::array<int64_t, 3> grid{}, block{};
  std::vector<uint8_t> memory;
  std::vector<Touch> touched;
  int epoch = 0;
  static constexpr uint64_t sharedBase = 0x100;

  explicit Impl(const std::string &ptx);
  void parseBody(const std::string &body);
  void parseInstruction(std::string text);
  void parseGlobal(const std::string &text);
  Operand parseOperand(std::string text);
  int registerNamed(const std::string &name) {
    return registers.try_emplace(name, int(registers.size())).first->second;
  }

  uint64_t read(const Thread &t, const Operand &o);
  void write(Thread &t, const Operand &o, uint64_t value) { t.registers.at(o.index) = value; }
  void step(Thread &t);
  void load(Thread &t, const Instruction &i);
  void store(Thread &t, const Instruction &i);
  void atomic(Thread &t, const Instruction &i);
  void arithmetic(Thread &t, const Instruction &i);
  void halves(Thread &t, const Instruction &i);
  void convert(Thread &t, const Instruction &i);
  void call(const Instruction &i);
  uint64_t combine(const Instruction &i, Type type, uint64_t a, uint64_t b);
  uint8_t *globalAt(uint64_t address, size_t bytes, const Instruction &i);
  uint8_t *sharedAt(const Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i);
  void shuffle(std::span<Thread> warp);
  void runBlock();
};

static std::string trimmed(std::string s) {
  size_t begin = s.find_first_not_of(" \t\n\r"), end = s.find_last_not_of(" \t\n\r");
  return begin == std::string::npos ? "" : s.substr(begin, end - begin + 1);
}

PtxEmulator::Impl::Impl(const std::string &ptx) {
  std::string text;
  for (size_t i = 0; i < ptx.size(); ++i) {
    if (ptx.compare(i, 2, "//") == 0) {
      while (i < ptx.size() && ptx[i] != '\n')
        ++i;
      text += '\n';
    } else {
      text += ptx[i];
    }
  }
  size_t entry = text.find(".entry");
  if (entry == std::string::npos)
    fail("no entry");
  // Declarations before the entry: globals, and shared memory of unknown size.
  std::string head = text.substr(0, entry);
  for (size_t i = 0; (i = head.find(".global", i)) != std::string::npos;) {
    size_t end = head.find(';', i);
    if (end == std::string::npos)
      break;
    parseGlobal(head.substr(i, end - i));
    i = end;
  }
  if (size_t at = head.find(".extern .shared"); at != std::string::npos) {
    std::string declaration = head.substr(at, head.find(';', at) - at);
    size_t name = declaration.find(".b8") + 3;
    shared = trimmed(declaration.substr(name, declaration.find('[') - name));
  }
  size_t open = text.find('(', entry), close = text.find(')', open), body = text.find('{', close);
  std::string list = text.substr(open + 1, close - open - 1);
  for (size_t i = 0; (i = list.find("_param_", i)) != std::string::npos; ++i) {
    size_t begin = list.find_last_of(" \t\n", i) + 1, end = list.find_first_of(", \n)", i);
    std::string name = trimmed(list.substr(begin, end - begin));
    parameters.emplace(name, int(parameters.size()));
  }
  // Names sort as text; their numbers say the order.
  for (auto &[name, index] : parameters)
    index = std::stoi(name.substr(name.rfind('_') + 1));
  if (size_t at = text.find(".reqntid", close); at != std::string::npos && at < body)
    threads = std::stoi(text.substr(at + 8));
  size_t end = text.rfind('}');
  parseBody(text.substr(body + 1, end - body - 1));
  for (Instruction &i : code)
    if (i.op == "bra") {
      auto found = labels.find(i.operands[0].name);
      if (found == labels.end())
        fail("no label " + i.operands[0].name);
      i.target = found->second;
    }
}

void PtxEmulator::Impl::parseGlobal(const std::string &text) {
  size_t bracket = text.find('[');
  if (bracket == std::string::npos)
    return;
  size_t begin = text.find_last_of(" \t", bracket) + 1;
  std::string name = text.substr(begin, bracket - begin);
  size_t dot = text.rfind('.', bracket);
  int bytes = std::stoi(text.substr(dot + 2, begin - dot - 2)) / 8;
  std::vector<uint8_t> &data = globals[name];
  data.resize(std::stoul(text.substr(bracket + 1)) * bytes);
  size_t open = text.find('{'), at = 0;
  if (open == std::string::npos)
    return;
  for (size_t i = open + 1; i < text.size() && text[i] != '}';) {
    size_t end = text.find_first_of(",}", i);
    std::string item = trimmed(text.substr(i, end - i));
    uint64_t value =
        item.starts_with("0f") ? std::stoull(item.substr(2), nullptr, 16) : uint64_t(std::stoll(item, nullptr, 0));
    std::memcpy(data.data() + at, &value, bytes);
    at += bytes;
    i = end + (text[end] == ',');
  }
  allowed[uint64_t(data.data())] = uint64_t(data.data()) + data.size();
}

void PtxEmulator::Impl::parseBody(const std::string &body) {
  std::string current;
  int depth = 0;
  for (size_t i = 0; i < body.size(); ++i) {
    char c = body[i];
    if (c == '{' && trimmed(current).empty())
      continue; // a scope
    if (c == '}' && !depth) {
      current.clear();
      continue;
    }
    depth += (c == '{') - (c == '}');
    if (c == ':' && trimmed(current).starts_with("$")) {
      labels[trimmed(current)] = int(code.size());
      current.clear();
    } else if (c == ';') {
      parseInstruction(trimmed(current));
      current.clear();
    } else {
      current += c;
    }
  }
}

Operand PtxEmulator::Impl::parseOperand(std::string text) {
  text = trimmed(text);
  Operand o;
  if (text.starts_with("[")) {
    text = trimmed(text.substr(1, text.size() - 2));
    size_t plus = text.find('+', 1);
    if (plus == std::string::npos)
      plus = text.find('-', 1);
    o = parseOperand(text.substr(0, plus));
    if (plus != std::string::npos)
      o.value = uint64_t(std::stoll(trimmed(text.substr(text[plus] == '+' ? plus + 1 : plus)), nullptr, 0));
    return o;
  }
  if (text.starts_with("{")) {
    o.kind = Operand::Vector;
    text = text.substr(1, text.size() - 2);
    for (size_t i = 0; i <= text.size();) {
      size_t end = std::min(text.find(',', i), text.size());
      o.parts.push_back(parseOperand(text.substr(i, end - i)));
      i = end + 1;
    }
    return o;
  }
  static const std::map<std::string, int> specials = {{"%tid.x", 0},    {"%ctaid.x", 1},  {"%ctaid.y", 2},
                                                      {"%ctaid.z", 3},  {"%nctaid.x", 4}, {"%nctaid.y", 5},
                                                      {"%nctaid.z", 6}, {"%ntid.x", 7},   {"%laneid", 8}};
  if (auto found = specials.find(text); found != specials.end()) {
    o.kind = Operand::Special;
    o.index = found->second;
  } else if (text == "_" || text.starts_with("%")) {
    o.kind = Operand::Register;
    o.index = registerNamed(text);
  } else if (text.starts_with("0f") || text.starts_with("0F") || text.starts_with("0d") || text.starts_with("0D")) {
    o.value = std::stoull(text.substr(2), nullptr, 16);
  } else if (std::isdigit(text[0]) || text[0] == '-') {
    o.value = text[0] == '-' ? uint64_t(std::stoll(text, nullptr, 0)) : std::stoull(text, nullptr, 0);
  } else {
    o.kind = Operand::Symbol;
    o.name = text;
  }
  return o;
}

void PtxEmulator::Impl::parseInstruction(std::string text) {
  if (text.empty() || text.starts_with("."))
    return; // .reg, .loc, .local, …
  Instruction i;
  i.text = text;
  if (text[0] == '@') {
    size_t end = text.find_first_of(" \t");
    i.guardNegated = text[1] == '!';
    i.guard = registerNamed(text.substr(1 + i.guardNegated, end - 1 - i.guardNegated));
    text = trimmed(text.substr(end));
  }
  size_t space = text.find_first_of(" \t\n");
  std::string name = text.substr(0, space), rest = space == std::string::npos ? "" : trimmed(text.substr(space));
  for (size_t at = 0; at <= name.size();) {
    size_t end = std::min(name.find('.', at), name.size());
    std::string word = name.substr(at, end - at);
    if (at == 0)
      i.op = word;
    else {
      i.mods.push_back(word);
      if (auto type = typeNamed(word))
        i.types.push_back(*type);
    }
    at = end + 1;
  }
  if (i.op != "call") {
    int depth = 0;
    size_t begin = 0;
    for (size_t at = 0; at <= rest.size(); ++at) {
      if (at < rest.size())
        depth += (rest[at] == '{' || rest[at] == '[') - (rest[at] == '}' || rest[at] == ']');
      if (at == rest.size() || (!depth && (rest[at] == ',' || rest[at] == '|'))) {
        std::string part = trimmed(rest.substr(begin, at - begin));
        if (!part.empty())
          i.operands.push_back(parseOperand(part));
        begin = at + 1;
      }
    }
  }
  code.push_back(i);
}

//===- Execution
//------------------------------------------------------------------------------------------------------===//

uint64_t PtxEmulator::Impl::read(const Thread &t, const Operand &o) {
  switch (o.kind) {
  case Operand::Register:
    return t.registers[o.index];
  case Operand::Immediate:
    return o.value;
  case Operand::Special:
    switch (o.index) {
    case 0:
      return uint64_t(t.id);
    case 7:
      return uint64_t(threads);
    case 8:
      return uint64_t(t.id % 32);
    default:
      return uint64_t(o.index < 4 ? block[o.index - 1] : grid[o.index - 4]);
    }
  case Operand::Symbol:
    if (o.name == shared)
      return sharedBase;
    if (auto found = globals.find(o.name); found != globals.end())
      return uint64_t(found->second.data());
    fail("unknown symbol " + o.name);
  case Operand::Vector:
    fail("a vector where a scalar is expected");
  }
  return 0;
}

uint8_t *PtxEmulator::Impl::globalAt(uint64_t address, size_t bytes, const Instruction &i) {
  if (address % bytes)
    fail("misaligned access: " + i.text);
  auto found = allowed.upper_bound(address);
  if (found == allowed.begin() || address + bytes > std::prev(found)->second)
    fail("access out of range: " + i.text);
  return reinterpret_cast<uint8_t *>(address);
}

uint8_t *PtxEmulator::Impl::sharedAt(const Thread &t, uint64_t address, size_t bytes, bool isWrite,
                                     const Instruction &i) {
  address -= sharedBase;
  if (address + bytes > memory.size() || address + bytes < address)
    fail("shared access out of range: " + i.text);
  if (address % bytes)
    fail("misaligned shared access: " + i.text);
  for (uint64_t at = address; at < address + bytes; ++at) {
    Touch &touch = touched[at];
    if (touch.epoch != epoch)
      touch = {epoch, -1, -1};
    if ((touch.writer != -1 && touch.writer != t.id) || (isWrite && touch.reader != -1 && touch.reader != t.id))
      fail("race on shared memory: " + i.text);
    if (isWrite)
      touch.writer = t.id;
    else
      touch.reader = touch.reader == -1 || touch.reader == t.id ? t.id : -2;
  }
  return memory.data() + address;
}

static size_t vectorWidth(const Instruction &i) { return i.has("v4") ? 4 : i.has("v2") ? 2 : 1; }

void PtxEmulator::Impl::load(Thread &t, const Instruction &i) {
  const Operand &to = i.operands[0], &from = i.operands[1];
  Type type = i.types.back();
  if (i.has("param")) {
    auto found = parameters.find(from.name);
    if (found == parameters.end())
      fail("unknown parameter: " + i.text);
    write(t, to, uint64_t(words[found->second]) >> (8 * from.value) & mask(type.bits));
    return;
  }
  size_t width = vectorWidth(i), bytes = type.bits / 8;
  uint64_t address = read(t, from) + from.value;
  const uint8_t *source =
      i.has("shared") ? sharedAt(t, address, bytes * width, false, i) : globalAt(address, bytes * width, i);
  for (size_t k = 0; k < width; ++k) {
    uint64_t value = 0;
    std::memcpy(&value, source + k * bytes, bytes);
    if (type.kind == 's')
      value = uint64_t(signExtend(value, type.bits));
    write(t, width == 1 ? to : to.parts[k], value);
  }
}

void PtxEmulator::Impl::store(Thread &t, const Instruction &i) {
  if (i.has("param") || i.has("local"))
    return;
  const Operand &to = i.operands[0], &from = i.operands[1];
  Type type = i.types.back();
  size_t width = vectorWidth(i), bytes = type.bits / 8;
  uint64_t address = read(t, to) + to.value;
  uint8_t *place = i.has("shared") ? sharedAt(t, address, bytes * width, true, i) : globalAt(address, bytes * width, i);
  for (size_t k = 0; k < width; ++k) {
    uint64_t value = read(t, width == 1 ? from : from.parts[k]);
    std::memcpy(place + k * bytes, &value, bytes);
  }
}

uint64_t PtxEmulator::Impl::combine(const Instruction &i, Type type, uint64_t a, uint64_t b) {
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
  std::string op = i.op == "atom" || i.op == "red" ? "" : i.op;
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

void PtxEmulator::Impl::atomic(Thread &t, const Instruction &i) {
  Type type = i.types.back();
  size_t at = i.op == "red" ? 0 : 1;
  const Operand &place = i.operands[at];
  uint8_t *memory = globalAt(read(t, place) + place.value, type.bits / 8, i);
  uint64_t old = 0;
  std::memcpy(&old, memory, type.bits / 8);
  uint64_t given = read(t, i.operands[at + 1]) & mask(type.bits), next;
  if (i.has("cas"))
    next = old == given ? read(t, i.operands[at + 2]) : old;
  else
    next = combine(i, type, old, given);
  std::memcpy(memory, &next, type.bits / 8);
  if (i.op == "atom")
    write(t, i.operands[0], old);
}

void PtxEmulator::Impl::convert(Thread &t, const Instruction &i) {
  Type to = i.types[0], from = i.types[1];
  if (i.operands.size() == 3)
    fail("unknown conversion: " + i.text);
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

void PtxEmulator::Impl::call(const Instruction &i) {
  if (i.text.find("__assertfail") != std::string::npos)
    fail("assertion failed");
  if (i.text.find("vprintf") != std::string::npos)
    return void(printed += "vprintf\n");
  fail("unknown call: " + i.text);
}

// Two 16-bit floats in one register: the scalar instruction on each.
void PtxEmulator::Impl::halves(Thread &t, const Instruction &i) {
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

void PtxEmulator::Impl::arithmetic(Thread &t, const Instruction &i) {
  const std::string &op = i.op;
  if (i.has("f16x2") || i.has("bf16x2"))
    return halves(t, i);
  if (i.types.empty())
    fail("unknown instruction: " + i.text);
  Type type = i.types.back();
  auto in = [&](size_t k) { return read(t, i.operands.at(k)); };
  auto out = [&](uint64_t value) { write(t, i.operands[0], type.kind == 'p' ? value & 1 : value & mask(type.bits)); };
  auto outFloat = [&](double value) { out(fromDouble(value, type)); };
  auto x = [&](size_t k) { return toDouble(in(k), type); };
  auto s = [&](size_t k) { return signExtend(in(k), type.bits); };
  auto u = [&](size_t k) { return in(k)&mask(type.bits); };

  if (op == "mov") {
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
      out(value);
    } else {
      out(in(1));
    }
    return;
  }
  if (op == "setp" || op == "set") {
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
    if (i.operands.size() > 3)
      result = i.has("and") ? result && in(3) : i.has("or") ? result || in(3) : result != bool(in(3));
    write(t, i.operands[0], result);
    return;
  }
  if (op == "testp") {
    const std::string &what = i.mods[0];
    if (what == "infinite")
      return write(t, i.operands[0], std::isinf(x(1)));
    if (what == "finite")
      return write(t, i.operands[0], std::isfinite(x(1)));
    if (what == "notanumber")
      return write(t, i.operands[0], std::isnan(x(1)));
    fail("unknown instruction: " + i.text);
  }
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
  if (op == "fma" || (op == "mad" && type.isFloat())) {
    if (type.bits == 32)
      return out(std::bit_cast<uint32_t>(std::fmaf(float(x(1)), float(x(2)), float(x(3)))));
    return outFloat(type.bits == 64 ? std::fma(x(1), x(2), x(3)) : x(1) * x(2) + x(3));
  }
  if (type.isFloat()) {
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
  } else {
    auto wide = [&](size_t k) { return type.kind == 's' ? __int128(s(k)) : __int128(u(k)); };
    if (op == "mul" || op == "mad") {
      __int128 product = wide(1) * wide(2);
      bool isWide = i.has("wide");
      if (i.has("hi"))
        product >>= type.bits;
      if (op == "mad")
        product += isWide ? __int128(in(3)) : wide(3);
      write(t, i.operands[0], uint64_t(product) & mask(isWide ? type.bits * 2 : type.bits));
      return;
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
      return write(t, i.operands[0], std::popcount(u(1)));
    if (op == "clz")
      return write(t, i.operands[0], std::countl_zero(u(1)) - (64 - type.bits));
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
  }
  fail("unknown instruction: " + i.text);
}

void PtxEmulator::Impl::step(Thread &t) {
  const Instruction &i = code[t.at++];
  if (i.guard >= 0 && bool(t.registers[i.guard] & 1) == i.guardNegated)
    return;
  if (i.op == "bra")
    t.at = size_t(i.target);
  else if (i.op == "ret" || i.op == "exit")
    t.done = true;
  else if (i.op == "ld")
    load(t, i);
  else if (i.op == "st")
    store(t, i);
  else if (i.op == "atom" || i.op == "red")
    atomic(t, i);
  else if (i.op == "cvt")
    convert(t, i);
  else if (i.op == "cvta")
    write(t, i.operands[0], read(t, i.operands[1]));
  else if (i.op == "call")
    call(i);
  else if (i.op != "membar" && i.op != "fence")
    arithmetic(t, i);
}

void PtxEmulator::Impl::shuffle(std::span<Thread> warp) {
  const Instruction &i = code[warp[0].at];
  std::vector<uint64_t> values;
  for (Thread &t : warp) {
    if (t.done || t.at != warp[0].at)
      fail("a warp's threads do not meet: " + i.text);
    values.push_back(read(t, i.operands[1]));
  }
  for (size_t lane = 0; lane < warp.size(); ++lane) {
    uint64_t offset = read(warp[lane], i.operands[2]), from = i.has("bfly") ? lane ^ offset : offset & 31;
    if (!i.has("bfly") && !i.has("idx"))
      fail("unknown shuffle: " + i.text);
    write(warp[lane], i.operands[0], values.at(from));
  }
  for (Thread &t : warp)
    ++t.at;
}

void PtxEmulator::Impl::runBlock() {
  std::vector<Thread> all(threads);
  for (int id = 0; id < threads; ++id) {
    all[id].id = id;
    all[id].registers.assign(registers.size(), 0xdeadbeefdeadbeef);
  }
  for (size_t k = 0; k < memory.size(); ++k)
    memory[k] = uint8_t(0xa5 ^ (k * 37));
  touched.assign(memory.size(), {});
  epoch = 0;
  for (;;) {
    for (size_t first = 0; first < all.size(); first += 32) {
      std::span<Thread> warp(all.data() + first, std::min<size_t>(32, all.size() - first));
      for (;;) { // until the warp is at a barrier or done
        for (Thread &t : warp)
          for (size_t steps = 0; !t.done && code[t.at].op != "shfl" && code[t.at].op != "bar"; ++steps) {
            if (steps > 100'000'000)
              fail("a thread that does not end");
            step(t);
          }
        bool shuffles = false;
        for (Thread &t : warp)
          shuffles |= !t.done && code[t.at].op == "shfl";
        if (!shuffles)
          break;
        shuffle(warp);
      }
    }
    bool anyDone = false, anyWaits = false;
    for (Thread &t : all)
      (t.done ? anyDone : anyWaits) = true;
    if (!anyWaits)
      return;
    if (anyDone)
      fail("threads end while others wait at a barrier");
    const size_t barrier = all[0].at;
    for (Thread &t : all) {
      if (t.at != barrier)
        fail("threads wait at different barriers");
      ++t.at;
    }
    ++epoch;
  }
}

//===- Interface
//------------------------------------------------------------------------------------------------------===//

PtxEmulator::PtxEmulator(const std::string &ptx) : impl(std::make_unique<Impl>(ptx)) {}
PtxEmulator::~PtxEmulator() = default;
int PtxEmulator::threads() const { return impl->threads; }
const std::string &PtxEmulator::printed() const { return impl->printed; }

void PtxEmulator::allow(const void *memory, size_t bytes) {
  if (bytes)
    impl->allowed[uint64_t(memory)] = uint64_t(memory) + bytes;
}

void PtxEmulator::launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, int sharedBytes) {
  impl->words = words;
  impl->grid = grid;
  impl->memory.assign(size_t(sharedBytes), 0);
  for (int64_t z = 0; z < grid[2]; ++z)
    for (int64_t y = 0; y < grid[1]; ++y)
      for (int64_t x = 0; x < grid[0]; ++x) {
        impl->block = {x, y, z};
        impl->runBlock();
      }
}

} // namespace bitloom

#include "bitloom/tests/emulator/PtxModule.h"

#include "bitloom/lib/runtime/TensorMap.h"

#include <cctype>
#include <cstring>
#include <set>

namespace bitloom::ptx {
namespace {

std::string trimmed(const std::string &s) {
  size_t begin = s.find_first_not_of(" \t\n\r"), end = s.find_last_not_of(" \t\n\r");
  return begin == std::string::npos ? "" : s.substr(begin, end - begin + 1);
}

// Blanks for comments and for the lines of directives that no semicolon ends.
std::string cleaned(const std::string &ptx) {
  std::string text;
  for (size_t i = 0; i < ptx.size(); ++i) {
    if (ptx.compare(i, 2, "//") == 0) {
      i = std::min(ptx.find('\n', i), ptx.size()) - 1;
    } else if (ptx.compare(i, 2, "/*") == 0) {
      i = std::min(ptx.find("*/", i + 2), ptx.size() - 2) + 1;
      text += ' ';
    } else if (ptx.compare(i, 5, ".loc ") == 0 || ptx.compare(i, 5, ".loc\t") == 0 ||
               ptx.compare(i, 6, ".file\t") == 0) {
      i = std::min(ptx.find('\n', i), ptx.size()) - 1;
    } else {
      text += ptx[i];
    }
  }
  return text;
}

// Splits at `separators` outside of brackets; no empty parts.
std::vector<std::string> split(const std::string &text, const char *separators) {
  std::vector<std::string> parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t at = 0; at <= text.size(); ++at) {
    if (at < text.size())
      depth += (text[at] == '{' || text[at] == '[') - (text[at] == '}' || text[at] == ']');
    if (at == text.size() || (!depth && std::strchr(separators, text[at]))) {
      if (std::string part = trimmed(text.substr(begin, at - begin)); !part.empty())
        parts.push_back(part);
      begin = at + 1;
    }
  }
  return parts;
}

bool isIdentifier(const std::string &text) {
  for (char c : text)
    if (!std::isalnum(c) && c != '_' && c != '$' && c != '%')
      return false;
  return !text.empty() && !std::isdigit(text[0]);
}

int numberAfter(const std::string &text, const char *directive, int otherwise) {
  size_t at = text.find(directive);
  return at == std::string::npos ? otherwise : std::stoi(text.substr(at + std::strlen(directive)));
}

uint64_t alignmentIn(const std::string &text) { return uint64_t(numberAfter(text, ".align", 1)); }

} // namespace

Module::Module(const std::string &ptx) {
  std::string text = cleaned(ptx);
  size_t entry = text.find(".entry");
  if (entry == std::string::npos)
    fail("no entry");
  size_t body = text.find('{', entry), open = text.find('(', entry);
  if (body == std::string::npos)
    fail("no body");
  size_t close = open;
  if (open < body) {
    close = text.find(')', open);
    parseParameters(text.substr(open + 1, close - open - 1));
    body = text.find('{', close);
  } else {
    close = entry;
  }
  std::string directives = text.substr(close, body - close);
  threads = numberAfter(directives, ".reqntid", numberAfter(directives, ".maxntid", 1));
  if (size_t at = directives.find(".reqnctapercluster"); at != std::string::npos)
    for (int64_t d = 0; d < 3 && at != std::string::npos; ++d) {
      at = directives.find_first_of("0123456789", at);
      clusterShape[d] = std::stoi(directives.substr(at));
      at = directives.find_first_not_of("0123456789 \t", at);
      if (at == std::string::npos || directives[at] != ',')
        break;
    }
  size_t end = text.rfind('}');
  std::string inside = text.substr(body + 1, end - body - 1), head = text.substr(0, entry);
  uint64_t alignment = 16;
  for (const std::string *where : {&head, &inside})
    for (size_t at = 0; (at = where->find(".shared .align", at)) != std::string::npos; ++at)
      alignment = std::max(alignment, alignmentIn(where->substr(at)));
  sharedBase = alignment >= 1024 ? 3 * alignment : 1024 + alignment;
  parseHead(head);
  parseBody(inside);
  for (auto &[name, address] : sharedSymbols)
    if (!address) // the dynamic one: behind the others
      address = sharedBase + staticBytes;
  for (size_t k = 0; k < branches.size(); ++k) {
    Instruction &i = code[branches[k].first];
    for (int s = branchScopes[k]; s >= 0 && i.target < 0; s = scopes[s].parent)
      if (auto found = scopes[s].labels.find(branches[k].second); found != scopes[s].labels.end())
        i.target = found->second;
    if (i.target < 0)
      fail("no label " + branches[k].second);
  }
}

// Declarations before the entry.
void Module::parseHead(const std::string &head) {
  for (size_t begin = 0; begin < head.size();) {
    size_t end = std::min(head.find(';', begin), head.size());
    std::string statement = head.substr(begin, end - begin);
    if (size_t at = statement.find(".global"); at != std::string::npos)
      parseGlobal(statement.substr(at));
    else if (statement.find(".shared") != std::string::npos)
      parseShared(statement);
    begin = end + 1;
  }
}

void Module::parseParameters(const std::string &list) {
  for (const std::string &one : split(list, ",")) {
    std::string name = one.substr(one.find_last_of(" \t\n") + 1);
    if (size_t bracket = name.find('['); bracket != std::string::npos) {
      if (std::stoi(name.substr(bracket + 1)) != tensorMapBytes || alignmentIn(one) % 64)
        fail("expected an array parameter to be a tensor map of 128 bytes aligned to 64, got " + one);
      parameters[name.substr(0, bracket)] = ~mapCount++;
    } else {
      if (mapCount)
        fail("expected tensor maps after the words, got " + one);
      parameters[name] = wordCount++;
    }
  }
}

void Module::parseGlobal(const std::string &text) {
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
}

void Module::parseShared(const std::string &text) {
  std::string last = text.substr(text.find_last_of(" \t", text.find('[')) + 1);
  size_t bracket = last.find('[');
  std::string name = trimmed(last.substr(0, bracket));
  size_t dot = text.rfind('.', text.size() - last.size());
  auto type = typeNamed(trimmed(text.substr(dot + 1, text.size() - last.size() - dot - 1)));
  if (!type)
    fail("unknown declaration: " + trimmed(text));
  uint64_t count = bracket == std::string::npos ? 1
                   : last[bracket + 1] == ']'   ? 0
                                                : std::stoull(last.substr(bracket + 1));
  uint64_t alignment = std::max(alignmentIn(text), uint64_t(type->bits / 8));
  staticBytes = (staticBytes + alignment - 1) / alignment * alignment;
  sharedSymbols[name] = count ? sharedBase + staticBytes : 0;
  staticBytes += count * uint64_t(type->bits / 8);
}

void Module::parseBody(const std::string &body) {
  std::string current;
  int depth = 0;
  for (size_t i = 0; i < body.size(); ++i) {
    char c = body[i];
    if (c == '{' && trimmed(current).empty()) {
      scopes.push_back({scope, {}, {}, {}});
      scope = int(scopes.size()) - 1;
      continue;
    }
    if (c == '}' && !depth) {
      current.clear();
      scope = scopes[scope].parent;
      continue;
    }
    depth += (c == '{') - (c == '}');
    if (c == ':' && isIdentifier(trimmed(current))) {
      scopes[scope].labels[trimmed(current)] = int(code.size());
      current.clear();
    } else if (c == ';') {
      parseStatement(trimmed(current));
      current.clear();
    } else {
      current += c;
    }
  }
}

void Module::parseStatement(std::string text) {
  if (text.empty())
    return;
  if (text.starts_with(".reg"))
    parseRegisters(text.substr(4));
  else if (text.starts_with(".shared"))
    parseShared(text);
  else if (text[0] != '.') // .local, .param, .pragma
    parseInstruction(std::move(text));
}

void Module::parseRegisters(const std::string &text) {
  size_t dot = text.find('.'), space = text.find_first_of(" \t", dot);
  auto type = typeNamed(text.substr(dot + 1, space - dot - 1));
  if (!type)
    fail("unknown declaration: .reg" + text);
  for (const std::string &name : split(text.substr(space), ",")) {
    if (size_t open = name.find('<'); open != std::string::npos) {
      scopes[scope].families[name.substr(0, open)] = *type;
    } else {
      scopes[scope].registers[name] = int(registers.size());
      registers.push_back(*type);
    }
  }
}

int Module::registerNamed(const std::string &name) {
  std::string family = name.substr(0, name.find_last_not_of("0123456789") + 1);
  for (int s = scope; s >= 0; s = scopes[s].parent) {
    if (auto found = scopes[s].registers.find(name); found != scopes[s].registers.end())
      return found->second;
    if (auto found = scopes[s].families.find(family); found != scopes[s].families.end() && family != name) {
      registers.push_back(found->second);
      return scopes[s].registers[name] = int(registers.size()) - 1;
    }
  }
  return -1;
}

Operand Module::parseOperand(std::string text) {
  text = trimmed(text);
  Operand o;
  if (text.starts_with("[")) {
    std::vector<std::string> inside = split(text.substr(1, text.size() - 2), ",");
    if (inside.empty())
      fail("an empty address");
    const std::string &address = inside[0];
    size_t plus = address.find_first_of("+-", 1);
    o = parseOperand(address.substr(0, plus));
    o.isAddress = true;
    while (plus != std::string::npos) { // LLVM writes [%r+-4]
      size_t next = address.find_first_of("+-", address.find_first_of("0123456789", plus));
      std::string part = trimmed(address.substr(address[plus] == '+' ? plus + 1 : plus, next - plus - 1));
      o.value += uint64_t(std::stoll(part, nullptr, 0));
      plus = next;
    }
    if (inside.size() > 1)
      o.parts = parseOperand(inside[1]).parts;
    return o;
  }
  if (text.starts_with("{")) {
    o.kind = Operand::Vector;
    for (const std::string &part : split(text.substr(1, text.size() - 2), ","))
      o.parts.push_back(parseOperand(part));
    return o;
  }
  if (text.starts_with("!")) {
    o = parseOperand(text.substr(1));
    o.isNegated = true;
    return o;
  }
  static const std::map<std::string, int> specials = {{"%tid.x", tidX},
                                                      {"%tid.y", tidY},
                                                      {"%tid.z", tidZ},
                                                      {"%ntid.x", ntidX},
                                                      {"%ntid.y", ntidY},
                                                      {"%ntid.z", ntidZ},
                                                      {"%ctaid.x", ctaidX},
                                                      {"%ctaid.y", ctaidY},
                                                      {"%ctaid.z", ctaidZ},
                                                      {"%nctaid.x", nctaidX},
                                                      {"%nctaid.y", nctaidY},
                                                      {"%nctaid.z", nctaidZ},
                                                      {"%laneid", laneId},
                                                      {"%warpid", warpId},
                                                      {"%lanemask_eq", laneMaskEq},
                                                      {"%lanemask_lt", laneMaskLt},
                                                      {"%lanemask_le", laneMaskLe},
                                                      {"%lanemask_gt", laneMaskGt},
                                                      {"%lanemask_ge", laneMaskGe},
                                                      {"%cluster_ctarank", clusterRank},
                                                      {"%cluster_nctarank", clusterBlocks},
                                                      {"%cluster_ctaid.x", inClusterX},
                                                      {"%cluster_ctaid.y", inClusterY},
                                                      {"%cluster_ctaid.z", inClusterZ},
                                                      {"%cluster_nctaid.x", clusterShapeX},
                                                      {"%cluster_nctaid.y", clusterShapeY},
                                                      {"%cluster_nctaid.z", clusterShapeZ},
                                                      {"%clusterid.x", clusterIdX},
                                                      {"%clusterid.y", clusterIdY},
                                                      {"%clusterid.z", clusterIdZ},
                                                      {"%nclusterid.x", clustersX},
                                                      {"%nclusterid.y", clustersY},
                                                      {"%nclusterid.z", clustersZ},
                                                      {"%dynamic_smem_size", sharedSize},
                                                      {"%clock", clock32},
                                                      {"%clock64", clock64},
                                                      {"%globaltimer", clock64}};
  if (text == "_") {
    o.kind = Operand::Register;
    o.index = scopes[0].registers.try_emplace("_", int(registers.size())).first->second;
    if (size_t(o.index) == registers.size())
      registers.push_back({'b', 64});
  } else if (auto found = specials.find(text); found != specials.end()) {
    o.kind = Operand::Special;
    o.index = found->second;
  } else if (text.starts_with("0f") || text.starts_with("0F") || text.starts_with("0d") || text.starts_with("0D")) {
    o.value = std::stoull(text.substr(2), nullptr, 16);
  } else if (std::isdigit(text[0]) || text[0] == '-') {
    o.value = text[0] == '-' ? uint64_t(std::stoll(text, nullptr, 0)) : std::stoull(text, nullptr, 0);
  } else if (int index = registerNamed(text); index >= 0) {
    o.kind = Operand::Register;
    o.index = index;
  } else if (text[0] == '%') {
    fail("unknown register " + text);
  } else {
    o.kind = Operand::Symbol;
    o.name = text;
  }
  return o;
}

void Module::parseInstruction(std::string text) {
  Instruction i;
  i.text = text;
  if (text[0] == '@') {
    size_t end = text.find_first_of(" \t\n");
    i.guardNegated = text[1] == '!';
    std::string name = text.substr(1 + i.guardNegated, end - 1 - i.guardNegated);
    i.guard = registerNamed(name);
    if (i.guard < 0)
      fail("unknown register " + name);
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
      i.isShared |= word == "shared" || word.starts_with("shared::");
      if (auto type = typeNamed(word))
        i.types.push_back(*type);
    }
    at = end + 1;
  }
  if (i.op == "bra") {
    branches.emplace_back(code.size(), rest);
    branchScopes.push_back(scope);
  } else if (i.op != "call") {
    for (const std::string &part : split(rest, ",")) {
      std::vector<std::string> pair = split(part, "|");
      i.hasPair |= pair.size() == 2;
      for (const std::string &one : pair)
        i.operands.push_back(parseOperand(one));
    }
  }
  classify(i);
  overlapsPrevious |= i.op == "griddepcontrol";
  code.push_back(i);
}

void Module::classify(Instruction &i) {
  static const std::set<std::string> masked = {"shfl", "vote", "elect", "redux", "match"};
  static const std::set<std::string> aligned = {"ldmatrix", "stmatrix", "mma", "setmaxnreg", "bar"};
  if (masked.contains(i.op) || (i.op == "bar" && i.has("warp")))
    i.meets = Meets::Mask;
  else if (i.op == "wgmma")
    i.meets = i.has("mma_async") ? Meets::Warpgroup : Meets::Warp;
  else if (aligned.contains(i.op) || (i.op == "barrier" && i.has("aligned")))
    i.meets = Meets::Warp;
}

} // namespace bitloom::ptx

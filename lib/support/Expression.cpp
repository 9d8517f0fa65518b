#include "bitloom/lib/support/Expression.h"

#include "bitloom/lib/support/Error.h"

#include <bit>
#include <cctype>

namespace bitloom {

namespace {

// Recursive descent; a value of none spreads from a name without one.
class Parser {
public:
  using Number = std::optional<int64_t>;

  Parser(std::string_view text, const Names &names) : text(text), names(names) {}

  Number parse() {
    Number value = comparison();
    blanks();
    if (at != text.size())
      fail("an operator");
    return value;
  }

private:
  [[noreturn]] void fail(const std::string &expected) {
    std::string rest(text.substr(at));
    throw UserError("expression '" + std::string(text) + "': expected " + expected + ", got " +
                    (rest.empty() ? "its end" : "'" + rest + "'"));
  }
  void blanks() {
    while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])))
      ++at;
  }
  bool take(std::string_view token) {
    blanks();
    if (!text.substr(at).starts_with(token))
      return false;
    at += token.size();
    return true;
  }
  template <class F> static Number apply(Number a, Number b, F f) { return a && b ? Number(f(*a, *b)) : std::nullopt; }
  int64_t divisor(int64_t b) {
    if (b == 0)
      throw UserError("expression '" + std::string(text) + "': expected a divisor other than 0");
    return b;
  }

  Number comparison() {
    Number a = sum();
    if (take("<="))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x <= y); });
    if (take(">="))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x >= y); });
    if (take("=="))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x == y); });
    if (take("!="))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x != y); });
    if (take("<"))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x < y); });
    if (take(">"))
      return apply(a, sum(), [](int64_t x, int64_t y) { return int64_t(x > y); });
    return a;
  }
  Number sum() {
    Number a = product();
    for (;;) {
      if (take("+"))
        a = apply(a, product(), [](int64_t x, int64_t y) { return x + y; });
      else if (take("-"))
        a = apply(a, product(), [](int64_t x, int64_t y) { return x - y; });
      else
        return a;
    }
  }
  Number product() {
    Number a = factor();
    for (;;) {
      if (take("*"))
        a = apply(a, factor(), [](int64_t x, int64_t y) { return x * y; });
      else if (take("/"))
        a = apply(a, factor(), [&](int64_t x, int64_t y) { return x / divisor(y); });
      else if (take("%"))
        a = apply(a, factor(), [&](int64_t x, int64_t y) { return x % divisor(y); });
      else
        return a;
    }
  }
  Number factor() {
    if (take("(")) {
      Number a = comparison();
      if (!take(")"))
        fail("')'");
      return a;
    }
    if (take("-"))
      return apply(0, factor(), [](int64_t x, int64_t y) { return x - y; });
    blanks();
    size_t start = at;
    if (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) {
      int64_t number = 0;
      for (; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at)
        if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, text[at] - '0', &number))
          throw UserError("expression '" + std::string(text) + "': expected numbers below 2^63");
      return number;
    }
    while (at < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_' || text[at] == '.'))
      ++at;
    if (at == start)
      fail("a number, a name or '('");
    std::string_view name = text.substr(start, at - start);
    return take("(") ? call(name) : names(name);
  }
  Number call(std::string_view name) {
    std::vector<Number> arguments;
    do
      arguments.push_back(comparison());
    while (take(","));
    if (!take(")"))
      fail("')'");
    auto expect = [&](size_t count) {
      if (arguments.size() != count)
        throw UserError("expression '" + std::string(text) + "': expected " + std::to_string(count) + " arguments of " +
                        std::string(name) + ", got " + std::to_string(arguments.size()));
    };
    if (name == "next_pow2") {
      expect(1);
      return arguments[0] ? Number(int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(*arguments[0], 1)))))
                          : std::nullopt;
    }
    auto two = [&](auto f) {
      expect(2);
      return apply(arguments[0], arguments[1], f);
    };
    if (name == "min")
      return two([](int64_t x, int64_t y) { return std::min(x, y); });
    if (name == "max")
      return two([](int64_t x, int64_t y) { return std::max(x, y); });
    if (name == "ceil_div")
      return two([&](int64_t x, int64_t y) { return (x + divisor(y) - 1) / y; });
    if (name == "round_up")
      return two([&](int64_t x, int64_t y) { return (x + divisor(y) - 1) / y * y; });
    throw UserError("expression '" + std::string(text) +
                    "': expected one of min, max, ceil_div, round_up, next_pow2, got '" + std::string(name) + "'");
  }

  std::string_view text;
  const Names &names;
  size_t at = 0;
};

} // namespace

std::optional<int64_t> evaluate(std::string_view expression, const Names &names) {
  return Parser(expression, names).parse();
}

bool isName(std::string_view text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0])))
    return false;
  for (char c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_')
      return false;
  return true;
}

std::vector<std::string> splitList(std::string_view text) {
  std::vector<std::string> pieces;
  std::string piece;
  auto flush = [&] {
    size_t first = piece.find_first_not_of(" \t\n"), last = piece.find_last_not_of(" \t\n");
    pieces.push_back(first == std::string::npos ? "" : piece.substr(first, last - first + 1));
    piece.clear();
  };
  int depth = 0;
  for (char c : text) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (c == ',' && depth == 0)
      flush();
    else
      piece += c;
  }
  flush();
  if (pieces.size() == 1 && pieces[0].empty())
    pieces.clear();
  return pieces;
}

} // namespace bitloom

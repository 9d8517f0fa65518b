// The text forms of a layout.
#include "bitloom/lib/layout/LinearLayout.h"

#include "bitloom/lib/support/Error.h"

#include <cctype>
#include <charconv>

namespace bitloom {
namespace {

std::string join(const std::vector<int32_t> &values, const char *separator) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i)
    text += (i ? separator : "") + std::to_string(values[i]);
  return text;
}

} // namespace

std::string LinearLayout::toString() const {
  std::string text = "{";
  for (const auto &in : inDimList) {
    text += (text.size() > 1 ? ", " : "") + in.name + "=[";
    for (size_t bit = 0; bit < in.bases.size(); ++bit)
      text += std::string(bit ? "," : "") + "[" + join(in.bases[bit], ",") + "]";
    text += "]";
  }
  text += "} -> [";
  bool numbered = outDimList == axes(outShape());
  for (size_t d = 0; d < outDimList.size(); ++d)
    text += (d ? "," : "") + (numbered ? "" : outDimList[d].name + "=") + std::to_string(outDimList[d].size);
  return text + "]";
}

std::string LinearLayout::describe() const {
  std::string text;
  for (const auto &in : inDimList)
    for (size_t bit = 0; bit < in.bases.size(); ++bit)
      text += in.name + " " + std::to_string(int32_t{1} << bit) + " -> (" + join(in.bases[bit], ", ") + ")\n";
  text += "of";
  for (const auto &out : outDimList)
    text += " " + out.name + ":" + std::to_string(out.size);
  return text + "\n";
}

namespace {

class Parser {
public:
  explicit Parser(std::string_view text) : all(text), rest(text) {}

  std::pair<std::vector<LinearLayout::InDim>, std::vector<LinearLayout::OutDim>> parse() {
    std::vector<LinearLayout::InDim> ins;
    std::vector<LinearLayout::OutDim> outs;
    list('{', '}', [&] {
      ins.push_back({name(), {}});
      expect("=");
      list('[', ']', [&] {
        ins.back().bases.emplace_back();
        list('[', ']', [&] { ins.back().bases.back().push_back(number()); });
      });
    });
    expect("->");
    bool named = false;
    list('[', ']', [&] {
      skipSpace();
      bool hasName = !rest.empty() && !std::isdigit(static_cast<unsigned char>(rest[0]));
      if (!outs.empty() && hasName != named)
        error("names on all output dims or on none");
      named = hasName;
      std::string dim = hasName ? name() : "dim" + std::to_string(outs.size());
      if (hasName)
        expect("=");
      outs.push_back({dim, number()});
    });
    skipSpace();
    if (!rest.empty())
      error("the end");
    return {ins, outs};
  }

private:
  [[noreturn]] void error(const std::string &expected) const {
    std::string got = rest.empty() ? "the end" : "'" + std::string(rest.substr(0, 16)) + "'";
    throw UserError("expected " + expected + " at column " + std::to_string(all.size() - rest.size() + 1) +
                    " of a layout, got " + got);
  }
  void skipSpace() {
    while (!rest.empty() && std::isspace(static_cast<unsigned char>(rest[0])))
      rest.remove_prefix(1);
  }
  bool accept(std::string_view token) {
    skipSpace();
    if (!rest.starts_with(token))
      return false;
    rest.remove_prefix(token.size());
    return true;
  }
  void expect(std::string_view token) {
    if (!accept(token))
      error("'" + std::string(token) + "'");
  }
  template <typename Item> void list(char open, char close, Item item) {
    expect({&open, 1});
    if (accept({&close, 1}))
      return;
    do
      item();
    while (accept(","));
    expect({&close, 1});
  }
  std::string name() {
    skipSpace();
    size_t length = 0;
    while (length < rest.size() && (std::isalnum(static_cast<unsigned char>(rest[length])) || rest[length] == '_'))
      ++length;
    if (length == 0)
      error("a name");
    std::string result(rest.substr(0, length));
    rest.remove_prefix(length);
    return result;
  }
  int32_t number() {
    skipSpace();
    int32_t value = 0;
    auto [end, code] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (code != std::errc())
      error("a number");
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    return value;
  }

  std::string_view all, rest;
};

} // namespace

LinearLayout LinearLayout::parse(std::string_view text) {
  auto [ins, outs] = Parser(text).parse();
  if (auto bad = defect(ins, outs))
    throw UserError(*bad + ", in the layout " + std::string(text));
  return LinearLayout(std::move(ins), std::move(outs));
}

} // namespace bitloom
